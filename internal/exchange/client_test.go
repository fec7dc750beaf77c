package exchange

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answer is what a fake endpoint says: a status, header lines, a body.
type answer struct {
	status int
	header string // "Name: value"
	body   string
}

func (a answer) response() *http.Response {
	h := http.Header{"Content-Type": {"application/json"}}
	if name, value, ok := strings.Cut(a.header, ": "); ok {
		h.Set(name, value)
	}
	return &http.Response{StatusCode: a.status, Header: h, Body: io.NopCloser(strings.NewReader(a.body))}
}

const (
	good    = `{"access_token":"ya29.good","expires_in":3599,"token_type":"Bearer"}`
	planted = "ya29.planted-secret"
)

// mintFrom exchanges an assertion where the endpoint gives these answers in turn,
// the last one for ever; status 0 is a broken connection. It returns when the
// tries came, counted from the first.
func mintFrom(ctx context.Context, t *testing.T, req token.Request, answers ...answer) (token.Token, []time.Duration, error) {
	t.Helper()
	start := time.Now()
	var tries []time.Duration
	var log bytes.Buffer
	client := &Client{
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if body, err := io.ReadAll(r.Body); err != nil || !strings.Contains(string(body), "assertion=eyJ") {
				t.Errorf("try %d has not the whole form: %v", len(tries), err)
			}
			a := answers[min(len(tries), len(answers)-1)]
			tries = append(tries, time.Since(start))
			if a.status == 0 {
				return nil, errors.New("connection reset by peer " + planted)
			}
			return a.response(), nil
		}),
	}
	got, err := SendAssertion(ctx, client, "https://token.example/token", "eyJplanted", req.Audience != "")
	for _, text := range []string{log.String(), fmt.Sprint(err)} {
		if strings.Contains(text, "eyJ") || strings.Contains(text, "planted") {
			t.Errorf("a secret got out: %s", text)
		}
	}
	if err == nil && (got.Value == "" || !got.Expiry.After(time.Now())) {
		t.Errorf("Mint = %v without an error, want a token that is good", got)
	}
	if err != nil && got != (token.Token{}) {
		t.Errorf("Mint = %v with an error, want no token", got)
	}
	return got, tries, err
}

var access = token.Request{Scopes: []string{CloudPlatform}}

// kindOf is the kind of an error, which must be of the type that has one.
func kindOf(t testing.TB, err error) token.Kind {
	t.Helper()
	var e *token.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is not a *token.Error", err)
	}
	return e.Kind
}

func TestRetries(t *testing.T) {
	for name, c := range map[string]struct {
		answers []answer
		tries   int
		kind    token.Kind // of the error, if ok is false
		ok      bool
	}{
		"503 once":             {[]answer{{status: 503}, {200, "", good}}, 2, 0, true},
		"each status":          {[]answer{{status: 408}, {status: 429}, {status: 500}, {200, "", good}}, 4, 0, true},
		"gateway":              {[]answer{{status: 502}, {status: 504}, {200, "", good}}, 3, 0, true},
		"connection lost":      {[]answer{{}, {}, {200, "", good}}, 3, 0, true},
		"always 503":           {[]answer{{status: 503}}, 4, token.Unavailable, false},
		"always 429":           {[]answer{{status: 429}}, 4, token.Throttled, false},
		"never a connection":   {[]answer{{}}, 4, token.Unavailable, false},
		"501 is for good":      {[]answer{{status: 501}}, 1, token.Unavailable, false},
		"400 is for good":      {[]answer{{400, "", `{"error":"invalid_grant"}`}}, 1, token.Denied, false},
		"404 is for good":      {[]answer{{status: 404}}, 1, token.Misconfigured, false},
		"nonsense is for good": {[]answer{{200, "", "nonsense"}}, 1, token.Unavailable, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, tries, err := mintFrom(t.Context(), t, access, c.answers...)
				if (err == nil) != c.ok {
					t.Fatalf("Mint = %v, want a token: %v", err, c.ok)
				}
				if err != nil && kindOf(t, err) != c.kind {
					t.Errorf("Mint = %v of kind %v, want kind %v", err, kindOf(t, err), c.kind)
				}
				if len(tries) != c.tries {
					t.Errorf("%d tries, want %d", len(tries), c.tries)
				}
				for n := 1; n < len(tries); n++ {
					if pause := tries[n] - tries[n-1]; pause > firstPause<<(n-1) {
						t.Errorf("pause %d was %v, want at most %v", n, pause, firstPause<<(n-1))
					}
				}
			})
		})
	}
}

