package credential

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// A metadata server is asked in the words of its protocol, without what would
// make it refuse.
func TestUpstream(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("GCE_METADATA_HOST", "127.0.0.1:1")
	until := time.Now().Add(30 * time.Minute)
	var asked string
	var there atomic.Int32
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if there.Add(1) > 1 {
			t.Error("two calls at a time")
		}
		defer there.Add(-1)
		for _, name := range []string{"X-Forwarded-For", "Forwarded", "Via", "X-Real-Ip", "Content-Type"} {
			if r.Header[name] != nil {
				t.Errorf("the request has %s", name)
			}
		}
		if r.Method != "GET" || r.Header.Get("Metadata-Flavor") != "Google" || r.Header.Get("Gcemds-Server") != "mark" {
			t.Errorf("%s with %v", r.Method, r.Header)
		}
		asked = r.URL.String()
		w.Header().Set("Metadata-Flavor", "Google")
		if strings.Contains(r.URL.Path, "/identity") {
			io.WriteString(w, jwtUntil(until))
		} else {
			fmt.Fprintf(w, `{"access_token":"ya29.up","expires_in":1800,"token_type":"Bearer"}`)
		}
	}))
	defer metadata.Close()
	const base = "/computeMetadata/v1/instance/service-accounts/"
	full := `{"email":"a@b.c","google":{"compute_engine":{"zone":"z"}}}`
	licensed := `{"google":{"compute_engine":{"license_id":["1"]}}}`
	for _, tc := range []struct {
		config Upstream
		req    token.Request
		want   string
		email  string
	}{
		{Upstream{}, token.Request{}, base + "default/token", ""},
		{Upstream{}, token.Request{Scopes: []string{"https://a/b", "c"}}, base + "default/token?scopes=https%3A%2F%2Fa%2Fb%2Cc", ""},
		{Upstream{Account: robot}, access, base + robot + "/token?scopes=" + url.QueryEscape(exchange.CloudPlatform), robot},
		{Upstream{}, token.Request{Audience: "https://s?a=b&c"}, base + "default/identity?audience=https%3A%2F%2Fs%3Fa%3Db%26c", ""},
		{Upstream{}, token.Request{Audience: "a", Claims: `{"email":"a@b.c"}`}, base + "default/identity?audience=a", ""},
		{Upstream{}, token.Request{Audience: "a", Claims: full}, base + "default/identity?audience=a&format=full", ""},
		{Upstream{}, token.Request{Audience: "a", Claims: licensed}, base + "default/identity?audience=a&format=full&licenses=TRUE", ""},
	} {
		tc.config.Address = strings.TrimPrefix(metadata.URL, "http://")
		got, id, err := mint(t, Config{Upstream: &tc.config}, Env{Header: map[string]string{"Gcemds-Server": "mark"}}, tc.req)
		if err != nil || asked != tc.want {
			t.Errorf("%+v, %+v: asked %s, %v, want %s", tc.config, tc.req, asked, err, tc.want)
			continue
		}
		if life := got.Expiry.Sub(until).Abs(); life > 10*time.Second || got.Value == "" {
			t.Errorf("Mint = %v, want a token until %v", got, until)
		}
		if id.Email != tc.email || len(id.Steps) != 1 || !strings.Contains(id.Steps[0], "metadata server "+tc.config.Address) {
			t.Errorf("identity = %+v, want %q and where it is from", id, tc.email)
		}
	}

	// One call at a time for all sources that share a client, and so a host.
	client := &exchange.Client{}
	var wg sync.WaitGroup
	for _, account := range []string{"default", robot} {
		source, _, err := Config{Upstream: &Upstream{Address: metadata.URL, Account: account}}.Open(t.Context(), Env{Client: client, Header: map[string]string{"Gcemds-Server": "mark"}})
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			wg.Go(func() {
				if _, err := source.Mint(t.Context(), access); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
}

func TestUpstreamFails(t *testing.T) {
	flavored := func(status int, body string) answer {
		return answer{status, "Metadata-Flavor: Google", body}
	}
	for name, tc := range map[string]struct {
		answer   answer
		identity bool
		kind     token.Kind
		want     string
	}{
		"ourselves":          {flavored(508, "<html>"), false, token.Misconfigured, "this is our own server: address leads in a circle"},
		"refused":            {flavored(403, "<html>planted"), false, token.Denied, "403 with a web page"},
		"no such account":    {flavored(404, "<html>"), false, token.Misconfigured, "is address the right address"},
		"501":                {flavored(501, ""), false, token.Unavailable, "501"},
		"throttled":          {flavored(429, `{"error":"x"}`), false, token.Throttled, "429"},
		"elsewhere":          {answer{301, "Location: https://evil.example/", ""}, false, token.Misconfigured, "redirects are not followed"},
		"no metadata server": {answer{200, "", good}, false, token.Misconfigured, "is this a metadata server"},
		"a page":             {flavored(200, "<html>planted"), false, token.Unavailable, "web page"},
		"a page, ID token":   {flavored(200, "<html>planted"), true, token.Unavailable, "web page"},
		"text, ID token":     {flavored(200, "planted"), true, token.Unavailable, "no JWT"},
		"nothing, ID token":  {flavored(200, ""), true, token.Unavailable, "has no ID token"},
		"expired, ID token":  {flavored(200, jwtUntil(time.Unix(1, 0))), true, token.Clock, "already expired"},
		"without an end":     {flavored(200, `{"access_token":"ya29.x","token_type":"Bearer"}`), false, token.Unavailable, "expires_in"},
		"12 KiB":             {flavored(200, `{"access_token":"`+strings.Repeat("x", 12288)+`","expires_in":1}`), false, 0, ""},
		"more than a MiB":    {flavored(200, strings.Repeat("x", 1<<20+1)), false, token.Unavailable, "longer than 1048576"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &exchange.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return tc.answer.response(), nil })}
			req := access
			if tc.identity {
				req = token.Request{Audience: "a"}
			}
			_, _, err := mint(t, Config{Upstream: &Upstream{Address: "169.254.169.254"}}, Env{Client: c}, req)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("Mint = %v, want a token", err)
			case tc.want != "" && (err == nil || kindOf(t, err) != tc.kind || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "metadata server 169.254.169.254")):
				t.Errorf("Mint = %v, want %v, %q and the server", err, tc.kind, tc.want)
			}
		})
	}
}

