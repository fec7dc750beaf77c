package cli

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/tpm"
	"github.com/gcemds/gcemds/internal/tpm/swtpm"
)

const (
	gardenPool   = "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/pool/providers/"
	gardenPeople = "//iam.googleapis.com/locations/global/workforcePools/people/providers/saml"
	gardenRobot  = "robot@my-project.iam.gserviceaccount.com"
	gardenTarget = "target@my-project.iam.gserviceaccount.com"
)

// A garden is a place full of secrets: files that gcemds is given, and a Google
// that accepts them, and that tells all of them in its errors if it is told to.
type garden struct {
	plantation
	t      *testing.T
	dir    string // of the files
	google *httptest.Server
	fault  atomic.Value // a string: how Google fails, "" if it does not
	health string       // address of /metrics

	ci            *rsa.PrivateKey // of our own identity provider, and of the robot
	gdc, leaf     *ecdsa.PrivateKey
	aws, saml     string
	login, people map[string]string // secrets of logins
}

// file writes a file. Its name is relative to the configuration.
func (g *garden) file(name, content string) string {
	if err := os.WriteFile(filepath.Join(g.dir, name), []byte(content), 0o600); err != nil {
		g.t.Fatal(err)
	}
	return name
}

// secret writes a file that is a secret as a whole.
func (g *garden) secret(kind, name, content string) string {
	g.plant(kind, content)
	return g.file(name, content)
}

func (g *garden) json(name string, fields map[string]any) string {
	data, err := json.Marshal(fields)
	if err != nil {
		g.t.Fatal(err)
	}
	g.plantJSON(string(data))
	return g.file(name, string(data))
}

// key plants a key and returns its PEM form.
func (g *garden) key(key any) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		g.t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	g.plant("private key", text)
	return text
}

// certify returns a certificate of a key by an authority, both in PEM.
func certify(t *testing.T, key *ecdsa.PrivateKey) (leaf string, authority *x509.Certificate) {
	t.Helper()
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, root.Public(), root)
	if err != nil {
		t.Fatal(err)
	}
	if authority, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	template = &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "workload"}, NotBefore: template.NotBefore, NotAfter: template.NotAfter}
	if der, err = x509.CreateCertificate(rand.Reader, template, authority, key.Public(), root); err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), authority
}

// ServeHTTP is Google, a metadata server and the place of a subject token.
func (g *garden) ServeHTTP(fake http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		sent := []string{}
		if kind, credential, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok {
			g.plant("header "+kind, credential)
			sent = append(sent, credential)
		}
		right := httptest.NewRecorder()
		switch {
		case r.URL.Path == "/subject":
			io.WriteString(w, g.subject("from the address"))
			return
		case strings.HasPrefix(r.URL.Path, "/computeMetadata/v1/"):
			right.Header().Set("Metadata-Flavor", "Google")
			if strings.HasSuffix(r.URL.Path, "/token") {
				fmt.Fprintf(right, `{"access_token":"ya29.there-%s","expires_in":3599,"token_type":"Bearer"}`, rand.Text())
				break
			}
			jwt := g.subject("from there")
			g.plant("ID token", jwt)
			io.WriteString(right, jwt)
		default:
			if g.fault.Load() == "" || r.URL.Path != "/v1/oauthtoken" { // a refresh token that is rotated must arrive
				fake.ServeHTTP(right, r)
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			r.Form, r.PostForm = nil, nil
			if r.ParseForm() == nil {
				g.plantForm(r.PostForm)
				for _, values := range r.PostForm {
					sent = append(sent, values...)
				}
			}
			g.plantJSON(string(body))
		}
		answer := right.Body.String()
		g.plantJSON(answer)
		slices.SortFunc(sent, func(a, b string) int { return len(a) - len(b) })
		echo, _ := json.Marshal("You sent " + strings.Join(append(sent, string(body), answer), " and "))
		give := func(status int, kind, body string) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
		w.Header().Set("Metadata-Flavor", right.Header().Get("Metadata-Flavor"))
		const asJSON = "application/json"
		switch g.fault.Load() {
		case "":
			give(right.Code, right.Header().Get("Content-Type"), answer)
		case "oauth":
			give(400, asJSON, `{"error":"invalid_grant","error_description":`+string(echo)+`}`)
		case "api":
			give(403, asJSON, `{"error":{"code":403,"status":"PERMISSION_DENIED","message":`+string(echo)+`}}`)
		case "code":
			give(401, asJSON, `{"error":`+string(echo)+`}`)
		case "page":
			give(400, "text/html", "<html>"+string(echo))
		case "busy":
			w.Header().Set("Retry-After", "3600")
			give(503, asJSON, `{"error":{"status":"UNAVAILABLE","message":`+string(echo)+`}}`)
		case "redirect":
			w.Header().Set("Location", "https://127.0.0.1:1/?"+strings.Join(sent, "&"))
			give(307, "text/plain", string(echo))
		case "list": // of the wrong type
			give(200, asJSON, strings.NewReplacer(`": "`, `": ["`, `":"`, `":["`, `",`, `"],`, "\"\n", "\"]\n", `"}`, `"]}`).Replace(answer))
		case "space": // no token can have one
			give(200, asJSON, strings.NewReplacer(`.`, ` `, `eyJ`, `e J`).Replace(answer))
		case "cut":
			w.Header().Set("Content-Length", fmt.Sprint(len(answer)+100))
			give(200, asJSON, answer)
		}
	}
}

