package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"time"
)

// hang is how long the server holds a request of Watch, if nothing changes.
// Connections that are silent for much longer get lost on the way.
const hang = time.Minute

// Watch yields the value at a path, and then each new value, until ctx ends or
// the caller leaves the loop. A directory is watched with all below it, and its
// value is JSON. Of changes that follow each other quickly only the last one
// may be seen, but that one always is, even over restarts of the server.
//
// A value that is deleted, or was never there, yields an error of kind NotFound
// once; whoever stays in the loop gets the value when it is back. An error of
// kind Transient says that the server has been failing for all of the client's
// patience; whoever stays gets the value, even if it is the old one, when the
// server is back. After any other error the loop ends. The end of ctx yields
// nothing.
//
// A server that does not hold requests, or has no ETags, is asked every 10
// seconds or more often.
func (c *Client) Watch(ctx context.Context, path string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		c.init()
		const (
			unknown = iota
			present
			absent
		)
		state := unknown
		value, etag := "", "" // as last seen; without an ETag, the next request does not wait
		for idle := 0; ctx.Err() == nil; {
			var a answer
			var err error
			var rest time.Duration // that the server asks for
			began, waited := time.Now(), etag != ""
			if !waited {
				a, err = c.ask(ctx, request{path: path, query: "recursive=true"})
			} else if held, f := c.attempt(ctx, waitFor(path, etag)); f == nil {
				a = held
			} else {
				err, rest = f.give(1, began), min(f.retryAfter, c.patience())
			}
			etag = a.etag
			news := false
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				news = state != present || a.body != value
				state, value = present, a.body
			case errors.Is(err, NotFound):
				news = state != absent
				state = absent
			case errors.Is(err, Transient):
				if news = !waited; news { // else the next request finds out whether this is serious
					state = unknown
				}
				c.log().InfoContext(ctx, "watching the metadata server failed", "error", err)
			default:
				yield("", err)
				return
			}
			if news && !yield(a.body, err) {
				return
			}
			// Whatever the server does, it is not asked in a tight loop.
			if etag != "" && (news || time.Since(began) > hang/2) {
				idle = 0
				continue
			}
			idle++
			sleep(ctx, rest+pauseAfter(idle))
		}
	}
}

// waitFor asks for the successor of what had this ETag.
func waitFor(path, etag string) request {
	return request{path: path, hang: hang, query: fmt.Sprintf(
		"recursive=true&wait_for_change=true&timeout_sec=%d&last_etag=%s", int(hang.Seconds()), url.QueryEscape(etag))}
}
