package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A wire is a network in memory with one address, where a server may listen. It
// works in a synctest bubble.
type wire struct {
	t *testing.T

	mu       sync.Mutex
	server   *http.Server // nil: connections are refused
	conns    chan net.Conn
	hole     bool // connections are never answered
	dials    int
	requests []*http.Request
}

// newWire returns a wire with a server, if the handler is not nil, and a client
// of it. Both end with the test.
func newWire(t *testing.T, h http.HandlerFunc) (*wire, *Client) {
	w := &wire{t: t}
	transport := newTransport()
	transport.DialContext = w.dial
	if h != nil {
		w.up(h)
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		w.down()
	})
	return w, &Client{Host: "mds", HTTP: &http.Client{Transport: transport}}
}

// up starts a server, whose answers come from a metadata server unless the
// handler deletes the header that says so.
func (w *wire) up(h http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = make(chan net.Conn)
	w.server = &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.requests = append(w.requests, r.Clone(context.Background()))
		w.mu.Unlock()
		rw.Header().Set(flavor, "Google")
		h(rw, r)
	})}
	go w.server.Serve(&pipeListener{w.conns, make(chan struct{}), sync.Once{}})
}

// down stops the server and breaks its connections.
func (w *wire) down() {
	w.mu.Lock()
	s := w.server
	w.server = nil
	w.mu.Unlock()
	if s != nil {
		s.Close()
	}
}

func (w *wire) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	w.mu.Lock()
	w.dials++
	hole, s, conns := w.hole, w.server, w.conns
	w.mu.Unlock()
	switch {
	case hole:
		<-ctx.Done()
		return nil, ctx.Err()
	case s == nil:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	client, server := net.Pipe()
	select {
	case conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// asked returns how many requests the server has seen.
func (w *wire) asked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.requests)
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// value answers every request with a text.
func value(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) }
}

// status answers every request with a status and a text; headers are pairs.
func status(code int, text string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
		io.WriteString(w, text)
	}
}

// foreign answers as something that is no metadata server.
func foreign(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Del(flavor)
		h(w, r)
	}
}

// reset breaks the connection off.
func reset(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }

// half breaks off in the middle of the body.
func half(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "100")
	io.WriteString(w, "half")
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// slow answers too late.
func slow(after time.Duration, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(after):
			h(w, r)
		case <-r.Context().Done():
		}
	}
}

// stuck sends the header and then nothing.
func stuck(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(200)
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

// inTurn uses each handler for one request, and the last one for all that follow.
func inTurn(handlers ...http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		h := handlers[0]
		if len(handlers) > 1 {
			handlers = handlers[1:]
		}
		mu.Unlock()
		h(w, r)
	}
}

func times(n int, h http.HandlerFunc) []http.HandlerFunc {
	list := make([]http.HandlerFunc, n)
	for i := range list {
		list[i] = h
	}
	return list
}

// asError returns err as an *Error, or fails the test.
func asError(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %T %v, want an *Error", err, err)
	}
	return e
}

// within fails the test if a time is not between two others.
func within(t *testing.T, what string, got, low, high time.Duration) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s took %v, want %v to %v", what, got, low, high)
	}
}

func nothing(context.Context, bool) []Evidence {
	return []Evidence{{"environment", false, "nothing"}}
}

func something(context.Context, bool) []Evidence {
	return []Evidence{{"firmware", true, fmt.Sprintf("the product name is %q", "Google")}}
}