func TestUpstreamConfig(t *testing.T) {
	var c Upstream
	if err := c.UnmarshalText([]byte("metadata.google.internal")); err != nil || !cmp.Equal(c, Upstream{Address: "metadata.google.internal"}) {
		t.Errorf("upstream: HOST = %+v, %v", c, err)
	}
	for want, c := range map[string]Upstream{
		"address is missing":             {},
		"more than a host and a port":    {Address: "http://h/computeMetadata/v1"},
		"address of h has more":          {Address: "http://user:planted@h"},
		"not of the form HOST:PORT":      {Address: "unix:/run/mds.sock"},
		"neither an e-mail nor an alias": {Address: "h", Account: "a/b"},
		`account ".." is neither`:        {Address: "h", Account: ".."},
	} {
		if err := (Config{Upstream: &c}).Validate(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "planted") {
			t.Errorf("Validate(%+v) = %v, want %q", c, err, want)
		}
	}
	for address, want := range map[string]string{
		"169.254.169.254": "http://169.254.169.254", "[fd20:ce::254]:80": "http://[fd20:ce::254]:80", "https://mds.example:8443/": "https://mds.example:8443",
	} {
		c := Upstream{Address: address}
		if got, err := c.base(); err != nil || got != want {
			t.Errorf("address %s = %s, %v, want %s", address, got, err, want)
		}
	}
}
