package issuer

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gcemds/gcemds/internal/token"
)

const robot = "robot@my-project.iam.gserviceaccount.com"

// testKeys are made once: RSA keys are slow to generate.
var testKeys = sync.OnceValue(func() []*rsa.PrivateKey {
	keys := make([]*rsa.PrivateKey, 2)
	for i := range keys {
		var err error
		if keys[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			panic(err)
		}
	}
	return keys
})

// open returns an issuer; without keys in the options it gets the first of
// the test keys.
func open(t testing.TB, o Options) *Issuer {
	t.Helper()
	if o.Keys == nil {
		o.Keys = testKeys()[:1]
	}
	i, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return i
}

func mint(t testing.TB, i *Issuer, req token.Request) token.Token {
	t.Helper()
	got, err := i.Source(robot).Mint(t.Context(), req)
	if err != nil {
		t.Fatalf("Mint(%+v) = %v", req, err)
	}
	return got
}

// ask sends a request to the handler and decodes the JSON that comes back.
func ask(t testing.TB, i *Issuer, req *http.Request) (*http.Response, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	i.Handler().ServeHTTP(w, req)
	resp := w.Result()
	if got := resp.Header.Get("Content-Type"); got != "application/json; charset=UTF-8" {
		t.Fatalf("%s %s: Content-Type = %q, want JSON", req.Method, req.URL, got)
	}
	var body map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatalf("%s %s: body is not a JSON object: %v", req.Method, req.URL, err)
	}
	return resp, body
}

func get(t testing.TB, i *Issuer, target string) (*http.Response, map[string]any) {
	t.Helper()
	return ask(t, i, httptest.NewRequest("GET", target, nil))
}

// published reads the public keys the way a verifier does.
func published(t testing.TB, i *Issuer) map[string]*rsa.PublicKey {
	t.Helper()
	_, set := get(t, i, "/oauth2/v3/certs")
	keys := map[string]*rsa.PublicKey{}
	for _, k := range set["keys"].([]any) {
		k := k.(map[string]any)
		if k["kty"] != "RSA" || k["alg"] != "RS256" || k["use"] != "sig" {
			t.Errorf("published key = %v, want an RSA key for RS256 signatures", k)
		}
		n, err := base64.RawURLEncoding.DecodeString(k["n"].(string))
		if err != nil {
			t.Fatal(err)
		}
		e, err := base64.RawURLEncoding.DecodeString(k["e"].(string))
		if err != nil {
			t.Fatal(err)
		}
		keys[k["kid"].(string)] = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	}
	return keys
}

// verify checks a JWT with published keys only.
func verify(t testing.TB, keys map[string]*rsa.PublicKey, jwt string) (header, claims map[string]any) {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("ID token has %d parts, want 3", len(parts))
	}
	for n, v := range []*map[string]any{&header, &claims} {
		data, err := base64.RawURLEncoding.DecodeString(parts[n])
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(strings.NewReader(string(data)))
		d.UseNumber()
		if err := d.Decode(v); err != nil {
			t.Fatal(err)
		}
	}
	key := keys[header["kid"].(string)]
	if key == nil {
		t.Fatalf("kid %q is not among the published keys", header["kid"])
	}
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig); err != nil {
		t.Fatalf("signature does not match the published key: %v", err)
	}
	return header, claims
}

