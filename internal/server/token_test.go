package server_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/server"
	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tree"
)

// mint is a token source.
type mint func(context.Context, token.Request) (token.Token, error)

func (m mint) Mint(ctx context.Context, r token.Request) (token.Token, error) { return m(ctx, r) }

// withSource is the built-in machine whose account has this source and scopes.
func withSource(t *testing.T, s token.Source, scopes ...string) *fleet.Instance {
	t.Helper()
	i := plain(t)
	a := fleet.Account{Email: account, Aliases: []string{"default"}, Scopes: scopes, Source: s}
	doc, err := fleet.Document(i.Metadata.Tree(), a)
	if err != nil {
		t.Fatal(err)
	}
	i.Metadata, i.Accounts = tree.NewStore(doc), []fleet.Account{a}
	return i
}

const (
	cloud = "https://www.googleapis.com/auth/cloud-platform"
	email = "https://www.googleapis.com/auth/userinfo.email"
	drive = "https://www.googleapis.com/auth/drive"
)

// The workload is told the class of an error; the cause is for the journal.
func TestTokenErrors(t *testing.T) {
	t.Parallel()
	cause := errors.New("key s3cret of robot@example.test")
	for _, test := range []struct {
		name   string
		err    error
		status int
		code   string
		retry  string
	}{
		{"unavailable", &token.Error{Kind: token.Unavailable, Err: cause}, 503, "temporarily_unavailable", ""},
		{"throttled", &token.Error{Kind: token.Throttled, Err: cause, RetryAfter: 30 * time.Second}, 429, "temporarily_unavailable", "30"},
		{"throttled, part of a second", &token.Error{Kind: token.Throttled, Err: cause, RetryAfter: 1001 * time.Millisecond}, 429, "temporarily_unavailable", "2"},
		{"throttled, hardly", &token.Error{Kind: token.Throttled, Err: cause, RetryAfter: 1}, 429, "temporarily_unavailable", "1"},
		{"throttled, no time", &token.Error{Kind: token.Throttled, Err: cause}, 429, "temporarily_unavailable", ""},
		{"throttled, in the past", &token.Error{Kind: token.Throttled, Err: cause, RetryAfter: -time.Hour}, 429, "temporarily_unavailable", ""},
		{"denied", &token.Error{Kind: token.Denied, Err: cause}, 403, "access_denied", ""},
		{"misconfigured", &token.Error{Kind: token.Misconfigured, Err: cause}, 500, "server_error", ""},
		{"clock", &token.Error{Kind: token.Clock, Err: cause}, 500, "server_error", ""},
		{"unsupported", &token.Error{Kind: token.Unsupported, Err: cause}, 404, "unsupported_token_type", ""},
		{"invalid request", &token.Error{Kind: token.InvalidRequest, Err: cause}, 400, "invalid_request", ""},
		{"no cause", &token.Error{Kind: token.Denied}, 403, "access_denied", ""},
		{"wrapped", fmt.Errorf("mint %w", &token.Error{Kind: token.Denied, Err: cause}), 403, "access_denied", ""},
		{"unknown", cause, 500, "", ""},
		{"deadline", fmt.Errorf("%w: %w", context.DeadlineExceeded, cause), 500, "", ""},
	} {
		for _, leaf := range []string{"token", "token?alt=text", "identity?audience=x"} {
			j := journal.New(1)
			i := withSource(t, mint(func(context.Context, token.Request) (token.Token, error) { return token.Token{}, test.err }))
			w := get(serverOf(i, j, server.Limits{}), accounts+"default/"+leaf)
			name := test.name + ", " + leaf
			want(t, name, w, test.status, "")
			if strings.Contains(w.Body.String(), "s3cret") || strings.Contains(w.Body.String(), "robot") {
				t.Errorf("%s: the cause is in the answer: %s", name, w.Body)
			}
			if etag(w) != "" {
				t.Errorf("%s: an error has an ETag", name)
			}
			if got := w.Header().Get("Retry-After"); got != test.retry {
				t.Errorf("%s: Retry-After %q, want %q", name, got, test.retry)
			}
			if test.code != "" {
				var body struct {
					Code string `json:"error"`
					Text string `json:"error_description"`
				}
				if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Code != test.code || body.Text == "" {
					t.Errorf("%s: body %s (%v), want the error %s", name, w.Body, err, test.code)
				}
				if got := w.Header().Get("Content-Type"); got != "application/json" {
					t.Errorf("%s: Content-Type %q", name, got)
				}
			}
			if e := j.Entries(0); len(e) != 1 || !errors.Is(e[0].Err, test.err) || e[0].Status != test.status {
				t.Errorf("%s: the journal has %+v, want status %d and the cause", name, e, test.status)
			}
		}
	}
}

