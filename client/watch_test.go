package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A stage is a server with one value, which it lets clients wait for.
type stage struct {
	mu      sync.Mutex
	value   string // "" is deleted
	changed chan struct{}
	waiting int

	noETag, noWait bool
}

func newStage(value string) *stage { return &stage{value: value, changed: make(chan struct{})} }

func (s *stage) set(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value = value
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stage) serve(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	seconds, _ := strconv.Atoi(q.Get("timeout_sec"))
	timeout := time.After(time.Duration(seconds) * time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	for q.Get("wait_for_change") == "true" && !s.noWait && q.Get("last_etag") == "e"+s.value && s.value != "" {
		changed := s.changed
		s.waiting++
		s.mu.Unlock()
		over := false
		select {
		case <-changed:
		case <-timeout:
			over = true
		case <-r.Context().Done():
			over = true
		}
		s.mu.Lock()
		s.waiting--
		if over {
			break
		}
	}
	if s.value == "" {
		w.WriteHeader(404)
		return
	}
	if !s.noETag {
		w.Header().Set("ETag", "e"+s.value)
	}
	io.WriteString(w, s.value)
}

// watch collects what Watch yields, until the context ends.
func watch(ctx context.Context, c *Client) <-chan string {
	seen := make(chan string, 100)
	go func() {
		defer close(seen)
		for v, err := range c.Watch(ctx, "instance/attributes/x") {
			var e *Error
			if errors.As(err, &e) {
				v = e.Kind.Error()
			}
			seen <- v
		}
	}()
	return seen
}

// expect fails the test unless Watch yields a value within some time.
func expect(t *testing.T, seen <-chan string, want string, within time.Duration) {
	t.Helper()
	select {
	case got, ok := <-seen:
		if got != want || !ok {
			t.Fatalf("Watch yields %q (goes on: %v), want %q", got, ok, want)
		}
	case <-time.After(within):
		t.Fatalf("Watch yields nothing in %v, want %q", within, want)
	}
}

// quiet fails the test if Watch yields anything for some time.
func quiet(t *testing.T, seen <-chan string, long time.Duration) {
	t.Helper()
	select {
	case got, ok := <-seen:
		t.Fatalf("Watch yields %q (goes on: %v), want nothing", got, ok)
	case <-time.After(long):
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage("a")
		w, c := newWire(t, s.serve)
		ctx, cancel := context.WithCancel(t.Context())
		seen := watch(ctx, c)
		expect(t, seen, "a", 0+time.Second)
		quiet(t, seen, time.Hour)
		if n := w.asked(); n > 62 {
			t.Errorf("an hour without a change took %d requests, want about one a minute", n)
		}
		for i := range 10 {
			s.set(fmt.Sprint(i))
			expect(t, seen, fmt.Sprint(i), time.Millisecond)
		}
		if got, err := c.Get(t.Context(), "x"); got != "9" {
			t.Errorf("Get while a request hangs = %q, %v", got, err)
		}

		s.set("")
		expect(t, seen, "not found", time.Millisecond)
		quiet(t, seen, time.Hour)
		s.set("9")
		expect(t, seen, "9", 10*time.Second)

		cancel()
		if v, ok := <-seen; ok {
			t.Errorf("after the end of its context, Watch yields %q", v)
		}
		synctest.Wait()
		if s.waiting != 0 {
			t.Errorf("%d requests still hang after the end of the context", s.waiting)
		}
	})
}

// TestWatchRestart: a restart of the server is not a change, but a change
// meanwhile is seen.
func TestWatchRestart(t *testing.T) {
	for _, change := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newStage("a")
			w, c := newWire(t, s.serve)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			seen := watch(ctx, c)
			expect(t, seen, "a", time.Second)
			time.Sleep(30 * time.Second)
			w.down()
			if change {
				s.set("b")
			}
			time.Sleep(2 * time.Minute)
			w.up(s.serve)
			if change {
				expect(t, seen, "b", 10*time.Second)
			} else {
				quiet(t, seen, time.Hour)
			}
			s.set("c")
			expect(t, seen, "c", time.Millisecond)
		})
	}
}

// TestWatchOutage: an outage that outlasts the patience is reported, and watched
// to its end.
func TestWatchOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage("a")
		w, c := newWire(t, s.serve)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		seen := watch(ctx, c)
		expect(t, seen, "a", time.Second)
		w.down()
		expect(t, seen, "transient failure", 5*time.Minute+time.Second)
		expect(t, seen, "transient failure", 5*time.Minute+time.Second)
		s.set("b")
		w.up(s.serve)
		expect(t, seen, "b", 10*time.Second)
		w.down()
		expect(t, seen, "transient failure", 5*time.Minute+time.Second)
		w.up(s.serve)
		expect(t, seen, "b", 10*time.Second) // it is what it was, but that was not known
	})
}

// TestWatchRefused: what will not pass ends the loop.
func TestWatchRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newWire(t, status(403, ""))
		seen := watch(t.Context(), c)
		expect(t, seen, "denied", time.Second)
		if v, ok := <-seen; ok {
			t.Errorf("after a refusal, Watch yields %q", v)
		}
	})
}

// TestWatchPoorServer: servers that cannot wait are polled, at a decent pace.
func TestWatchPoorServer(t *testing.T) {
	for name, poor := range map[string]func(*stage) http.HandlerFunc{
		"no ETag": func(s *stage) http.HandlerFunc { s.noETag = true; return s.serve },
		"no wait": func(s *stage) http.HandlerFunc { s.noWait = true; return s.serve },
		"neither": func(s *stage) http.HandlerFunc { s.noETag, s.noWait = true, true; return s.serve },
		"too many waiters": func(s *stage) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Has("wait_for_change") {
					w.WriteHeader(503)
					return
				}
				s.serve(w, r)
			}
		},
		"connections that last 20 s": func(s *stage) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
				defer cancel()
				s.serve(w, r.WithContext(ctx))
				if ctx.Err() != nil {
					panic(http.ErrAbortHandler)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage("a")
				w, c := newWire(t, poor(s))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				seen := watch(ctx, c)
				expect(t, seen, "a", time.Second)
				quiet(t, seen, 10*time.Minute)
				if n := w.asked(); n > 400 {
					t.Errorf("%d requests in 10 minutes", n)
				}
				s.set("b")
				expect(t, seen, "b", 20*time.Second)
				s.set("")
				expect(t, seen, "not found", 20*time.Second)
			})
		})
	}
}

// TestWatchLeave: who leaves the loop leaves nothing behind; the bubble would
// not end otherwise.
func TestWatchLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage("a")
		_, c := newWire(t, s.serve)
		for v, err := range c.Watch(t.Context(), "x") {
			if v != "a" || err != nil {
				t.Errorf("Watch yields %q, %v", v, err)
			}
			break
		}
		synctest.Wait()
		if s.waiting > 0 {
			t.Error("a request hangs for nobody")
		}
	})
}

// TestWatchUnderRestarts: whatever happens on the way, the last value arrives.
func TestWatchUnderRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage("start")
		w, c := newWire(t, s.serve)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		seen := watch(ctx, c)
		for i := range 100 {
			s.set(fmt.Sprint("v", i))
			w.down()
			time.Sleep(time.Duration(i) * 37 * time.Millisecond)
			w.up(s.serve)
			s.set(fmt.Sprint("w", i))
			time.Sleep(time.Duration(i%7) * 50 * time.Millisecond)
		}
		s.set("end")
		for last := ""; last != "end"; {
			select {
			case last = <-seen:
			case <-time.After(time.Minute):
				t.Fatalf("the last value never came; the last one seen is %q", last)
			}
		}
	})
}
