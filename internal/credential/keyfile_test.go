package credential

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
)

func pemOf(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// keyJSON is a service account key with some fields changed; nil removes one.
func keyJSON(t testing.TB, change map[string]any) []byte {
	t.Helper()
	fields := map[string]any{
		"type":           "service_account",
		"project_id":     "my-project",
		"private_key_id": "key-1",
		"private_key":    pemOf(t, rsaKey()),
		"client_email":   robot,
		"client_id":      "123456789012345678901",
		"auth_uri":       "https://accounts.google.com/o/oauth2/auth",
	}
	maps.Copy(fields, change)
	maps.DeleteFunc(fields, func(_ string, v any) bool { return v == nil })
	data, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func keyPath(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sa.json")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A google is a token endpoint that believes nothing: it checks the signature
// and the claims of each assertion before it answers.
type google struct {
	*httptest.Server
	issuer *issuer.Issuer

	mu     sync.Mutex
	claims map[string]any // of the last assertion
}

func newGoogle(t testing.TB) *google {
	i, err := issuer.New(issuer.Options{Keys: []*rsa.PrivateKey{rsaKey()}})
	if err != nil {
		t.Fatal(err)
	}
	g := &google{issuer: i}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer, err := g.exchange(r)
		if err != nil {
			w.WriteHeader(400)
			answer = map[string]any{"error": "invalid_grant", "error_description": err.Error()}
		}
		json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *google) exchange(r *http.Request) (map[string]any, error) {
	if r.Method != "POST" || r.URL.Path != "/token" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		return nil, fmt.Errorf("%s %s %s", r.Method, r.URL, r.Header.Get("Content-Type"))
	}
	if r.Header.Get("User-Agent") != "gcemds/test" {
		return nil, fmt.Errorf("User-Agent %q", r.Header.Get("User-Agent"))
	}
	if got := r.PostFormValue("grant_type"); got != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		return nil, fmt.Errorf("grant_type %q", got)
	}
	header, claims, err := openJWT(r.PostFormValue("assertion"))
	if err != nil {
		return nil, err
	}
	if want := (map[string]any{"alg": "RS256", "typ": "JWT", "kid": "key-1"}); !cmp.Equal(header, want) {
		return nil, fmt.Errorf("header %v, want %v", header, want)
	}
	if want := g.URL + "/token"; claims["aud"] != want {
		return nil, fmt.Errorf("aud %v, want %s", claims["aud"], want)
	}
	now := float64(time.Now().Unix())
	iat, exp := claims["iat"].(float64), claims["exp"].(float64)
	if iat > now-9 || iat < now-60 || exp != iat+3600 {
		return nil, fmt.Errorf("iat %v and exp %v, want ten seconds ago and an hour later", iat-now, exp-iat)
	}
	if claims["iss"] != robot {
		return nil, fmt.Errorf("iss %v", claims["iss"])
	}
	g.mu.Lock()
	g.claims = claims
	g.mu.Unlock()

	source := g.issuer.Source(robot)
	if audience, ok := claims["target_audience"].(string); ok {
		t, err := source.Mint(r.Context(), token.Request{Audience: audience})
		return map[string]any{"id_token": t.Value}, err
	}
	t, err := source.Mint(r.Context(), token.Request{Scopes: strings.Fields(claims["scope"].(string))})
	return map[string]any{"access_token": t.Value, "expires_in": 3599, "token_type": "Bearer"}, err
}

// openJWT verifies a JWT with the test key, by nothing but the standard
// library.
func openJWT(jwt string) (header, claims map[string]any, err error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return nil, nil, fmt.Errorf("JWT of %d parts", len(parts))
	}
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&rsaKey().PublicKey, crypto.SHA256, sum[:], sig); err != nil {
		return nil, nil, fmt.Errorf("Invalid JWT Signature: %w", err)
	}
	for n, v := range []*map[string]any{&header, &claims} {
		data, err := base64.RawURLEncoding.DecodeString(parts[n])
		if err != nil {
			return nil, nil, err
		}
		if err := json.Unmarshal(data, v); err != nil {
			return nil, nil, err
		}
	}
	return header, claims, nil
}

func (g *google) lastClaims() map[string]any {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.claims
}

