package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/auth/credentials/idtoken"
	"cloud.google.com/go/auth/credentials/impersonate"
	"golang.org/x/oauth2/google"
)

const (
	robot     = "robot@my-project.iam.gserviceaccount.com"
	relay     = "relay@my-project.iam.gserviceaccount.com"
	target    = "target@my-project.iam.gserviceaccount.com"
	person    = "ann@example.com"
	pool      = "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/e2e-pool"
	workforce = "principal://iam.googleapis.com/locations/global/workforcePools/staff/subject/ann"
	typeToken = "urn:ietf:params:oauth:token-type:"
)

// A fake is a running gcemds google, and a directory with the credential
// files of its clients. Each file is there twice: pointed at the fake, and
// with Google's hosts for programs behind the proxy (hard-NAME).
type fake struct {
	base  string
	dir   string
	proxy string // URL
	log   *buffer
}

// newFake starts gcemds google with an account of each kind, until the test
// ends.
func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{dir: t.TempDir(), log: &buffer{}}
	f.files(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	cmd := machine{}.command(ctx, nil, gcemds, "google", "--listen", "127.0.0.1:0", "--proxy", "127.0.0.1:0", "--ca-out", f.path("ca.pem"),
		"--config", f.path("google.yaml"), "--key-out", f.path("sa.json"), "--account", robot, "--external-out", f.path("url.json"))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stderr = f.log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && !strings.Contains(lines.Text(), "certificates") {
		if m := regexp.MustCompile(`fake Google on (http://\S+);`).FindStringSubmatch(lines.Text()); m != nil {
			f.base = m[1]
		}
		if m := regexp.MustCompile(`HTTPS_PROXY=(\S+)`).FindStringSubmatch(lines.Text()); m != nil {
			f.proxy = m[1]
		}
	}
	t.Cleanup(func() {
		cancel()
		if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("gcemds google, interrupted: %v; want exit status 0", err)
		}
		if t.Failed() {
			t.Logf("gcemds google said:\n%s", f.log)
		}
	})
	if f.base == "" || f.proxy == "" {
		t.Fatalf("gcemds google does not print its address and that of the proxy:\n%s", f.log)
	}
	f.derive(t)
	return f
}

