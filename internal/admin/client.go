package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// A Client talks to the daemon that listens on a socket.
type Client struct {
	Socket string
}

// DefaultSocket is where a daemon listens when nothing else is said: in the
// user's runtime directory, or in one of the user's own below the temporary
// directory.
func DefaultSocket() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "gcemds", "admin.sock")
	}
	return filepath.Join(os.TempDir(), "gcemds-"+strconv.Itoa(max(os.Getuid(), 0)), "admin.sock")
}

// CheckSocket refuses the default socket in a folder that another user has made
// before us or may change: below a temporary directory anybody can, and would
// then be asked for this user's tokens. Other sockets are their owner's choice.
func CheckSocket(path string) error {
	if path != DefaultSocket() {
		return nil
	}
	dir := filepath.Dir(path)
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return nil // nobody has made it; who dials or listens says what is wrong
	case !info.IsDir(), !owned(info), runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s is not a folder that only this user can change; remove it, or name another socket with --admin or GCEMDS_ADMIN", dir)
	}
	return nil
}

// Status asks how the daemon is.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Get reads a path of an instance ("" is the first).
func (c *Client) Get(ctx context.Context, instance, path string, recursive bool) (v Value, err error) {
	q := url.Values{"instance": {instance}, "path": {path}, "recursive": {strconv.FormatBool(recursive)}}
	return v, c.call(ctx, http.MethodGet, "/v1/get?"+q.Encode(), nil, &v)
}

// Watch yields a path's value now and whenever it changes, until the context
// ends or the path disappears. Directories are watched with all below them.
func (c *Client) Watch(ctx context.Context, instance, path string) iter.Seq2[Value, error] {
	return func(yield func(Value, error) bool) {
		q := url.Values{"instance": {instance}, "path": {path}, "recursive": {"true"}, "etag": {"0"}}
		for last := ""; ; {
			var v Value
			if err := c.call(ctx, http.MethodGet, "/v1/get?"+q.Encode(), nil, &v); err != nil {
				if ctx.Err() == nil {
					yield(v, err)
				}
				return
			}
			if v.ETag != last && !yield(v, nil) {
				return
			}
			last = v.ETag
			q.Set("etag", last)
		}
	}
}

// Log yields what the journal still has, oldest first, and with follow then
// what happens, until the context ends.
func (c *Client) Log(ctx context.Context, follow bool) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for path := "/v1/log"; ; {
			var events []Event
			if err := c.call(ctx, http.MethodGet, path, nil, &events); err != nil {
				if ctx.Err() == nil {
					yield(Event{}, err)
				}
				return
			}
			last := uint64(0)
			for _, e := range events {
				if last = e.Seq; !yield(e, nil) {
					return
				}
			}
			if !follow {
				return
			}
			if len(events) > 0 || path == "/v1/log" {
				path = "/v1/log?after=" + strconv.FormatUint(last, 10)
			}
		}
	}
}

// Edit makes all the edits, or none and returns why.
func (c *Client) Edit(ctx context.Context, instance string, edits ...Edit) error {
	body, err := json.Marshal(edits)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, "/v1/edit?"+url.Values{"instance": {instance}}.Encode(), body, nil)
}

// Revert drops all edits of an instance, those that guests made included.
func (c *Client) Revert(ctx context.Context, instance string) error {
	return c.call(ctx, http.MethodPost, "/v1/revert?"+url.Values{"instance": {instance}}.Encode(), nil, nil)
}

// WhoAmI mints a token for each account of an instance, and tells how that went.
func (c *Client) WhoAmI(ctx context.Context, instance string) (minted []Minted, err error) {
	return minted, c.call(ctx, http.MethodPost, "/v1/whoami?"+url.Values{"instance": {instance}}.Encode(), nil, &minted)
}

// Reload makes the daemon read its configuration again.
func (c *Client) Reload(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/reload", nil, nil)
}

func (c *Client) call(ctx context.Context, method, path string, body []byte, answer any) error {
	if err := CheckSocket(c.Socket); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://gcemds"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.Socket)
		},
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	if resp.StatusCode != http.StatusOK {
		e := &Error{Status: resp.StatusCode}
		if dec.Decode(e) != nil || e.Msg == "" {
			e.Msg = "the daemon answered " + resp.Status
		}
		return e
	}
	if answer == nil {
		return nil
	}
	return dec.Decode(answer)
}

// ErrNoAnswer is what every error is that means that there is no daemon, or
// none that answers.
var ErrNoAnswer = errors.New("no answer")

// A silence is such an error.
type silence struct{ error }

func (s silence) Is(target error) bool { return target == ErrNoAnswer }
func (s silence) Unwrap() error        { return s.error }

func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return silence{fmt.Errorf("no gcemds answers on %s; start one with: gcemds serve (if it runs with another --admin, set GCEMDS_ADMIN to that)", c.Socket)}
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s belongs to another user", c.Socket)
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return silence{fmt.Errorf("the daemon on %s does not answer: %w", c.Socket, err)}
}

// Complete returns the paths that begin with what is typed; nil if nobody
// answers.
func (c *Client) Complete(ctx context.Context, instance, typed string) []string {
	dir := typed[:strings.LastIndexByte(typed, '/')+1]
	v, err := c.Get(ctx, instance, dir, false)
	if err != nil || !v.Dir {
		return nil
	}
	var paths []string
	for name := range strings.SplitSeq(strings.TrimSuffix(v.Text, "\n"), "\n") {
		if path := dir + name; strings.HasPrefix(path, typed) {
			paths = append(paths, path)
		}
	}
	return paths
}