// subject is a new token of our own identity provider.
func (g *garden) subject(who string) string {
	now := time.Now()
	jwt, err := issuer.SignJWT(g.ci, "ci", map[string]any{
		"iss": "https://ci.example", "sub": who, "aud": "https:" + gardenPool + "oidc", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": rand.Text(),
	})
	if err != nil {
		g.t.Error(err)
	}
	g.plant("subject token", jwt)
	return jwt
}

// newGarden plants what is there before gcemds begins, and starts Google.
func newGarden(t *testing.T) *garden {
	t.Helper()
	g := &garden{t: t, dir: t.TempDir(), aws: "wJalrXUtnFEMI/K7MDENG+bPxRfiCY" + rand.Text()}
	g.fault.Store("")
	g.plant("AWS secret", g.aws)
	var err error
	if g.ci, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	g.key(g.ci)
	ec := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	g.gdc, g.leaf = ec(), ec()
	leaf, authority := certify(t, g.leaf)
	g.file("leaf.pem", leaf)
	g.file("leaf.key", g.key(g.leaf))
	roots := x509.NewCertPool()
	roots.AddCert(authority)

	g.saml = base64.StdEncoding.EncodeToString([]byte("<saml>" + strings.Repeat(rand.Text(), 8) + "</saml>"))
	g.secret("subject token", "saml", g.saml)
	g.login = map[string]string{"client_secret": "GOCSPX-" + rand.Text(), "refresh_token": "1//0" + rand.Text() + rand.Text()}
	g.people = map[string]string{"client_secret": "GOCSPX-" + rand.Text(), "refresh_token": "1//0" + rand.Text() + rand.Text()}
	robot := issuer.PublicKey{ID: "key-1", Key: &g.ci.PublicKey}
	// Every subject of the pool may act as the target.
	fake, err := issuer.New(issuer.Options{Directory: &issuer.Directory{
		Accounts: []issuer.Account{
			{Email: gardenRobot, Keys: []issuer.PublicKey{robot}},
			{
				Email:      gardenTarget,
				Grants:     map[string][]string{"roles/iam.serviceAccountTokenCreator": {"serviceAccount:" + gardenRobot, "principal:" + gardenPool[:strings.Index(gardenPool, "/providers/")] + "/subject/from a file"}},
				DomainWide: &issuer.DomainWide{Subjects: []string{"@example.com"}, Scopes: scopesOfGarden()},
			},
			{Email: "system:serviceaccount:my-project:robot", Keys: []issuer.PublicKey{{ID: "key-1", Key: &g.gdc.PublicKey}}},
		},
		Providers: []issuer.Provider{
			{Audience: gardenPool + "oidc", Issuer: "https://ci.example", Keys: []issuer.PublicKey{{ID: "ci", Key: &g.ci.PublicKey}}},
			{Audience: gardenPool + "aws", AWS: []issuer.AWSKey{{ID: "AKIDEXAMPLE", Secret: g.aws, ARN: "arn:aws:iam::1:user/build"}}},
			{Audience: gardenPool + "x509", Roots: roots},
			{Audience: gardenPeople, SAML: map[string]string{g.saml: "ann"}, ClientID: "id", ClientSecret: g.people["client_secret"]},
		},
		Users: []issuer.User{
			{Email: "ann@example.com", ClientID: "id", ClientSecret: g.login["client_secret"], RefreshToken: g.login["refresh_token"], Scopes: scopesOfGarden()},
			{Principal: "principal:" + gardenPeople[:strings.Index(gardenPeople, "/providers/")] + "/subject/bob", ClientID: "id", ClientSecret: g.people["client_secret"], RefreshToken: g.people["refresh_token"], Rotate: true, Scopes: scopesOfGarden()},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	g.google = httptest.NewUnstartedServer(g.ServeHTTP(fake.Handler()))
	g.google.EnableHTTP2 = true // the libraries of which can be made to print what they send
	g.google.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	g.google.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	g.google.StartTLS()
	t.Cleanup(func() { g.google.Close(); fake.Close() })
	g.file("google.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.google.Certificate().Raw})))
	return g
}

// scopesOfGarden are the scopes that accounts have, more than there are ways to
// fail, so that each can be met with a token that is not in the cache.
func scopesOfGarden() (scopes []string) {
	for n := range 16 {
		scopes = append(scopes, fmt.Sprintf("https://www.googleapis.com/auth/scope%d", n))
	}
	return append(scopes, cloudPlatform)
}

// configure writes the configuration and all that it names, and returns the
// names of its sources. Each is that of the machine NAME.test. Sockets go into
// the folder.
func (g *garden) configure(sockets string) (names []string) {
	keyPEM := g.key(g.ci)
	g.file("signer.pem", keyPEM)
	google := g.google.URL
	key := map[string]any{"type": "service_account", "project_id": "my-project", "private_key_id": "key-1", "private_key": keyPEM, "client_email": gardenRobot, "client_id": "1"}
	external := func(name string, change map[string]any) string {
		fields := map[string]any{"type": "external_account", "audience": gardenPool + "oidc", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": google + "/v1/token"}
		for name, value := range change {
			fields[name] = value
		}
		return g.json(name, fields)
	}
	subject := filepath.Join(g.dir, g.secret("subject token", "subject", g.subject("from a file")))
	user := func(name string, fields map[string]any, login map[string]string) string {
		for name, value := range login {
			fields[name] = value
		}
		fields["client_id"] = "id"
		return g.json(name, fields)
	}
	ecKey, _ := x509.MarshalECPrivateKey(g.gdc)
	gdcPEM := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ecKey}))
	g.plant("private key", gdcPEM)
	certificates := g.json("certificates.json", map[string]any{"version": 1, "cert_configs": map[string]any{"workload": map[string]any{
		"cert_path": filepath.Join(g.dir, "leaf.pem"), "key_path": filepath.Join(g.dir, "leaf.key")}}})

	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: g.ci}); err != nil {
		g.t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(g.ci.Public())
	if err != nil {
		g.t.Fatal(err)
	}
	agentSocket := filepath.Join(sockets, "a")
	l, err := net.Listen("unix", agentSocket)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); agent.ServeAgent(ring, c) }()
		}
	}()

	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	g.health = free.Addr().String()
	free.Close()

	yaml := &strings.Builder{}
	fmt.Fprintf(yaml, "log: {level: debug, format: json}\nadmin: {socket: %s, http: '%s'}\nissuer: {key_file: issuer.pem}\nlisten: {main: {tcp: '127.0.0.1:0'}}\nhosts: ['*.test']\n",
		filepath.Join(sockets, "s"), g.health)
	fmt.Fprintf(yaml, "endpoints: {token: '%s/token', sts: '%s/v1/token', iamcredentials: '%s'}\nsources:\n", google, google, google)
	emails := map[string]string{}
	source := func(name, email, format string, args ...any) {
		names, emails[name] = append(names, name), email
		fmt.Fprintf(yaml, "  %s: {%s}\n", name, fmt.Sprintf(format, args...))
	}
	const somebody = "somebody@my-project.iam.gserviceaccount.com"
	signer := "email: " + gardenRobot + ", key_id: key-1"
	source("key", "", "key_file: %s", g.json("key.json", key))
	source("self", "", "key_file: {file: key.json, self_signed: true}")
	source("robot", "", "impersonate: {target: %s, via: key}", gardenTarget)
	source("domain", "", "impersonate: {target: %s, via: key, subject: ann@example.com}", gardenTarget)
	source("unpacked", "", "impersonate: {file: %s, allow_custom_endpoints: true}", g.json("unpacked.json", map[string]any{
		"type": "impersonated_service_account", "source_credentials": key,
		"service_account_impersonation_url": google + "/v1/projects/-/serviceAccounts/" + gardenTarget + ":generateAccessToken"}))
	source("file", somebody, "external: %s", external("file.json", map[string]any{"credential_source": map[string]any{"file": subject}}))
	source("target", "", "external: %s", external("target.json", map[string]any{"credential_source": map[string]any{"file": subject},
		"service_account_impersonation_url": google + "/v1/projects/-/serviceAccounts/" + gardenTarget + ":generateAccessToken"}))
	source("url", somebody, "external: %s", external("url.json", map[string]any{"credential_source": map[string]any{"url": google + "/subject"}}))
	source("program", somebody, "external: {file: %s, executable: [test-subject, %s], env: [GORACE]}", external("program.json", map[string]any{"credential_source": map[string]any{"executable": map[string]any{"command": "x"}}}), subject)
	source("aws", somebody, "external: %s", external("aws.json", map[string]any{"audience": gardenPool + "aws", "subject_token_type": "urn:ietf:params:aws:token-type:aws4_request",
		"credential_source": map[string]any{"environment_id": "aws1", "regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15"}}))
	source("certificate", somebody, "external: %s", external("x509.json", map[string]any{"audience": gardenPool + "x509", "subject_token_type": "urn:ietf:params:oauth:token-type:mtls",
		"credential_source": map[string]any{"certificate": map[string]any{"certificate_config_location": filepath.Join(g.dir, certificates)}}}))
	source("saml", somebody, "external: %s", external("saml.json", map[string]any{"audience": gardenPeople, "subject_token_type": "urn:ietf:params:oauth:token-type:saml2", "client_id": "id",
		"client_secret": g.people["client_secret"], "credential_source": map[string]any{"file": filepath.Join(g.dir, "saml")}}))
	source("user", somebody, "user: %s", user("user.json", map[string]any{"type": "authorized_user"}, g.login))
	source("people", somebody, "user: %s", user("people.json", map[string]any{"type": "external_account_authorized_user", "audience": gardenPeople, "token_url": google + "/v1/oauthtoken"}, g.people))
	source("gdc", somebody, "gdch: {file: %s, audience: 'https://api.gdc.example'}", g.json("gdc.json", map[string]any{"type": "gdch_service_account", "format_version": "1", "project": "my-project",
		"name": "robot", "private_key_id": "key-1", "private_key": gdcPEM, "token_uri": google + "/token", "ca_cert_path": filepath.Join(g.dir, "google.pem")}))
	source("given", somebody, "static: {access_token: 'file:%s', id_tokens: ['file:subject'], any_audience: true}", g.secret("access token", "access", "ya29.given-"+rand.Text()))
	source("there", somebody, "upstream: '%s'", google)
	source("command", "", "signer: {%s, command: [test-signer, %s], env: [GORACE]}", signer, filepath.Join(g.dir, "signer.pem"))
	source("daemon", "", "signer: {%s, daemon: [test-signer, %s], env: [GORACE]}", signer, filepath.Join(g.dir, "signer.pem"))
	program, err := exec.LookPath("test-signer")
	if err != nil {
		g.t.Fatal(err)
	}
	source("hsm", "", "pkcs11: {%s, program: '%s', module: signer.pem, uri: 'pkcs11:token=t;object=k', pin: 'file:%s', env: [GORACE]}", signer, program, g.secret("PIN", "pin", "PIN"+rand.Text()[:8]))
	source("agent", "", "ssh_agent: {%s, socket: %s, fingerprint: '%s'}", signer, agentSocket, ssh.FingerprintSHA256(public))
	source("fake", somebody, "issuer: {}")
	if _, err := exec.LookPath("swtpm"); err == nil || os.Getenv("GCEMDS_E2E") != "" {
		chip, password := swtpm.Start(g.t), "pass-"+rand.Text()
		wrapped, err := tpm.Import(tpm.Key{Device: chip.Device, Passwords: tpm.Passwords{Key: []byte(password)}}, g.ci)
		if err != nil {
			g.t.Fatal(err)
		}
		content, err := wrapped.PEM()
		if err != nil {
			g.t.Fatal(err)
		}
		g.file("chip.pem", string(content))
		source("chip", "", "tpm: {%s, device: '%s', key_file: chip.pem, key_password: 'file:%s'}", signer, chip.Device, g.secret("password", "chip-password", password))
	}

	fmt.Fprint(yaml, "instances:\n")
	for _, name := range names {
		email := ""
		if emails[name] != "" {
			email = "email: " + emails[name] + ", "
		}
		fmt.Fprintf(yaml, "  %s: {enforce_scopes: true, accounts: {default: {%ssource: %s, scopes: ['%s']}}}\n", name, email, name, strings.Join(scopesOfGarden(), "', '"))
	}
	fmt.Fprint(yaml, "routes:\n")
	for _, name := range names {
		fmt.Fprintf(yaml, "  - {host: %s.test, instance: %s}\n", name, name)
	}
	g.file("mds.yaml", yaml.String())

	g.file("tpm.yaml", "sources: {chip: {tpm: {"+signer+", device: 'tcp:127.0.0.1:1', handle: '0x81000001', key_password: 'file:"+g.secret("password", "password", "pass-"+rand.Text())+"'}}}\n")
	mistake := func() string {
		word := "mistake-" + rand.Text()
		g.plant("mistake", word)
		return word
	}
	g.file("wrong.yaml", fmt.Sprintf(`sources:
  a: {static: {access_token: ya29.%s}}
  b: {pkcs11: {%s, module: /x, uri: 'pkcs11:token=t;object=k?pin-value=%s'}}
  c: {pkcs11: {%s, module: /x, uri: 'pkcs11:token=t;object=k', pin: %s}}
  d: {signer: {%s, command: [x], env: ['KEY=%s']}}
  e: {upstream: 'http://user:%s@mds.example.test'}
  f: {tpm: {%s, handle: '0x81000001', key_password: %s}}
  g: {external: {file: x, env: ['KEY=%s']}}
endpoints: {token: 'https://user:%s@token.example'}
instances: {vm: {upstream: 'http://user:%s@mds.example.test'}}
`, mistake(), signer, mistake(), signer, mistake(), signer, mistake(), mistake(), signer, mistake(), mistake(), mistake(), mistake()))
	return names
}