func (f *fake) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fake) write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(f.path(name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f *fake) writeJSON(t *testing.T, name string, v any) {
	t.Helper()
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	f.write(t, name, data)
}

func encode(t *testing.T, kind string, der []byte, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

type object = map[string]any

// files writes what the fake is told: its configuration and what that names.
func (f *fake) files(t *testing.T) {
	idp, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&idp.PublicKey)
	f.write(t, "idp.pem", encode(t, "PUBLIC KEY", spki, err))
	now := time.Now()
	f.write(t, "subject.jwt", []byte(signRS256(t, idp, object{
		"iss": "https://idp.example", "sub": "app", "aud": "https:" + pool + "/providers/file", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}))) // Node does not trim it

	distributed, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := x509.MarshalECPrivateKey(distributed)
	f.writeJSON(t, "gdch-key.json", object{"type": "gdch_service_account", "format_version": "1", "project": "proj", "name": "robot",
		"private_key_id": "k", "private_key": string(encode(t, "EC PRIVATE KEY", ec, err)), "token_uri": "set by derive"})

	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "workload"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, distributed.Public(), distributed)
	f.write(t, "workload.pem", encode(t, "CERTIFICATE", der, err))
	f.write(t, "workload.key", encode(t, "EC PRIVATE KEY", ec, nil))
	f.writeJSON(t, "certificate_config.json", object{"cert_configs": object{"workload": object{"cert_path": f.path("workload.pem"), "key_path": f.path("workload.key")}}})

	f.writeJSON(t, "adc.json", object{"type": "authorized_user", "client_id": "cli", "client_secret": "secret", "refresh_token": "1//adc"})
	f.writeJSON(t, "wf-login.json", object{"client_id": "wf", "client_secret": "secret", "refresh_token": "first"})
	f.writeJSON(t, "aws.json", object{"AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "wJalrXUtnFEMI/K7MDENG", "Token": "session"})
	f.write(t, "google.yaml", []byte(`
accounts:
  `+relay+`: {grants: {roles/iam.serviceAccountTokenCreator: ["serviceAccount:`+robot+`"]}}
  `+target+`:
    long_lived: true
    domain_wide: {subjects: [`+person+`], scopes: [`+cloudPlatform+`]}
    grants:
      roles/iam.serviceAccountTokenCreator: ["serviceAccount:`+robot+`", "serviceAccount:`+relay+`"]
      roles/iam.workloadIdentityUser: ["principalSet:`+pool+`/*", "`+workforce+`"]
  system:serviceaccount:proj:robot: {keys: [gdch-key.json]}
users:
  - {file: adc.json, email: `+person+`}
  - {file: wf-login.json, principal: "`+workforce+`", rotate: true, scopes: [`+cloudPlatform+`]}
providers:
  `+pool+`/providers/file: {issuer: https://idp.example, keys: [idp.pem]}
  `+pool+`/providers/aws: {aws: [{file: aws.json, arn: "arn:aws:sts::1:assumed-role/r/s"}]}
  `+pool+`/providers/x509: {roots: workload.pem}
`))
}

// derive writes the files of clients.
func (f *fake) derive(t *testing.T) {
	data, err := os.ReadFile(f.path("sa.json"))
	if err != nil {
		t.Fatal(err)
	}
	var key object
	if err := json.Unmarshal(data, &key); err != nil {
		t.Fatal(err)
	}
	key["token_uri"] = "https://oauth2.googleapis.com/token"
	f.writeJSON(t, "hard-sa.json", key)

	external := func(provider, kind string, source object) object {
		return object{"type": "external_account", "audience": pool + "/providers/" + provider, "subject_token_type": kind, "token_url": f.base + "/v1/token", "credential_source": source}
	}
	file := external("file", typeToken+"jwt", object{"file": f.path("subject.jwt")})
	f.writeJSON(t, "direct.json", file)
	acting := maps.Clone(file)
	acting["service_account_impersonation_url"] = f.base + "/v1/projects/-/serviceAccounts/" + target + ":generateAccessToken"
	acting["service_account_impersonation"] = object{"token_lifetime_seconds": 7200}
	f.writeJSON(t, "file.json", acting)
	hard := maps.Clone(acting)
	hard["token_url"] = "https://sts.googleapis.com/v1/token"
	hard["service_account_impersonation_url"] = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/" + target + ":generateAccessToken"
	f.writeJSON(t, "hard-file.json", hard)
	certificate := external("x509", typeToken+"mtls", object{"certificate": object{"certificate_config_location": f.path("certificate_config.json")}})
	certificate["token_url"] = "https://sts.mtls.googleapis.com/v1/token"
	f.writeJSON(t, "hard-x509.json", certificate)

	login := object{"type": "external_account_authorized_user", "audience": "//iam.googleapis.com/locations/global/workforcePools/staff/providers/p",
		"client_id": "wf", "client_secret": "secret", "refresh_token": "first", "token_url": f.base + "/v1/oauthtoken"}
	f.writeJSON(t, "workforce.json", login)
	hard = maps.Clone(login)
	hard["token_url"] = "https://sts.googleapis.com/v1/oauthtoken"
	f.writeJSON(t, "hard-workforce.json", hard)

	var source object
	if err := json.Unmarshal(data, &source); err != nil {
		t.Fatal(err)
	}
	f.writeJSON(t, "hard-impersonated.json", object{"type": "impersonated_service_account", "source_credentials": key,
		"service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/" + target + ":generateAccessToken"})
	f.writeJSON(t, "impersonated.json", object{"type": "impersonated_service_account", "source_credentials": source,
		"service_account_impersonation_url": f.base + "/v1/projects/-/serviceAccounts/" + target + ":generateAccessToken",
		"delegates":                         []string{"projects/-/serviceAccounts/" + relay}})

	if data, err = os.ReadFile(f.path("gdch-key.json")); err != nil {
		t.Fatal(err)
	}
	var gdch object
	if err := json.Unmarshal(data, &gdch); err != nil {
		t.Fatal(err)
	}
	gdch["token_uri"], gdch["ca_cert_path"] = f.base+"/token", f.path("workload.pem") // the library wants one, with http too
	f.writeJSON(t, "gdch.json", gdch)
}

// aws writes an external_account file whose credentials come from the metadata
// server of a machine at Amazon.
func (f *fake) aws(t *testing.T) string {
	imds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token" && r.Method == "PUT":
			io.WriteString(w, "imds")
		case r.Header.Get("X-aws-ec2-metadata-token") != "imds":
			w.WriteHeader(401)
		case r.URL.Path == "/zone":
			io.WriteString(w, "us-east-2b")
		case r.URL.Path == "/role":
			io.WriteString(w, "r")
		case r.URL.Path == "/role/r":
			http.ServeFile(w, r, f.path("aws.json"))
		}
	}))
	t.Cleanup(imds.Close)
	f.writeJSON(t, "amazon.json", object{"type": "external_account", "audience": pool + "/providers/aws",
		"subject_token_type": "urn:ietf:params:aws:token-type:aws4_request", "token_url": f.base + "/v1/token",
		"credential_source": object{"environment_id": "aws1", "region_url": imds.URL + "/zone", "url": imds.URL + "/role", "imdsv2_session_token_url": imds.URL + "/token",
			"regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15"}})
	return "amazon.json"
}