func TestIDToken(t *testing.T) {
	i := open(t, Options{})
	keys := published(t, i)
	synctest.Test(t, func(t *testing.T) {
		got := mint(t, i, token.Request{
			Audience: "https://service.example/ä?x=<1>",
			Scopes:   []string{"ignored"},
			Claims:   `{"email":"robot@x","email_verified":true,"iss":"evil","SUB":"evil","exp":1,"google":{"compute_engine":{"project_number":9007199254740993}}}`,
		})
		header, claims := verify(t, keys, got.Value)
		if want := map[string]any{"alg": "RS256", "typ": "JWT", "kid": i.keys[0].id}; !cmp.Equal(header, want) {
			t.Errorf("header = %v, want %v", header, want)
		}
		iat := time.Now().Add(-5 * time.Second)
		want := map[string]any{
			"iss":            "https://accounts.google.com",
			"aud":            "https://service.example/ä?x=<1>",
			"azp":            UniqueID(robot),
			"sub":            UniqueID(robot),
			"iat":            number(iat.Unix()),
			"exp":            number(iat.Unix() + 3600),
			"email":          "robot@x",
			"email_verified": true,
			"google":         map[string]any{"compute_engine": map[string]any{"project_number": json.Number("9007199254740993")}},
		}
		if diff := cmp.Diff(want, claims); diff != "" {
			t.Errorf("claims of the ID token (-want +got):\n%s", diff)
		}
		if want := iat.Add(time.Hour); !got.Expiry.Equal(want) {
			t.Errorf("Expiry = %v, want the exp claim, %v", got.Expiry, want)
		}
	})
}

func number(n int64) json.Number {
	data, _ := json.Marshal(n)
	return json.Number(data)
}

func TestMintRefusals(t *testing.T) {
	i := open(t, Options{})
	for name, req := range map[string]token.Request{
		"claims are a list":    {Audience: "a", Claims: `[1]`},
		"claims are not JSON":  {Audience: "a", Claims: `{"a":`},
		"two objects":          {Audience: "a", Claims: `{} {}`},
		"token would be huge":  {Audience: strings.Repeat("a", 20000)},
		"scopes would be huge": {Scopes: []string{strings.Repeat("a", 20000)}},
	} {
		_, err := i.Source(robot).Mint(t.Context(), req)
		var e *token.Error
		if !errors.As(err, &e) || e.Kind != token.InvalidRequest {
			t.Errorf("%s: Mint = %v, want an InvalidRequest", name, err)
		}
	}
}

func TestKeyIsMadeAtFirstNeed(t *testing.T) {
	i, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	mint(t, i, token.Request{Scopes: []string{"s"}})
	select {
	case <-i.made:
		t.Error("an access token made the issuer generate a key")
	default:
	}

	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = i.Source(robot).Mint(canceled, token.Request{Audience: "a"})
	var e *token.Error
	// The key may be there already when we look; then the token is fine.
	if err != nil && (!errors.As(err, &e) || e.Kind != token.Unavailable || !errors.Is(err, context.Canceled)) {
		t.Errorf("Mint with a cancelled context = %v, want Unavailable and context.Canceled", err)
	}

	var wg sync.WaitGroup
	kids := make([]string, 16)
	for n := range kids {
		wg.Go(func() {
			tok, err := i.Source(robot).Mint(t.Context(), token.Request{Audience: "a"})
			if err != nil {
				t.Error(err)
				return
			}
			var head jwtHeader
			if err := decodeJSON(strings.Split(tok.Value, ".")[0], &head); err != nil {
				t.Error(err)
			}
			kids[n] = head.Kid
		})
	}
	wg.Wait()
	keys := published(t, i)
	for n, kid := range kids {
		if keys[kid] == nil {
			t.Errorf("caller %d got a token of key %q, which is not published", n, kid)
		}
	}
	if len(keys) != 1 {
		t.Errorf("%d keys were made for concurrent callers, want 1", len(keys))
	}
	resp, _ := get(t, i, "/oauth2/v3/certs")
	if got, want := resp.Header.Get("Cache-Control"), "public, max-age=60, must-revalidate, no-transform"; got != want {
		t.Errorf("Cache-Control of keys that end with the process = %q, want %q", got, want)
	}
}

func TestEager(t *testing.T) {
	i, err := New(Options{Eager: true})
	if err != nil {
		t.Fatal(err)
	}
	i.Close() // waits for the generation
	if len(published(t, i)) != 1 {
		t.Error("an eager issuer has no key after its generation")
	}
}

