package issuer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	build    = "build@my-project.iam.gserviceaccount.com"
	person   = "ann@example.com"
	tokenURI = "http://example.com/token" // where httptest.NewRequest asks
)

var testEC = sync.OnceValue(func() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
})

// fake returns a fake Google that knows d.
func fake(t testing.TB, d Directory) *Issuer {
	t.Helper()
	return open(t, Options{Directory: &d})
}

// robotKey is a directory in which robot has the second test key.
func robotKey() Directory {
	return Directory{Accounts: []Account{{
		Email:      robot,
		Keys:       []PublicKey{{ID: "key-1", Key: &testKeys()[1].PublicKey}},
		DomainWide: &DomainWide{Subjects: []string{person, "@corp.example"}, Scopes: []string{cloudPlatform}},
	}}}
}

// claims are an assertion of robot, made now, with some claims changed; nil
// removes one.
func claims(change map[string]any) map[string]any {
	c := map[string]any{"iss": robot, "aud": tokenURI, "scope": cloudPlatform,
		"iat": time.Now().Unix() - 10, "exp": time.Now().Unix() + 3590}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func sign(t testing.TB, key crypto.Signer, kid string, claims any) string {
	t.Helper()
	if ec, ok := key.(*ecdsa.PrivateKey); ok {
		return signES256(t, ec, kid, claims)
	}
	jwt, err := SignJWT(key, kid, claims)
	if err != nil {
		t.Fatal(err)
	}
	return jwt
}

func bearerForm(assertion string) url.Values {
	return url.Values{"grant_type": {grantJWT}, "assertion": {assertion}}
}

// checkRefusal compares an answer with an error of OAuth.
func checkRefusal(t *testing.T, name string, i *Issuer, req *http.Request, status int, code, description string) {
	t.Helper()
	resp, body := ask(t, i, req)
	got, _ := body["error_description"].(string)
	if resp.StatusCode != status || body["error"] != code || !strings.Contains(got, description) {
		t.Errorf("%s: %d %v, want %d %s %q", name, resp.StatusCode, body, status, code, description)
	}
}

// TestAssertion: a good assertion gets what it asks for.
func TestAssertion(t *testing.T) {
	i := fake(t, robotKey())
	key := testKeys()[1]
	legacy := url.Values{"grant_type": {"assertion"}, "assertion_type": {"http://oauth.net/grant_type/jwt/1.0/bearer"}}
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			path   string
			kid    string
			change map[string]any
			form   url.Values
			email  string
		}{
			"as libraries do":   {"/token", "key-1", nil, url.Values{"grant_type": {grantJWT}}, robot},
			"no kid":            {"/token", "", nil, url.Values{"grant_type": {grantJWT}}, robot},
			"Google's audience": {"/token", "key-1", map[string]any{"aud": "https://oauth2.googleapis.com/token"}, url.Values{"grant_type": {grantJWT}}, robot},
			"another path":      {"/oauth2/v4/token", "key-1", map[string]any{"aud": "http://example.com/oauth2/v4/token"}, url.Values{"grant_type": {grantJWT}}, robot},
			"sub is iss":        {"/token", "key-1", map[string]any{"sub": robot}, url.Values{"grant_type": {grantJWT}}, robot},
			"legacy":            {"/token", "key-1", nil, legacy, robot},
			"for a person":      {"/token", "key-1", map[string]any{"sub": person}, url.Values{"grant_type": {grantJWT}}, person},
			"prn, by domain":    {"/token", "key-1", map[string]any{"prn": "x@corp.example"}, url.Values{"grant_type": {grantJWT}}, "x@corp.example"},
			"clock in the past": {"/token", "key-1", map[string]any{"iat": time.Now().Unix() - 3800, "exp": time.Now().Unix() - 200}, url.Values{"grant_type": {grantJWT}}, robot},
			"clock ahead":       {"/token", "key-1", map[string]any{"iat": time.Now().Unix() + 200, "exp": time.Now().Unix() + 3800}, url.Values{"grant_type": {grantJWT}}, robot},
		} {
			values := maps.Clone(c.form)
			values.Set("assertion", sign(t, key, c.kid, claims(c.change)))
			resp, body := ask(t, i, form(c.path, values))
			value, _ := body["access_token"].(string)
			delete(body, "access_token")
			if want := map[string]any{"token_type": "Bearer", "expires_in": 3600.0}; resp.StatusCode != 200 || !cmp.Equal(body, want) {
				t.Errorf("%s: %d %v, want 200 %v", name, resp.StatusCode, body, want)
				continue
			}
			if got, err := i.verifyAccess(value); err != nil || got.Email != c.email || got.Scope != cloudPlatform {
				t.Errorf("%s: a token of %s with %q (%v), want %s with %s", name, got.Email, got.Scope, err, c.email, cloudPlatform)
			}
		}

		resp, _ := ask(t, i, form("/token", bearerForm(signPadded(t, claims(nil)))))
		if resp.StatusCode != 200 {
			t.Errorf("an assertion with padding, as old google-auth has it, gets %d, want 200", resp.StatusCode)
		}

		_, body := ask(t, i, form("/token", bearerForm(sign(t, key, "key-1", claims(map[string]any{"scope": nil, "target_audience": "https://x.example"})))))
		value, _ := body["id_token"].(string)
		_, got := verify(t, published(t, i), value)
		if len(body) != 1 || got["aud"] != "https://x.example" || got["email"] != robot || got["email_verified"] != true {
			t.Errorf("target_audience: %v with claims %v, want an ID token of %s alone", body, got, robot)
		}
	})
}

