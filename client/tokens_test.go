package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const cloudPlatform = scopePrefix + "cloud-platform"

// A bank is a metadata server with one account. Like Google's, it gives out one
// token until little of its life is left.
type bank struct {
	scopes string
	life   time.Duration // of a new token
	keep   time.Duration // how long before its end a token has a successor

	mu     sync.Mutex
	n      int // tokens made
	expiry time.Time
	asked  int // requests for a token
	broken http.HandlerFunc
}

func (b *bank) serve(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken != nil {
		b.broken(w, r)
		return
	}
	switch dir, leaf := path.Split(strings.TrimPrefix(r.URL.Path, "/computeMetadata/v1/instance/service-accounts/")); {
	case dir != "default/" && dir != "robot@example.com/":
		w.WriteHeader(404)
	case leaf == "email":
		io.WriteString(w, "robot@example.com")
	case leaf == "scopes":
		io.WriteString(w, b.scopes)
	case leaf == "token", leaf == "identity":
		b.asked++
		if time.Until(b.expiry) <= b.keep {
			b.n++
			b.expiry = time.Now().Add(b.life)
		}
		if leaf == "identity" {
			io.WriteString(w, idToken(fmt.Sprint(b.n), b.expiry))
			return
		}
		fmt.Fprintf(w, `{"access_token":"token-%d","expires_in":%d,"token_type":"Bearer"}`, b.n, int(time.Until(b.expiry).Seconds()))
	}
}

func (b *bank) requests() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked
}

func (b *bank) fail(h http.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = h
}

func idToken(sub string, expiry time.Time) string {
	part := func(v any) string {
		data, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(data)
	}
	return part(map[string]any{"alg": "none"}) + "." + part(map[string]any{"sub": sub, "exp": expiry.Unix()}) + ".sig"
}

func newBank() *bank {
	return &bank{scopes: cloudPlatform + "\n" + scopePrefix + "userinfo.email\n", life: time.Hour, keep: 5 * time.Minute}
}

func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := newWire(t, newBank().serve)
		tokens := &Tokens{Client: c, Scopes: []string{scopePrefix + "pubsub", scopePrefix + "compute"}}
		got, err := tokens.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := (Token{"token-1", time.Now().Add(time.Hour).Round(0), "robot@example.com"}); got != want {
			t.Errorf("Token = %q %v %s, want %q %v %s", got.Value, got.Expiry, got.Email, want.Value, want.Expiry, want.Email)
		}
		again, err := tokens.Token(t.Context())
		if again != got || err != nil {
			t.Errorf("the second token = %v, %v; want the first one", again, err)
		}
		var uris []string
		for _, r := range w.requests {
			uris = append(uris, strings.TrimPrefix(r.RequestURI, "/computeMetadata/v1/instance/service-accounts/"))
		}
		if got, want := strings.Join(uris, " "), "default/email default/scopes default/token?scopes=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fcompute%2Chttps%3A%2F%2Fwww.googleapis.com%2Fauth%2Fpubsub"; got != want {
			t.Errorf("the requests are\n%s, want the e-mail first\n%s", got, want)
		}
	})
}

func TestIDTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := newWire(t, newBank().serve)
		tokens := &Tokens{Client: c, Account: "robot@example.com", Audience: "https://a.example/?x=1&y=z", Scopes: []string{"ignored"}}
		got, err := tokens.Token(t.Context())
		if err != nil || !got.Expiry.Equal(time.Now().Add(time.Hour)) || len(strings.Split(got.Value, ".")) != 3 {
			t.Errorf("Token = %v, %v; want one with the expiry that it says itself", got, err)
		}
		if r := w.requests[len(w.requests)-1]; len(w.requests) != 2 || r.URL.Query().Get("audience") != tokens.Audience || r.URL.Query().Get("format") != "full" {
			t.Errorf("the last of %d requests is %s", len(w.requests), r.RequestURI)
		}
	})
}

