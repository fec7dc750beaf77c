package credential

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// jwtFor is a JWT with these claims, signed by nobody.
func jwtFor(claims string) string {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	return part(`{"alg":"RS256"}`) + "." + part(claims) + "." + part("signature")
}

// How long an access token lives depends on what it is and what is said of it.
func TestStaticLives(t *testing.T) {
	for name, tc := range map[string]struct {
		token   string // %d: an hour from now
		expires string
		after   time.Duration
		want    time.Duration // 0: it has ended
	}{
		"opaque":                      {"ya29.opaque-1", "", 0, time.Hour},
		"opaque, later":               {"ya29.opaque-2", "", 40 * time.Minute, 20 * time.Minute},
		"opaque, too late":            {"ya29.opaque-3", "", time.Hour, 0},
		"for a while":                 {"ya29.opaque-4", "30m", 10 * time.Minute, 20 * time.Minute},
		"until a time":                {"ya29.opaque-5", "2000-01-01T00:30:00Z", 10 * time.Minute, 20 * time.Minute},
		"until a time that is past":   {"ya29.opaque-6", "1999-01-01T00:30:00Z", 0, 0},
		"never":                       {"ya29.opaque-7", "never", 100 * time.Hour, time.Hour},
		"a JWT":                       {jwtFor(`{"exp":946688400}`), "", 10 * time.Minute, 50 * time.Minute},
		"a JWT that has ended":        {jwtFor(`{"exp":946688400}`), "", time.Hour, 0},
		"a JWT of which we know more": {jwtFor(`{"exp":946688400,"n":1}`), "30m", 10 * time.Minute, 20 * time.Minute},
		"a JWT without an end":        {jwtFor(`{"n":2}`), "", 10 * time.Minute, 50 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := Config{Static: &Static{AccessToken: Secret("file:" + textFile(t, tc.token+"\n")), Expires: tc.expires}}
				if _, _, err := config.Open(t.Context(), Env{}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(tc.after) // a reload does not make it younger
				got, _, err := mint(t, config, Env{}, access)
				if tc.want == 0 {
					if err == nil || kindOf(t, err) != token.Unavailable || !strings.Contains(err.Error(), "has ended at") || !strings.Contains(err.Error(), "put a new one in its place") {
						t.Errorf("Mint = %v, want Unavailable and what to do", err)
					}
					return
				}
				if err != nil || got.Value != tc.token || time.Until(got.Expiry) != tc.want {
					t.Errorf("Mint = %v, %v, want the token for %v", got, err, tc.want)
				}
			})
		})
	}
}

func TestStaticIDTokens(t *testing.T) {
	until := time.Now().Add(time.Hour).Unix()
	write := func(claims string, args ...any) Secret {
		return Secret("file:" + textFile(t, jwtFor(fmt.Sprintf(claims, args...))))
	}
	a := write(`{"aud":"https://a.example","exp":%d,"email":%q}`, until, robot)
	b := write(`{"aud":["https://b.example","https://c.example"],"exp":%d}`, until)
	old := write(`{"aud":"https://old.example","exp":946688400}`)
	for _, tc := range []struct {
		config   Static
		audience string
		want     Secret
		kind     token.Kind
		says     string
	}{
		{Static{IDTokens: []Secret{a, b}}, "https://a.example", a, 0, ""},
		{Static{IDTokens: []Secret{a, b}}, "https://c.example", b, 0, ""},
		{Static{IDTokens: []Secret{a, b}}, "https://d.example", "", token.Unsupported, "any_audience: true"},
		{Static{IDTokens: []Secret{b, a}, AnyAudience: true}, "https://d.example", b, 0, ""},
		{Static{IDTokens: []Secret{b, a}, AnyAudience: true}, "https://a.example", a, 0, ""},
		{Static{IDTokens: []Secret{old}}, "https://old.example", "", token.Unavailable, "has ended at 2000-01-01T01:00:00Z"},
		{Static{AccessToken: a}, "https://a.example", "", token.Unsupported, "there is no ID token"},
		{Static{IDTokens: []Secret{a}}, "", "", token.Unsupported, "there is no access token"},
	} {
		req := token.Request{Audience: tc.audience, Scopes: []string{exchange.CloudPlatform}}
		got, id, err := mint(t, Config{Static: &tc.config}, Env{}, req)
		if tc.says != "" {
			if err == nil || kindOf(t, err) != tc.kind || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%+v for %q: %v, want %v and %q", tc.config, tc.audience, err, tc.kind, tc.says)
			}
			continue
		}
		want, _ := tc.want.read()
		if err != nil || got.Value != string(want) || got.Expiry.Unix() != until {
			t.Errorf("%+v for %q = %v, %v, want that of %s", tc.config, tc.audience, got, err, tc.want)
		}
		if id.Email != robot && tc.config.IDTokens[0] == a {
			t.Errorf("identity = %+v, want the e-mail of the ID token", id)
		}
	}
}

