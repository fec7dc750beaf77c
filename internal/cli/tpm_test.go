package cli

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gcemds/gcemds/internal/tpm/swtpm"
)

// A tpmUser types commands, and looks out for secrets in what they print.
type tpmUser struct{ *testing.T }

func (u tpmUser) run(args ...string) (stdout, stderr string, code int) {
	u.Helper()
	var out, talk bytes.Buffer
	code = run(u.Context(), args, &out, &talk)
	for _, secret := range []string{"geheim", "falsch", "-----BEGIN PRIVATE KEY-----"} {
		if strings.Contains(out.String()+talk.String(), secret) {
			u.Errorf("gcemds %s shows a secret", strings.Join(args, " "))
		}
	}
	return out.String(), talk.String(), code
}

// must runs a command that works.
func (u tpmUser) must(args ...string) (stdout, stderr string) {
	u.Helper()
	stdout, stderr, code := u.run(args...)
	if code != exitOK {
		u.Fatalf("gcemds %s: exit code %d\n%s", strings.Join(args, " "), code, stderr)
	}
	return stdout, stderr
}

// fails runs a command that does not, and says this.
func (u tpmUser) fails(want string, code int, args ...string) {
	u.Helper()
	_, stderr, got := u.run(args...)
	if got != code || !strings.Contains(stderr, want) {
		u.Errorf("gcemds %s: exit code %d and %q, want %d and %q", strings.Join(args, " "), got, stderr, code, want)
	}
}