// TestColdStart: nobody listens for a minute, then the server is busy starting,
// and callers with little time come and go; in the end there is a token.
func TestColdStart(t *testing.T) {
	t.Setenv(hostEnv, "")
	synctest.Test(t, func(t *testing.T) {
		w, c := newWire(t, nil)
		c.Host, c.look = "", something
		b := newBank()
		time.AfterFunc(60*time.Second, func() { w.up(status(503, "starting")) })
		time.AfterFunc(90*time.Second, func() { w.down(); w.up(b.serve) })
		tokens := &Tokens{Client: c}
		began := time.Now()

		hurried, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := tokens.Token(hurried)
		if e := asError(t, err); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connection refused") || e.URL == "" || e.Attempts < 3 || e.Elapsed != 5*time.Second {
			t.Errorf("Token with a deadline = %v (%d attempts, %v), want that exceeded, and what the request in the background meets", err, e.Attempts, e.Elapsed)
		}
		within(t, "a caller with little time", time.Since(began), 5*time.Second, 5*time.Second)
		if _, err := tokens.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		within(t, "a cold start of 90 s", time.Since(began), 90*time.Second, 101*time.Second)
	})
}

// TestDenied: what is wrong with the account is said so that it can be mended.
func TestDenied(t *testing.T) {
	for name, c := range map[string]struct {
		tokens *Tokens
		held   string
		broken http.HandlerFunc
		text   []string
	}{
		"no account": {&Tokens{Account: "other"}, cloudPlatform, nil, []string{`account "other"`, "404", "service-accounts/"}},
		"a Workspace scope": {&Tokens{Scopes: []string{scopePrefix + "pubsub", scopePrefix + "drive"}}, cloudPlatform, nil,
			[]string{"robot@example.com", "lacks the scope " + scopePrefix + "drive", "has " + cloudPlatform, "Workspace"}},
		"no scopes": {&Tokens{Scopes: []string{scopePrefix + "pubsub"}}, "", nil, []string{"pubsub", "has none"}},
		"IAM": {&Tokens{}, "", status(403, "Unable to generate access token; IAM returned 403 Forbidden: Permission denied\n"),
			[]string{"IAM returned 403", "permit"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bank{scopes: c.held, broken: c.broken}
				_, c.tokens.Client = newWire(t, b.serve)
				_, err := c.tokens.Token(t.Context())
				if !errors.Is(err, Denied) {
					t.Fatalf("Token = %v, want kind Denied", err)
				}
				for _, text := range c.text {
					if !strings.Contains(err.Error(), text) {
						t.Errorf("the error %q does not say %q", err, text)
					}
				}
				if b.requests() > 0 {
					t.Error("a token was asked for in vain")
				}
			})
		})
	}
}

// TestTokenLife follows a token that is used all the time: there is always one
// with time to live, and few requests.
func TestTokenLife(t *testing.T) {
	for name, c := range map[string]struct {
		life, keep time.Duration
		requests   int           // at most, in 6 hours
		least      time.Duration // that a token lives
	}{
		"Google":                {time.Hour, 5 * time.Minute, 15, 4*time.Minute + 30*time.Second},
		"a margin of 4 minutes": {time.Hour, 4 * time.Minute, 33, 3*time.Minute + 29*time.Second},
		"gcemds":                {time.Hour, 12 * time.Minute, 15, 4*time.Minute + 29*time.Second},
		"no cache":              {time.Hour, time.Hour, 15, 4*time.Minute + 29*time.Second},
		"only fresh at the end": {time.Hour, 0, 300, 0},
		"tokens of 10 minutes":  {10 * time.Minute, time.Minute, 700, 29 * time.Second},
		"tokens of 4 minutes":   {4 * time.Minute, time.Hour, 1500, 3 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bank{life: c.life, keep: c.keep}
				_, client := newWire(t, b.serve)
				tokens := &Tokens{Client: client}
				least := c.life
				for range 6 * 3600 {
					got, err := tokens.Token(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					least = min(least, time.Until(got.Expiry))
					time.Sleep(time.Second)
				}
				if n := b.requests(); n > c.requests {
					t.Errorf("six hours took %d requests, want %d at most", n, c.requests)
				}
				if least < c.least {
					t.Errorf("a token lived for %v only, want %v or more", least, c.least)
				}
			})
		})
	}
}