// What the public emulator reads from the environment.
func TestStaticEnvironment(t *testing.T) {
	names := []string{"GOOGLE_ACCESS_TOKEN", "GOOGLE_ID_TOKEN", "GOOGLE_PROJECT_ID", "GOOGLE_NUMERIC_PROJECT_ID", "GOOGLE_ACCOUNT_EMAIL", "GOOGLE_SERVICE_ACCOUNT"}
	for _, name := range names {
		t.Setenv(name, "")
	}
	var c Static
	if err := c.UnmarshalText([]byte("env")); err != nil || !cmp.Equal(c, Static{Env: true}) {
		t.Errorf("static: env = %+v, %v", c, err)
	}
	if err := c.UnmarshalText([]byte("planted")); err == nil || strings.Contains(err.Error(), "planted") {
		t.Errorf("static: a token = %v, want a refusal that does not show it", err)
	}
	config := Config{Static: &Static{Env: true, Project: "configured"}}
	if _, _, err := config.Open(t.Context(), Env{}); err == nil || !strings.Contains(err.Error(), "neither GOOGLE_ACCESS_TOKEN nor GOOGLE_ID_TOKEN is set") {
		t.Errorf("Open without variables = %v, want their names", err)
	}
	t.Setenv("GOOGLE_ACCESS_TOKEN", "ya29.env")
	t.Setenv("GOOGLE_NUMERIC_PROJECT_ID", "123")
	t.Setenv("GOOGLE_SERVICE_ACCOUNT", robot)
	want := Identity{Email: robot, ProjectID: "configured", ProjectNumber: "123", Steps: []string{"access token in env:GOOGLE_ACCESS_TOKEN"}}
	if got, id, err := mint(t, config, Env{}, access); err != nil || got.Value != "ya29.env" || !cmp.Equal(id, want) {
		t.Errorf("Mint = %v, %+v, %v, want the token of the environment for %+v", got, id, err, want)
	}
	t.Setenv("GOOGLE_ACCOUNT_EMAIL", "other@p.iam.gserviceaccount.com")
	t.Setenv("GOOGLE_PROJECT_ID", "env")
	id := jwtFor(fmt.Sprintf(`{"aud":"a","exp":%d}`, time.Now().Add(time.Hour).Unix()))
	t.Setenv("GOOGLE_ID_TOKEN", id)
	got, who, err := mint(t, config, Env{}, token.Request{Audience: "a"})
	if err != nil || got.Value != id || who.Email != "other@p.iam.gserviceaccount.com" || who.ProjectID != "env" {
		t.Errorf("Mint = %v, %+v, %v, want what the environment says", got, who, err)
	}
}

// A new token in the file counts at once.
func TestStaticRotates(t *testing.T) {
	path := textFile(t, "ya29.one")
	config := Config{Static: &Static{AccessToken: Secret("file:" + path), IDTokens: []Secret{Secret("file:" + path)}}}
	if got, want := config.Files(), []string{path, path}; !cmp.Equal(got, want) {
		t.Errorf("Files = %v, want %v", got, want)
	}
	config.Static.IDTokens = nil
	source, _, err := config.Open(t.Context(), Env{})
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(path, []byte("ya29.two"), 0o600)
	if got, err := source.Mint(t.Context(), access); err != nil || got.Value != "ya29.two" {
		t.Errorf("Mint = %v, %v, want the token that is there now", got, err)
	}
	os.WriteFile(path, []byte("planted with spaces"), 0o600)
	if _, err := source.Mint(t.Context(), access); kindOf(t, err) != token.Misconfigured || strings.Contains(err.Error(), "planted") || !strings.Contains(err.Error(), path) {
		t.Errorf("Mint of what is no token = %v, want Misconfigured", err)
	}
}