func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, tries, err := mintFrom(t.Context(), t, access, answer{429, "Retry-After: 3", ""}, answer{200, "", good})
		if err != nil || len(tries) != 2 || tries[1] != 3*time.Second {
			t.Errorf("tries at %v, %v, want the second after the 3s of Retry-After", tries, err)
		}

		date := time.Now().Add(2 * time.Second).UTC().Format(http.TimeFormat)
		_, tries, err = mintFrom(t.Context(), t, access, answer{503, "Retry-After: " + date, ""}, answer{200, "", good})
		if err != nil || len(tries) != 2 || tries[1] < time.Second {
			t.Errorf("tries at %v, %v, want the second at the date of Retry-After", tries, err)
		}

		// What does not fit into the time of a call is handed up.
		for value, want := range map[string]time.Duration{"30": 30 * time.Second, "999999": time.Hour} {
			_, tries, err = mintFrom(t.Context(), t, access, answer{429, "Retry-After: " + value, ""})
			var e *token.Error
			if !errors.As(err, &e) || e.Kind != token.Throttled || e.RetryAfter != want || len(tries) != 1 {
				t.Errorf("Retry-After %s: %d tries, %v, want 1 and Throttled with %v", value, len(tries), err, want)
			}
		}
		for _, value := range []string{"-5", "soon", "1e9", "99999999999999999999"} {
			if got := retryAfter(http.Header{"Retry-After": {value}}); got != 0 {
				t.Errorf("Retry-After %q = %v, want 0", value, got)
			}
		}
	})
}

func TestCallTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := &Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}
		start := time.Now()
		_, err := hang.Post(t.Context(), Call{Address: "https://token.example/", Form: url.Values{}})
		if kindOf(t, err) != token.Unavailable || time.Since(start) != callTimeout {
			t.Errorf("a server that hangs: %v after %v, want Unavailable after %v", err, time.Since(start), callTimeout)
		}

		start = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err = hang.Post(ctx, Call{Address: "https://token.example/", Form: url.Values{}})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 200*time.Millisecond {
			t.Errorf("a caller with 200ms: %v after %v, want its deadline", err, time.Since(start))
		}
	})
}