func signRS256(t *testing.T, key *rsa.PrivateKey, claims object) string {
	t.Helper()
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	signed := part(object{"alg": "RS256", "typ": "JWT"}) + "." + part(claims)
	sum := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// owner asks tokeninfo whose a token is; "" if it does not know.
func owner(host, value string) (string, error) {
	resp, err := http.PostForm(host+"/tokeninfo", url.Values{"access_token": {value}})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var info struct{ Email, Sub string }
	if err := json.NewDecoder(resp.Body).Decode(&info); err != nil {
		return "", err
	}
	if info.Email != "" {
		return info.Email, nil
	}
	return info.Sub, nil
}

// TestGoogle: the Go libraries get tokens from the fake through what their
// files can point elsewhere.
func TestGoogle(t *testing.T) {
	f := newFake(t)
	scopes := []string{cloudPlatform, "https://www.googleapis.com/auth/userinfo.email"}
	for name, c := range map[string]struct {
		kind   credentials.CredType
		file   string
		owner  string // "" for a federated token, which tokeninfo does not know
		prefix string
		life   time.Duration
	}{
		"key":                  {credentials.ServiceAccount, "sa.json", robot, "ya29.c.", time.Hour},
		"federation, file":     {credentials.ExternalAccount, "direct.json", "", "ya29.d.", time.Hour},
		"file, impersonation":  {credentials.ExternalAccount, "file.json", target, "ya29.c.", 2 * time.Hour},
		"url, impersonation":   {credentials.ExternalAccount, "url.json", robot, "ya29.c.", time.Hour},
		"federation, AWS":      {credentials.ExternalAccount, f.aws(t), "", "ya29.d.", time.Hour},
		"workforce login":      {credentials.ExternalAccountAuthorizedUser, "workforce.json", "", "ya29.d.", time.Hour},
		"impersonated account": {credentials.ImpersonatedServiceAccount, "impersonated.json", target, "ya29.c.", time.Hour},
		"distributed cloud":    {credentials.GDCHServiceAccount, "gdch.json", "145273774503244461542", "ya29.c.", time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			creds, err := credentials.NewCredentialsFromFile(c.kind, f.path(c.file), &credentials.DetectOptions{Scopes: scopes, STSAudience: "https://api.example"})
			if err != nil {
				t.Fatal(err)
			}
			tok, err := creds.Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(tok.Value, c.prefix) {
				t.Errorf("the token does not begin with %s", c.prefix)
			}
			if left := time.Until(tok.Expiry); left > c.life+time.Minute || left < c.life-time.Minute {
				t.Errorf("the token expires in %v, want %v", left, c.life)
			}
			if got, err := owner(f.base, tok.Value); err != nil || !strings.HasPrefix(got, c.owner) || c.owner == "" && got != "" {
				t.Errorf("the token is of %q (%v), want of %q", got, err, c.owner)
			}
		})
	}

	t.Run("x/oauth2", func(t *testing.T) {
		data, err := os.ReadFile(f.path("sa.json"))
		if err != nil {
			t.Fatal(err)
		}
		config, err := google.JWTConfigFromJSON(data, scopes...)
		if err != nil {
			t.Fatal(err)
		}
		tok, err := config.TokenSource(t.Context()).Token()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := owner(f.base, tok.AccessToken); err != nil || got != robot {
			t.Errorf("the token is of %q (%v), want of %s", got, err, robot)
		}
		config.PrivateKeyID = "another"
		if _, err := config.TokenSource(t.Context()).Token(); err == nil || !strings.Contains(err.Error(), "Invalid JWT Signature.") {
			t.Errorf("with another key id: %v, want Google's words", err)
		}
		config.Email = "nobody@my-project.iam.gserviceaccount.com"
		if _, err := config.TokenSource(t.Context()).Token(); err == nil || !strings.Contains(err.Error(), "account not found") {
			t.Errorf("as an account that is not there: %v, want Google's words", err)
		}
	})

	t.Run("ID token", func(t *testing.T) {
		creds, err := idtoken.NewCredentialsFromFile(credentials.ServiceAccount, f.path("sa.json"), &idtoken.Options{Audience: audience})
		if err != nil {
			t.Fatal(err)
		}
		tok, err := creds.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		v, err := idtoken.NewValidator(&idtoken.ValidatorOptions{RS256CertsURL: f.base + "/oauth2/v3/certs"})
		if err != nil {
			t.Fatal(err)
		}
		if p, err := v.Validate(t.Context(), tok.Value, audience); err != nil || p.Claims["email"] != robot {
			t.Errorf("the ID token: %v, want it to verify as of %s", err, robot)
		}
	})
}