// A token that has no second left is no token: Go takes expires_in 0 for an error.
func TestTokenExpiry(t *testing.T) {
	t.Parallel()
	for left, status := range map[time.Duration]int{
		-time.Hour: 503, 0: 503, 900 * time.Millisecond: 503, time.Hour: 200,
	} {
		i := withSource(t, mint(func(context.Context, token.Request) (token.Token, error) {
			return token.Token{Value: "ya29.x", Expiry: time.Now().Add(left)}, nil
		}))
		want(t, fmt.Sprintf("a token with %v left", left), get(serverOf(i, nil, server.Limits{}), accounts+"default/token"), status, "")
	}
}

// Which token is asked for: that of the account, unless scopes are binding.
func TestTokenRequests(t *testing.T) {
	t.Parallel()
	held := []string{cloud, email}
	const enforce = "instance/attributes/enable-access-token-enforce-scopes"
	for _, test := range []struct {
		query  string
		always bool // Instance.EnforceScopes
		edit   string
		status int
		scopes []string
	}{
		{"", false, "", 200, held},
		{"?scopes=" + email, false, "", 200, held},
		{"?scopes=" + drive, false, "", 200, held},
		{"?scopes=" + email + "&enforce_scopes=TRUE", false, "", 200, []string{email}},
		{"?scopes=" + email + "," + cloud + ",%20" + email + ",,&enforce_scopes=y", false, "", 200, held},
		{"?scopes=" + drive + "&enforce_scopes=1", false, "", 400, nil},
		{"?enforce_scopes=true", false, "", 200, held},
		{"?scopes=,%20,&enforce_scopes=true", false, "", 200, held},
		{"?scopes=" + email + "&enforce_scopes=maybe", false, "", 200, held},
		{"?scopes=" + email, true, "", 200, []string{email}},
		{"?scopes=" + drive, true, "", 400, nil},
		{"", true, "", 200, held},
		{"?scopes=" + email, false, "TRUE", 200, []string{email}},
		{"?scopes=" + email, false, "FALSE", 200, held},
		{"?scopes=" + email + "&enforce_scopes=n", true, "", 400, nil},
		{"?scopes=%zz", false, "", 400, nil},
		{"?enforce_scopes=%zz", false, "", 400, nil},
	} {
		for _, name := range []string{"default", account} {
			var asked []token.Request
			i := withSource(t, mint(func(_ context.Context, r token.Request) (token.Token, error) {
				asked = append(asked, r)
				return token.Token{Value: "ya29.x", Expiry: time.Now().Add(time.Hour)}, nil
			}), held...)
			i.EnforceScopes = test.always
			if test.edit != "" {
				edit(t, i, enforce, test.edit)
			}
			w := get(serverOf(i, nil, server.Limits{}), accounts+name+"/token"+test.query)
			want(t, test.query, w, test.status, "")
			if test.scopes == nil {
				if len(asked) != 0 {
					t.Errorf("%s: refused, but asked for %+v", test.query, asked)
				}
			} else if len(asked) != 1 || asked[0].Audience != "" || !slices.Equal(asked[0].Scopes, test.scopes) {
				t.Errorf("%s: asked for %+v, want once %q", test.query, asked, test.scopes)
			}
		}
	}
}