// TestAssertionRefused: what is wrong with an assertion is said in Google's
// words.
func TestAssertionRefused(t *testing.T) {
	i := fake(t, robotKey())
	key := testKeys()[1]
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().Unix()
		good := sign(t, key, "key-1", claims(nil))
		parts := strings.Split(good, ".")
		for name, c := range map[string]struct {
			assertion         string
			status            int
			code, description string
		}{
			"nothing":           {"", 400, "invalid_request", "Missing required parameter: assertion"},
			"no JWT":            {"x", 400, "invalid_grant", "Bad Request"},
			"claims not JSON":   {parts[0] + ".AA." + parts[2], 400, "invalid_grant", "Bad Request"},
			"unknown account":   {sign(t, key, "key-1", claims(map[string]any{"iss": build})), 400, "invalid_grant", "account not found"},
			"unique id":         {sign(t, key, "key-1", claims(map[string]any{"iss": UniqueID(robot)})), 400, "invalid_grant", "account not found"},
			"no account":        {sign(t, key, "key-1", claims(map[string]any{"iss": nil})), 400, "invalid_grant", "account not found"},
			"other key":         {sign(t, testKeys()[0], "key-1", claims(nil)), 400, "invalid_grant", "Invalid JWT Signature."},
			"other kid":         {sign(t, key, "key-2", claims(nil)), 400, "invalid_grant", "Invalid JWT Signature."},
			"other claims":      {parts[0] + "." + strings.Split(sign(t, key, "", claims(map[string]any{"scope": "x"})), ".")[1] + "." + parts[2], 400, "invalid_grant", "Invalid JWT Signature."},
			"alg none":          {base64url.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", 400, "invalid_grant", "Invalid JWT Signature."},
			"critical header":   {base64url.EncodeToString([]byte(`{"alg":"RS256","crit":["x"]}`)) + "." + parts[1] + "." + parts[2], 400, "invalid_grant", "Bad Request"},
			"audience":          {sign(t, key, "key-1", claims(map[string]any{"aud": "https://x.example"})), 400, "invalid_grant", "Invalid JWT: Failed audience check."},
			"audience list":     {sign(t, key, "key-1", claims(map[string]any{"aud": []string{tokenURI}})), 400, "invalid_grant", "Failed audience check"},
			"no audience":       {sign(t, key, "key-1", claims(map[string]any{"aud": nil})), 400, "invalid_grant", "Failed audience check"},
			"too long":          {sign(t, key, "key-1", claims(map[string]any{"exp": now + 3591})), 400, "invalid_grant", "Token must be a short-lived token (60 minutes) and in a reasonable timeframe"},
			"expired":           {sign(t, key, "key-1", claims(map[string]any{"iat": now - 4000, "exp": now - 401})), 400, "invalid_grant", "reasonable timeframe"},
			"from the future":   {sign(t, key, "key-1", claims(map[string]any{"iat": now + 301, "exp": now + 400})), 400, "invalid_grant", "reasonable timeframe"},
			"no times":          {sign(t, key, "key-1", claims(map[string]any{"iat": nil, "exp": nil})), 400, "invalid_grant", "reasonable timeframe"},
			"infinite":          {sign(t, key, "key-1", claims(map[string]any{"exp": number(1 << 50)})), 400, "invalid_grant", "reasonable timeframe"},
			"no scope":          {sign(t, key, "key-1", claims(map[string]any{"scope": " "})), 400, "invalid_scope", "Invalid OAuth scope or ID token audience provided."},
			"scope and target":  {sign(t, key, "key-1", claims(map[string]any{"target_audience": "a"})), 400, "invalid_scope", "ID token audience"},
			"no such person":    {sign(t, key, "key-1", claims(map[string]any{"sub": "ann"})), 400, "invalid_grant", "Invalid email or User ID"},
			"another person":    {sign(t, key, "key-1", claims(map[string]any{"sub": "bob@example.com"})), 401, "unauthorized_client", "Client is unauthorized to retrieve access tokens"},
			"another's scopes":  {sign(t, key, "key-1", claims(map[string]any{"sub": person, "scope": userinfoEmail})), 401, "unauthorized_client", "not authorized for any of the scopes"},
			"too long in bytes": {good + strings.Repeat("A", maxToken), 400, "invalid_grant", "Bad Request"},
		} {
			checkRefusal(t, name, i, form("/token", bearerForm(c.assertion)), c.status, c.code, c.description)
		}
		checkRefusal(t, "twice", i, form("/token", url.Values{"grant_type": {grantJWT}, "assertion": {good, good}}), 400, "invalid_request", "single value: assertion")
		checkRefusal(t, "other grant", i, form("/token", url.Values{"grant_type": {"password"}}), 400, "unsupported_grant_type", "Invalid grant_type: password")
		checkRefusal(t, "no grant", i, form("/token", nil), 400, "invalid_request", "grant_type")
		checkRefusal(t, "in the query", i, form("/token?"+bearerForm(good).Encode(), nil), 400, "invalid_request", "grant_type")

		time.Sleep(time.Hour + 6*time.Minute)
		checkRefusal(t, "an hour later", i, form("/token", bearerForm(good)), 400, "invalid_grant", "reasonable timeframe")
	})
}