func TestUpstreamErrors(t *testing.T) {
	oauth := func(code, text string) string {
		return fmt.Sprintf(`{"error":%q,"error_description":%q}`, code, text)
	}
	for _, c := range []struct {
		answer answer
		kind   token.Kind
		want   string
	}{
		{answer{400, "", oauth("invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.")}, token.Clock, "set it"},
		{answer{400, "Date: Fri, 31 Dec 1999 22:00:00 GMT", oauth("invalid_grant", "Token must be … in a reasonable timeframe")}, token.Clock, "2h0m0s ahead of the server's"},
		{answer{400, "Date: Sat, 01 Jan 2000 01:30:00 GMT", oauth("invalid_grant", "Token must be … in a reasonable timeframe")}, token.Clock, "1h30m0s behind the server's"},
		{answer{400, "", oauth("invalid_grant", "Invalid JWT Signature.")}, token.Denied, "gcloud iam service-accounts keys create"},
		{answer{400, "", oauth("invalid_grant", "Invalid grant: account not found")}, token.Denied, "deleted or disabled"},
		{answer{401, "", oauth("invalid_client", "The OAuth client was not found.")}, token.Denied, "401 invalid_client The OAuth client was not found."},
		{answer{400, "", oauth("invalid_scope", "Invalid OAuth scope")}, token.Denied, "invalid_scope"},
		{answer{401, "", oauth("unauthorized_client", "…")}, token.Denied, "unauthorized_client"},
		{answer{400, "", oauth("invalid_request", "Missing")}, token.Misconfigured, "invalid_request"},
		{answer{403, "", `{"error":{"code":403,"message":"Permission denied","status":"PERMISSION_DENIED"}}`}, token.Denied, "PERMISSION_DENIED Permission denied"},
		{answer{429, "", `{"error":{"status":"RESOURCE_EXHAUSTED"}}`}, token.Throttled, "429"},
		{answer{503, "", oauth("temporarily_unavailable", "")}, token.Unavailable, "503"},
		{answer{500, "Content-Type: text/html", "<html>ya29.planted</html>"}, token.Unavailable, "500 with a web page"},
		{answer{403, "", "nothing to see"}, token.Denied, "403"},
		{answer{302, "Location: https://evil.example/?" + planted, ""}, token.Misconfigured, "redirects are not followed"},
		{answer{307, "Location: https://evil.example/", ""}, token.Misconfigured, "redirects are not followed"},
		{answer{404, "Content-Type: text/html", "<html>"}, token.Misconfigured, "is token_uri the right address"},
		{answer{400, "", oauth("invalid_grant", "your assertion eyJhbGciOi.eyJpc3Mi.c2ln, your token "+planted+"\nand a new line")}, token.Denied, "your assertion [redacted] your token [redacted] and a new line"},
		{answer{400, "", oauth("invalid_grant", strings.Repeat("long ", 1000))}, token.Denied, "…"},
		{answer{400, "", `{"error":7}`}, token.Misconfigured, "400"},
		{answer{400, "", `[]`}, token.Misconfigured, "400"},

		{answer{200, "", `{}`}, token.Unavailable, "has no access_token"},
		{answer{200, "", ``}, token.Unavailable, "is not a JSON object"},
		{answer{200, "", `"planted"`}, token.Unavailable, "is not a JSON object"},
		{answer{200, "Content-Type: text/html; charset=utf-8", "<html>log in"}, token.Unavailable, "web page"},
		{answer{200, "", "  <!doctype html>"}, token.Unavailable, "web page"},
		{answer{200, "", `{"access_token":["ya29.planted"],"expires_in":3599}`}, token.Unavailable, "access_token of the wrong type"},
		{answer{200, "", `{"access_token":"ya29.planted","expires_in":3599,"token_type":"mac"}`}, token.Unavailable, "not Bearer"},
		{answer{200, "", `{"access_token":"ya29.planted secret","expires_in":3599}`}, token.Unavailable, "characters that a token cannot have"},
		{answer{200, "", `{"access_token":"` + strings.Repeat("p", MaxValue+1) + `","expires_in":3599}`}, token.Unavailable, "longer than 16384 characters"},
		{answer{200, "", `{"access_token":"ya29.planted"}`}, token.Unavailable, "expires_in"},
		{answer{200, "", `{"access_token":"ya29.planted","expires_in":null}`}, token.Unavailable, "expires_in"},
		{answer{200, "", `{"access_token":"ya29.planted","expires_in":0}`}, token.Unavailable, "expires_in"},
		{answer{200, "", `{"access_token":"ya29.planted","expires_in":-1}`}, token.Unavailable, "expires_in"},
		{answer{200, "", `{"access_token":"ya29.planted","expires_in":"soon"}`}, token.Unavailable, "expires_in"},
		{answer{200, "", `{"access_token":"ya29.planted","expires_in":"NaN"}`}, token.Unavailable, "expires_in"},
		{answer{200, "", `{"access_token":"ya29.planted","expires_in":[1]}`}, token.Unavailable, "expires_in"},
		{answer{200, "", `{"a":"` + strings.Repeat("p", maxReply) + `"}`}, token.Unavailable, "longer than 1048576 bytes"},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, _, err := mintFrom(t.Context(), t, access, c.answer)
			if err == nil || kindOf(t, err) != c.kind || !strings.Contains(err.Error(), c.want) {
				t.Errorf("answer %d %s %.60s:\n got %v\nwant kind %v and %q", c.answer.status, c.answer.header, c.answer.body, err, c.kind, c.want)
				return
			}
			var e *token.Error
			errors.As(err, &e)
			if text := e.Err.Error(); len(text) > 700 || strings.ContainsAny(text, "\n\r") || !strings.Contains(text, "token endpoint token.example") {
				t.Errorf("error text = %q, want one line, not long, with the place", text)
			}
		})
	}
}

