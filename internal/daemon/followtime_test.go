package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcemds/gcemds/internal/credential"
	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/server"
	"github.com/gcemds/gcemds/internal/tree"
)

// A there is a metadata server without a network, which may be down.
type there struct {
	http.Handler
	down  atomic.Bool
	asked atomic.Int64
}

func (s *there) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked.Add(1)
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && !s.down.Load() {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	if s.down.Load() {
		return nil, errors.New("connection refused")
	}
	r = r.Clone(r.Context())
	r.RequestURI, r.Body = r.URL.RequestURI(), http.NoBody
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	a := w.Result()
	a.Request, a.Header = r, http.Header{}
	for name, values := range w.Header() { // some are spelt as Google spells them
		a.Header[http.CanonicalHeaderKey(name)] = values
	}
	return a, nil
}

// TestFollowForHours: a server that is away for long is neither forgotten nor
// asked in a tight loop, and one that has nothing new for hours is still heard.
func TestFollowForHours(t *testing.T) {
	bubble(t, func(t *testing.T) {
		far := &fleet.Instance{Name: "far", Metadata: tree.NewStore(fleet.Builtin())}
		var router fleet.Router
		router.Set(fleet.Route{Instance: far})
		up := &there{Handler: server.New(&router, nil, server.Limits{})}
		up.down.Store(true)

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		d := &Daemon{log: slog.New(slog.DiscardHandler), env: credential.Env{Client: &exchange.Client{Transport: up}}}
		f, err := d.follow("vm", "192.0.2.1", func(t *tree.Tree) (*tree.Tree, error) { return t, nil })
		if err != nil {
			t.Fatal(err)
		}
		near := tree.NewStore(nobody())
		f.start(ctx, near, nil)
		defer f.Close()
		value := func() string {
			synctest.Wait()
			n, _ := near.Tree().Lookup("instance/attributes/x")
			return n.Value()
		}
		set := func(value string) {
			if err := far.Metadata.Edit(tree.Edit{Path: "instance/attributes/x", Value: value}); err != nil {
				t.Fatal(err)
			}
		}

		time.Sleep(time.Hour)
		if f.absent() == nil || f.state() == "" {
			t.Error("a server that has never answered is taken for one that has")
		}
		if n := up.asked.Load(); n > 2*3600 {
			t.Errorf("a server that is down was asked %d times in an hour", n)
		}
		set("first")
		up.down.Store(false)
		time.Sleep(time.Minute)
		if got := value(); got != "first" || f.absent() != nil || f.state() != "" {
			t.Errorf("a minute after the server is up the value is %q, absent: %v, trouble: %q", got, f.absent(), f.state())
		}

		up.asked.Store(0)
		time.Sleep(5 * time.Hour)
		if n := up.asked.Load(); n > 5*60*3 {
			t.Errorf("a server where nothing changes was asked %d times in five hours, want about one a minute and path", n)
		}
		set("second")
		if got := value(); got != "second" {
			t.Errorf("after five hours without a change the value is %q, want the new one at once", got)
		}

		up.down.Store(true)
		time.Sleep(time.Hour)
		if f.absent() != nil || f.state() == "" || value() != "second" {
			t.Errorf("while the server is away the value is %q, absent: %v, trouble: %q; want the last one, and the trouble told", value(), f.absent(), f.state())
		}
		up.down.Store(false)
		time.Sleep(time.Minute)
		if got := f.state(); got != "" {
			t.Errorf("the server is back with what it had, but the state is %q", got)
		}
	})
}
