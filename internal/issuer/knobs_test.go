package issuer

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

func setKnobs(t *testing.T, i *Issuer, k Knobs) {
	t.Helper()
	if err := i.SetKnobs(k); err != nil {
		t.Fatal(err)
	}
}

// TestFaults: what is asked to go wrong does, as often as asked and at no
// other path.
func TestFaults(t *testing.T) {
	i := fake(t, robotKey())
	synctest.Test(t, func(t *testing.T) {
		good := func() int {
			w := httptest.NewRecorder()
			i.Handler().ServeHTTP(w, form("/token", bearerForm(sign(t, testKeys()[1], "key-1", claims(nil)))))
			return w.Code
		}
		setKnobs(t, i, Knobs{Faults: []Fault{
			{Path: "/token", Times: 2, Status: 503, Header: map[string]string{"Retry-After": "1"}},
			{Path: "/token", Times: 1, Status: 302, Header: map[string]string{"Location": "https://elsewhere.example"}},
			{Path: "/token", Times: 1, Delay: 2 * time.Second},
			{Path: "/v1/projects/-/serviceAccounts/*:signBlob", Status: 429},
			{Path: "/oauth2/*/certs", Body: "<html>"},
		}})
		for n, want := range []int{503, 503, 302, 200, 200} {
			begin := time.Now()
			if got := good(); got != want {
				t.Errorf("request %d = %d, want %d", n+1, got, want)
			}
			if slow := time.Since(begin) == 2*time.Second; slow != (n == 3) {
				t.Errorf("request %d took %v, want 2s for the fourth only", n+1, time.Since(begin))
			}
		}
		resp, body := ask(t, i, jsonRequest(t, "/v1/projects/-/serviceAccounts/"+robot+":signBlob", nil))
		if e := body["error"].(map[string]any); resp.StatusCode != 429 || e["status"] != "RESOURCE_EXHAUSTED" {
			t.Errorf("signBlob = %d %v, want Google's form of 429", resp.StatusCode, body)
		}
		w := httptest.NewRecorder()
		i.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/oauth2/v3/certs", nil))
		if w.Code != 200 || w.Body.String() != "<html>" || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			t.Errorf("certs = %d %q, want the page", w.Code, w.Body)
		}
		setKnobs(t, i, Knobs{Faults: []Fault{{Status: 500}}})
		checkRefusal(t, "everything", i, form("/nothing", nil), 500, "internal_failure", "told to fail")
		setKnobs(t, i, Knobs{})
		if got := good(); got != 200 {
			t.Errorf("without knobs = %d, want 200", got)
		}
	})
	for _, k := range []Knobs{{Faults: []Fault{{Quota: 1}}}, {Faults: []Fault{{Per: time.Minute}}}, {Faults: []Fault{{Quota: -1, Per: time.Minute}}}, {Faults: []Fault{{Path: "["}}}, {Faults: []Fault{{Status: 99}}}, {Faults: []Fault{{Status: 600}}}} {
		if err := i.SetKnobs(k); err == nil {
			t.Errorf("SetKnobs(%+v) = nil, want an error", k)
		}
	}
}

// TestQuota: so many requests a minute are answered, the others are told to
// come later.
func TestQuota(t *testing.T) {
	i := fake(t, robotKey())
	synctest.Test(t, func(t *testing.T) {
		setKnobs(t, i, Knobs{Faults: []Fault{{Path: "/token", Quota: 2, Per: time.Minute, Status: 429, Header: map[string]string{"Retry-After": "30"}}}})
		for n, want := range []int{200, 200, 429, 429, 200, 200, 429} {
			if n == 4 {
				time.Sleep(time.Minute)
			}
			resp, body := ask(t, i, form("/token", bearerForm(sign(t, testKeys()[1], "key-1", claims(nil)))))
			if later := resp.Header.Get("Retry-After"); resp.StatusCode != want || (later == "30") != (want == 429) {
				t.Errorf("request %d = %d, Retry-After %q, %v, want %d", n+1, resp.StatusCode, later, body, want)
			}
		}
	})
}

// TestExpiresIn: the knob changes what answers say, and when the token dies.
func TestExpiresIn(t *testing.T) {
	i := fake(t, robotKey())
	synctest.Test(t, func(t *testing.T) {
		for seconds, want := range map[int]any{0: 0.0, 100: 100.0, -1: nil} {
			setKnobs(t, i, Knobs{ExpiresIn: &seconds})
			_, body := ask(t, i, form("/token", bearerForm(sign(t, testKeys()[1], "key-1", claims(nil)))))
			value, _ := body["access_token"].(string)
			if body["expires_in"] != want {
				t.Errorf("expires_in = %v, want %v", body["expires_in"], want)
			}
			time.Sleep(99 * time.Second)
			if _, err := i.verifyAccess(value); (err == nil) != (seconds != 0) {
				t.Errorf("expires_in %d: after 99 s the token gives %v", seconds, err)
			}
			time.Sleep(2 * time.Second)
			if _, err := i.verifyAccess(value); (err == nil) != (seconds < 0) {
				t.Errorf("expires_in %d: after 101 s the token gives %v", seconds, err)
			}
		}
	})
}