// Accounts of one machine have their own sources; one without a source has no tokens.
func TestTokenOfTheRightAccount(t *testing.T) {
	t.Parallel()
	source := func(name string) token.Source {
		return mint(func(context.Context, token.Request) (token.Token, error) {
			return token.Token{Value: "ya29." + name, Expiry: time.Now().Add(time.Hour)}, nil
		})
	}
	list := []fleet.Account{
		{Email: "a@example.test", Aliases: []string{"default", "first"}, Source: source("a")},
		{Email: "b@example.test", Source: source("b")},
		{Email: "c@example.test"},
	}
	i := plain(t)
	doc, err := fleet.Document(i.Metadata.Tree(), list...)
	if err != nil {
		t.Fatal(err)
	}
	i.Metadata, i.Accounts = tree.NewStore(doc), list
	s := serverOf(i, nil, server.Limits{})
	for name, value := range map[string]string{"default": "ya29.a", "first": "ya29.a", "a@example.test": "ya29.a", "b@example.test": "ya29.b"} {
		want(t, name, get(s, accounts+name+"/token"), 200, `"`+value+`"`)
		want(t, name, get(s, accounts+name+"/identity?audience=x"), 200, value)
	}
	want(t, "an account without a source", get(s, accounts+"c@example.test/token"), 404, "was not found")
	want(t, "no such account", get(s, accounts+"d@example.test/token"), 404, "was not found")
	want(t, "an escaped @", get(s, accounts+"a%40example.test/token"), 404, "was not found")
	want(t, "the listing", get(s, accounts), 200, "a@example.test/\nb@example.test/\nc@example.test/\ndefault/\nfirst/\n")
}

// A burst gets one token.
func TestTokensAreShared(t *testing.T) {
	t.Parallel()
	s := serverOf(newInstance(t), nil, server.Limits{})
	var all sync.WaitGroup
	bodies := make([]string, 50)
	for k := range bodies {
		all.Go(func() {
			var b struct {
				Value string `json:"access_token"`
			}
			json.Unmarshal(get(s, accounts+"default/token").Body.Bytes(), &b)
			bodies[k] = b.Value
		})
	}
	all.Wait()
	for _, b := range bodies {
		if b == "" || b != bodies[0] {
			t.Fatalf("callers at one time got %q and %q", bodies[0], b)
		}
	}
}