// TestStaleOnError: while the server fails, the old token is handed out as long
// as it is good, at once.
func TestStaleOnError(t *testing.T) {
	for name, broken := range map[string]http.HandlerFunc{
		"overloaded": status(503, ""),
		"refusing":   status(403, ""),
		"nonsense":   value("nonsense"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBank()
				_, c := newWire(t, b.serve)
				tokens := &Tokens{Client: c}
				first, err := tokens.Token(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				b.fail(broken)
				for time.Until(first.Expiry) > lastMoments {
					began := time.Now()
					got, err := tokens.Token(t.Context())
					if got != first || time.Since(began) > 0 {
						t.Fatalf("%v before it expires, Token = %v, %v after %v; want the old one at once", time.Until(first.Expiry), got, err, time.Since(began))
					}
					time.Sleep(time.Second)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if got, err := tokens.Token(ctx); err == nil {
					t.Errorf("in the last moments of the old token, Token = %v, want an error", got)
				}
				b.fail(nil)
				time.Sleep(10 * time.Second)
				if got, err := tokens.Token(t.Context()); got.Value != "token-2" {
					t.Errorf("after the failure, Token = %v, %v", got, err)
				}
			})
		})
	}
}

// TestRareCaller: who asks once in a while never gets a token that has little
// time to live, if there is a newer one; but does not wait long for it.
func TestRareCaller(t *testing.T) {
	for name, c := range map[string]struct {
		server func(*bank) http.HandlerFunc
		want   string
		took   time.Duration
	}{
		"good":     {func(b *bank) http.HandlerFunc { return b.serve }, "token-2", 0},
		"slow":     {func(b *bank) http.HandlerFunc { return slow(3*time.Second, b.serve) }, "token-2", 3 * time.Second},
		"too slow": {func(b *bank) http.HandlerFunc { return slow(9*time.Second, b.serve) }, "token-1", shortWait},
		"broken":   {func(b *bank) http.HandlerFunc { return status(403, "") }, "token-1", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBank()
				w, client := newWire(t, b.serve)
				tokens := &Tokens{Client: client}
				if _, err := tokens.Token(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(58 * time.Minute)
				w.down()
				w.up(c.server(b))
				began := time.Now()
				got, err := tokens.Token(t.Context())
				if got.Value != c.want || err != nil || time.Since(began) != c.took {
					t.Errorf("2 minutes before the expiry, Token = %q, %v after %v; want %q after %v", got.Value, err, time.Since(began), c.want, c.took)
				}
				began = time.Now()
				if _, err := tokens.Token(t.Context()); err != nil || time.Since(began) > 0 {
					t.Errorf("the next caller gets %v after %v, want a token at once", err, time.Since(began))
				}
				hurried, cancel := context.WithCancel(t.Context())
				cancel()
				if _, err := tokens.Token(hurried); err != nil {
					t.Errorf("a caller whose context has ended gets %v, want a token that is there", err)
				}
				time.Sleep(10 * time.Second) // until no request is under way
			})
		})
	}
}