func TestClosedBeforeAnyKey(t *testing.T) {
	i, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	i.Close()
	_, err = i.Source(robot).Mint(t.Context(), token.Request{Audience: "a"})
	var e *token.Error
	if !errors.As(err, &e) || e.Kind != token.Unavailable {
		t.Errorf("identity of a closed issuer = %v, want Unavailable", err)
	}
	resp, body := get(t, i, "/oauth2/v1/certs")
	if resp.StatusCode != 503 || body["error"] != "temporarily_unavailable" {
		t.Errorf("keys of a closed issuer = %d %v, want 503 temporarily_unavailable", resp.StatusCode, body)
	}
}

func TestAccessTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := open(t, Options{Life: 90 * time.Second, Prefix: "test.", Size: 1024})
		a := mint(t, i, token.Request{Scopes: []string{"s"}})
		b := mint(t, i, token.Request{Scopes: []string{"s"}})
		if a.Value == b.Value {
			t.Error("two access tokens are the same")
		}
		if !strings.HasPrefix(a.Value, "test.") {
			t.Errorf("access token begins with %.9q, want the prefix", a.Value)
		}
		if n := len(a.Value); n < 1024 || n > 1026 {
			t.Errorf("access token has %d characters, want 1024 or a few more", n)
		}
		if got := time.Until(a.Expiry); got != 90*time.Second {
			t.Errorf("access token lives %v, want 90s", got)
		}
		long := mint(t, open(t, Options{Size: maxSize}), token.Request{Scopes: []string{"s"}})
		if n := len(long.Value); n < maxSize {
			t.Errorf("the longest access token has %d characters, want %d", n, maxSize)
		}
		def := mint(t, open(t, Options{}), token.Request{Scopes: []string{"s"}})
		if !strings.HasPrefix(def.Value, "ya29.c.offline.") || time.Until(def.Expiry) != time.Hour {
			t.Errorf("default access token = %.20s… for %v, want ya29.c.offline.… for 1h", def.Value, time.Until(def.Expiry))
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	small := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1023), E: 65537}}
	for want, o := range map[string]Options{
		`issuer URL "accounts" is not`:                       {URL: "accounts"},
		`issuer base URL "https://u:p@h" is not`:             {BaseURL: "https://u:p@h"},
		"issuer life 1ms is under one second":                {Life: time.Millisecond},
		"issuer life -1h0m0s is under":                       {Life: -time.Hour},
		"issuer token size 16001 is not between 0 and 16000": {Size: 16001},
		`issuer token prefix "a b"`:                          {Prefix: "a b"},
		"has 1024 bits, at least 2048":                       {Keys: []*rsa.PrivateKey{small}},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%+v) = %v, want an error with %q", o, err, want)
		}
	}
	_, err := New(Options{URL: "x", Size: -1})
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("New with two faults = %v, want both", err)
	}
}

func TestUniqueID(t *testing.T) {
	a, b := UniqueID(robot), UniqueID("other@x")
	if len(a) != 21 || a[0] != '1' || strings.Trim(a, "0123456789") != "" {
		t.Errorf("UniqueID = %q, want 21 digits, the first 1", a)
	}
	if a == b || a != UniqueID(robot) {
		t.Errorf("UniqueID is not a function of the e-mail: %q, %q", a, b)
	}
	if want := "110194084483439539492"; a != want { // tokens out there have it
		t.Errorf("UniqueID(%s) = %s, want %s as ever", robot, a, want)
	}
}

func BenchmarkMint(b *testing.B) {
	i := open(b, Options{})
	source := i.Source(robot)
	for name, req := range map[string]token.Request{
		"access":   {Scopes: []string{"https://www.googleapis.com/auth/cloud-platform"}},
		"identity": {Audience: "https://service.example", Claims: `{"email":"robot@x"}`},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := source.Mint(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