// TestGoogleHosts: programs in which Google's hosts are built in, unchanged,
// behind the proxy.
func TestGoogleHosts(t *testing.T) {
	f := newFake(t)
	t.Run("Go", func(t *testing.T) {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		f.client(t, []string{"GCEMDS_E2E_PROBE=google"}, self)
	})
	t.Run("gcemds", func(t *testing.T) {
		f.write(t, "ours.yaml", []byte(ours))
		f.client(t, nil, gcemds, "config", "check", "--mint", f.path("ours.yaml"))
	})
	t.Run("Node google-auth-library", func(t *testing.T) {
		f.client(t, nil, "node", filepath.Join(here, "node/google.test.js"))
	})
	t.Run("Python google-auth", func(t *testing.T) {
		f.client(t, []string{"PYTHONPATH=" + filepath.Join(layer(t), "usr/lib/python3/dist-packages"), "PYTHONDONTWRITEBYTECODE=1"},
			python, "-W", "ignore::ResourceWarning", filepath.Join(here, "python/test_google.py"))
	})
}

// ours are sources of gcemds for the files of the fake, with Google's hosts.
const ours = `
sources:
  key: {key_file: hard-sa.json}
  login: {user: {file: adc.json}}
  workforce: {user: {file: hard-workforce.json}}
  file: {external: {file: hard-file.json}}
  certificate: {external: {file: hard-x509.json}}
  impersonated: {impersonate: {file: hard-impersonated.json}}
  hop: {impersonate: {target: ` + target + `, via: key}}
  twelve: {impersonate: {target: ` + target + `, via: key, lifetime: 12h}}
  relayed: {impersonate: {target: ` + target + `, via: key, delegates: [` + relay + `]}}
  person: {impersonate: {target: ` + target + `, via: key, subject: ` + person + `}}
`

// client runs a program behind the proxy.
func (f *fake) client(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ca := f.path("ca.pem")
	env = append(env, "GCEMDS_E2E_FILES="+f.dir, "HTTPS_PROXY="+f.proxy, "https_proxy="+f.proxy,
		"SSL_CERT_FILE="+ca, "REQUESTS_CA_BUNDLE="+ca, "NODE_EXTRA_CA_CERTS="+ca)
	for _, v := range metadataVariables {
		env = append(env, v+"="+nowhere)
	}
	if out, err := (machine{}).command(ctx, env, name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s: %v:\n%s", filepath.Base(name), err, out)
	}
}

