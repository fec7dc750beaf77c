package credential

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// mintFunc is a token.Source.
type mintFunc func(token.Request) (token.Token, error)

func (f mintFunc) Mint(_ context.Context, req token.Request) (token.Token, error) { return f(req) }

// caller is a source that another one needs: it checks that cloud-platform is
// asked for, whatever the workload wants.
func caller(t *testing.T) func(string) (token.Source, Identity, error) {
	return func(name string) (token.Source, Identity, error) {
		if name != "build" {
			t.Errorf("source %q was opened, want build", name)
		}
		return mintFunc(func(req token.Request) (token.Token, error) {
			if want := (token.Request{Scopes: []string{exchange.CloudPlatform}}); !cmp.Equal(req, want) {
				t.Errorf("the caller's token was asked for with %+v, want %+v", req, want)
			}
			return token.Token{Value: "ya29.caller", Expiry: time.Now().Add(time.Hour)}, nil
		}), Identity{Email: "build@p.iam.gserviceaccount.com", Steps: []string{"key"}}, nil
	}
}

// jwtUntil is a JWT that says when it ends, signed by nobody.
func jwtUntil(expiry time.Time) string {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	return part(`{"alg":"RS256"}`) + "." + part(fmt.Sprintf(`{"exp":%d}`, expiry.Unix())) + "." + part("signature")
}

// Every form of an impersonation is one call of IAM with the caller's token,
// in the words of its API.
func TestImpersonateCalls(t *testing.T) {
	expiry := time.Now().Add(time.Hour).Truncate(time.Second)
	const access = "https://www.googleapis.com/auth/devstorage.read_only"
	for name, tc := range map[string]struct {
		config Impersonate
		req    token.Request
		calls  map[string]string // path: body it must have
		want   string
	}{
		"access token": {
			Impersonate{}, token.Request{Scopes: []string{access, exchange.CloudPlatform}},
			map[string]string{"generateAccessToken": `{"scope":["` + access + `","` + exchange.CloudPlatform + `"]}`},
			"ya29.robot",
		},
		"with delegates, for longer": {
			Impersonate{Delegates: []string{"a@p.iam.gserviceaccount.com", "b@p.iam.gserviceaccount.com"}, Lifetime: 12 * time.Hour},
			token.Request{Scopes: []string{access}},
			map[string]string{"generateAccessToken": `{"scope":["` + access + `"],"lifetime":"43200s","delegates":["projects/-/serviceAccounts/a@p.iam.gserviceaccount.com","projects/-/serviceAccounts/b@p.iam.gserviceaccount.com"]}`},
			"ya29.robot",
		},
		"ID token": {
			Impersonate{}, token.Request{Audience: "https://service.example"},
			map[string]string{"generateIdToken": `{"audience":"https://service.example","includeEmail":true}`},
			jwtUntil(expiry),
		},
		"for a user": {
			Impersonate{Subject: "ann@example.com"}, token.Request{Scopes: []string{access}},
			map[string]string{"signJwt": "", "token": ""},
			"ya29.ann",
		},
	} {
		t.Run(name, func(t *testing.T) {
			calls := map[string]string{}
			google := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if r.URL.Path == "/token" {
					form, _ := url.ParseQuery(string(body))
					if form.Get("assertion") != "eyJ.signed.jwt" || form.Get("grant_type") != exchange.GrantJWT {
						t.Errorf("the token endpoint got %s", body)
					}
					calls["token"] = ""
					io.WriteString(w, `{"access_token":"ya29.ann","expires_in":3600,"token_type":"Bearer"}`)
					return
				}
				target, method, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/v1/projects/-/serviceAccounts/"), ":")
				if target != robot || r.Header.Get("Authorization") != "Bearer ya29.caller" || r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" {
					t.Errorf("%s %s of %q with %q", r.Method, r.URL, target, r.Header)
				}
				calls[method] = string(body)
				switch method {
				case "generateAccessToken":
					fmt.Fprintf(w, `{"accessToken":"ya29.robot","expireTime":%q}`, expiry.UTC().Format(time.RFC3339))
				case "generateIdToken":
					fmt.Fprintf(w, `{"token":%q}`, jwtUntil(expiry))
				case "signJwt":
					var asked struct{ Payload string }
					var claims exchange.Assertion
					if json.Unmarshal(body, &asked) != nil || json.Unmarshal([]byte(asked.Payload), &claims) != nil ||
						claims.Subject != "ann@example.com" || claims.Issuer != robot || claims.Scope != access || !strings.HasSuffix(claims.Audience, "/token") {
						t.Errorf("signJwt got %s", body)
					}
					calls[method] = ""
					io.WriteString(w, `{"keyId":"k","signedJwt":"eyJ.signed.jwt"}`)
				}
			}))
			defer google.Close()
			tc.config.Target, tc.config.Via = robot, "build"
			env := Env{Named: caller(t), Endpoints: Endpoints{IAMCredentials: google.URL, Token: google.URL + "/token"}}
			source, id, err := Config{Impersonate: &tc.config}.Open(t.Context(), env)
			if err != nil {
				t.Fatal(err)
			}
			if id.Email != robot || id.ProjectID != "my-project" || id.Steps[0] != "key" {
				t.Errorf("identity = %+v, want that of the target, after the steps of the caller", id)
			}
			got, err := source.Mint(t.Context(), tc.req)
			if err != nil {
				t.Fatal(err)
			}
			if got.Value != tc.want || got.Expiry.Sub(expiry).Abs() > 5*time.Second {
				t.Errorf("Mint = %q until %v, want %q until %v", got.Value, got.Expiry, tc.want, expiry)
			}
			for method, body := range calls {
				want, expected := tc.calls[method]
				var a, b any
				json.Unmarshal([]byte(body), &a)
				json.Unmarshal([]byte(want), &b)
				if !expected || !cmp.Equal(a, b) {
					t.Errorf("%s got %s, want %s", method, body, want)
				}
			}
			if len(calls) != len(tc.calls) {
				t.Errorf("calls %v, want %v", calls, tc.calls)
			}
		})
	}
}

