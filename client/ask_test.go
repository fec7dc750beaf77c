package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestGet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := newWire(t, value("vm-1"))
		got, err := c.Get(t.Context(), "instance/name?alt=text")
		if got != "vm-1" || err != nil {
			t.Fatalf("Get = %q, %v", got, err)
		}
		r := w.requests[0]
		if r.Method != "GET" || r.RequestURI != "/computeMetadata/v1/instance/name?alt=text" || r.Host != "mds" ||
			r.Header.Get("Metadata-Flavor") != "Google" || !strings.HasPrefix(r.UserAgent(), "gcemds-client") || len(r.Header) != 2 {
			t.Errorf("the request was %s %s of host %s with %v", r.Method, r.RequestURI, r.Host, r.Header)
		}
	})
}

// TestPassing: what may pass is tried again until there is a value.
func TestPassing(t *testing.T) {
	ok := value("fine")
	for name, c := range map[string]struct {
		first     []http.HandlerFunc
		low, high time.Duration // of the whole call
	}{
		"nothing wrong":           {nil, 0, 0},
		"one 503":                 {times(1, status(503, "migrating")), 0, 100 * time.Millisecond},
		"a burst of 503":          {times(8, status(503, "starting")), 0, 26 * time.Second},
		"500":                     {times(1, status(500, "")), 0, 100 * time.Millisecond},
		"408":                     {times(1, status(408, "")), 0, 100 * time.Millisecond},
		"429":                     {times(1, status(429, "")), 0, 100 * time.Millisecond},
		"429 with Retry-After":    {times(1, status(429, "", "Retry-After", "7")), 7 * time.Second, 7100 * time.Millisecond},
		"503 with Retry-After":    {times(2, status(503, "", "Retry-After", "20")), 40 * time.Second, 40300 * time.Millisecond},
		"503 of a proxy":          {times(1, foreign(status(503, "no healthy upstream"))), 0, 100 * time.Millisecond},
		"a broken connection":     {times(3, reset), 0, 700 * time.Millisecond},
		"half a body":             {times(2, half), 0, 300 * time.Millisecond},
		"no header in time":       {times(1, slow(time.Hour, ok)), 15 * time.Second, 15100 * time.Millisecond},
		"a header just in time":   {times(1, slow(14*time.Second, ok)), 14 * time.Second, 14 * time.Second},
		"a body that never comes": {times(1, stuck), 15 * time.Second, 15100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, client := newWire(t, inTurn(append(c.first, ok)...))
				began := time.Now()
				if got, err := client.Get(t.Context(), "instance/name"); got != "fine" {
					t.Errorf("Get = %q, %v; want the value that came in the end", got, err)
				}
				within(t, "Get", time.Since(began), c.low, c.high)
			})
		})
	}
}

// TestFinal: what will not pass is an error at once, of the right kind.
func TestFinal(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		kind   Kind
		text   string // in the error
	}{
		"unknown path":         {status(404, "<!DOCTYPE html><p>Not here"), NotFound, "404 Not Found"},
		"bad query":            {status(400, "non-empty audience parameter required\n"), Denied, "400 Bad Request: non-empty audience"},
		"refused":              {status(403, `{"error":"access_denied","error_description":"Not you."}`), Denied, "access_denied: Not you."},
		"never configured":     {status(412, ""), Denied, "412"},
		"not implemented":      {status(501, ""), Malformed, "501"},
		"a captive portal":     {foreign(value("<html>log in here")), NoServer, "without the header"},
		"another flavor":       {status(200, "x", flavor, "google"), NoServer, "without the header"},
		"no such page":         {foreign(status(404, "")), NoServer, "answered 404"},
		"a redirect to a host": {status(302, "", "Location", "http://portal.example/"), Malformed, "302"},
		"a foreign redirect":   {foreign(status(302, "", "Location", "http://portal.example/")), NoServer, "answered 302"},
		"a redirect elsewhere": {status(301, "", "Location", "/computeMetadata/v1/instance/other/"), Malformed, "301"},
		"too much":             {value(strings.Repeat("x", maxBody+1)), Malformed, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, client := newWire(t, c.answer)
				began := time.Now()
				got, err := client.Get(t.Context(), "instance/name")
				if got != "" || !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
					t.Fatalf("Get = %q, %v; want an error of kind %q with %q", got, err, c.kind, c.text)
				}
				e := asError(t, err)
				if e.Attempts != 1 || e.Status == 0 || e.URL != "http://mds/computeMetadata/v1/instance/name" || w.asked() != 1 || time.Since(began) > 0 {
					t.Errorf("%#v after %d requests and %v, want one of each", e, w.asked(), time.Since(began))
				}
			})
		})
	}
}

