package server_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/server"
)

// A pinning resolver keeps what it learned when the connection was accepted.
type pinning struct {
	instance *fleet.Instance
	accepted chan fleet.Ask
}

func (p *pinning) Accept(c *fleet.Caller) { c.Pin = c.Remote }

func (p *pinning) Resolve(ctx context.Context, c *fleet.Caller, a fleet.Ask) (*fleet.Instance, error) {
	peer, err := c.Peer(ctx)
	if err != nil || peer.PID != 7 || c.Pin != c.Remote {
		return nil, errors.New("the caller has not what Accept and Peer made")
	}
	if a.Key == "instance/id" {
		return nil, &fleet.Refusal{Status: 503, RetryAfter: 1500 * time.Millisecond, Text: "Not known yet.", Err: errors.New("a secret of ours")}
	}
	p.accepted <- a
	return p.instance, nil
}

// A resolver sees the connection at accept, may ask the kernel, knows what is
// asked for, and its refusal reaches the caller in its own words.
func TestResolver(t *testing.T) {
	t.Parallel()
	r := &pinning{plain(t), make(chan fleet.Ask, 1)}
	s := server.New(r, nil, server.Limits{})
	s.Peer = func(*fleet.Caller) func(context.Context) (fleet.Peer, error) {
		return func(context.Context) (fleet.Peer, error) { return fleet.Peer{PID: 7}, nil }
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := s.HTTP(t.Context(), "main", slog.New(slog.DiscardHandler))
	go web.Serve(l)
	t.Cleanup(func() { web.Close() })
	get := func(path string) (*http.Response, string) {
		t.Helper()
		q, _ := http.NewRequest("GET", "http://"+l.Addr().String()+"/computeMetadata/v1/"+path, nil)
		q.Header.Set("Metadata-Flavor", "Google")
		a, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		body, _ := io.ReadAll(a.Body)
		return a, string(body)
	}

	if a, body := get("instance/attributes/?recursive=true"); a.StatusCode != 200 {
		t.Errorf("a caller whom the resolver knows gets %s: %s", a.Status, body)
	}
	want := fleet.Ask{Host: l.Addr().String(), Key: "instance/attributes", Recursive: true}
	if got := <-r.accepted; got != want {
		t.Errorf("the resolver was asked for %+v, want %+v", got, want)
	}
	a, body := get("instance/id")
	if a.StatusCode != 503 || body != "Not known yet.\n" || a.Header.Get("Retry-After") != "2" || a.Header.Get("Metadata-Flavor") != "Google" {
		t.Errorf("a refusal reads %s %q %v, want its own status, text and time", a.Status, body, a.Header)
	}
}
