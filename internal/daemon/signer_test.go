package daemon_test

import (
	"bufio"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gcemds/gcemds/internal/daemon"
)

// signerVariable makes the test program a signer: of the folder with its key.
const signerVariable = "GCEMDS_TEST_SIGNER"

// beSigner answers as docs/reference/signer-protocol.md has it, and writes down when it
// begins and ends.
func beSigner(dir string) error {
	note := func(text string) error {
		f, err := os.OpenFile(filepath.Join(dir, "signer.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteString(text)
		return err
	}
	der, err := os.ReadFile(filepath.Join(dir, "key.der"))
	if err != nil {
		return err
	}
	key, err := x509.ParsePKCS1PrivateKey(der)
	if err != nil {
		return err
	}
	if err := note("+"); err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var q struct {
			Op     string
			Digest []byte
		}
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			return err
		}
		answer := map[string]any{}
		if _, none := os.Stat(filepath.Join(dir, "denied")); none == nil {
			err = note("?")
			answer["error"] = map[string]string{"code": "denied", "message": "the PIN is wrong"}
		} else if q.Op == "public" {
			answer["public"], err = x509.MarshalPKIXPublicKey(&key.PublicKey)
		} else {
			answer["signature"], err = rsa.SignPKCS1v15(nil, key, crypto.SHA256, q.Digest)
		}
		if err != nil {
			return err
		}
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(answer)
		}
		if err != nil {
			return err
		}
	}
	return note("-")
}

// TestWrongPINIsNotTriedAgain: what has nothing to do with a source gives a
// wrong PIN no other try, and neither does a reload by itself. Three tries
// lock a token.
func TestWrongPINIsNotTriedAgain(t *testing.T) {
	w := prepare(t, "")
	key, err := rsa.GenerateKey(nil, 2048)
	if err != nil {
		t.Fatal(err)
	}
	w.file("key.der", string(x509.MarshalPKCS1PrivateKey(key)))
	w.file("denied", "")
	t.Setenv(signerVariable, w.dir)
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	yaml := func(keyID, host string) string {
		return "hosts: [" + host + "]\n" +
			"sources: {hsm: {signer: {email: robot@my-project.iam.gserviceaccount.com, key_id: " + keyID + ", self_signed: true, " +
			"daemon: ['" + os.Args[0] + "'], env: [" + signerVariable + ", GORACE]}}}\n" +
			"instances: {vm-1: {accounts: {default: {source: hsm}}}}\n"
	}
	n := 0
	refused := func(when, want string) {
		t.Helper()
		n++ // another audience each time: failures are cached, too
		if status, body := w.get(fmt.Sprintf("instance/service-accounts/default/identity?audience=https://%d.example", n)); status != http.StatusForbidden {
			t.Errorf("%s: a token whose signer denies it is %d %s, want 403", when, status, body)
		}
		log, _ := os.ReadFile(filepath.Join(w.dir, "signer.log"))
		if string(log) != want {
			t.Errorf("%s: the signer began (+), was asked (?) and ended (-) %q, want %q", when, log, want)
		}
	}
	reload := func() {
		t.Helper()
		if err := w.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.write(yaml("k1", "a.example"))
	w.run()
	refused("at first", "+?")
	reload()
	refused("after a reload of the same", "+?")
	w.write(yaml("k1", "b.example"))
	reload()
	refused("after a reload of something else", "+?")
	w.write("sources: {hsm: {signer: {}}}\n")
	if err := w.Reload(t.Context()); err == nil {
		t.Error("a signer that is none can be loaded")
	}
	refused("after a reload that failed", "+?")
	w.write(yaml("k2", "b.example"))
	reload()
	refused("after a change of the source", "+?-+?")
}

// TestSignerLives: a process of a source runs for as long as its source is
// used: it survives a reload that fails, and ends with the next and at the end.
func TestSignerLives(t *testing.T) {
	w := prepare(t, "")
	key, err := rsa.GenerateKey(nil, 2048)
	if err != nil {
		t.Fatal(err)
	}
	w.file("key.der", string(x509.MarshalPKCS1PrivateKey(key)))
	t.Setenv(signerVariable, w.dir)
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	yaml := func(keyID string) string {
		return "sources: {hsm: {signer: {email: robot@my-project.iam.gserviceaccount.com, key_id: " + keyID + ", self_signed: true, " +
			"daemon: ['" + os.Args[0] + "'], env: [" + signerVariable + ", GORACE]}}}\n" +
			"instances: {vm-1: {accounts: {default: {source: hsm}}}}\n"
	}
	processes := func() string {
		log, _ := os.ReadFile(filepath.Join(w.dir, "signer.log"))
		return string(log)
	}
	expect := func(want, when string) {
		t.Helper()
		if got := processes(); got != want {
			t.Errorf("%s the signer began (+) and ended (-) %q, want %q", when, got, want)
		}
	}
	w.write(yaml("k1"))
	w.run()
	expect("", "before a token is wanted")
	first := w.token()
	if n := strings.Count(first, "."); n != 2 {
		t.Fatalf("the token is not signed: %s", first)
	}
	expect("+", "with a token")

	w.write("sources: {hsm: {signer: {}}}\n")
	if err := w.Reload(t.Context()); err == nil {
		t.Error("a signer that is none can be loaded")
	}
	expect("+", "after a reload that failed")

	w.write(yaml("k2"))
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect("+-", "after a reload")
	if second := w.token(); second == first {
		t.Error("a token of the source before is served")
	}
	if got := processes(); !strings.HasPrefix(got, "+-+") { // the watch may have reloaded since
		t.Errorf("with a token of the new source the signer began (+) and ended (-) %q", got)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	expect("+-+-", "at the end")

	c, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	minted, err := daemon.Check(t.Context(), c, slog.New(slog.DiscardHandler), true)
	if err != nil || len(minted) != 1 || minted[0].Expiry == nil {
		t.Errorf("config check --mint: %+v, %v, want a token", minted, err)
	}
	expect("+-+-+-", "after a check")
}
