package client

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestEvidence(t *testing.T) {
	none := signs{
		getenv:   func(string) string { return "" },
		readFile: func(string) ([]byte, error) { return nil, fs.ErrNotExist },
		lookup: func(context.Context, string) ([]string, error) {
			return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
		},
	}
	variable := func(name, value string) func(*signs) {
		return func(s *signs) {
			s.getenv = func(n string) string {
				if n == name {
					return value
				}
				return ""
			}
		}
	}
	product := func(name string) func(*signs) {
		return func(s *signs) {
			s.readFile = func(string) ([]byte, error) { return []byte(name + "\n"), nil }
		}
	}
	dns := func(addresses []string, err error) func(*signs) {
		return func(s *signs) {
			s.lookup = func(_ context.Context, host string) ([]string, error) {
				if host != "metadata.google.internal." {
					t.Errorf("the DNS is asked for %q", host)
				}
				return addresses, err
			}
		}
	}
	for name, c := range map[string]struct {
		change func(*signs)
		for_   string // the source that speaks for Google Cloud; "" for none
		text   string
	}{
		"a laptop":         {func(*signs) {}, "", "this system does not show a product name"},
		"a named server":   {variable(hostEnv, "127.0.0.1:8080"), "environment", `GCE_METADATA_HOST is "127.0.0.1:8080"`},
		"Cloud Run":        {variable("K_SERVICE", "x"), "environment", "as on Cloud Run"},
		"App Engine":       {variable("GAE_ENV", "standard"), "environment", "as on App Engine"},
		"Compute Engine":   {product("Google Compute Engine"), "firmware", `"Google Compute Engine"`},
		"an older machine": {product("Google"), "firmware", `"Google"`},
		"a Chromebook":     {product("Google_Eve"), "", `"Google_Eve"`},
		"no permission":    {func(s *signs) { s.readFile = func(string) ([]byte, error) { return nil, fs.ErrPermission } }, "", "permission denied"},
		"the DNS knows":    {dns([]string{"169.254.169.254"}, nil), "DNS", "is 169.254.169.254"},
		"only IPv6":        {dns([]string{"fd20:ce::254"}, nil), "DNS", "is fd20:ce::254"},
		"the DNS lies":     {dns([]string{"203.0.113.9"}, nil), "", "is 203.0.113.9"},
		"the DNS fails":    {dns(nil, errors.New("servfail")), "", "servfail"},
	} {
		s := none
		c.change(&s)
		list := s.evidence(t.Context(), true)
		got, text := "", ""
		for _, e := range list {
			if e.Supports {
				got += e.Source
			}
			text += e.String() + "\n"
		}
		if got != c.for_ || !strings.Contains(text, c.text) || len(list) != 3 || positive(list) != (c.for_ != "") {
			t.Errorf("%s: %q speaks for Google Cloud, want %q, with %q in\n%s", name, got, c.for_, c.text, text)
		}
	}
	if list := none.evidence(t.Context(), false); len(list) != 2 {
		t.Errorf("without DNS, the evidence is %v", list)
	}
	synctest.Test(t, func(t *testing.T) {
		s := none
		s.lookup = func(ctx context.Context, _ string) ([]string, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		began := time.Now()
		s.evidence(t.Context(), true)
		within(t, "a DNS that does not answer", time.Since(began), lookupLimit, lookupLimit)
	})
}

func TestDetect(t *testing.T) {
	for name, c := range map[string]struct {
		setUp             func(*wire)
		look              func(context.Context, bool) []Evidence
		onGoogle, answers bool
		low, high         time.Duration
		text              string
	}{
		"a server":           {func(w *wire) { w.up(value("instance/\n")) }, nothing, true, true, 0, 0, "answers as a metadata server"},
		"one that refuses":   {func(w *wire) { w.up(status(403, "")) }, nothing, true, true, 0, 0, "answers as a metadata server"},
		"a captive portal":   {func(w *wire) { w.up(foreign(value("log in"))) }, nothing, false, false, 0, 0, "answers 200, but not as"},
		"a cold server":      {func(*wire) {}, something, true, false, 0, 0, "connection refused"},
		"a laptop":           {func(*wire) {}, nothing, false, false, 0, 0, "connection refused"},
		"a black hole":       {func(w *wire) { w.hole = true }, nothing, false, false, detectLimit, detectLimit, "no answer in 5s"},
		"a very late server": {func(w *wire) { w.up(slow(time.Minute, value(""))) }, nothing, false, false, detectLimit, detectLimit, "no answer in 5s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, client := newWire(t, nil)
				c.setUp(w)
				client.look = c.look
				began := time.Now()
				d := client.Detect(t.Context())
				within(t, "Detect", time.Since(began), c.low, c.high)
				server := d.Evidence[len(d.Evidence)-1]
				if d.OnGoogleCloud != c.onGoogle || d.Answers != c.answers || !strings.Contains(server.String(), c.text) {
					t.Errorf("Detect = %+v, want %v, %v, with %q", d, c.onGoogle, c.answers, c.text)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		w, client := newWire(t, nil)
		w.hole, client.look = true, nothing
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		client.Detect(ctx)
		within(t, "Detect with a second left", time.Since(began), time.Second, time.Second)

		w.mu.Lock()
		w.hole = false
		w.mu.Unlock()
		w.up(value(""))
		if d := client.Detect(t.Context()); !d.Answers {
			t.Errorf("Detect remembers what was: %+v", d)
		}
	})
}