// content returns the content of all files in a folder, by name.
func (g *garden) content(dir string) map[string]string {
	files := map[string]string{}
	filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			data, _ := os.ReadFile(name)
			files[name] = string(data)
		}
		return nil
	})
	return files
}

// descendants returns the processes that one has started, and those that they
// have, where there is a way to see them.
func descendants(pid string) (all []string) {
	lists, _ := filepath.Glob("/proc/" + pid + "/task/*/children")
	for _, name := range lists {
		data, _ := os.ReadFile(name)
		for child := range strings.FieldsSeq(string(data)) {
			all = append(append(all, child), descendants(child)...)
		}
	}
	return all
}

// watchArguments collects the arguments of all processes that this one starts
// until the second channel is closed.
func (g *garden) watchArguments(t *testing.T) (arguments <-chan string, end chan struct{}) {
	t.Helper()
	got, end := make(chan string, 1), make(chan struct{})
	go func() {
		seen := map[string]bool{}
		for {
			for _, pid := range descendants(strconv.Itoa(os.Getpid())) {
				if data, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil {
					seen[strings.ReplaceAll(string(data), "\x00", " ")] = true
				}
			}
			select {
			case <-end:
				var all []string
				for line := range seen {
					all = append(all, line)
				}
				got <- strings.Join(all, "\n")
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return got, end
}

// workload asks for something of the default account, as the machine of that
// name does.
func (g *garden) workload(address, host, path string) (status int, header, body string) {
	r, err := http.NewRequest(http.MethodGet, "http://"+address+"/computeMetadata/v1/instance/service-accounts/default/"+path, nil)
	if err != nil {
		g.t.Error(err)
		return 0, "", ""
	}
	r.Host = host
	r.Header.Set("Metadata-Flavor", "Google")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		g.t.Error(err)
		return 0, "", ""
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Error(err)
	}
	return resp.StatusCode, fmt.Sprintln(resp.Header), string(data)
}