// A token of somebody else in the file is not handed out in the name of who was
// there when it was opened.
func TestStaticOfAnother(t *testing.T) {
	write := func(path, email string) {
		if err := os.WriteFile(path, []byte(jwtFor(fmt.Sprintf(`{"aud":"a","exp":%d,"email":%q}`, time.Now().Add(time.Hour).Unix(), email))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := textFile(t, "")
	write(path, robot)
	config := Config{Static: &Static{IDTokens: []Secret{Secret("file:" + path)}}}
	source, _, err := config.Open(t.Context(), Env{})
	if err != nil {
		t.Fatal(err)
	}
	req := token.Request{Audience: "a"}
	if _, err := source.Mint(t.Context(), req); err != nil {
		t.Errorf("Mint = %v, want the token", err)
	}
	write(path, "other@p.iam.gserviceaccount.com")
	got, err := source.Mint(t.Context(), req)
	if err == nil || kindOf(t, err) != token.Misconfigured || !strings.Contains(err.Error(), `is of "other@p.iam.gserviceaccount.com" by now, not of "`+robot+`"`) {
		t.Errorf("Mint of the token of another = %v, %v, want Misconfigured and whose it is", got, err)
	}
	if _, id, err := mint(t, config, Env{}, req); err != nil || id.Email != "other@p.iam.gserviceaccount.com" {
		t.Errorf("opened again it is of %q, %v, want the other", id.Email, err)
	}
}

func TestStaticRefused(t *testing.T) {
	for want, c := range map[string]Static{
		"needs access_token, id_tokens or env": {},
		"given by reference":                   {AccessToken: "planted"},
		"is neither a time such as":            {Env: true, Expires: "soon"},
		"nor a duration such as":               {Env: true, Expires: "-5m"},
		"is not the e-mail":                    {Env: true, Email: "robot"},
		"is not a number":                      {Env: true, ProjectNumber: "p"},
		"has an empty entry":                   {IDTokens: []Secret{""}},
		"is no token":                          {AccessToken: Secret("file:" + textFile(t, strings.Repeat("p", exchange.MaxValue+1)))},
		"three parts":                          {IDTokens: []Secret{Secret("file:" + textFile(t, "planted"))}},
		"no exp claim":                         {IDTokens: []Secret{Secret("file:" + textFile(t, jwtFor(`{"aud":"a"}`)))}},
		"not a JSON object":                    {IDTokens: []Secret{Secret("file:" + textFile(t, jwtFor(`{"aud":7,"exp":1}`)))}},
		"no such file":                         {AccessToken: Secret("file:" + t.TempDir() + "/none")},
	} {
		if _, _, err := mint(t, Config{Static: &c}, Env{}, access); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%+v) = %v, want %q", c, err, want)
		}
	}
	if got, _, err := mint(t, Config{Static: &Static{AccessToken: Secret("file:" + textFile(t, strings.Repeat("x", 12288)))}}, Env{}, access); err != nil || len(got.Value) != 12288 {
		t.Errorf("a token of 12 KiB = %v, %v", got, err)
	}
}

// What is remembered of tokens is bounded.
func TestSightingsAreBounded(t *testing.T) {
	s := sightings{at: map[[32]byte]time.Time{}}
	start := time.Now()
	for n := range 1000 {
		s.of(fmt.Sprint(n), start.Add(time.Duration(n)))
	}
	if len(s.at) != 256 || s.of("999", start) != start.Add(999) {
		t.Errorf("%d are remembered, want the last 256", len(s.at))
	}
}