// TestCoalesce: a thousand callers cause one request, and each has its own
// patience.
func TestCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank()
		_, c := newWire(t, slow(8*time.Second, b.serve))
		tokens := &Tokens{Client: c}
		var wg sync.WaitGroup
		var served, late atomic.Int32
		for i := range 1000 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*30*time.Millisecond)
				defer cancel()
				began := time.Now()
				switch _, err := tokens.Token(ctx); {
				case err == nil:
					served.Add(1)
				case errors.Is(err, context.DeadlineExceeded) && time.Since(began) == time.Duration(i+1)*30*time.Millisecond:
					late.Add(1)
				default:
					t.Errorf("Token = %v after %v", err, time.Since(began))
				}
			})
		}
		wg.Wait()
		if b.requests() != 1 || served.Load() != 1000-533 || late.Load() != 533 { // e-mail and token take 16 s
			t.Errorf("%d requests, %d callers served, %d late", b.requests(), served.Load(), late.Load())
		}
	})
}

// TestClocks: a token is not believed to live longer than either clock says.
func TestClocks(t *testing.T) {
	for name, c := range map[string]struct{ monotonic, wall, want time.Duration }{
		"both agree":                  {time.Hour, time.Hour, time.Hour},
		"the machine has slept":       {time.Hour, time.Minute, time.Minute},
		"the clock has been set back": {time.Minute, time.Hour, time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			now := time.Now()
			h := held{expiry: now.Add(c.monotonic), wall: now.Add(c.wall).UnixNano()}
			if got := h.remaining(); got != c.want {
				t.Errorf("%s: %v remain, want %v", name, got, c.want)
			}
		})
	}
}

func TestRefreshAndMint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank()
		b.keep = time.Hour // every request has a new token
		_, c := newWire(t, b.serve)
		tokens := &Tokens{Client: c}
		for i, step := range []struct {
			name string
			f    func(context.Context) (Token, error)
			want string
		}{
			{"Mint", tokens.Mint, "token-1"},
			{"Token", tokens.Token, "token-2"}, // Mint left the cache alone
			{"Mint", tokens.Mint, "token-3"},
			{"Token", tokens.Token, "token-2"},
			{"Refresh", tokens.Refresh, "token-4"},
			{"Token", tokens.Token, "token-4"},
		} {
			if got, err := step.f(t.Context()); got.Value != step.want {
				t.Errorf("step %d: %s = %q, %v; want %q", i, step.name, got.Value, err, step.want)
			}
		}
		b.fail(status(403, ""))
		if _, err := tokens.Refresh(t.Context()); !errors.Is(err, Denied) {
			t.Errorf("Refresh from a server that refuses = %v", err)
		}
		if got, _ := tokens.Token(t.Context()); got.Value != "token-4" {
			t.Errorf("after Refresh failed, Token = %q, want the old one", got.Value)
		}
	})
}

func TestKey(t *testing.T) {
	a := (&Tokens{Scopes: []string{"b", "a", "b "}}).Key()
	for _, same := range []*Tokens{
		{Account: "default", Scopes: []string{"a", "b"}},
		{Client: &Client{Host: "elsewhere"}, Scopes: []string{"a", "b", ""}},
	} {
		if k := same.Key(); k != a {
			t.Errorf("key %+v, want %+v", k, a)
		}
	}
	for _, other := range []*Tokens{{}, {Account: "x", Scopes: []string{"a", "b"}}, {Scopes: []string{"a"}}, {Audience: "a b"}} {
		if k := other.Key(); k == a {
			t.Errorf("different tokens have the key %+v", k)
		}
	}
	if a, b := (&Tokens{Audience: "x"}).Key(), (&Tokens{Audience: "x", Scopes: []string{"a"}}).Key(); a != b {
		t.Errorf("scopes, which are ignored with an audience, tell %+v from %+v", a, b)
	}
}