func TestLives(t *testing.T) {
	for expires, want := range map[string]time.Duration{
		`100`:       100 * time.Second,
		`3599`:      3599 * time.Second,
		`"3599"`:    3599 * time.Second,
		`3599.9`:    3599 * time.Second,
		`1`:         time.Second,
		`1e300`:     12 * time.Hour,
		`"+Inf"`:    12 * time.Hour,
		`315360000`: 12 * time.Hour,
	} {
		synctest.Test(t, func(t *testing.T) {
			got, _, err := mintFrom(t.Context(), t, access, answer{200, "", `{"access_token":"ya29.x","expires_in":` + expires + `}`})
			if life := time.Until(got.Expiry); err != nil || life != want {
				t.Errorf("expires_in %s: the token lives %v, %v, want %v", expires, life, err, want)
			}
		})
	}
}

func TestIDTokenAnswers(t *testing.T) {
	jwt := func(claims string) string {
		return `{"id_token":"h.` + base64.RawURLEncoding.EncodeToString([]byte(claims)) + `.s"}`
	}
	for _, c := range []struct {
		body string
		kind token.Kind
		want string // "" means a token
	}{
		{jwt(`{"exp":946688400}`), 0, ""}, // an hour after synctest begins
		{jwt(`{"exp":946688400.5}`), 0, ""},
		{jwt(`{"exp":946684800}`), token.Clock, "has already expired"},
		{jwt(`{"exp":0}`), token.Unavailable, "no exp claim"},
		{jwt(`{"exp":1e300}`), token.Unavailable, "no exp claim"},
		{jwt(`{"exp":"946688400"}`), token.Unavailable, "number as exp"},
		{jwt(`[]`), token.Unavailable, "number as exp"},
		{`{"id_token":"a.b"}`, token.Unavailable, "three parts"},
		{`{"id_token":"a.!.c"}`, token.Unavailable, "not base64url"},
		{`{"id_token":7}`, token.Unavailable, "id_token of the wrong type"},
		{good, token.Unavailable, "has no id_token"},
	} {
		synctest.Test(t, func(t *testing.T) {
			got, _, err := mintFrom(t.Context(), t, token.Request{Audience: "aud"}, answer{200, "", c.body})
			switch {
			case c.want == "":
				if err != nil || time.Until(got.Expiry) != time.Hour {
					t.Errorf("%s: %v, %v, want a token for an hour", c.body, got.Expiry, err)
				}
			case err == nil || kindOf(t, err) != c.kind || !strings.Contains(err.Error(), c.want):
				t.Errorf("%s: %v, want kind %v and %q", c.body, err, c.kind, c.want)
			}
		})
	}
}

type sourceFunc func(context.Context, token.Request) (token.Token, error)

func (f sourceFunc) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	return f(ctx, req)
}

