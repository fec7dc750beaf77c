package credential

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// The key of a Google Distributed Cloud signs ES256, and its endpoint takes
// JSON, under an authority of its own.
func TestGDCH(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sec1 := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	var body map[string]string
	var failure string
	gdc := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s with %v", r.Method, r.Header)
		}
		json.NewDecoder(r.Body).Decode(&body)
		if failure != "" {
			w.WriteHeader(401)
			io.WriteString(w, failure)
			return
		}
		io.WriteString(w, `{"access_token":"planted-gdc","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3599}`)
	}))
	gdc.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	gdc.StartTLS()
	defer gdc.Close()
	const account = "system:serviceaccount:my-project:robot"
	file := func(change map[string]any) string {
		fields := map[string]any{
			"type": "gdch_service_account", "format_version": "1", "project": "my-project", "name": "robot", "private_key_id": "key-1",
			"private_key": sec1, "ca_cert_path": textFile(t, certPEM(gdc.Certificate())), "token_uri": gdc.URL + "/authenticate",
		}
		maps.Copy(fields, change)
		return jsonFile(t, fields)
	}
	for name, path := range map[string]string{"SEC 1": file(nil), "PKCS#8": file(map[string]any{"private_key": pemOf(t, key)})} {
		got, id, err := mint(t, Config{GDCH: &GDCH{File: path, Audience: "https://api.gdc.example"}}, Env{}, access)
		if err != nil || got.Value != "planted-gdc" || time.Until(got.Expiry) < 59*time.Minute {
			t.Fatalf("%s: Mint = %v, %v", name, got, err)
		}
		if id.ProjectID != "my-project" || id.Email != "" || len(id.Steps) != 2 {
			t.Errorf("identity = %+v, want the project and two steps", id)
		}
		parts := strings.Split(body["subject_token"], ".")
		delete(body, "subject_token")
		if diff := cmp.Diff(map[string]string{
			"grant_type": "urn:ietf:params:oauth:token-type:token-exchange", "audience": "https://api.gdc.example",
			"requested_token_type": exchange.TypeAccessToken, "subject_token_type": "urn:k8s:params:oauth:token-type:serviceaccount",
		}, body); diff != "" {
			t.Errorf("the body (-want +got):\n%s", diff)
		}
		sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
		if len(signature) != 64 || !ecdsa.Verify(&key.PublicKey, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
			t.Error("the assertion is not signed with ES256")
		}
		var claims map[string]any
		data, _ := base64.RawURLEncoding.DecodeString(parts[1])
		json.Unmarshal(data, &claims)
		iat, _ := claims["iat"].(float64)
		if want := map[string]any{"iss": account, "sub": account, "aud": gdc.URL + "/authenticate", "iat": iat, "exp": iat + 3600}; !cmp.Equal(claims, want) {
			t.Errorf("claims = %v, want %v", claims, want)
		}
		head, _ := base64.RawURLEncoding.DecodeString(parts[0])
		if string(head) != `{"alg":"ES256","kid":"key-1","typ":"JWT"}` {
			t.Errorf("header = %s", head)
		}
	}

	source := func(path string) Config { return Config{GDCH: &GDCH{File: path, Audience: "a"}} }
	if _, _, err := mint(t, source(file(nil)), Env{}, token.Request{Audience: "a"}); err == nil || kindOf(t, err) != token.Unsupported {
		t.Errorf("ID token = %v, want Unsupported", err)
	}
	failure = `{"error":"invalid_client","error_description":"no such key, eyJhbGciOi.eyJpc3Mi.c2ln"}`
	if _, _, err := mint(t, source(file(nil)), Env{}, access); err == nil || kindOf(t, err) != token.Denied || !strings.Contains(err.Error(), "key of "+account) {
		t.Errorf("a refusal = %v, want Denied and the account", err)
	}
	if _, _, err := mint(t, source(file(map[string]any{"ca_cert_path": nil})), Env{}, access); err == nil || kindOf(t, err) != token.Unavailable || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without its authority = %v, want a refusal of the certificate", err)
	}

	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]map[string]any{
		"goes into a source of kind key_file": {"type": "service_account"},
		"fields project, name are missing":    {"project": nil, "name": nil},
		"format_version is \"2\"":             {"format_version": "2"},
		"use https":                           {"token_uri": "http://gdc.example/"},
		"it is not PEM":                       {"private_key": "planted"},
		"it is not an EC key of the curve":    {"private_key": pemOf(t, p384)},
		"not an EC key":                       {"private_key": pemOf(t, rsaKey())},
		"ca_cert_path":                        {"ca_cert_path": textFile(t, "planted")},
	} {
		if _, _, err := mint(t, source(file(change)), Env{}, access); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open = %v, want %q", err, want)
		}
	}
	if err := (Config{GDCH: &GDCH{}}).Validate(); err == nil || !strings.Contains(err.Error(), "file is missing") || !strings.Contains(err.Error(), "audience is missing") {
		t.Errorf("Validate of nothing = %v, want both faults", err)
	}
}

func FuzzParseGDCH(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	data, _ := json.Marshal(map[string]any{"type": "gdch_service_account", "format_version": "1", "project": "p", "name": "n", "private_key": pemOf(f, key), "token_uri": "https://gdc.example/"})
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if file, key, err := parseGDCH(data); err == nil && (key == nil || file.TokenURI == "") {
			t.Errorf("a file without key or token_uri was accepted: %s", data)
		}
	})
}