// TestClockOffset: assertions of a good clock are refused by a wrong one, and
// the tokens are of its time.
func TestClockOffset(t *testing.T) {
	i := fake(t, robotKey())
	synctest.Test(t, func(t *testing.T) {
		for _, offset := range []time.Duration{2 * time.Hour, -2 * time.Hour} {
			setKnobs(t, i, Knobs{ClockOffset: offset})
			checkRefusal(t, offset.String(), i, form("/token", bearerForm(sign(t, testKeys()[1], "key-1", claims(nil)))), 400, "invalid_grant", "reasonable timeframe")
			id := mint(t, i, token.Request{Audience: "a"})
			if want := time.Now().Add(offset - backdate + time.Hour); !id.Expiry.Equal(want.Truncate(time.Second)) {
				t.Errorf("ID token expires %v, want %v", id.Expiry, want)
			}
		}
	})
}

// TestRotate: two keys overlap; a token verifies until the second rotation.
func TestRotate(t *testing.T) {
	i := open(t, Options{})
	id := mint(t, i, token.Request{Audience: "a"}).Value
	for n, known := range []int{200, 400} {
		if err := i.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if keys := published(t, i); len(keys) != 2 {
			t.Errorf("%d keys are published, want 2", len(keys))
		}
		if resp, _ := get(t, i, "/tokeninfo?id_token="+id); resp.StatusCode != known {
			t.Errorf("after rotation %d the token gets %d, want %d", n+1, resp.StatusCode, known)
		}
		verify(t, published(t, i), mint(t, i, token.Request{Audience: "a"}).Value)
	}
}

// TestLog: a line for each request, with no secret of it.
func TestLog(t *testing.T) {
	var out bytes.Buffer
	d := logins()
	d.Accounts = robotKey().Accounts
	i := open(t, Options{Directory: &d, Log: slog.New(slog.NewTextHandler(&out, nil))})
	assertion := sign(t, testKeys()[1], "key-1", claims(nil))
	_, body := ask(t, i, form("/token", bearerForm(assertion)))
	ask(t, i, form("/token", bearerForm(assertion+"x")))
	ask(t, i, refresh("/token", "cli", "secret-1", "1//nope", false))
	ask(t, i, refresh("/token", "cli", "secret-wrong", "1//one", false))
	if n := strings.Count(out.String(), "\n"); n != 4 {
		t.Errorf("%d lines for 4 requests:\n%s", n, &out)
	}
	for _, secret := range []string{assertion, body["access_token"].(string), "secret-1", "secret-wrong", "1//"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the log shows a secret:\n%s", &out)
		}
	}
}

// TestChangedWhileInUse: directory, knobs and keys change under those who ask.
func TestChangedWhileInUse(t *testing.T) {
	i := open(t, Options{Directory: &Directory{}, Keys: testKeys()[:1]})
	requests := func() []*http.Request {
		d := form("/token", bearerForm(sign(t, testKeys()[1], "key-1", claims(nil))))
		id := form("/token", bearerForm(sign(t, testKeys()[1], "key-1", claims(map[string]any{"scope": nil, "target_audience": "a"}))))
		return []*http.Request{d, id, refresh("/v1/oauthtoken", "wf", "secret-2", "first", true),
			httptest.NewRequest("GET", "/oauth2/v3/certs", nil), httptest.NewRequest("GET", "/service_accounts/v1/metadata/jwk/"+robot, nil)}
	}
	handler := i.Handler()
	var asking sync.WaitGroup
	for range 4 {
		list := requests()
		asking.Go(func() {
			for range 5 {
				for _, req := range list {
					w := httptest.NewRecorder()
					handler.ServeHTTP(w, req.Clone(t.Context()))
					if w.Code >= 500 && w.Code != 503 {
						t.Errorf("%s = %d %s", req.URL, w.Code, w.Body)
					}
				}
			}
		})
	}
	d := logins()
	d.Accounts = robotKey().Accounts
	for n := range 20 {
		if err := i.SetDirectory(d); err != nil {
			t.Error(err)
		}
		setKnobs(t, i, Knobs{Faults: []Fault{{Path: "/token", Status: 503, Times: n % 3}}})
	}
	if err := i.Rotate(t.Context()); err != nil {
		t.Error(err)
	}
	asking.Wait()
}
