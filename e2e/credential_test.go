package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/auth/credentials"

	"github.com/gcemds/gcemds/internal/credential"
	"github.com/gcemds/gcemds/internal/token"
)

// TestCredentialFiles: of each credential file, we ask Google for the same in
// the same words as Google's own library.
func TestCredentialFiles(t *testing.T) {
	t.Setenv("AWS_REGION", "us-east-2")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
	t.Setenv("AWS_SESSION_TOKEN", "session/token==")
	t.Setenv("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1")

	var asked []string
	google := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, spell(t, r))
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, ":generateAccessToken"):
			fmt.Fprintf(w, `{"accessToken":"ya29.x","expireTime":%q}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		case r.URL.Path == "/subject":
			io.WriteString(w, `{"value":"subject"}`)
		default:
			io.WriteString(w, `{"access_token":"ya29.x","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3599}`)
		}
	}))
	defer google.Close()

	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	subject := write("subject", "subject\n", 0o600)
	program := write("program", "#!/bin/sh\n"+`echo '{"version":1,"success":true,"token_type":"urn:ietf:params:oauth:token-type:saml2","saml_response":"subject"}'`, 0o700)
	const workforce = "//iam.googleapis.com/locations/global/workforcePools/people/providers/p"
	robot := google.URL + "/v1/projects/-/serviceAccounts/robot@p.iam.gserviceaccount.com:generateAccessToken"
	type object = map[string]any
	external := func(source object, change object) object {
		o := object{
			"type": "external_account", "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
			"subject_token_type": "urn:ietf:params:oauth:token-type:saml2", "token_url": google.URL + "/v1/token", "credential_source": source,
		}
		maps.Copy(o, change)
		return o
	}
	login := object{"type": "authorized_user", "client_id": "id", "client_secret": "a:b/c", "refresh_token": "1//x", "token_uri": google.URL + "/token"}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	other := httptest.NewTLSServer(nil) // has a certificate
	defer other.Close()
	ca := write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Certificate().Raw})), 0o600)
	for name, tc := range map[string]struct {
		typ    credentials.CredType
		file   object
		config func(file string) credential.Config
	}{
		"file": {credentials.ExternalAccount, external(object{"file": subject}, nil), nil},
		"url":  {credentials.ExternalAccount, external(object{"url": google.URL + "/subject", "headers": object{"Metadata": "true"}, "format": object{"type": "json", "subject_token_field_name": "value"}}, nil), nil},
		"executable": {credentials.ExternalAccount, external(object{"executable": object{"command": program + " x", "timeout_millis": 5000}}, nil), func(file string) credential.Config {
			return credential.Config{External: &credential.External{File: file, AllowExecutable: true}}
		}},
		"aws": {credentials.ExternalAccount, external(object{
			"environment_id": "aws1", "regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
		}, object{"subject_token_type": "urn:ietf:params:aws:token-type:aws4_request"}), nil},
		"impersonation": {credentials.ExternalAccount, external(object{"file": subject}, object{
			"service_account_impersonation_url": robot, "service_account_impersonation": object{"token_lifetime_seconds": 1800}}), nil},
		"workforce with a project": {credentials.ExternalAccount, external(object{"file": subject}, object{"audience": workforce, "workforce_pool_user_project": "456"}), nil},
		"workforce with a client": {credentials.ExternalAccount, external(object{"file": subject}, object{
			"audience": workforce, "workforce_pool_user_project": "456", "client_id": "id", "client_secret": "se/cr+t:"}), nil},
		"login": {credentials.AuthorizedUser, login, func(file string) credential.Config { return credential.Config{User: &credential.User{File: file}} }},
		"workforce login": {credentials.ExternalAccountAuthorizedUser, object{
			"type": "external_account_authorized_user", "audience": workforce, "client_id": "id", "client_secret": "se/cr+t:", "refresh_token": "r", "token_url": google.URL + "/v1/oauthtoken",
		}, func(file string) credential.Config { return credential.Config{User: &credential.User{File: file}} }},
		"impersonated": {credentials.ImpersonatedServiceAccount, object{
			"type": "impersonated_service_account", "service_account_impersonation_url": robot,
			"delegates": []string{"projects/-/serviceAccounts/d@p.iam.gserviceaccount.com"}, "source_credentials": external(object{"file": subject}, nil),
		}, func(file string) credential.Config {
			return credential.Config{Impersonate: &credential.Impersonate{File: file}}
		}},
		"gdch": {credentials.GDCHServiceAccount, object{
			"type": "gdch_service_account", "format_version": "1", "project": "p", "name": "n", "private_key_id": "k", "token_uri": google.URL + "/authenticate", "ca_cert_path": ca,
			"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})),
		}, func(file string) credential.Config {
			return credential.Config{GDCH: &credential.GDCH{File: file, Audience: "https://api.example"}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := json.Marshal(tc.file)
			if err != nil {
				t.Fatal(err)
			}
			file := write("file.json", string(data), 0o600)
			scopes := []string{"https://www.googleapis.com/auth/a", "https://www.googleapis.com/auth/b"}

			asked = nil
			theirs, err := credentials.NewCredentialsFromFile(tc.typ, file, &credentials.DetectOptions{
				Scopes: scopes, STSAudience: "https://api.example", TokenURL: google.URL + "/token", Logger: slog.New(slog.DiscardHandler), DisableAsyncRefresh: true,
			})
			if err == nil {
				_, err = theirs.Token(t.Context())
			}
			if err != nil {
				t.Fatalf("Google's library: %v", err)
			}
			want := strings.Join(asked, "\n")

			asked = nil
			config := credential.Config{External: &credential.External{File: file}}
			if tc.config != nil {
				config = tc.config(file)
			}
			ours, _, err := config.Open(t.Context(), credential.Env{})
			if err == nil {
				_, err = ours.Mint(t.Context(), token.Request{Scopes: scopes})
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(asked, "\n"); got != want {
				t.Errorf("we asked\n%s\nGoogle's library asked\n%s", got, want)
			}
		})
	}
}

// spell writes a request in one form, without what differs from one to the
// next, such as the time.
func spell(t *testing.T, r *http.Request) string {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s authorization %q metadata %q\n", r.Method, r.URL, r.Header.Get("Content-Type"), r.Header.Get("Authorization"), r.Header.Get("Metadata"))
	var fields map[string]any
	if form, err := url.ParseQuery(string(body)); r.Header.Get("Content-Type") == "application/x-www-form-urlencoded" && err == nil {
		fields = map[string]any{}
		for name, values := range form {
			fields[name] = values[0]
		}
	} else if len(body) > 0 {
		if err := json.Unmarshal(body, &fields); err != nil {
			t.Errorf("%s has a body that is neither form nor JSON: %s", r.URL, body)
		}
	}
	if subject, _ := fields["subject_token"].(string); subject != "" {
		fields["subject_token"] = spellSubject(t, subject)
	}
	if fields["lifetime"] == "3600s" { // which is the default, and refused from a clock that is ahead: we leave it out
		delete(fields, "lifetime")
	}
	encode := json.NewEncoder(&b)
	encode.SetIndent("", "  ")
	encode.Encode(fields)
	return b.String()
}

// spellSubject takes times and signatures out of a JWT or a signed request.
func spellSubject(t *testing.T, subject string) any {
	if parts := strings.Split(subject, "."); len(parts) == 3 && strings.HasPrefix(subject, "eyJ") {
		var head, claims map[string]any
		for part, into := range map[int]*map[string]any{0: &head, 1: &claims} {
			data, err := base64.RawURLEncoding.DecodeString(parts[part])
			if err != nil || json.NewDecoder(bytes.NewReader(data)).Decode(into) != nil {
				t.Errorf("the assertion is no JWT: %s", subject)
			}
		}
		delete(claims, "iat")
		delete(claims, "exp")
		return []any{head, claims, len(parts[2])}
	}
	if text, err := url.QueryUnescape(subject); err == nil && strings.HasPrefix(text, "{") {
		var request struct {
			URL, Method string
			Headers     []struct{ Key, Value string }
		}
		if err := json.Unmarshal([]byte(text), &request); err != nil {
			t.Errorf("the signed request is no JSON: %s", text)
		}
		headers := map[string]string{}
		for _, h := range request.Headers {
			value, _, _ := strings.Cut(h.Value, " Signature=")
			if h.Key == "X-Amz-Date" {
				value = "now"
			}
			headers[h.Key] = value
		}
		return []any{request.URL, request.Method, headers}
	}
	return subject
}