// openKey opens a key file config; the token endpoint is g, if there is one.
func openKey(t testing.TB, g *google, config KeyFile) token.Source {
	t.Helper()
	if config.File == "" {
		config.File = keyPath(t, keyJSON(t, nil))
	}
	if g != nil {
		config.TokenURI = g.URL + "/token"
	}
	source, _, err := Config{KeyFile: &config}.Open(t.Context(), Env{Client: &exchange.Client{UserAgent: "gcemds/test"}})
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func TestKeyFileAccessToken(t *testing.T) {
	g := newGoogle(t)
	source := openKey(t, g, KeyFile{})
	before := time.Now()
	got, err := source.Mint(t.Context(), token.Request{Scopes: []string{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got.Value, "ya29.") {
		t.Error("the access token is not the one of the endpoint")
	}
	if life := got.Expiry.Sub(before); life < 3599*time.Second || life > 3629*time.Second {
		t.Errorf("the access token lives %v, want the 3599s of the endpoint", life)
	}
	if c := g.lastClaims(); c["scope"] != "a b" || c["target_audience"] != nil || c["sub"] != nil {
		t.Errorf("assertion = %v, want scope \"a b\" and neither sub nor target_audience", c)
	}
}

func TestKeyFileIDToken(t *testing.T) {
	g := newGoogle(t)
	for name, config := range map[string]KeyFile{"exchanged": {}, "self-signed": {SelfSigned: true}} {
		got, err := openKey(t, g, config).Mint(t.Context(), token.Request{Audience: "https://service.example", Scopes: []string{"a"}})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, claims, err := openJWT(got.Value)
		if err != nil || claims["aud"] != "https://service.example" {
			t.Errorf("%s: ID token claims = %v, %v, want the audience asked for", name, claims, err)
		}
		if exp := int64(claims["exp"].(float64)); got.Expiry.Unix() != exp {
			t.Errorf("%s: Expiry = %d, want the exp claim %d", name, got.Expiry.Unix(), exp)
		}
		if c := g.lastClaims(); c["target_audience"] != "https://service.example" || c["scope"] != nil {
			t.Errorf("%s: assertion = %v, want a target_audience and no scope", name, c)
		}
	}
}

func TestSelfSigned(t *testing.T) {
	refuse := &exchange.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		t.Error("a self-signed token made a call")
		return nil, http.ErrHandlerTimeout
	})}
	path := keyPath(t, keyJSON(t, map[string]any{"universe_domain": "other.example"}))
	source, _, err := Config{KeyFile: &KeyFile{File: path, SelfSigned: true}}.Open(t.Context(), Env{Client: refuse})
	if err != nil {
		t.Fatal(err)
	}
	got, err := source.Mint(t.Context(), token.Request{Scopes: []string{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	_, claims, err := openJWT(got.Value)
	if err != nil {
		t.Fatal(err)
	}
	exp := claims["exp"].(float64)
	want := map[string]any{"iss": robot, "sub": robot, "aud": "", "scope": "a b", "iat": exp - 3600, "exp": exp}
	if diff := cmp.Diff(want, claims); diff != "" {
		t.Errorf("claims of a self-signed token (-want +got):\n%s", diff)
	}
	if got.Expiry.Unix() != int64(exp) {
		t.Errorf("Expiry = %v, want the exp claim", got.Expiry)
	}
	if _, err := source.Mint(t.Context(), token.Request{Audience: "a"}); kindOf(t, err) != token.Unsupported {
		t.Errorf("ID token in another universe = %v, want Unsupported", err)
	}
}

func TestNoScopes(t *testing.T) {
	if _, err := openKey(t, nil, KeyFile{}).Mint(t.Context(), token.Request{}); kindOf(t, err) != token.InvalidRequest {
		t.Errorf("access token without scopes = %v, want InvalidRequest", err)
	}
}

func TestConcurrentMints(t *testing.T) {
	source := openKey(t, newGoogle(t), KeyFile{})
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			req := token.Request{Scopes: []string{"a"}}
			if n%2 == 0 {
				req.Audience = "aud"
			}
			if _, err := source.Mint(t.Context(), req); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestIdentity(t *testing.T) {
	path := keyPath(t, append([]byte("\ufeff"), keyJSON(t, nil)...))
	_, id, err := Config{KeyFile: &KeyFile{File: path}}.Open(t.Context(), Env{})
	if err != nil {
		t.Fatal(err)
	}
	id.Steps = nil // it names the file
	if want := (Identity{Email: robot, ProjectID: "my-project", UniqueID: "123456789012345678901"}); !cmp.Equal(id, want) {
		t.Errorf("identity = %+v, want %+v", id, want)
	}
}

func TestKeyFileRefused(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	with := func(field string, value any) []byte { return keyJSON(t, map[string]any{field: value}) }
	cut := pemOf(t, rsaKey())
	for _, c := range []struct {
		content []byte
		want    string
	}{
		{nil, "the file is empty"},
		{[]byte("[]"), "it is JSON, but no object"},
		{[]byte("{"), "not JSON"},
		{[]byte(pemOf(t, rsaKey())), "a bare PEM file"},
		{make([]byte, maxKeyFile+1), "longer than 65536 bytes"},
		{with("type", nil), "field type is missing"},
		{with("type", "authorized_user"), "gcloud auth application-default login"},
		{with("type", "external_account"), "workload identity federation"},
		{with("type", "nonsense"), `type is "nonsense"`},
		{with("client_email", nil), "field client_email is missing"},
		{keyJSON(t, map[string]any{"client_email": nil, "private_key": nil}), "fields client_email, private_key are missing"},
		{with("client_email", "robot"), `client_email "robot" is not an e-mail`},
		{with("client_email", 7), "field client_email is not a string"},
		{with("private_key", "geheim"), "private_key: it is not PEM"},
		{with("private_key", strings.ReplaceAll(cut, "\n", `\n`)), `contains \n as two characters`},
		{with("private_key", strings.Replace(cut, "MII", "MIX", 1)), "private_key: the key is damaged"},
		{with("private_key", strings.ReplaceAll(cut, "PRIVATE KEY", "ENCRYPTED PRIVATE KEY")), "it is encrypted"},
		{with("private_key", strings.ReplaceAll(cut, "PRIVATE KEY", "PUBLIC KEY")), `PEM block is "PUBLIC KEY"`},
		{with("private_key", pemOf(t, ec)), "Google takes RSA keys only"},
		{with("token_uri", "http://oauth2.googleapis.com/token"), "token_uri: "},
		{with("token_uri", "https://evil.example/token"), "say allow_custom_endpoints: true"},
		{with("token_uri", "https://evilgoogleapis.com/token"), "say allow_custom_endpoints: true"},
		{with("universe_domain", "other.example"), "set self_signed: true"},
	} {
		path := keyPath(t, c.content)
		_, _, err := Config{KeyFile: &KeyFile{File: path}}.Open(t.Context(), Env{})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("Open = %v, want %s and %q", err, path, c.want)
			continue
		}
		for _, secret := range []string{"geheim", strings.Split(cut, "\n")[1][:16]} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error shows the key: %v", err)
			}
		}
	}
	missing := filepath.Join(t.TempDir(), "none.json")
	if _, _, err := (Config{KeyFile: &KeyFile{File: missing}}).Open(t.Context(), Env{}); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("Open of a file that is not there = %v, want its name", err)
	}
}

