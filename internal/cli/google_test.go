package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/gcemds/gcemds/internal/credential"
	"github.com/gcemds/gcemds/internal/token"
)

const cloudPlatform = "https://www.googleapis.com/auth/cloud-platform"

// A text is what a command has said so far.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// faking runs gcemds google in this process until the test ends.
func faking(t *testing.T, args ...string) (base string, stdout, stderr *text, stop func() int) {
	t.Helper()
	stdout, stderr = &text{}, &text{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append([]string{"google", "--listen", "127.0.0.1:0"}, args...), stdout, stderr)
	}()
	ended := false
	stop = func() int {
		cancel()
		if ended {
			return exitOK
		}
		ended = true
		return <-done
	}
	t.Cleanup(func() { stop() })
	if err := await(func() error {
		m := regexp.MustCompile(`(?s)fake Google on (\S+);.*certificates`).FindStringSubmatch(stdout.String())
		if m == nil {
			return fmt.Errorf("gcemds google says %q and %q", stdout, stderr)
		}
		base = m[1]
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return base, stdout, stderr, stop
}

func mintWith(t *testing.T, file string) (token.Token, error) {
	t.Helper()
	source, _, err := credential.Config{KeyFile: &credential.KeyFile{File: file}}.Open(t.Context(), credential.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return source.Mint(t.Context(), token.Request{Scopes: []string{cloudPlatform}})
}

func status(t *testing.T, target string) int {
	t.Helper()
	code, _, err := ask(target)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// TestGoogleKey: a key that it makes is good there, as long as it runs.
func TestGoogleKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sa.json")
	base, stdout, stderr, stop := faking(t, "--key-out", file, "--account", "me@proj.iam.gserviceaccount.com")
	tok, err := mintWith(t, file)
	if err != nil {
		t.Fatal(err)
	}
	if got := status(t, base+"/tokeninfo?access_token="+tok.Value); got != 200 {
		t.Errorf("tokeninfo of the token = %d, want 200", got)
	}
	if want := "export GOOGLE_APPLICATION_CREDENTIALS=" + file; !strings.Contains(stdout.String(), want) {
		t.Errorf("it says %q, want it to say %q", stdout, want)
	}
	if !strings.Contains(stderr.String(), "path=/token") || strings.Contains(stderr.String(), tok.Value) {
		t.Errorf("the log is %q, want a line for the exchange without the token", stderr)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o077 != 0 && filepath.Separator == '/' {
		t.Errorf("mode of the key file = %v, %v; want it readable by its owner only", info.Mode(), err)
	}
	if code := stop(); code != exitOK {
		t.Errorf("it ends with %d when it is interrupted, want 0", code)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the key is still there, and good for nothing")
	}
}

// TestGoogleExternal: the demo workload gets its subject token with the secret
// in its file, a federated token for it, and acts as the account.
func TestGoogleExternal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "external.json")
	base, _, _, _ := faking(t, "--external-out", file)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Audience    string
		SubjectType string `json:"subject_token_type"`
		Token       string `json:"token_url"`
		Impersonate string `json:"service_account_impersonation_url"`
		Source      struct {
			URL     string
			Headers map[string]string
		} `json:"credential_source"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	if got := status(t, f.Source.URL); got != 401 {
		t.Errorf("subject token without the secret = %d, want 401", got)
	}
	send := func(method, target, bearer, kind string, body io.Reader) (out map[string]any, text string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, target, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", kind)
		if bearer != "" {
			req.Header.Set("Authorization", bearer)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s %s = %s %s, %v", method, target, resp.Status, data, err)
		}
		json.Unmarshal(data, &out)
		return out, string(data)
	}
	_, subject := send("GET", f.Source.URL, f.Source.Headers["Authorization"], "", nil)
	federated, _ := send("POST", f.Token, "", "application/x-www-form-urlencoded", strings.NewReader(url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "audience": {f.Audience}, "scope": {cloudPlatform},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"}, "subject_token": {subject}, "subject_token_type": {f.SubjectType},
	}.Encode()))
	got, _ := send("POST", f.Impersonate, "Bearer "+federated["access_token"].(string), "application/json", strings.NewReader(`{"scope":["`+cloudPlatform+`"]}`))
	if info := status(t, base+"/tokeninfo?access_token="+got["accessToken"].(string)); info != 200 {
		t.Errorf("tokeninfo of the token = %d, want 200", info)
	}
}

// TestGoogleConfig: a file says who is known and what goes wrong, and is read
// again when it changes; a wrong one changes nothing.
func TestGoogleConfig(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	made := filepath.Join(dir, "made.json")
	_, _, _, stop := faking(t, "--key-out", made)
	key, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	write("sa.json", string(key))
	write("adc.json", `{"type":"authorized_user","client_id":"c","client_secret":"s","refresh_token":"1//r"}`)
	write("aws.json", `{"AccessKeyId":"AKID","SecretAccessKey":"wJalrXUtnFEMI/K7MDENG"}`)
	write("saml", "PHNhbWw+\n")
	const pool = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/"
	config := func(extra string) string {
		return write("google.yaml", `
accounts:
  robot@my-project.iam.gserviceaccount.com:
    keys: [sa.json]
    long_lived: true
    grants: {roles/iam.serviceAccountTokenCreator: ["user:ann@example.com"]}
    domain_wide: {subjects: ["@example.com"], scopes: [`+cloudPlatform+`]}
users:
  - {email: ann@example.com, file: adc.json}
providers:
  `+pool+`a: {aws: [{file: aws.json, arn: "arn:aws:iam::1:user/a"}]}
  `+pool+`s: {saml: [{file: saml, subject: ann}]}
`+extra)
	}
	base, _, stderr, _ := faking(t, "--config", config(""))
	exchange := func(values url.Values) int {
		t.Helper()
		path := "/v1/token"
		if values.Has("refresh_token") {
			path = "/token"
		}
		resp, err := http.PostForm(base+path, values)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	login := url.Values{"grant_type": {"refresh_token"}, "client_id": {"c"}, "client_secret": {"s"}, "refresh_token": {"1//r"}}
	if got := exchange(login); got != 200 {
		t.Errorf("login of the file = %d, want 200", got)
	}
	saml := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "audience": {pool + "s"}, "scope": {cloudPlatform},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"}, "subject_token": {"PHNhbWw+"}, "subject_token_type": {"urn:ietf:params:oauth:token-type:saml2"}}
	if got := exchange(saml); got != 200 {
		t.Errorf("SAML of the file = %d, want 200", got)
	}

	// What a knob of the file does is seen from outside.
	says := func() (expiresIn float64, keys string, signed error) {
		t.Helper()
		resp, err := http.PostForm(base+"/token", login)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer struct {
			ExpiresIn float64 `json:"expires_in"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		signer, _, err := credential.Config{KeyFile: &credential.KeyFile{File: filepath.Join(dir, "sa.json"), TokenURI: base + "/token"}}.Open(t.Context(), credential.Env{})
		if err != nil {
			t.Fatal(err)
		}
		_, signed = signer.Mint(t.Context(), token.Request{Scopes: []string{cloudPlatform}})
		_, keys, err = ask(base + "/oauth2/v3/certs")
		if err != nil {
			t.Fatal(err)
		}
		return answer.ExpiresIn, keys, signed
	}
	life, before, signed := says()
	if life < 3000 || signed != nil {
		t.Errorf("without knobs expires_in is %v and an assertion gets %v, want an hour and a token", life, signed)
	}
	config("clock_offset: 2h\nrotate_every: 10ms\nexpires_in: 100\n")
	if err := await(func() error {
		if life, keys, signed := says(); life != 100 || signed == nil || !strings.Contains(signed.Error(), "clock") || keys == before {
			return fmt.Errorf("with a file that says expires_in: 100, clock_offset: 2h and rotate_every: 10ms: expires_in is %v, an assertion of our time gets %v, and there is a new key: %v", life, signed, keys != before)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}

	config("clock_offset: 1h\nrotate_every: 1h\nexpires_in: 100\nfaults: [{path: /token, status: 418, delay: 1ms}]\n")
	if err := await(func() error {
		if got := exchange(login); got != 418 {
			return fmt.Errorf("with a fault that was added = %d, want 418", got)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	config("acounts: {}\n")
	if err := await(func() error {
		if !strings.Contains(stderr.String(), "all stays as it was") || !strings.Contains(stderr.String(), "acounts") {
			return fmt.Errorf("the log says nothing of a wrong file: %s", stderr)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if got := exchange(login); got != 418 {
		t.Errorf("after a wrong file = %d, want 418 as before", got)
	}
}

// TestGoogleProxy: the fake stands for Google's hosts behind the proxy, whose
// certificate is in the file.
func TestGoogleProxy(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	_, stdout, _, _ := faking(t, "--proxy", "127.0.0.1:0", "--ca-out", ca)
	m := regexp.MustCompile(`HTTPS_PROXY=(\S+) SSL_CERT_FILE=` + regexp.QuoteMeta(ca)).FindStringSubmatch(stdout.String())
	if m == nil {
		t.Fatalf("it does not say how to use the proxy: %s", stdout)
	}
	through, err := url.Parse(m[1])
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(data)
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(through), TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://accounts.google.com/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var document map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&document); err != nil || document["jwks_uri"] != "https://accounts.google.com/oauth2/v3/certs" {
		t.Errorf("discovery document = %v, %v", document, err)
	}
}

// TestGoogleRefuses: what is wrong is said before anything is served, and no
// file is lost.
func TestGoogleRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	precious := write("precious.json", "precious")
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"--key-out " + precious, exitError, "precious.json exists and is not overwritten"},
		{"--external-out " + precious, exitError, "exists and is not overwritten"},
		{"--proxy 127.0.0.1:0 --ca-out " + precious, exitError, "exists and is not overwritten"},
		{"--proxy 127.0.0.1:0", exitUsage, "--proxy and --ca-out go together"},
		{"--listen 0.0.0.0:0", exitError, "say --allow-remote"},
		{"--config " + filepath.Join(dir, "none"), exitError, "none"},
		{"--keys " + precious, exitError, "precious.json: it is neither JSON nor PEM; nothing was started"},
		{"--keys " + empty, exitError, "there is no *.json in it"},
		{"--config " + write("field.yaml", "acounts: {}"), exitError, "acounts"},
		{"--config " + write("role.yaml", "accounts: {a@b.example: {grants: {owner: [x]}}}"), exitError, `role "owner" is not one of`},
		{"--config " + write("fault.yaml", "faults: [{status: 7}]"), exitError, "status 7 is not between 200 and 599"},
		{"--config " + write("key.yaml", "accounts: {a@b.example: {keys: [precious.json, none.json]}}"), exitError, "none.json"},
		{"--config " + write("user.yaml", "users: [{email: a@b.example, file: precious.json}]"), exitError, "precious.json: it is not a JSON object"},
		{"--config " + write("roots.yaml", "providers: {//iam.googleapis.com/projects/1: {roots: precious.json}}"), exitError, "there is no certificate in it"},
	} {
		var stdout, stderr bytes.Buffer
		args := append([]string{"google", "--listen", "127.0.0.1:0"}, strings.Fields(c.args)...)
		if code := run(t.Context(), args, &stdout, &stderr); code != c.code || !strings.Contains(stderr.String(), c.want) || stdout.Len() > 0 {
			t.Errorf("gcemds google %s ends with %d and says %q and %q; want %d and %q", c.args, code, &stdout, &stderr, c.code, c.want)
		}
		if strings.Contains(stderr.String(), "precious\n") {
			t.Errorf("gcemds google %s shows what is in the file: %s", c.args, &stderr)
		}
	}
	if data, err := os.ReadFile(precious); err != nil || string(data) != "precious" {
		t.Errorf("the file that was there holds %q, %v", data, err)
	}
}
