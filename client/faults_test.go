package client

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcemds/gcemds"
)

// ourServer is the metadata server of this repository, in a bubble.
func ourServer(t *testing.T) *gcemds.Server {
	t.Helper()
	s, err := gcemds.New(gcemds.Options{Set: map[string]any{"instance/attributes/x": "a"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestEveryFault: tokens and values come in the end, through each fault that a
// server on its way up may have, and all of them after each other.
func TestEveryFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := ourServer(t)
		faults := []http.HandlerFunc{
			status(503, ""), status(429, "", "Retry-After", "3"), status(500, "GKE Metadata Server: Internal Server Error"), status(504, ""),
			reset, half, stuck, slow(time.Hour, value("")), foreign(status(502, "no upstream")), foreign(reset),
		}
		w, c := newWire(t, inTurn(append(faults, s.Handler().ServeHTTP)...))
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
		token, err := (&Tokens{Client: c, Scopes: []string{scopePrefix + "pubsub"}}).Token(t.Context())
		if err != nil || token.Value == "" {
			t.Errorf("Token behind %d faults = %v, %v", len(faults), token, err)
		}
		if n := w.asked(); n != len(faults)+3 {
			t.Errorf("%d requests for %d faults, the e-mail, the scopes and a token", n, len(faults))
		}
	})
}

// TestWatchOurServer: a real server shuts down in the middle of a wait, and
// another one with the same document takes its place.
func TestWatchOurServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := ourServer(t), ourServer(t)
		w, c := newWire(t, first.Handler().ServeHTTP)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		seen := watch(ctx, c)
		expect(t, seen, "a", time.Second)
		quiet(t, seen, 10*time.Minute)
		if err := first.Set("instance/attributes/x", "b"); err != nil {
			t.Fatal(err)
		}
		expect(t, seen, "b", time.Millisecond)
		if err := second.Set("instance/attributes/x", "b"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		w.down()
		time.Sleep(20 * time.Second)
		w.up(second.Handler().ServeHTTP)
		quiet(t, seen, 10*time.Minute)
		if err := second.Delete("instance/attributes/x"); err != nil {
			t.Fatal(err)
		}
		expect(t, seen, "not found", time.Millisecond)
	})
}

// TestLog: each failure that is tried again is logged, and no token ever is.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank()
		_, c := newWire(t, b.serve)
		var log strings.Builder
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		tokens := &Tokens{Client: c}
		if _, err := tokens.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.fail(inTurn(status(503, "busy"), status(403, "refused")))
		time.Sleep(56 * time.Minute)
		tokens.Token(t.Context())
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, text := range []string{"asking the metadata server again", "503 Service Unavailable: busy", "could not be renewed", "403 Forbidden: refused"} {
			if !strings.Contains(log.String(), text) {
				t.Errorf("the log does not say %q:\n%s", text, &log)
			}
		}
		if strings.Contains(log.String(), "token-1") {
			t.Error("the log shows a token")
		}
	})
}

// TestMalformedToken: the error says what is wrong without a token.
func TestMalformedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newWire(t, value(`{"access_token":"secret","expires_in":0}`))
		_, err := (&Tokens{Client: c}).Token(t.Context())
		if e := asError(t, err); !errors.Is(err, Malformed) || e.URL == "" || e.Attempts != 1 || strings.Contains(err.Error(), "secret") {
			t.Errorf("Token = %v, want kind Malformed, the URL, and no token", err)
		}
	})
}