// TestWrongClock: a token ends when it has lived for as long as its server says,
// whatever our clock is, and that our clock is wrong is told once.
func TestWrongClock(t *testing.T) {
	var log bytes.Buffer
	for name, c := range map[string]struct {
		header string
		want   time.Duration // 0: it has expired
	}{
		"ours is an hour behind": {"Date: Sat, 01 Jan 2000 01:00:00 GMT", time.Hour},
		"ours is an hour ahead":  {"Date: Fri, 31 Dec 1999 23:00:00 GMT", 3 * time.Hour},
		"nearly right":           {"Date: Sat, 01 Jan 2000 00:00:59 GMT", 2 * time.Hour},
		"not told":               {"", 2 * time.Hour},
		"nonsense":               {"Date: today", 2 * time.Hour},
		"it has expired there":   {"Date: Sat, 01 Jan 2000 02:00:00 GMT", 0},
	} {
		synctest.Test(t, func(t *testing.T) { // at midnight of the year 2000
			log.Reset()
			client := &Client{Log: slog.New(slog.NewTextHandler(&log, nil)), Transport: roundTripper(func(*http.Request) (*http.Response, error) {
				return answer{200, c.header, `{"accessToken":"ya29.x","expireTime":"2000-01-01T02:00:00Z"}`}.response(), nil
			})}
			i := &Impersonation{Target: "a@b.iam.gserviceaccount.com", Via: sourceFunc(func(context.Context, token.Request) (token.Token, error) {
				return token.Token{Value: "x", Expiry: time.Now().Add(time.Hour)}, nil
			}), Client: client}
			for range 2 {
				got, err := i.Mint(t.Context(), access)
				switch {
				case c.want == 0 && (err == nil || kindOf(t, err) != token.Clock):
					t.Errorf("%s: %v, %v, want that it has expired", name, got, err)
				case c.want != 0 && (err != nil || time.Until(got.Expiry) != c.want):
					t.Errorf("%s: a token for %v, %v, want %v", name, time.Until(got.Expiry), err, c.want)
				}
			}
			if told := strings.Count(log.String(), "clock of this machine"); told != min(1, strings.Count(name, "ours is")+strings.Count(name, "expired")) {
				t.Errorf("%s: the log has\n%s", name, log.String())
			}
		})
	}
}

// TestForeignErrors: an error of what an embedder provides keeps its kind,
// however it is wrapped, and one that has none may be gone the next time.
func TestForeignErrors(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want token.Kind
	}{
		"plain":   {errors.New("no route to host"), token.Unavailable},
		"typed":   {&token.Error{Kind: token.Denied, Err: errors.New("no")}, token.Denied},
		"wrapped": {fmt.Errorf("subject: %w", &token.Error{Kind: token.Throttled, Err: errors.New("no")}), token.Throttled},
	} {
		f := &Federation{Audience: "//iam.googleapis.com/x", Subject: func(context.Context) (string, error) { return "", c.err }}
		_, err := f.Mint(t.Context(), access)
		_, over := (&Impersonation{Target: "a@b.iam.gserviceaccount.com", Via: sourceFunc(func(context.Context, token.Request) (token.Token, error) {
			return token.Token{}, c.err
		})}).Mint(t.Context(), access)
		if kindOf(t, err) != c.want || kindOf(t, over) != c.want {
			t.Errorf("%s: federation says %v and impersonation %v, want both %v", name, err, over, c.want)
		}
	}
}

// What only a real connection shows: redirects, old TLS, strange certificates.
func TestRealConnections(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a redirect was followed")
	}))
	defer other.Close()
	redirect := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer redirect.Close()
	c := &Client{}
	if _, err := c.Post(t.Context(), Call{Address: redirect.URL, Form: url.Values{"assertion": {"x"}}}); kindOf(t, err) != token.Misconfigured {
		t.Errorf("redirect = %v, want Misconfigured", err)
	}

	try := func(address string) error { // once: the pauses between tries are real here
		_, err := Call{Address: address}.roundTrip(t.Context(), c.http, "gcemds", "", nil)
		return err
	}
	for name, tc := range map[string]struct {
		version uint16
		again   bool
	}{
		"TLS 1.1":           {tls.VersionTLS11, true},
		"unknown authority": {tls.VersionTLS13, false},
	} {
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tc.version}
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		s.StartTLS()
		if err := try(s.URL); err == nil || lostConnection(t.Context(), err) != tc.again {
			t.Errorf("%s = %v, want a refusal, to be tried again: %v", name, err, tc.again)
		}
		s.Close()
	}

	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.Write([]byte("short"))
	}))
	defer cut.Close()
	if err := try(cut.URL); err == nil || !strings.Contains(err.Error(), "broke off") || !lostConnection(t.Context(), err) {
		t.Errorf("an answer that breaks off = %v, want it tried again", err)
	}
}

