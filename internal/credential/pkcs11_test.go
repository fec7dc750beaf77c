//go:build unix

package credential

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

const softModule = "/usr/lib/softhsm/libsofthsm2.so"

// helper is gcemds-pkcs11, built once for all tests. TestMain removes it.
func helper(t *testing.T) string {
	t.Helper()
	tool(t, "cc", "gcc libc6-dev")
	program, err := builtHelper()
	if err != nil {
		t.Fatalf("gcemds-pkcs11 cannot be built: %v", err)
	}
	return program
}

var builtHelper = sync.OnceValues(func() (program string, err error) {
	if helperDir, err = os.MkdirTemp("", "gcemds-pkcs11-"); err != nil {
		return "", err
	}
	program = filepath.Join(helperDir, pkcs11Program)
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = filepath.Join("..", "..", "cmd", pkcs11Program)
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return program, nil
})

// softHSM makes a token of SoftHSM that has the test key (label k, id 01), and
// returns a folder in which pin has its PIN. PINs of tests are no secrets.
func softHSM(t *testing.T) string {
	t.Helper()
	util := tool(t, "softhsm2-util", "softhsm2")
	if _, err := os.Stat(softModule); err != nil {
		missing(t, "%s is missing; install it with: apt-get install softhsm2", softModule)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	t.Setenv("SOFTHSM2_CONF", write("softhsm2.conf", fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", dir)))
	der, err := x509.MarshalPKCS8PrivateKey(rsaKey())
	if err != nil {
		t.Fatal(err)
	}
	key := write("k.p8", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	write("pin", "5678\n")
	for _, args := range [][]string{
		{"--init-token", "--free", "--label", "mds", "--so-pin", "1234", "--pin", "5678"},
		{"--import", key, "--token", "mds", "--label", "k", "--id", "01", "--pin", "5678"},
	} {
		if out, err := exec.Command(util, args...).CombinedOutput(); err != nil {
			t.Fatalf("softhsm2-util %q: %v\n%s", args, err, out)
		}
	}
	return dir
}

// pkcs11Source opens a source of the key in the token.
func pkcs11Source(t *testing.T, dir, uri string, change func(*PKCS11)) *signingSource {
	t.Helper()
	c := &PKCS11{
		ServiceAccount: ServiceAccount{Email: robot, KeyID: "key-1"},
		Module:         softModule, URI: uri, PIN: Secret("file:" + filepath.Join(dir, "pin")),
		Env: []string{"SOFTHSM2_CONF"}, Program: helper(t),
	}
	if change != nil {
		change(c)
	}
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	source, _, err := c.open(t.Context(), Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { source.(io.Closer).Close() })
	return source.(*signingSource)
}

// pid returns the process of the helper, 0 if none runs.
func pid(s *signingSource) int {
	l := s.signer.(*remoteSigner).oracle.(*line)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.link == nil {
		return 0
	}
	return l.link.conn.(*process).cmd.Process.Pid
}

// A key in a token mints like one in a file, for many at a time, and with its
// helper killed again and again in the middle of that.
func TestPKCS11(t *testing.T) {
	dir := softHSM(t)
	g := newGoogle(t)
	s := pkcs11Source(t, dir, "pkcs11:token=mds;object=k;id=%01", func(c *PKCS11) { c.TokenURI = g.URL + "/token" })
	s.client = &exchange.Client{UserAgent: "gcemds/test"}
	if got, err := s.Mint(t.Context(), token.Request{Scopes: []string{exchange.CloudPlatform}}); err != nil || got.Value == "" {
		t.Fatalf("access token = %v, %v, want one", got, err)
	}
	if got, err := s.Mint(t.Context(), token.Request{Audience: "https://app.example"}); err != nil || got.Value == "" {
		t.Fatalf("ID token = %v, %v, want one", got, err)
	}
	first := pid(s)
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", first)); err == nil && strings.Contains(string(line), "5678") {
		t.Errorf("the PIN is in the list of processes: %q", line)
	}

	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			if err := check(s.signer); err != nil {
				t.Errorf("one of 200 at a time: %v", err)
			}
		})
	}
	all.Wait()
	if now := pid(s); now != first || now == 0 {
		t.Errorf("the helper was process %d and is %d, want one that stays", first, now)
	}

	// In the middle of signatures, again and again.
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 3 {
			time.Sleep(300 * time.Millisecond)
			if p := pid(s); p != 0 {
				syscall.Kill(p, syscall.SIGKILL)
			}
		}
		time.Sleep(300 * time.Millisecond)
	}()
	signed, killing := 0, true
	for ; killing; signed++ {
		if err := check(s.signer); err != nil {
			t.Errorf("signature %d, with the helper being killed: %v", signed, err)
			break
		}
		select {
		case <-done:
			killing = false
		default:
		}
	}
	<-done
	last := pid(s)
	if signed < 10 || last == first {
		t.Errorf("%d signatures by processes %d and %d, want many by several", signed, first, last)
	}
	s.Close()
	if syscall.Kill(last, 0) == nil {
		t.Errorf("process %d is alive after Close", last)
	}
}

