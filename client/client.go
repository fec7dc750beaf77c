// Package client asks a metadata server: Google's on Compute Engine, GKE and
// Cloud Run, that of gcemds, or any other that speaks the same protocol.
//
//	var c client.Client
//	project, err := c.ProjectID(ctx)
//
//	tokens := &client.Tokens{Client: &c}
//	token, err := tokens.Token(ctx) // from its cache, as a rule
//
// It is made for servers that start late, are overloaded or restart: what may
// pass is tried again for [Client.Patience], with growing pauses; anything
// else fails at once, with an [Error] that says what to do. It holds no global
// state and depends on the standard library alone.
//
// It is not a client of Google's APIs. Its tokens go into those through the
// packages tokensource, for golang.org/x/oauth2, and tokenprovider, for
// cloud.google.com/go/auth.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	linkLocal  = "169.254.169.254"
	linkLocal6 = "fd20:ce::254" // for machines without IPv4
	hostEnv    = "GCE_METADATA_HOST"
)

// A Client asks one metadata server. The zero value is ready for use. Its
// methods may be called concurrently; its fields must not change and it must
// not be copied once one of them has been.
type Client struct {
	// Host is the host and, unless that is 80, the port of the server, as in
	// "127.0.0.1:8080"; an IPv6 address is in brackets. Default: the
	// environment variable GCE_METADATA_HOST as it is at each call, else
	// 169.254.169.254, or where there is no IPv4 fd20:ce::254.
	//
	// A server that is named, here or by the variable, is believed to exist,
	// and waited for. Without a name, a first request that gets no answer
	// fails at once where nothing else speaks for Google Cloud; see Detect.
	Host string

	// HTTP makes the requests. Default: a client of its own, which uses no
	// proxy. Leave HTTP.Timeout at zero: an attempt has 10 s for the
	// connection, 15 s for the header of the answer and 15 s for its body
	// anyway, and Watch waits longer. HTTP.CheckRedirect is not called.
	HTTP *http.Client

	// Patience is how long a call tries again after what may pass: no
	// connection, an answer that breaks off, and the status 408, 429 or 5xx.
	// Pauses are random, up to 100 ms at first, then up to twice as much each
	// time, 10 s at most; what a Retry-After says is added. Default: 5 minutes.
	// Negative: do not try again.
	Patience time.Duration

	// Parallel lets requests run at the same time. By default those of one
	// client queue, because some servers answer a burst with errors, or late:
	// that of GKE does both. Hanging requests of Watch never queue.
	Parallel bool

	// Logger gets each failure that is tried again, at level Info. Default:
	// nowhere.
	Logger *slog.Logger

	once    sync.Once
	http    *http.Client
	turn    chan struct{}         // holds one value while a request runs
	met     atomic.Bool           // a metadata server has answered
	trouble atomic.Pointer[Error] // why a call tries again; nil since the last success

	look func(ctx context.Context, dns bool) []Evidence // system, but for tests
}

// Get returns what is at a path below /computeMetadata/v1/, such as
// "instance/hostname". A directory, which ends in a slash, lists its keys, one
// on a line. A query may follow, as in "instance/tags?alt=text", and must be
// encoded. The error is an *Error, of kind NotFound if there is no such path.
func (c *Client) Get(ctx context.Context, path string) (string, error) {
	a, err := c.ask(ctx, request{path: path})
	return a.body, err
}

// Tree decodes a path with all below it into v, a pointer as for
// json.Unmarshal. Keys are those of the server's JSON form: "numericProjectId"
// for numeric-project-id. Numbers in values of type any are json.Number, since
// instance IDs do not fit into a float64. What does not fit v is an error of
// kind Malformed.
func (c *Client) Tree(ctx context.Context, path string, v any) error {
	a, err := c.ask(ctx, request{path: path, query: "recursive=true&alt=json"})
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader([]byte(a.body)))
	d.UseNumber()
	if err = d.Decode(v); err == nil {
		if _, err = d.Token(); err == io.EOF {
			return nil
		}
		err = errors.New("more than one JSON value")
	}
	return a.malformed(fmt.Errorf("it cannot be decoded into a %T: %w", v, err))
}

// address is where the server is, and whether somebody said so.
func (c *Client) address() (host string, named bool) {
	if c.Host != "" {
		return c.Host, true
	}
	if host = os.Getenv(hostEnv); host != "" {
		return host, true
	}
	return linkLocal, false
}

func (c *Client) log() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

// init makes what the first call needs.
func (c *Client) init() {
	c.once.Do(func() {
		c.turn = make(chan struct{}, 1)
		if c.look == nil {
			c.look = system
		}
		h := http.Client{Transport: newTransport()}
		if c.HTTP != nil {
			h = *c.HTTP
		}
		h.CheckRedirect = checkRedirect
		c.http = &h
	})
}