// TestRepeated: what was sent is not told, whatever it looks like, when a
// server repeats it.
func TestRepeated(t *testing.T) {
	echo := &Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		text := fmt.Sprint("you sent ", r.Header.Get("Authorization"), " ", r.Header.Get("X-Vault-Token"), " ", r.Header.Get("X-Goog-User-Project"), " ", string(body), " ", form)
		return answer{400, "", fmt.Sprintf(`{"error":"invalid_grant","error_description":%q}`, text)}.response(), nil
	})}
	for name, c := range map[string]Call{
		"form":   {Form: url.Values{"refresh_token": {"pla/nted"}, "client_secret": {"planted too"}, "subject_token": {"planted three"}, "assertion": {"planted+"}}},
		"basic":  {Form: url.Values{"audience": {"this"}}, Header: map[string]string{"Authorization": Basic("id", "planted")}},
		"bearer": {Body: map[string]string{"subject_token": "planted"}, Header: map[string]string{"Authorization": "Bearer planted-too"}},
		"lower":  {Header: map[string]string{"authorization": "bearer planted"}},
		"bare":   {Header: map[string]string{"Authorization": "planted"}},
		"own":    {Header: map[string]string{"x-vault-token": "planted", "X-Goog-User-Project": "my-project"}},
	} {
		c.Address = "https://token.example/"
		_, err := echo.Post(t.Context(), c)
		if text := fmt.Sprint(err); strings.Contains(text, "pla") || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte("id:pla"))) || !strings.Contains(text, "you sent") {
			t.Errorf("%s: %s, want what was said without what was sent", name, text)
		}
		if c.Header["X-Goog-User-Project"] != "" && !strings.Contains(fmt.Sprint(err), "my-project") {
			t.Errorf("%s: %v, want the project, which is no secret", name, err)
		}
	}
}

func TestRedact(t *testing.T) {
	for text, want := range map[string]string{
		"plain text, kept":                        "plain text, kept",
		"token ya29.abc-def end":                  "token [redacted] end",
		"refresh 1//0abc":                         "refresh [redacted]",
		"jwt eyJhbGc.eyJpc3M.c2ln":                "jwt [redacted]",
		"secret GOCSPX-abc":                       "secret [redacted]",
		`proxy "http://user:pass@host:1": broken`: `proxy "http:[redacted]host:1": broken`,
		"key " + "-----BEGIN PRIVATE KEY-----\nMIIE\nplanted\n-----END PRIVATE KEY-----\n": "key [redacted]",
		"line\nbreak\x1b[31m\u2028":                    "line break [31m",
		"blob " + strings.Repeat("A", 120):             "blob [redacted]",
		"bad \xff utf-8":                               "bad ? utf-8",
		"https://oauth2.googleapis.com/token is good":  "https://oauth2.googleapis.com/token is good",
		"dial tcp: lookup oauth2.googleapis.com: none": "dial tcp: lookup oauth2.googleapis.com: none",
	} {
		if got := Redact(text); got != want {
			t.Errorf("redact(%q) = %q, want %q", text, got, want)
		}
	}
}

// TestFormat: a source in a text shows no secret, whoever prints it and how.
func TestFormat(t *testing.T) {
	f := &Federation{Audience: "//iam.googleapis.com/x", ClientSecret: planted}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d"} {
		for _, what := range []any{f, *f, struct{ F *Federation }{f}, &Impersonation{Via: f}} {
			if got := fmt.Sprintf(verb, what); strings.Contains(got, "planted") {
				t.Errorf("%s shows %s", verb, got)
			}
		}
	}
}