// A module that crashes is an error that says so, if it does nothing else.
func TestPKCS11Crash(t *testing.T) {
	dir := softHSM(t)
	s := pkcs11Source(t, dir, "pkcs11:token=mds;object=k", nil)
	if err := check(s.signer); err != nil {
		t.Fatal(err)
	}
	l := s.signer.(*remoteSigner).oracle.(*line)
	link := l.link
	syscall.Kill(pid(s), syscall.SIGSEGV)
	<-link.failed
	if want := "gcemds-pkcs11 ended: exit status 2: SIGSEGV: segmentation violation … "; !strings.Contains(link.err.Error(), want) {
		t.Errorf("the helper crashed: %v, want %q", link.err, want)
	}
}

// A wrong PIN is tried once, by whatever many callers, and not before a token
// is wanted.
func TestPKCS11WrongPIN(t *testing.T) {
	dir := softHSM(t)
	if err := os.WriteFile(filepath.Join(dir, "pin"), []byte("99999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := pkcs11Source(t, dir, "pkcs11:token=mds;object=k", nil)
	if pid(s) != 0 {
		t.Error("the helper runs before there is anything to sign")
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			err := check(s.signer)
			if !isError(err, token.Denied, "cannot log in to the token: the PIN is wrong (pkcs11: 0xA0: CKR_PIN_INCORRECT) (not tried again before its settings or the PIN change, or gcemds is restarted)") || strings.Contains(err.Error(), "99999") {
				t.Errorf("sign with a wrong PIN: %v", err)
			}
		})
	}
	all.Wait()
	first := pid(s)
	syscall.Kill(first, syscall.SIGKILL)
	for begin := time.Now(); pid(s) != 0 && time.Since(begin) < 10*time.Second; {
		time.Sleep(10 * time.Millisecond)
	}
	if err := check(s.signer); !isError(err, token.Denied, "the PIN is wrong") || pid(s) != 0 {
		t.Errorf("after the helper died: %v, process %d; want no second login", err, pid(s))
	}

	// With the right PIN, as a reload would have it, all is well.
	if err := os.WriteFile(filepath.Join(dir, "pin"), []byte("5678"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := check(pkcs11Source(t, dir, "pkcs11:token=mds;object=k", nil).signer); err != nil {
		t.Errorf("sign with the right PIN: %v", err)
	}
}

func TestPKCS11Misconfigured(t *testing.T) {
	dir := softHSM(t)
	for _, c := range []struct {
		uri, module string
		want        string
	}{
		{"pkcs11:token=mds;object=nobody", softModule, "no key fits the URI (a private and a public object of one id are needed); the token has object=k;id=%01"},
		{"pkcs11:token=nobody", softModule, `no token fits the URI; the module has "mds"`},
		{"pkcs11:token=mds;object=k", "/no/such.so", "there is no PKCS#11 module /no/such.so"},
		{"pkcs11:token=mds;library-version=3", softModule, `the attribute "library-version", which is not looked at here`},
	} {
		s := pkcs11Source(t, dir, c.uri, func(c2 *PKCS11) { c2.Module = c.module })
		var err error
		for range 2 { // the helper ends after the first
			err = check(s.signer)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s in %s: %v, want %q", c.uri, c.module, err, c.want)
		}
	}
	c := &PKCS11{Module: softModule, URI: "pkcs11:", PIN: Secret("file:" + filepath.Join(dir, "no-pin")), Program: "/bin/true"}
	if _, _, err := c.open(t.Context(), Env{}); err == nil || !strings.Contains(err.Error(), "cannot read the secret file:") {
		t.Errorf("no file with the PIN: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pin"), []byte("5678\n5678\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.PIN = Secret("file:" + filepath.Join(dir, "pin"))
	if _, _, err := c.open(t.Context(), Env{}); err == nil || !strings.Contains(err.Error(), "is not a PIN: that is one line of at most") || strings.Contains(err.Error(), "5678") {
		t.Errorf("a PIN of two lines: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	c = &PKCS11{Module: softModule, URI: "pkcs11:"}
	if _, _, err := c.open(t.Context(), Env{}); err == nil || !strings.Contains(err.Error(), "build it with make pkcs11") {
		t.Errorf("no gcemds-pkcs11: %v", err)
	}
}

// The one-liner of docs/signers, for those without the helper.
func TestPKCS11Tool(t *testing.T) {
	dir := softHSM(t)
	tool(t, "pkcs11-tool", "opensc")
	script, err := filepath.Abs(filepath.Join("..", "..", "docs", "signers", "pkcs11-tool.sh"))
	if err != nil {
		t.Fatal(err)
	}
	open := func(id string) *remoteSigner {
		c := &Signer{
			ServiceAccount: ServiceAccount{Email: robot},
			Command:        []string{script, softModule, "mds", id, filepath.Join(dir, "pin")},
			Env:            []string{"SOFTHSM2_CONF"},
		}
		source, _, err := c.open(t.Context(), Env{})
		if err != nil {
			t.Fatal(err)
		}
		return source.(*signingSource).signer.(*remoteSigner)
	}
	for range 2 {
		if err := check(open("01")); err != nil {
			t.Error(err)
		}
	}
	if err := check(open("99")); !isError(err, token.Misconfigured, "no public key of that id") {
		t.Errorf("no key: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pin"), []byte("99999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := check(open("01")); !isError(err, token.Denied, "the PIN is wrong") {
		t.Errorf("a wrong PIN: %v, want denied, so that it is not tried again", err)
	}
}

// Every example script is one that a shell can read.
func TestSignerScripts(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join("..", "..", "docs", "signers", "*.sh"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		if out, err := exec.Command("sh", "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
}