// TestNotAFake: without a directory there are no token endpoints, and with an
// empty one they give nothing.
func TestNotAFake(t *testing.T) {
	assertion := sign(t, testKeys()[1], "key-1", claims(nil))
	w := httptest.NewRecorder()
	open(t, Options{}).Handler().ServeHTTP(w, form("/token", bearerForm(assertion)))
	if w.Code != 404 {
		t.Errorf("POST /token of an offline issuer = %d, want 404", w.Code)
	}
	checkRefusal(t, "empty directory", fake(t, Directory{}), form("/token", bearerForm(assertion)), 400, "invalid_grant", "account not found")
	_, document := get(t, fake(t, Directory{}), "/.well-known/openid-configuration")
	if document["token_endpoint"] != tokenURI {
		t.Errorf("token_endpoint = %v, want %s", document["token_endpoint"], tokenURI)
	}
}

func FuzzAssertion(f *testing.F) {
	key := testKeys()[1]
	i := fake(f, robotKey())
	f.Add(sign(f, key, "key-1", claims(nil)))
	f.Add(sign(f, key, "", claims(map[string]any{"sub": person})))
	f.Add("e30.e30.AA")
	f.Add(`eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJyb2JvdEBteS1wcm9qZWN0LmlhbS5nc2VydmljZWFjY291bnQuY29tIiwiaWF0IjoxZTk5fQ.AA`)
	f.Fuzz(func(t *testing.T, assertion string) {
		j, err := parseJWT(assertion)
		signed := err == nil && j.by(&key.PublicKey)
		resp, body := ask(t, i, form("/token", bearerForm(assertion)))
		if resp.StatusCode == 200 && !signed || resp.StatusCode >= 500 {
			t.Errorf("assertion %q = %d %v", assertion, resp.StatusCode, body)
		}
	})
}

// signPadded signs as old versions of Python's google-auth do: with padding.
func signPadded(t testing.TB, claims any) string {
	t.Helper()
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.URLEncoding.EncodeToString(data)
	}
	signed := part(jwtHeader{Alg: "RS256", Kid: "key-1", Typ: "JWT"}) + "." + part(claims)
	sum := sha256.Sum256([]byte(signed))
	sig, err := testKeys()[1].Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.URLEncoding.EncodeToString(sig)
}

// signES256 signs as JWTs want it: two numbers of 32 bytes.
func signES256(t testing.TB, key *ecdsa.PrivateKey, kid string, claims any) string {
	t.Helper()
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64url.EncodeToString(data)
	}
	signed := part(jwtHeader{Alg: "ES256", Kid: kid, Typ: "JWT"}) + "." + part(claims)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return signed + "." + base64url.EncodeToString(sig)
}