func TestPKCS1(t *testing.T) {
	text := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey())}))
	if _, err := parseKey(keyJSON(t, map[string]any{"private_key": text})); err != nil {
		t.Errorf("a PKCS#1 key is refused: %v", err)
	}
}

func TestKeyFilePermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no permission bits")
	}
	path := keyPath(t, keyJSON(t, nil))
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, err := Config{KeyFile: &KeyFile{File: path}}.Open(t.Context(), Env{})
	if err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
		t.Errorf("a key that all can read = %v, want a refusal with chmod 600", err)
	}
	if _, _, err := (Config{KeyFile: &KeyFile{File: path, Permissions: "relaxed"}}).Open(t.Context(), Env{}); err != nil {
		t.Errorf("a key that all can read, relaxed = %v, want nil", err)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(keyJSON(f, nil))
	f.Add(keyJSON(f, map[string]any{"private_key": "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"}))
	f.Add([]byte(`{"type":"authorized_user","client_id":1}`))
	f.Add([]byte("\ufeff{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := parseKey(data)
		if err != nil {
			return
		}
		if key.signer == nil || !isEmail(key.identity.Email) {
			t.Errorf("a key without signer or e-mail was accepted: %+v", key.identity)
		}
	})
}

func BenchmarkKeyFile(b *testing.B) {
	for name, config := range map[string]KeyFile{"exchange": {}, "self-signed": {SelfSigned: true}} {
		b.Run(name, func(b *testing.B) {
			source := openKey(b, newGoogle(b), config)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := source.Mint(b.Context(), token.Request{Scopes: []string{exchange.CloudPlatform}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