// assertionEndpoint is a token endpoint that knows one key.
func assertionEndpoint(t *testing.T, key *rsa.PublicKey) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		jwt := "." + r.FormValue("assertion")
		dot := strings.LastIndexByte(jwt, '.')
		raw, err := base64.RawURLEncoding.DecodeString(jwt[dot+1:])
		sum := sha256.Sum256([]byte(jwt[min(1, dot):dot]))
		if err != nil || rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], raw) != nil {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":"invalid_grant","error_description":"Invalid JWT Signature."}`)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}`)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// TestTPM goes the way of a user: look, import, paste, check.
func TestTPM(t *testing.T) {
	s := swtpm.Start(t)
	u := tpmUser{t}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "my-project", "private_key_id": "0123", "client_email": "robot@my-project.iam.gserviceaccount.com",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "token_uri": assertionEndpoint(t, &key.PublicKey),
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"sa.json": string(file), "pin": "geheim\n", "wrong": "falsch\n", "not.json": "{}"} {
		if err := os.WriteFile(in(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	with := func(args ...string) []string { return append(args, "--device", s.Device) }

	out, _ := u.must(with("tpm", "init", "--json")...)
	var info struct {
		EKName string `json:"ek_name"`
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil || !strings.HasPrefix(info.EKName, "000b") {
		t.Errorf("tpm init --json prints %s (%v), want the name of the endorsement key", out, err)
	}
	out, _ = u.must(with("tpm", "init", "--persist", "0x81000001")...)
	if !strings.Contains(out, info.EKName) || !strings.Contains(out, "parent: 0x81000001") || !strings.Contains(out, "0 of the 3 wrong passwords") {
		t.Errorf("tpm init --persist prints:\n%s", out)
	}
	u.fails("there is a key at that handle already", exitError, with("tpm", "init", "--persist", "0x81000001")...)

	// Three ways to import, pasted into one configuration.
	var pasted strings.Builder
	pasted.WriteString("sources:\n")
	for name, flags := range map[string][]string{
		"file":   {"--key-file", in("file.pem"), "--key-password", "file:" + in("pin"), "--parent", "0x81000001"},
		"handle": {"--handle", "0x81010002", "--key-password", "file:" + in("pin"), "--ek-name", info.EKName, "--parent", "rsa-srk"},
		"pcrs":   {"--key-file", in("pcrs.pem"), "--pcrs", "sha256:16,23", "--parent", "ecc-srk"},
	} {
		out, talk := u.must(append(with("tpm", "import", in("sa.json"), "--name", name), flags...)...)
		if !strings.HasPrefix(out, "sources:\n") || !strings.Contains(talk, "shred -u "+in("sa.json")) {
			t.Errorf("tpm import prints %s and says %s, want the source and that the JSON is to be deleted", out, talk)
		}
		pasted.WriteString(strings.TrimPrefix(out, "sources:\n"))
	}
	for _, name := range []string{"file.pem", "pcrs.pem"} {
		if i, err := os.Stat(in(name)); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v), want 0600", name, i.Mode(), err)
		}
	}
	config := in("gcemds.yaml")
	save := func(text string) {
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	save(pasted.String())
	u.must("config", "check", config)
	out, _ = u.must("tpm", "check", "--config", config, "--mint")
	for _, want := range []string{"file\n", "handle\n", "pcrs\n", "RSA 2048, SHA-256 ", "made and verified in", "token endpoint 127.0.0.1", "good for"} {
		if !strings.Contains(out, want) {
			t.Errorf("tpm check --mint prints:\n%s\nwant %q in it", out, want)
		}
	}
	if strings.Contains(out, "FAILED") || strings.Contains(out, "ya29") {
		t.Errorf("tpm check --mint prints:\n%s", out)
	}

	// What is wrong is said, with the step and what helps.
	save(strings.ReplaceAll(pasted.String(), in("pin"), in("wrong")))
	out, talk, code := u.run("tpm", "check", "file", "--config", config, "--json")
	var found []checkedTPM
	if err := json.Unmarshal([]byte(out), &found); err != nil || len(found) != 1 || !found[0].failed() || code != exitError {
		t.Fatalf("tpm check --json with a wrong password: exit code %d, prints %s %s", code, out, talk)
	}
	last := found[0].Steps[len(found[0].Steps)-1]
	if last.Step != "signature" || !strings.Contains(last.Error, "key_password is wrong") {
		t.Errorf("tpm check with a wrong password says %+v", last)
	}
	save(strings.ReplaceAll(pasted.String(), "ecc-srk", "h2"))
	out, _, _ = u.run("tpm", "check", "pcrs", "--config", config)
	if !strings.Contains(out, "FAILED  signature") || !strings.Contains(out, "set parent to") {
		t.Errorf("tpm check with a wrong parent prints:\n%s", out)
	}
	u.fails(`"x" is not a source with a TPM; those are: file, handle, pcrs`, exitError, "tpm", "check", "x", "--config", config)
	u.fails("file.pem is there already", exitError, with("tpm", "import", in("sa.json"), "--key-file", in("file.pem"))...)
	u.fails("there is a key at that handle already", exitError, with("tpm", "import", in("sa.json"), "--handle", "0x81010002")...)
	u.fails("field type is missing", exitError, with("tpm", "import", in("not.json"), "--handle", "0x81010003")...)
	u.fails("a secret is given by reference", exitError, with("tpm", "import", in("sa.json"), "--handle", "0x81010003", "--key-password", "geheim")...)
	u.fails("give one of --key-file and --handle", exitUsage, with("tpm", "import", in("sa.json"))...)
	u.fails("is swtpm running there", exitError, "tpm", "init", "--device", "unix:"+in("none"))
	save("sources: {k: {key_file: sa.json}}")
	u.fails("no source of this configuration has the field tpm", exitError, "tpm", "check", "--config", config)
}

// TestTPMCert makes keys inside the TPM, and certificates of them.
func TestTPMCert(t *testing.T) {
	s := swtpm.Start(t)
	u := tpmUser{t}
	dir := t.TempDir()
	const robot = "robot@my-project.iam.gserviceaccount.com"
	for _, where := range [][]string{{"--key-file", filepath.Join(dir, "k.pem")}, {"--handle", "0x81010002"}} {
		var keys []*rsa.PublicKey
		for _, want := range []string{"keys upload", "The key is there already"} {
			out, talk := u.must(append([]string{"tpm", "cert", "--device", s.Device, "--email", robot}, where...)...)
			block, rest := pem.Decode([]byte(out))
			if block == nil || len(rest) > 0 {
				t.Fatalf("tpm cert prints %q, want one certificate", out)
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil || c.Subject.CommonName != robot {
				t.Errorf("the certificate of %s is not signed by itself: %v", c.Subject, err)
			}
			if !strings.Contains(talk, want) || !strings.Contains(talk, "sources:\n  robot:\n    tpm:\n") {
				t.Errorf("tpm cert says:\n%s\nwant %q and the source", talk, want)
			}
			keys = append(keys, c.PublicKey.(*rsa.PublicKey))
		}
		if !keys[0].Equal(keys[1]) {
			t.Error("the second certificate is of another key")
		}
	}
	out, _ := u.must("tpm", "cert", "--device", s.Device, "--email", "workload", "--kind", "p256", "--key-file", filepath.Join(dir, "ec.pem"))
	if block, _ := pem.Decode([]byte(out)); block == nil {
		t.Errorf("tpm cert --kind p256 prints %q", out)
	}
	u.fails(`"dsa" is not a kind of key`, exitError, "tpm", "cert", "--device", s.Device, "--email", "x", "--kind", "dsa", "--handle", "0x81010009")
	u.fails("give --email", exitUsage, "tpm", "cert", "--device", s.Device, "--handle", "0x81010009")
}

// TestTPMServes: workloads get tokens, and a wrong password is shown to the TPM
// once, whatever they ask for and however many they are.
func TestTPMServes(t *testing.T) {
	s := swtpm.Start(t)
	u := tpmUser{t}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.File("unique.dat", []byte{0, 0})
	s.File("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	// Without noda: this key locks the TPM after three wrong passwords.
	s.Tools(`
		tpm2_createprimary -C o -G ecc -g sha256 -c primary.ctx -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt -u unique.dat
		tpm2_import -C primary.ctx -G rsa2048:rsassa:null -g sha256 -i key.pem -u key.pub -r key.prv -p geheim
		tpm2_encodeobject -C primary.ctx -u key.pub -r key.prv -o key.tss.pem`)
	s.File("pin", []byte("geheim\n"))
	config := s.File("gcemds.yaml", []byte(`
sources:
  chip:
    tpm:
      email: robot@my-project.iam.gserviceaccount.com
      device: `+s.Device+`
      key_file: key.tss.pem
      permissions: relaxed
      key_password: file:pin
      token_uri: `+assertionEndpoint(t, &key.PublicKey)+`
instances:
  vm-1: {accounts: {default: {source: chip, scopes: [cloud-platform]}}}
`))
	client, _ := serving(t, "--config", config, "--log-level", "error")
	status, err := client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token := "http://" + status.Listeners[0].Address + "/computeMetadata/v1/instance/service-accounts/default/token?scopes="
	for i := range 3 {
		if code, body, err := ask(fmt.Sprint(token, "https://www.googleapis.com/auth/s", i)); err != nil || code != 200 || !strings.Contains(body, "ya29.x") {
			t.Fatalf("token: %d %s %v", code, body, err)
		}
	}

	s.File("pin", []byte("falsch\n"))
	u.must("reload")
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			code, body, err := ask(fmt.Sprint(token, "https://www.googleapis.com/auth/t", i))
			if err != nil || code != 500 || strings.Contains(body, "TPM") || strings.Contains(body, "password") || strings.Contains(body, "falsch") {
				t.Errorf("token with a wrong password: %d %s %v, want 500 and no reason", code, body, err)
			}
		})
	}
	callers.Wait()
	if out, _ := u.must("tpm", "init", "--device", s.Device); !strings.Contains(out, "1 of the 3 wrong passwords") {
		t.Errorf("after eight requests with a wrong password the TPM says:\n%s\nwant one", out)
	}
	s.File("pin", []byte("geheim\n"))
	u.must("reload")
	if code, body, err := ask(token + "https://www.googleapis.com/auth/u"); err != nil || code != 200 {
		t.Errorf("the password was corrected, but: %d %s %v", code, body, err)
	}
}