// TestDirectory: the redirect to the path with a slash is followed, once.
func TestDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := newWire(t, func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/") {
				w.Header().Set("Location", "http://"+r.Host+r.URL.Path+"/?"+r.URL.RawQuery)
				w.WriteHeader(301)
				return
			}
			w.Write([]byte(r.Header.Get(flavor) + " " + r.RequestURI))
		})
		got, err := c.Get(t.Context(), "instance/attributes?recursive=true")
		if want := "Google /computeMetadata/v1/instance/attributes/?recursive=true"; got != want || w.asked() != 2 {
			t.Errorf("Get of a directory without a slash = %q, %v; want %q after 2 requests", got, err, want)
		}
	})
}

func TestPatience(t *testing.T) {
	for name, c := range map[string]struct {
		setUp     func(*wire)
		patience  time.Duration
		low, high time.Duration
		attempts  int // at least
		text      string
	}{
		"default":                    {nil, 0, 285 * time.Second, 5 * time.Minute, 30, "connection refused"},
		"one minute":                 {nil, time.Minute, 45 * time.Second, time.Minute, 8, "connection refused"},
		"none":                       {nil, -1, 0, 0, 1, "connection refused"},
		"nobody picks up":            {func(w *wire) { w.hole = true }, 0, 285 * time.Second, 5 * time.Minute, 15, "no connection in 10s"},
		"slow to the end":            {func(w *wire) { w.up(slow(time.Hour, value(""))) }, 0, 285 * time.Second, 5 * time.Minute, 12, "no answer in 15s"},
		"503 for ever":               {func(w *wire) { w.up(status(503, "booting")) }, 0, 285 * time.Second, 5 * time.Minute, 30, "503 Service Unavailable: booting"},
		"it asks for more than that": {func(w *wire) { w.up(status(503, "", "Retry-After", "3600")) }, 0, 0, 0, 1, "come back in 1h"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, client := newWire(t, nil)
				if c.setUp != nil {
					c.setUp(w)
				}
				client.Patience = c.patience
				began := time.Now()
				_, err := client.Get(t.Context(), "instance/name")
				took := time.Since(began)
				within(t, "Get", took, c.low, c.high)
				e := asError(t, err)
				if e.Kind != Transient || e.Attempts < c.attempts || e.Elapsed != took || e.Hint == "" || !strings.Contains(err.Error(), c.text) {
					t.Errorf("%v (%d attempts, %v); want a transient failure after %d attempts or more, with %q", err, e.Attempts, e.Elapsed, c.attempts, c.text)
				}
			})
		})
	}
}

// TestContext: no call outlives its context, whatever it waits for.
func TestContext(t *testing.T) {
	for name, setUp := range map[string]func(*wire, *Client){
		"refused":       func(*wire, *Client) {},
		"no connection": func(w *wire, _ *Client) { w.hole = true },
		"no header":     func(w *wire, _ *Client) { w.up(slow(time.Hour, value(""))) },
		"no body":       func(w *wire, _ *Client) { w.up(stuck) },
		"503":           func(w *wire, _ *Client) { w.up(status(503, "")) },
		"its turn":      func(_ *wire, c *Client) { c.init(); c.turn <- struct{}{} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, c := newWire(t, nil)
				setUp(w, c)
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				began := time.Now()
				_, err := c.Get(ctx, "instance/name")
				within(t, "Get", time.Since(began), 3*time.Second, 3*time.Second)
				if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, Transient) {
					t.Errorf("Get = %v, want a transient failure because the deadline was exceeded", err)
				}
			})
		})
	}
}