// What an ID token says (section 5.5).
func TestIdentityClaims(t *testing.T) {
	t.Parallel()
	iss, err := theIssuer()
	if err != nil {
		t.Fatal(err)
	}
	mail := map[string]any{"email": account, "email_verified": true}
	machine := map[string]any{
		"instance_creation_timestamp": json.Number(fmt.Sprint(fleet.BuiltinCreated.Unix())),
		"instance_id":                 "5193847261058203746",
		"instance_name":               "demo-instance",
		"project_id":                  "demo-project",
		"project_number":              json.Number("123456789012"),
		"zone":                        "us-central1-a",
	}
	licensed := map[string]any{"license_id": []any{"2147286739765738111"}}
	for _, test := range []struct {
		name, query, audience string
		scopes                []string
		extra                 []map[string]any // claims besides the registered ones
		google                []map[string]any // google.compute_engine
	}{
		{"standard", "audience=https://example.test", "https://example.test", []string{cloud}, nil, nil},
		{"standard, named", "audience=x&format=standard&licenses=FALSE", "x", []string{cloud}, nil, nil},
		{"standard, licenses", "audience=x&licenses=TRUE", "x", []string{cloud}, nil, nil},
		{"standard, userinfo.email", "audience=x", "x", []string{cloud, email}, []map[string]any{mail}, nil},
		{"full", "audience=x&format=full", "x", []string{cloud}, []map[string]any{mail}, []map[string]any{machine}},
		{"full, first", "format=full&audience=x&licenses=FALSE", "x", nil, []map[string]any{mail}, []map[string]any{machine}},
		{"full, licenses", "audience=x&format=full&licenses=TRUE", "x", []string{email}, []map[string]any{mail}, []map[string]any{machine, licensed}},
		{"full, licenses in lower case", "audience=x&format=full&licenses=true", "x", nil, []map[string]any{mail}, []map[string]any{machine, licensed}},
		{"any audience", "audience=a%20b%26c%3D%22%3C%C3%A9%0A", "a b&c=\"<é\n", []string{cloud}, nil, nil},
		{"first audience", "audience=x&audience=y", "x", []string{cloud}, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := serverOf(withSource(t, iss.Source(account), test.scopes...), nil, server.Limits{})
			w := get(s, accounts+"default/identity?"+test.query)
			want(t, test.query, w, 200, "")
			parts := strings.Split(w.Body.String(), ".")
			if len(parts) != 3 {
				t.Fatalf("%q is no JWT", w.Body)
			}
			header, claims := decodePart(t, parts[0]), decodePart(t, parts[1])
			if header["alg"] != "RS256" || header["typ"] != "JWT" || header["kid"] == "" || header["kid"] == nil {
				t.Errorf("header %v", header)
			}
			number := func(name string) int64 {
				n, _ := claims[name].(json.Number)
				v, err := n.Int64()
				if err != nil {
					t.Errorf("%s = %v, want an integer", name, claims[name])
				}
				return v
			}
			if iat, exp := number("iat"), number("exp"); exp != iat+3600 || time.Since(time.Unix(iat, 0)).Abs() > time.Minute {
				t.Errorf("iat %d, exp %d", iat, exp)
			}
			if claims["aud"] != test.audience || claims["iss"] != "https://accounts.google.com" {
				t.Errorf("aud %q, iss %q; want %q and Google", claims["aud"], claims["iss"], test.audience)
			}
			if claims["azp"] != claims["sub"] || claims["sub"] == "" || strings.Trim(fmt.Sprint(claims["sub"]), "0123456789") != "" {
				t.Errorf("azp %v, sub %v; want the same number", claims["azp"], claims["sub"])
			}
			extra := map[string]any{}
			for _, m := range test.extra {
				for name, value := range m {
					extra[name] = value
				}
			}
			if test.google != nil {
				compute := map[string]any{}
				for _, m := range test.google {
					for name, value := range m {
						compute[name] = value
					}
				}
				extra["google"] = map[string]any{"compute_engine": compute}
			}
			for _, name := range []string{"aud", "iss", "iat", "exp", "azp", "sub"} {
				delete(claims, name)
			}
			if !reflect.DeepEqual(claims, extra) {
				t.Errorf("claims %v, want %v", claims, extra)
			}
		})
	}
}

func decodePart(t *testing.T, part string) (v map[string]any) {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// The claims are those of the document of now, and what is asked for reaches
// the source as it was sent.
func TestIdentityRequests(t *testing.T) {
	t.Parallel()
	var asked []token.Request
	i := withSource(t, mint(func(_ context.Context, r token.Request) (token.Token, error) {
		asked = append(asked, r)
		return token.Token{Value: "a.b.c", Expiry: time.Now().Add(time.Hour)}, nil
	}))
	s := serverOf(i, nil, server.Limits{})
	edit(t, i, "instance/name", `quote " and <b>`)
	edit(t, i, "instance/licenses", json.RawMessage(`[]`))
	get(s, accounts+"default/identity?audience=https%3A%2F%2Fexample.test%2F%3Fa&format=full&licenses=TRUE")
	if len(asked) != 1 || asked[0].Audience != "https://example.test/?a" {
		t.Fatalf("asked for %+v", asked)
	}
	var claims struct {
		Google struct {
			Compute map[string]any `json:"compute_engine"`
		}
	}
	if err := json.Unmarshal([]byte(asked[0].Claims), &claims); err != nil {
		t.Fatalf("claims %q: %v", asked[0].Claims, err)
	}
	if got := claims.Google.Compute["instance_name"]; got != `quote " and <b>` {
		t.Errorf("instance_name %q", got)
	}
	if got, there := claims.Google.Compute["license_id"]; there {
		t.Errorf("license_id %v of a machine without licenses", got)
	}
	asked = nil
	for query, status := range map[string]int{
		"": 400, "audience=": 400, "audience=%zz": 400, "audience=x&format=%zz": 400, "audience=x&format=full&licenses=%zz": 400,
	} {
		want(t, query, get(s, accounts+"default/identity?"+query), status, "")
	}
	if len(asked) != 0 {
		t.Errorf("a wrong request reached the source: %+v", asked)
	}
}