// What IAM or the caller refuses says which hop it was, and what to do.
func TestImpersonateFails(t *testing.T) {
	denied := `{"error":{"code":403,"message":"Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).","status":"PERMISSION_DENIED"}}`
	for name, tc := range map[string]struct {
		status int
		body   string
		kind   token.Kind
		says   string
	}{
		"no permission":     {403, denied, token.Denied, "roles/iam.serviceAccountTokenCreator"},
		"API is off":        {403, `{"error":{"code":403,"status":"PERMISSION_DENIED","message":"IAM Service Account Credentials API has not been used in project 1 before or it is disabled."}}`, token.Denied, "gcloud services enable"},
		"no such account":   {404, `{"error":{"code":404,"message":"Not found; Gaia id not found for email x","status":"NOT_FOUND"}}`, token.Misconfigured, "404 NOT_FOUND"},
		"lifetime too long": {400, `{"error":{"code":400,"message":"Request contains an invalid argument.","status":"INVALID_ARGUMENT"}}`, token.Misconfigured, "INVALID_ARGUMENT"},
		"quota":             {429, `{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}`, token.Throttled, "429"},
		"a page":            {200, `<html>`, token.Unavailable, "web page"},
		"no expiry":         {200, `{"accessToken":"ya29.planted"}`, token.Unavailable, "expireTime"},
		"no token":          {200, `{"expireTime":"2026-01-01T00:00:00Z"}`, token.Unavailable, "no accessToken"},
		"expired":           {200, `{"accessToken":"ya29.planted","expireTime":"2020-01-01T00:00:00Z"}`, token.Clock, "already expired"},
		"expiry of no form": {200, `{"accessToken":"ya29.planted","expireTime":"soon"}`, token.Unavailable, "not a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &exchange.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
				return answer{tc.status, "Retry-After: 3600", tc.body}.response(), nil
			})}
			source, _, err := Config{Impersonate: &Impersonate{Target: robot, Via: "build"}}.Open(t.Context(), Env{Client: c, Named: caller(t)})
			if err != nil {
				t.Fatal(err)
			}
			_, err = source.Mint(t.Context(), token.Request{Scopes: []string{exchange.CloudPlatform}})
			if err == nil || kindOf(t, err) != tc.kind || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), "impersonate "+robot) || strings.Contains(err.Error(), "planted") {
				t.Errorf("Mint = %v, want %v with %q, and whom it was for", err, tc.kind, tc.says)
			}
		})
	}

	c := Config{Impersonate: &Impersonate{Target: robot, Via: "build"}}
	if _, _, err := c.Open(t.Context(), Env{}); err == nil || !strings.Contains(err.Error(), "no other sources") {
		t.Errorf("Open without other sources = %v", err)
	}
	source, _, _ := c.Open(t.Context(), Env{Named: func(string) (token.Source, Identity, error) {
		return mintFunc(func(token.Request) (token.Token, error) {
			return token.Token{}, &token.Error{Kind: token.Throttled, RetryAfter: time.Minute, Err: fmt.Errorf("slow down")}
		}), Identity{}, nil
	}})
	if _, err := source.Mint(t.Context(), token.Request{Audience: "a"}); kindOf(t, err) != token.Throttled || !strings.Contains(err.Error(), "token of the caller: slow down") {
		t.Errorf("Mint with a caller that is throttled = %v", err)
	}
	if _, err := source.Mint(t.Context(), token.Request{}); kindOf(t, err) != token.InvalidRequest {
		t.Errorf("Mint without scopes = %v", err)
	}
}
