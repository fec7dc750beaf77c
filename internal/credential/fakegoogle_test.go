package credential

import (
	"crypto/rsa"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
)

const targetAccount = "target@my-project.iam.gserviceaccount.com"

// A fakeGoogle is the fake of package issuer behind a socket. Env leads
// sources to it.
type fakeGoogle struct {
	*issuer.Issuer
	url     string
	sources map[string]Config // those that Env.Named opens
}

// newFakeGoogle starts one in which robot has the test key and may act as
// target, for whom it also speaks to people of example.com.
func newFakeGoogle(t *testing.T) *fakeGoogle {
	t.Helper()
	i, err := issuer.New(issuer.Options{Keys: []*rsa.PrivateKey{rsaKey()}, Directory: &issuer.Directory{Accounts: []issuer.Account{
		{Email: robot, Keys: []issuer.PublicKey{{ID: "key-1", Key: &rsaKey().PublicKey}}},
		{
			Email: targetAccount, LongLived: true,
			Grants:     map[string][]string{"roles/iam.serviceAccountTokenCreator": {"serviceAccount:" + robot}},
			DomainWide: &issuer.DomainWide{Subjects: []string{"@example.com"}, Scopes: []string{exchange.CloudPlatform}},
		},
		{Email: "locked@my-project.iam.gserviceaccount.com", DomainWide: &issuer.DomainWide{}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(i.Handler())
	t.Cleanup(func() { server.Close(); i.Close() })
	g := &fakeGoogle{Issuer: i, url: server.URL}
	g.sources = map[string]Config{"robot": {KeyFile: &KeyFile{File: keyPath(t, keyJSON(t, map[string]any{"token_uri": g.url + "/token"}))}}}
	return g
}

func (g *fakeGoogle) env(t *testing.T) Env {
	e := Env{Endpoints: Endpoints{Token: g.url + "/token", STS: g.url + "/v1/token", IAMCredentials: g.url}}
	e.Named = func(name string) (token.Source, Identity, error) { return g.sources[name].Open(t.Context(), e) }
	return e
}

func (g *fakeGoogle) mint(t *testing.T, c Config, req token.Request) (token.Token, error) {
	t.Helper()
	source, _, err := c.Open(t.Context(), g.env(t))
	if err != nil {
		t.Fatal(err)
	}
	return source.Mint(t.Context(), req)
}

// TestFakeGoogle: the sources get what they ask for from a Google that
// verifies what they send.
func TestFakeGoogle(t *testing.T) {
	g := newFakeGoogle(t)
	key := g.sources["robot"]
	as := func(i Impersonate) Config {
		i.Target, i.Via = targetAccount, "robot"
		return Config{Impersonate: &i}
	}
	access, id := token.Request{Scopes: []string{exchange.CloudPlatform, "https://www.googleapis.com/auth/userinfo.email"}}, token.Request{Audience: "https://service.example"}
	for name, c := range map[string]struct {
		config Config
		req    token.Request
		email  string
		life   time.Duration
	}{
		"key":                    {key, access, robot, time.Hour},
		"key, ID token":          {key, id, robot, time.Hour},
		"impersonation":          {as(Impersonate{}), access, targetAccount, time.Hour},
		"impersonation, 12 h":    {as(Impersonate{Lifetime: 12 * time.Hour}), access, targetAccount, 12 * time.Hour},
		"impersonation, ID":      {as(Impersonate{}), id, targetAccount, time.Hour},
		"impersonation, subject": {as(Impersonate{Subject: "ann@example.com"}), token.Request{Scopes: []string{exchange.CloudPlatform}}, "", time.Hour}, // without an e-mail scope
	} {
		t.Run(name, func(t *testing.T) {
			got, err := g.mint(t, c.config, c.req)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(got.Expiry); left > c.life+time.Second || left < c.life-time.Minute {
				t.Errorf("the token expires in %v, want %v", left, c.life)
			}
			info := g.tokeninfo(t, got.Value)
			if c.email != "" && !strings.Contains(info, c.email) || !strings.Contains(info, `"exp"`) {
				t.Errorf("tokeninfo = %s, want a token of %s", info, c.email)
			}
		})
	}
}

func (g *fakeGoogle) tokeninfo(t *testing.T, value string) string {
	t.Helper()
	w := httptest.NewRecorder()
	req := httptest.NewRequest("POST", "/tokeninfo", nil)
	req.Header.Set("Authorization", "Bearer "+value)
	g.Handler().ServeHTTP(w, req)
	return w.Body.String()
}

// TestFakeGoogleFails: what goes wrong there gets the right class, and a word
// about what to do.
func TestFakeGoogleFails(t *testing.T) {
	g := newFakeGoogle(t)
	key := g.sources["robot"]
	keyWith := func(change map[string]any) Config {
		fields := map[string]any{"token_uri": g.url + "/token"}
		maps.Copy(fields, change)
		return Config{KeyFile: &KeyFile{File: keyPath(t, keyJSON(t, fields))}}
	}
	locked := Config{Impersonate: &Impersonate{Target: "locked@my-project.iam.gserviceaccount.com", Via: "robot"}}
	gone := Config{Impersonate: &Impersonate{Target: "gone@my-project.iam.gserviceaccount.com", Via: "robot"}}
	other := Config{Impersonate: &Impersonate{Target: targetAccount, Via: "robot", Subject: "bob@elsewhere.example"}}
	seconds := func(n int) issuer.Knobs { return issuer.Knobs{ExpiresIn: &n} }
	fault := func(f issuer.Fault) issuer.Knobs { return issuer.Knobs{Faults: []issuer.Fault{f}} }
	for name, c := range map[string]struct {
		config Config
		knobs  issuer.Knobs
		kind   token.Kind
		says   string // "": it works
	}{
		"once 503":           {key, fault(issuer.Fault{Path: "/token", Status: 503, Times: 1}), 0, ""},
		"reset key":          {keyWith(map[string]any{"private_key_id": "key-2"}), issuer.Knobs{}, token.Denied, "gcloud iam service-accounts keys create"},
		"deleted account":    {keyWith(map[string]any{"client_email": "gone@my-project.iam.gserviceaccount.com"}), issuer.Knobs{}, token.Denied, "deleted or disabled"},
		"their clock":        {key, issuer.Knobs{ClockOffset: 2 * time.Hour}, token.Clock, "clock"},
		"throttled":          {key, fault(issuer.Fault{Path: "/token", Status: 429, Header: map[string]string{"Retry-After": "3600"}}), token.Throttled, "429"},
		"down":               {key, fault(issuer.Fault{Path: "/token", Status: 503, Header: map[string]string{"Retry-After": "3600"}}), token.Unavailable, "503"},
		"a page":             {key, fault(issuer.Fault{Path: "/token", Body: "<html>log in</html>"}), token.Unavailable, "web page"},
		"a long page":        {key, fault(issuer.Fault{Path: "/token", Body: strings.Repeat(" ", 1<<20+1)}), token.Unavailable, "longer than"},
		"redirect":           {key, fault(issuer.Fault{Path: "/token", Status: 307, Header: map[string]string{"Location": g.url + "/elsewhere"}}), token.Misconfigured, "redirects are not followed"},
		"no life":            {key, seconds(0), token.Unavailable, "expires_in"},
		"life not told":      {key, seconds(-1), token.Unavailable, "expires_in"},
		"short life":         {key, seconds(100), 0, ""},
		"may not":            {locked, issuer.Knobs{}, token.Denied, "roles/iam.serviceAccountTokenCreator"},
		"target is gone":     {gone, issuer.Knobs{}, token.Misconfigured, "Gaia id not found"},
		"not for him":        {other, issuer.Knobs{}, token.Denied, "unauthorized_client"},
		"IAM is down":        {locked, fault(issuer.Fault{Path: "/v1/projects/*/*/*", Status: 503, Header: map[string]string{"Retry-After": "3600"}}), token.Unavailable, "503"},
		"caller is refused":  {Config{Impersonate: &Impersonate{Target: targetAccount, Via: "robot"}}, fault(issuer.Fault{Path: "/token", Status: 400}), token.Denied, "invalid_grant"},
		"IAM, on the second": {Config{Impersonate: &Impersonate{Target: targetAccount, Via: "robot"}}, fault(issuer.Fault{Path: "/v1/projects/*/*/*", Status: 500, Times: 1}), 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if err := g.SetKnobs(c.knobs); err != nil {
				t.Fatal(err)
			}
			got, err := g.mint(t, c.config, token.Request{Scopes: []string{exchange.CloudPlatform}})
			if c.says == "" {
				if err != nil {
					t.Errorf("Mint = %v, want a token", err)
				}
				return
			}
			if err == nil || kindOf(t, err) != c.kind || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Mint = %v, want %v with %q", err, c.kind, c.says)
			}
			if got.Value != "" || slices.ContainsFunc([]string{"ya29.", "eyJ"}, func(s string) bool { return strings.Contains(fmt.Sprint(err), s) }) {
				t.Errorf("Mint = a token, or an error that shows one: %v", err)
			}
		})
	}
}