// googleProbe is this test binary as such a program.
func googleProbe() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dir := os.Getenv("GCEMDS_E2E_FILES")
	scopes := []string{cloudPlatform, "https://www.googleapis.com/auth/userinfo.email"}
	load := func(kind credentials.CredType, name string) (*auth.Credentials, error) {
		return credentials.NewCredentialsFromFile(kind, filepath.Join(dir, name), &credentials.DetectOptions{Scopes: scopes})
	}
	robotCreds, err := load(credentials.ServiceAccount, "hard-sa.json")
	if err != nil {
		return err
	}
	as := func(o impersonate.CredentialsOptions) (*auth.Credentials, error) {
		o.TargetPrincipal, o.Scopes, o.Credentials = target, scopes, robotCreds
		return impersonate.NewCredentials(&o)
	}
	var errs []error
	for _, c := range []struct {
		name, owner string
		open        func() (*auth.Credentials, error)
	}{
		{"key", robot, func() (*auth.Credentials, error) { return robotCreds, nil }},
		{"login of gcloud", person, func() (*auth.Credentials, error) { return load(credentials.AuthorizedUser, "adc.json") }},
		{"federation with impersonation", target, func() (*auth.Credentials, error) { return load(credentials.ExternalAccount, "hard-file.json") }},
		{"federation by certificate", "", func() (*auth.Credentials, error) { return load(credentials.ExternalAccount, "hard-x509.json") }},
		{"impersonate", target, func() (*auth.Credentials, error) { return as(impersonate.CredentialsOptions{}) }},
		{"impersonate for 12 hours", target, func() (*auth.Credentials, error) { return as(impersonate.CredentialsOptions{Lifetime: 12 * time.Hour}) }},
		{"impersonate with delegates", target, func() (*auth.Credentials, error) {
			return as(impersonate.CredentialsOptions{Delegates: []string{relay}})
		}},
		{"impersonate by a self-signed JWT", target, func() (*auth.Credentials, error) {
			self, err := credentials.NewCredentialsFromFile(credentials.ServiceAccount, filepath.Join(dir, "hard-sa.json"),
				&credentials.DetectOptions{Scopes: scopes, UseSelfSignedJWT: true})
			if err != nil {
				return nil, err
			}
			return impersonate.NewCredentials(&impersonate.CredentialsOptions{TargetPrincipal: target, Scopes: scopes, Credentials: self})
		}},
	} {
		creds, err := c.open()
		if err == nil {
			var tok *auth.Token
			if tok, err = creds.Token(ctx); err == nil {
				var got string
				if got, err = owner("https://oauth2.googleapis.com", tok.Value); err == nil && got != c.owner {
					err = fmt.Errorf("the token is of %q, want of %q", got, c.owner)
				}
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.name, err))
		}
	}
	subject, err := impersonate.NewCredentials(&impersonate.CredentialsOptions{TargetPrincipal: target, Scopes: []string{cloudPlatform}, Credentials: robotCreds, Subject: person})
	if err == nil {
		_, err = subject.Token(ctx)
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("domain-wide delegation: %w", err))
	}
	return errors.Join(append(errs, hardIDTokens(ctx, dir, robotCreds), hardSignature(ctx, robotCreds))...)
}

// hardIDTokens verifies ID tokens with what the library takes for Google's
// certificates.
func hardIDTokens(ctx context.Context, dir string, robotCreds *auth.Credentials) error {
	impersonated, err := impersonate.NewIDTokenCredentials(&impersonate.IDTokenOptions{TargetPrincipal: target, Audience: audience, IncludeEmail: true, Credentials: robotCreds})
	if err != nil {
		return err
	}
	own, err := idtoken.NewCredentialsFromFile(credentials.ServiceAccount, filepath.Join(dir, "hard-sa.json"), &idtoken.Options{Audience: audience})
	if err != nil {
		return err
	}
	for email, creds := range map[string]*auth.Credentials{target: impersonated, robot: own} {
		tok, err := creds.Token(ctx)
		if err != nil {
			return fmt.Errorf("ID token of %s: %w", email, err)
		}
		p, err := idtoken.Validate(ctx, tok.Value, audience)
		if err != nil {
			return fmt.Errorf("ID token of %s: %w", email, err)
		}
		if p.Claims["email"] != email || p.Issuer != "https://accounts.google.com" {
			return fmt.Errorf("ID token of %s is of %v, by %s", email, p.Claims["email"], p.Issuer)
		}
	}
	return nil
}

// hardSignature signs the text of a signed URL by signBlob, and checks it as
// the storage service would: with the certificates of the account.
func hardSignature(ctx context.Context, creds *auth.Credentials) error {
	text := []byte("GOOG4-RSA-SHA256\n20261125T120000Z\n20261125/auto/storage/goog4_request\n" + strings.Repeat("a", 64))
	tok, err := creds.Token(ctx)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string][]byte{"payload": text})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/"+target+":signBlob", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+tok.Value)
	req.Header.Set("Content-Type", "application/json")
	var blob struct {
		KeyID      string
		SignedBlob []byte
	}
	if err := fetchJSON(req, &blob); err != nil {
		return err
	}
	if req, err = http.NewRequestWithContext(ctx, "GET", "https://www.googleapis.com/service_accounts/v1/metadata/x509/"+target, nil); err != nil {
		return err
	}
	var certs map[string]string
	if err := fetchJSON(req, &certs); err != nil {
		return err
	}
	block, _ := pem.Decode([]byte(certs[blob.KeyID]))
	if block == nil {
		return fmt.Errorf("key %s is not among the certificates of %s", blob.KeyID, target)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	return cert.CheckSignature(x509.SHA256WithRSA, text, blob.SignedBlob)
}

func fetchJSON(req *http.Request, v any) error {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s %s %w", req.Method, req.URL, resp.Status, data, err)
	}
	return json.Unmarshal(data, v)
}