func TestParseAccess(t *testing.T) {
	now := time.Now()
	for body, life := range map[string]time.Duration{ // 0 for malformed
		`{"access_token":"x","expires_in":3599,"token_type":"Bearer"}`:  3599 * time.Second,
		`{"access_token":"x","expires_in":"3599"}`:                      3599 * time.Second,
		`{"access_token":"x","expires_in":1.9e1,"token_type":"bearer"}`: 19 * time.Second,
		`{"access_token":"x","expires_in":0}`:                           0,
		`{"access_token":"x","expires_in":-5}`:                          0,
		`{"access_token":"x","expires_in":1e300}`:                       0,
		`{"access_token":"x"}`:                                          0,
		`{"access_token":"","expires_in":5}`:                            0,
		`{"access_token":"a b","expires_in":5}`:                         0,
		`{"access_token":"a\nb","expires_in":5}`:                        0,
		`{"access_token":"x","expires_in":5,"token_type":"MAC"}`:        0,
		`{"access_token":"secret","expires_in":"soon"}`:                 0,
		`{"access_token":{"secret":1}}`:                                 0,
		`secret`:                                                        0,
		``:                                                              0,
	} {
		got, err := parseAccess(body, now)
		if (err == nil) != (life > 0) || err == nil && !got.Expiry.Equal(now.Add(life)) {
			t.Errorf("%s = %v, %v; want a life of %v", body, got, err, life)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error %q shows the token", err)
		}
	}
}

func FuzzParseAccess(f *testing.F) {
	f.Add(`{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}`)
	f.Add(`{"access_token":"x","expires_in":"3599"}`)
	f.Add(`{"access_token":"x","expires_in":1e300}`)
	f.Add(`{"error":"x"}`)
	f.Fuzz(func(t *testing.T, body string) {
		now := time.Now()
		got, err := parseAccess(body, now)
		if err != nil {
			return
		}
		if !printable(got.Value) || got.Expiry.Before(now) || got.Expiry.After(now.Add(maxLife)) {
			t.Errorf("%q gives the token %q, which expires %v", body, got.Value, got.Expiry)
		}
	})
}

func FuzzParseIdentity(f *testing.F) {
	f.Add(idToken("1", time.Unix(1700000000, 0)))
	f.Add("a.eyJleHAiOjF9.c\n")
	f.Add("a.eyJleHAiOjFlMzAwfQ.c")
	f.Add("..")
	f.Fuzz(func(t *testing.T, body string) {
		got, err := parseIdentity(body, time.Now())
		if err == nil && (!printable(got.Value) || got.Expiry.Unix() < 1 || strings.Count(got.Value, ".") != 2) {
			t.Errorf("%q gives the token %q, which expires %v", body, got.Value, got.Expiry)
		}
	})
}

// TestTokenHidden: no way to print a token shows it.
func TestTokenHidden(t *testing.T) {
	token := Token{Value: "secret", Expiry: time.Unix(0, 0), Email: "robot@example.com"}
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "token", token, "pointer", &token)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "token", token)
	json.NewEncoder(&b).Encode(map[string]any{"token": token})
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&b, format+format+format, token, &token, []Token{token})
	}
	for _, shown := range []string{"secret", "736563726574", fmt.Sprint([]byte("secret"))} {
		if strings.Contains(b.String(), shown) {
			t.Errorf("%q is in\n%s", shown, &b)
		}
	}
	if got, want := token.String(), "[token 2bb80d53 of robot@example.com, expires 1970-01-01T00:00:00Z]"; got != want {
		t.Errorf("String() = %s, want %s", got, want)
	}
	if got := (Token{}).String(); got != "[no token]" {
		t.Errorf("String() of no token = %s", got)
	}
}

// BenchmarkClock is what no cache can be quicker than: one look at the clock.
func BenchmarkClock(b *testing.B) {
	for b.Loop() {
		time.Now()
	}
}

func BenchmarkCachedToken(b *testing.B) {
	tokens := &Tokens{}
	tokens.cache.held.Store(hold(Token{Value: "x", Expiry: time.Now().Add(time.Hour)}))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tokens.Token(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCachedTokenParallel(b *testing.B) {
	tokens := &Tokens{}
	tokens.cache.held.Store(hold(Token{Value: "x", Expiry: time.Now().Add(time.Hour)}))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := tokens.Token(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
