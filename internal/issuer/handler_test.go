package issuer

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gcemds/gcemds/internal/token"
)

const (
	cloudPlatform = "https://www.googleapis.com/auth/cloud-platform"
	userinfoEmail = "https://www.googleapis.com/auth/userinfo.email"
)

func form(target string, values url.Values) *http.Request {
	r := httptest.NewRequest("POST", target, strings.NewReader(values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

func bearer(method, target, value string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	r.Header.Set("Authorization", "Bearer "+value)
	return r
}

func TestTokeninfo(t *testing.T) {
	i := open(t, Options{})
	synctest.Test(t, func(t *testing.T) {
		access := mint(t, i, token.Request{Scopes: []string{cloudPlatform, userinfoEmail}}).Value
		id := mint(t, i, token.Request{Audience: "aud", Claims: `{"email_verified":true,"google":{"a": [1]}}`}).Value
		time.Sleep(time.Minute)

		aboutAccess := map[string]any{
			"azp": UniqueID(robot), "aud": UniqueID(robot), "sub": UniqueID(robot),
			"scope": cloudPlatform + " " + userinfoEmail,
			"exp":   string(number(time.Now().Unix() + 3540)), "expires_in": "3540",
			"access_type": "online", "email": robot, "email_verified": "true",
		}
		iat := time.Now().Unix() - 65
		aboutID := map[string]any{
			"iss": "https://accounts.google.com", "aud": "aud", "azp": UniqueID(robot), "sub": UniqueID(robot),
			"iat": string(number(iat)), "exp": string(number(iat + 3600)),
			"email_verified": "true", "google": `{"a":[1]}`,
			"alg": "RS256", "typ": "JWT", "kid": i.keys[0].id,
		}
		for name, c := range map[string]struct {
			req  *http.Request
			want map[string]any
		}{
			"GET access":     {httptest.NewRequest("GET", "/tokeninfo?access_token="+url.QueryEscape(access), nil), aboutAccess},
			"GET v3 access":  {httptest.NewRequest("GET", "/oauth2/v3/tokeninfo?access_token="+access, nil), aboutAccess},
			"GET id":         {httptest.NewRequest("GET", "/tokeninfo?id_token="+id, nil), aboutID},
			"POST access":    {form("/tokeninfo", url.Values{"access_token": {access}}), aboutAccess},
			"POST v3 id":     {form("/oauth2/v3/tokeninfo", url.Values{"id_token": {id}}), aboutID},
			"bearer access":  {bearer("POST", "/tokeninfo", access), aboutAccess},
			"bearer id":      {bearer("GET", "/oauth2/v3/tokeninfo", id), aboutID},
			"padded v3 POST": {bearer("POST", "/oauth2/v3/tokeninfo", "  "+access), aboutAccess},
		} {
			resp, got := ask(t, i, c.req)
			if resp.StatusCode != 200 {
				t.Errorf("%s: status %d, want 200", name, resp.StatusCode)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
			if got := resp.Header.Get("Cache-Control"); !strings.Contains(got, "no-store") {
				t.Errorf("%s: Cache-Control = %q, want no-store", name, got)
			}
		}

		bare := mint(t, i, token.Request{Scopes: []string{cloudPlatform}}).Value
		if _, got := get(t, i, "/tokeninfo?access_token="+bare); got["email"] != nil {
			t.Errorf("tokeninfo without an e-mail scope has email %v", got["email"])
		}
	})
}

func TestTokeninfoRefuses(t *testing.T) {
	i := open(t, Options{})
	synctest.Test(t, func(t *testing.T) {
		access := mint(t, i, token.Request{Scopes: []string{cloudPlatform}}).Value
		id := mint(t, i, token.Request{Audience: "aud"}).Value
		parts := strings.Split(id, ".")
		enc := func(s string) string { return base64url.EncodeToString([]byte(s)) }
		sign := func(claims string) string { // by a good key
			m := map[string]any{}
			if err := decodeJSON(enc(claims), &m); err != nil {
				t.Fatal(err)
			}
			jwt, err := SignJWT(i.keys[0].private, i.keys[0].id, m)
			if err != nil {
				t.Fatal(err)
			}
			return jwt
		}
		stranger := open(t, Options{Keys: testKeys()[1:]})
		generated, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		invalid := map[string]url.Values{
			"access as id":       {"id_token": {access}},
			"id as access":       {"access_token": {id}},
			"changed access":     {"access_token": {strings.Replace(access, "offline.e", "offline.f", 1)}},
			"respelled access":   {"access_token": {access[:len(access)-3] + "\n" + access[len(access)-3:]}},
			"respelled id":       {"id_token": {id[:len(id)-3] + "\n" + id[len(id)-3:]}},
			"cut access":         {"access_token": {access[:len(access)-2]}},
			"prefix only":        {"access_token": {DefaultPrefix}},
			"no MAC":             {"access_token": {DefaultPrefix + "."}},
			"no prefix":          {"access_token": {strings.TrimPrefix(access, DefaultPrefix)}},
			"other issuer":       {"access_token": {mint(t, stranger, token.Request{}).Value}},
			"other generated":    {"access_token": {mint(t, generated, token.Request{}).Value}},
			"other issuer id":    {"id_token": {mint(t, stranger, token.Request{Audience: "a"}).Value}},
			"alg none":           {"id_token": {enc(`{"alg":"none","kid":"`+i.keys[0].id+`"}`) + "." + parts[1] + "."}},
			"HMAC with the key":  {"id_token": {enc(`{"alg":"HS256","kid":"`+i.keys[0].id+`"}`) + "." + parts[1] + "." + parts[2]}},
			"changed claims":     {"id_token": {parts[0] + "." + enc(`{"aud":"else"}`) + "." + parts[2]}},
			"unknown kid":        {"id_token": {enc(`{"alg":"RS256","kid":"0"}`) + "." + parts[1] + "." + parts[2]}},
			"no signature":       {"id_token": {parts[0] + "." + parts[1] + "."}},
			"two parts":          {"id_token": {parts[0] + "." + parts[1]}},
			"not base64":         {"id_token": {"!." + parts[1] + "." + parts[2]}},
			"signature no base":  {"id_token": {parts[0] + "." + parts[1] + ".!"}},
			"signed, no exp":     {"id_token": {sign(`{"iss":"https://accounts.google.com"}`)}},
			"signed, exp string": {"id_token": {sign(`{"iss":"https://accounts.google.com","exp":"9999999999"}`)}},
			"signed, other iss":  {"id_token": {sign(`{"iss":"https://evil.example","exp":9999999999}`)}},
			"too long":           {"access_token": {access + strings.Repeat("a", maxToken)}},
			"too long id":        {"id_token": {id + strings.Repeat("a", maxToken)}},
		}
		if resp, _ := ask(t, i, form("/tokeninfo", url.Values{"id_token": {sign(`{"iss":"https://accounts.google.com","exp":9999999999}`)}})); resp.StatusCode != 200 {
			t.Errorf("a token signed by hand gets %d, want 200: the cases here prove nothing", resp.StatusCode)
		}
		for name, values := range invalid {
			resp, body := ask(t, i, form("/tokeninfo", values))
			if want := map[string]any{"error": "invalid_token", "error_description": "Invalid Value"}; resp.StatusCode != 400 || !cmp.Equal(body, want) {
				t.Errorf("%s: %d %v, want 400 %v", name, resp.StatusCode, body, want)
			}
		}

		requests := map[string]*http.Request{
			"nothing":       httptest.NewRequest("GET", "/tokeninfo", nil),
			"basic":         httptest.NewRequest("GET", "/tokeninfo", nil),
			"empty bearer":  bearer("GET", "/tokeninfo", ""),
			"broken query":  httptest.NewRequest("GET", "/tokeninfo?access_token=%zz", nil),
			"endless form":  form("/tokeninfo", url.Values{"access_token": {strings.Repeat("a", maxForm+1)}}),
			"JSON in POST":  httptest.NewRequest("POST", "/tokeninfo", strings.NewReader(`{"access_token":"x"}`)),
			"empty v3 form": form("/oauth2/v3/tokeninfo", nil),
		}
		requests["basic"].SetBasicAuth("u", "p")
		for name, req := range requests {
			if resp, body := ask(t, i, req); resp.StatusCode != 400 || body["error"] != "invalid_request" {
				t.Errorf("%s: %d %v, want 400 invalid_request", name, resp.StatusCode, body)
			}
		}

		time.Sleep(time.Hour - 6*time.Second)
		for target, want := range map[string]int{"/tokeninfo?access_token=" + access: 200, "/tokeninfo?id_token=" + id: 200} {
			if resp, _ := get(t, i, target); resp.StatusCode != want {
				t.Errorf("a second before the end of life: %d, want %d", resp.StatusCode, want)
			}
		}
		time.Sleep(6 * time.Second)
		for _, target := range []string{"/tokeninfo?access_token=" + access, "/tokeninfo?id_token=" + id} {
			if resp, _ := get(t, i, target); resp.StatusCode != 400 {
				t.Errorf("expired token: %d, want 400", resp.StatusCode)
			}
		}
	})
}

func TestCertificates(t *testing.T) {
	i := open(t, Options{Keys: testKeys()})
	again := open(t, Options{Keys: testKeys()})
	web := published(t, i)
	resp, pems := get(t, i, "/oauth2/v1/certs")
	if !slices.Equal(slices.Sorted(maps.Keys(pems)), slices.Sorted(maps.Keys(web))) || len(web) != 2 {
		t.Errorf("v1 has keys %v, v3 has %v, want the same two", slices.Sorted(maps.Keys(pems)), slices.Sorted(maps.Keys(web)))
	}
	for kid, text := range pems {
		block, rest := pem.Decode([]byte(text.(string)))
		if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
			t.Fatalf("certificate of %s is not one PEM block", kid)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !web[kid].Equal(cert.PublicKey.(*rsa.PublicKey)) {
			t.Errorf("certificate of %s has another key than the JWK", kid)
		}
		if err := cert.CheckSignature(x509.SHA256WithRSA, cert.RawTBSCertificate, cert.Signature); err != nil {
			t.Errorf("certificate of %s: %v", kid, err)
		}
		if now := time.Now(); now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
			t.Errorf("certificate of %s is valid from %v to %v, want now", kid, cert.NotBefore, cert.NotAfter)
		}
	}
	if _, other := get(t, again, "/oauth2/v1/certs"); !cmp.Equal(pems, other) {
		t.Error("certificates differ between two issuers with the same keys")
	}
	if got, want := resp.Header.Get("Cache-Control"), "public, max-age=20000, must-revalidate, no-transform"; got != want {
		t.Errorf("Cache-Control = %q, want %q", got, want)
	}
}

func TestDiscovery(t *testing.T) {
	for name, c := range map[string]struct {
		options    Options
		target     string
		issuer, at string
	}{
		"Google's name": {Options{}, "http://127.0.0.1:8082", "https://accounts.google.com", "http://127.0.0.1:8082/oauth2/v3/certs"},
		"TLS":           {Options{}, "https://mds.example", "https://accounts.google.com", "https://mds.example/oauth2/v3/certs"},
		"base URL":      {Options{BaseURL: "https://front.example/x/"}, "http://127.0.0.1:8082", "https://accounts.google.com", "https://front.example/x/oauth2/v3/certs"},
	} {
		_, got := get(t, open(t, c.options), c.target+"/.well-known/openid-configuration")
		if got["issuer"] != c.issuer || got["jwks_uri"] != c.at {
			t.Errorf("%s: issuer %v, jwks_uri %v, want %s, %s", name, got["issuer"], got["jwks_uri"], c.issuer, c.at)
		}
	}
}

// A verifier that knows nothing but the issuer's address finds its keys.
func TestPlainOIDCDiscovery(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	i := open(t, Options{URL: "http://" + server.Listener.Addr().String()})
	server.Config.Handler = i.Handler()
	server.Start()
	defer server.Close()

	id := mint(t, i, token.Request{Audience: "aud"})
	fetch := func(address string) map[string]any {
		resp, err := server.Client().Get(address)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("GET %s: %d %v", address, resp.StatusCode, err)
		}
		var body map[string]any
		if err := decodeJSON(base64url.EncodeToString(data), &body); err != nil {
			t.Fatal(err)
		}
		return body
	}
	_, claims := verify(t, published(t, i), id.Value)
	document := fetch(claims["iss"].(string) + "/.well-known/openid-configuration")
	if document["issuer"] != claims["iss"] {
		t.Errorf("issuer = %v, want the iss claim %v", document["issuer"], claims["iss"])
	}
	set := fetch(document["jwks_uri"].(string))
	if k := set["keys"].([]any)[0].(map[string]any); k["kid"] != i.keys[0].id {
		t.Errorf("jwks_uri leads to key %v, want %s", k["kid"], i.keys[0].id)
	}
}

func TestRoutes(t *testing.T) {
	i := open(t, Options{})
	for request, want := range map[string]int{
		"GET /":                                  200,
		"HEAD /oauth2/v3/certs":                  200,
		"GET /oauth2/v2/certs":                   404,
		"GET /oauth2/v3/certs/":                  404,
		"GET /nothing":                           404,
		"POST /oauth2/v3/certs":                  405,
		"DELETE /tokeninfo":                      405,
		"PUT /.well-known/openid-configuration":  405,
		"GET /.well-known/openid-configuration/": 404,
	} {
		method, path, _ := strings.Cut(request, " ")
		w := httptest.NewRecorder()
		i.Handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if w.Code != want {
			t.Errorf("%s = %d, want %d", request, w.Code, want)
		}
	}
	w := httptest.NewRecorder()
	i.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	for _, route := range routes {
		if !strings.Contains(w.Body.String(), route.pattern) {
			t.Errorf("the front page does not name %s", route.pattern)
		}
	}
}

func FuzzTokeninfo(f *testing.F) {
	i := open(f, Options{})
	access := mint(f, i, token.Request{Scopes: []string{cloudPlatform}}).Value
	id := mint(f, i, token.Request{Audience: "aud"}).Value
	f.Add(access, "")
	f.Add("", id)
	f.Add(DefaultPrefix+".", "a.b.c")
	f.Add("ya29.c.offline.e30.", "e30.e30.e30")
	f.Fuzz(func(t *testing.T, a, b string) {
		want := 400
		if a == access || a == "" && b == id {
			want = 200
		}
		resp, _ := ask(t, i, form("/tokeninfo", url.Values{"access_token": {a}, "id_token": {b}}))
		if resp.StatusCode != want {
			t.Errorf("tokeninfo of %q, %q = %d, want %d", a, b, resp.StatusCode, want)
		}
		resp, _ = ask(t, i, bearer("GET", "/tokeninfo", strings.Map(headerRune, a+b)))
		if resp.StatusCode != 200 && resp.StatusCode != 400 {
			t.Errorf("tokeninfo with Bearer %q = %d, want 200 or 400", a+b, resp.StatusCode)
		}
	})
}

func headerRune(r rune) rune {
	if r < ' ' || r == 0x7f {
		return -1
	}
	return r
}