// TestOneAtATime: a server that takes one request at a time never sees two,
// unless the client is told that this is fine.
func TestOneAtATime(t *testing.T) {
	for _, parallel := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var running, refused atomic.Int32
			_, c := newWire(t, func(w http.ResponseWriter, r *http.Request) {
				if running.Add(1) > 1 {
					refused.Add(1)
					w.WriteHeader(503)
				} else {
					time.Sleep(time.Second)
				}
				running.Add(-1)
			})
			c.Parallel = parallel
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if _, err := c.Get(t.Context(), "instance/name"); err != nil {
						t.Errorf("Get: %v", err)
					}
				})
			}
			began := time.Now()
			wg.Wait()
			if !parallel {
				within(t, "20 requests of a second", time.Since(began), 20*time.Second, 20*time.Second)
			}
			if n := refused.Load(); (n > 0) != parallel {
				t.Errorf("with Parallel %v, the server refused %d requests", parallel, n)
			}
		})
	}
}

// TestNoServer: without a name, a server has to be likely to be waited for.
func TestNoServer(t *testing.T) {
	t.Setenv(hostEnv, "")
	synctest.Test(t, func(t *testing.T) {
		_, c := newWire(t, nil)
		c.Host, c.look = "", nothing
		began := time.Now()
		_, err := c.Get(t.Context(), "instance/name")
		if !errors.Is(err, NoServer) || !strings.Contains(err.Error(), hostEnv) || time.Since(began) > 0 {
			t.Errorf("Get where nothing speaks for Google Cloud = %v after %v, want kind NoServer at once, and what to set", err, time.Since(began))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w, c := newWire(t, nil)
		c.Host, c.look = "", something
		time.AfterFunc(90*time.Second, func() { w.up(value("late")) })
		if got, err := c.Get(t.Context(), "instance/name"); got != "late" {
			t.Errorf("Get on Google Cloud, with a server that comes late = %q, %v", got, err)
		}
		c.look = nothing
		w.down()
		time.AfterFunc(time.Minute, func() { w.up(value("again")) })
		if got, err := c.Get(t.Context(), "instance/name"); got != "again" {
			t.Errorf("Get from a server that was there before = %q, %v; want it waited for", got, err)
		}
	})
}

func TestAddress(t *testing.T) {
	t.Setenv(hostEnv, "from-env:1")
	for _, c := range []struct{ field, want string }{{"", "from-env:1"}, {"field:2", "field:2"}} {
		if got, named := (&Client{Host: c.field}).address(); got != c.want || !named {
			t.Errorf("the address with Host %q = %q", c.field, got)
		}
	}
	t.Setenv(hostEnv, "")
	if got, named := new(Client).address(); got != "169.254.169.254" || named {
		t.Errorf("the address of a zero client = %q", got)
	}
	for _, host := range []string{"http://mds", "mds/", "mds:x", "fd20:ce::254", "me@mds", ":80", "a b", "mds?x"} {
		if _, err := (&Client{Host: host}).Get(t.Context(), "instance/name"); !errors.Is(err, NoServer) || !strings.Contains(err.Error(), "host:port") {
			t.Errorf("Get from %q = %v, want kind NoServer and the form of an address", host, err)
		}
	}
	for _, path := range []string{"a%zz", "a\nb", "a#b"} {
		if _, err := (&Client{Host: "mds"}).Get(t.Context(), path); !errors.Is(err, NotFound) {
			t.Errorf("Get of %q = %v, want kind NotFound", path, err)
		}
	}
}

// TestURL: the path is asked for as it is written, since servers do not decode.
func TestURL(t *testing.T) {
	for _, c := range []struct{ host, path, query, want string }{
		{"mds", "instance/name", "", "http://mds/computeMetadata/v1/instance/name"},
		{"[fd20:ce::254]:80", "/instance/name", "", "http://[fd20:ce::254]:80/computeMetadata/v1/instance/name"},
		{"mds", "a!$'()*,@b/", "x=1", "http://mds/computeMetadata/v1/a!$'()*,@b/?x=1"},
		{"mds", "a?x=1", "y=2", "http://mds/computeMetadata/v1/a?x=1&y=2"},
		{"mds", accountPath("principal://a/b") + "email", "", "http://mds/computeMetadata/v1/instance/service-accounts/principal:%2F%2Fa%2Fb/email"},
	} {
		u, err := request{path: c.path, query: c.query}.url(c.host)
		if err != nil || u.String() != c.want {
			t.Errorf("the URL of %q is %v, %v; want %s", c.path, u, err, c.want)
		}
	}
}

// FuzzURL: whatever is asked for, it is asked of the server that was named, and
// below its metadata.
func FuzzURL(f *testing.F) {
	f.Add("mds:80", "instance/attributes/a?recursive=true", "alt=json")
	f.Add("[fd20:ce::254]", "//evil.example/x", "")
	f.Add("a@b", "../../x", "&")
	f.Add("mds?", "a%2fb;c#d", "")
	f.Fuzz(func(t *testing.T, host, path, query string) {
		u, err := request{path: path, query: query}.url(host)
		if err != nil {
			return
		}
		if u.Scheme != "http" || u.Host != host || u.User != nil || u.Hostname() == "" || !strings.HasPrefix(u.EscapedPath(), "/computeMetadata/v1/") {
			t.Errorf("%q of %q is at %v", path, host, u)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "0": 0, "5": 5 * time.Second, "-5": 0, "5.5": 0, "soon": 0, " 5": 0,
		"18446744073709551615": maxRetryAfter, "99999999999999999999": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute,
		"Fri, 02 Jan 2026 03:04:04 GMT": 0,
		"Fri, 02 Jan 2099 03:04:04 GMT": maxRetryAfter,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("Retry-After %q means %v, want %v", header, got, want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("5")
	f.Add("Fri, 02 Jan 2026 03:05:05 GMT")
	f.Add("-1")
	f.Fuzz(func(t *testing.T, header string) {
		if d := retryAfter(header, time.Now()); d < 0 || d > maxRetryAfter {
			t.Errorf("Retry-After %q means %v", header, d)
		}
	})
}

func TestPauses(t *testing.T) {
	for n := 1; n < 100; n++ {
		limit := min(firstPause*time.Duration(1<<min(n-1, 30)), longestPause)
		var longest time.Duration
		for range 200 {
			p := pauseAfter(n)
			longest = max(longest, p)
			if p < 0 || p >= limit {
				t.Fatalf("the pause after %d failures is %v, want less than %v", n, p, limit)
			}
		}
		if longest < limit/2 {
			t.Errorf("of 200 pauses after %d failures, the longest is %v; want up to %v", n, longest, limit)
		}
	}
}

// TestIPv6: on a machine without IPv4, Google's server is asked at its IPv6
// address, and no other server is.
func TestIPv6(t *testing.T) {
	const v4, v6 = "169.254.169.254:80", "[fd20:ce::254]:80"
	unreachable := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for name, c := range map[string]struct {
		address string
		fails   map[string]error
		asked   []string
		err     error
	}{
		"with IPv4":              {v4, nil, []string{v4}, nil},
		"without":                {v4, map[string]error{v4: unreachable}, []string{v4, v6}, nil},
		"without any server":     {v4, map[string]error{v4: unreachable, v6: refused}, []string{v4, v6}, unreachable},
		"with IPv4, no server":   {v4, map[string]error{v4: refused}, []string{v4}, refused},
		"without, other servers": {"192.0.2.1:80", map[string]error{"192.0.2.1:80": unreachable}, []string{"192.0.2.1:80"}, unreachable},
	} {
		var asked []string
		_, err := orIPv6(func(_ context.Context, _, address string) (net.Conn, error) {
			asked = append(asked, address)
			return nil, c.fails[address]
		})(t.Context(), "tcp", c.address)
		if !slices.Equal(asked, c.asked) || err != c.err {
			t.Errorf("%s: %s is asked at %q, error %v; want %q, error %v", name, c.address, asked, err, c.asked, c.err)
		}
	}
}
