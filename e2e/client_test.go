package e2e

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gcemds/gcemds/client"
)

// TestClient: our own Go client asks before there is a server, and watches over
// a restart.
func TestClient(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c := &client.Client{Host: addr}
	tokens := &client.Tokens{Client: c, Scopes: []string{cloudPlatform}}
	serve := func() (*server, func()) {
		s, cmd, exited := start(t, machine{}, filepath.Join(t.TempDir(), "admin.sock"), "--listen", addr)
		return s, func() {
			t.Helper()
			cmd.Process.Signal(os.Interrupt)
			if err := <-exited; err != nil {
				t.Errorf("gcemds serve, interrupted: %v; want exit status 0", err)
			}
		}
	}

	const late = 20 * time.Second
	type result struct {
		token client.Token
		err   error
		took  time.Duration
	}
	results := make(chan result, 1)
	began := time.Now()
	go func() {
		token, err := tokens.Token(t.Context())
		results <- result{token, err, time.Since(began)}
	}()
	time.Sleep(late)
	s, stop := serve()
	r := <-results
	if r.err != nil || r.token.Value == "" || r.took < late || r.took > late+15*time.Second {
		t.Fatalf("a token from a server that starts after %v: %v, %v after %v; want one within the longest pause of 10 s", late, r.token, r.err, r.took)
	}

	var seen []string
	for v, err := range c.Watch(t.Context(), "instance/attributes/color") {
		switch {
		case errors.Is(err, client.NotFound) && len(seen) == 0:
			s.cli(t, "set", "instance/attributes/color", "red")
			v = "none"
		case err != nil:
			t.Fatalf("Watch after %q: %v", seen, err)
		case v == "red": // a new server does not have it, since it was set by hand
			stop()
			s, stop = serve()
			s.cli(t, "set", "instance/attributes/color", "blue")
		}
		if seen = append(seen, v); v == "blue" {
			break
		}
	}
	stop()
	if got, want := strings.Join(seen, " "), "none red blue"; got != want {
		t.Errorf("Watch over a restart yields %s, want %s", got, want)
	}
}
