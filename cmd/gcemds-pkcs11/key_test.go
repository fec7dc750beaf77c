package main

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
)

// tool returns the path of a program that a test cannot do without. If it is missing the test is skipped, or fails
// where all must be there (make e2e).
func tool(t *testing.T, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, "%s is missing; install it with: apt-get install %s", name, debian)
	}
	return path
}

func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("GCEMDS_E2E") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// softHSM makes a token of SoftHSM with a key that it generated (label made, id 01), one that was imported (label
// given, id 02), and two of one label (label twin, ids 03 and 04). It returns the module. PINs of tests are no secrets.
func softHSM(t *testing.T) string {
	t.Helper()
	util, p11 := tool(t, "softhsm2-util", "softhsm2"), tool(t, "pkcs11-tool", "opensc")
	const module = "/usr/lib/softhsm/libsofthsm2.so"
	if _, err := os.Stat(module); err != nil {
		missing(t, "%s is missing; install it with: apt-get install softhsm2", module)
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(conf, fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", dir))
	t.Setenv("SOFTHSM2_CONF", conf)
	der, err := x509.MarshalPKCS8PrivateKey(rsaKey())
	if err != nil {
		t.Fatal(err)
	}
	given := filepath.Join(dir, "given.p8")
	write(given, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))

	do := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	do(util, "--init-token", "--free", "--label", "mds", "--so-pin", "1234", "--pin", "5678")
	do(p11, "--module", module, "--token-label", "mds", "--login", "--pin", "5678", "--keypairgen", "--key-type", "rsa:2048", "--id", "01", "--label", "made", "--usage-sign")
	for id, label := range map[string]string{"02": "given", "03": "twin", "04": "twin"} {
		do(util, "--import", given, "--token", "mds", "--label", label, "--id", id, "--pin", "5678")
	}
	return module
}

func TestSoftHSM(t *testing.T) {
	module := softHSM(t)
	sign := func(k signer) error {
		digest := sha256.Sum256([]byte("hello"))
		sig, err := k.Sign(nil, digest[:], crypto.SHA256)
		if err != nil {
			return err
		}
		return rsa.VerifyPKCS1v15(k.Public().(*rsa.PublicKey), crypto.SHA256, digest[:], sig)
	}
	open := func(text, pin string) (signer, error) {
		u, err := parseURI(text)
		if err != nil {
			t.Fatal(err)
		}
		u.module = module
		return openKey(u, pin)
	}

	for _, uri := range []string{
		"pkcs11:token=mds;object=made", "pkcs11:token=mds;id=%01", "pkcs11:token=mds;object=made;id=%01;type=private",
		"pkcs11:token=mds;object=given", "pkcs11:manufacturer=SoftHSM%20project;id=%02", "pkcs11:token=mds;object=twin;id=%04",
	} {
		k, err := open(uri, "5678")
		if err != nil {
			t.Errorf("%s: %v", uri, err)
			continue
		}
		if err := sign(k); err != nil {
			t.Errorf("%s: sign: %v", uri, err)
		}
		if imported := !strings.Contains(uri, "made") && !strings.Contains(uri, "%01"); imported != rsaKey().PublicKey.Equal(k.Public()) {
			t.Errorf("%s is another key", uri)
		}
		k.Close()
	}

	// A token that is logged in already is as good; the pool of sessions serves any number.
	u, err := parseURI("pkcs11:token=mds;object=made")
	if err != nil {
		t.Fatal(err)
	}
	u.module = module
	slot, err := findSlot(u, true)
	if err != nil {
		t.Fatal(err)
	}
	one, err := openSlot(slot, u, "5678")
	if err != nil {
		t.Fatal(err)
	}
	two, err := openSlot(slot, u, "5678")
	if err != nil {
		t.Fatalf("a second login: %v", err)
	}
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			if err := sign([]signer{one, two}[i%2]); err != nil {
				t.Errorf("one of 200 at a time: %v", err)
			}
		})
	}
	all.Wait()
	two.Close()
	one.Close()

	for _, c := range []struct{ uri, pin, code, want string }{
		{"pkcs11:token=nobody", "5678", misconfigured, `no token fits the URI; the module has "mds" (serial `},
		{"pkcs11:token=mds;slot-id=99", "5678", misconfigured, "no token fits the URI"},
		{"pkcs11:token=mds;object=nobody", "5678", misconfigured, "no key fits the URI (a private and a public object of one id are needed); the token has object="},
		{"pkcs11:token=mds;object=made;id=%02", "5678", misconfigured, "no key fits the URI"},
		{"pkcs11:token=mds;object=twin", "5678", misconfigured, "2 keys fit the URI; add object=… and id=… to it: the token has "},
		{"pkcs11:token=mds", "5678", misconfigured, "4 keys fit the URI"},
		{"pkcs11:token=mds;object=made", "", misconfigured, `the token "mds" wants a login; give its PIN`},
		{"pkcs11:token=mds;object=made", "9999", denied, "cannot log in to the token: the PIN is wrong (pkcs11: 0xA0: CKR_PIN_INCORRECT)"},
		{"pkcs11:token=mds;object=made", "9", denied, "cannot log in to the token: the PIN "},
	} {
		k, err := open(c.uri, c.pin)
		var r *refusal
		if !errors.As(err, &r) || r.Code != c.code || !strings.Contains(r.Message, c.want) {
			t.Errorf("%s with PIN %q: %v, want %s: %s", c.uri, c.pin, err, c.code, c.want)
		}
		if err == nil {
			k.Close()
		}
	}
}

// A token that one more wrong PIN would lock is left alone.
func TestTokenAtRisk(t *testing.T) {
	for flags, want := range map[uint]string{
		pkcs11.CKF_USER_PIN_FINAL_TRY:                              "would be locked by one more wrong PIN, so none is tried",
		pkcs11.CKF_USER_PIN_FINAL_TRY | pkcs11.CKF_USER_PIN_LOCKED: "is locked",
		pkcs11.CKF_USER_PIN_COUNT_LOW:                              "",
	} {
		err := usable(pkcs11.TokenInfo{Label: "mds", Flags: flags | pkcs11.CKF_LOGIN_REQUIRED}, true)
		if want == "" && err != nil || want != "" && (err == nil || err.Code != denied || !strings.Contains(err.Message, want)) {
			t.Errorf("a token with flags %#x: %v, want %q", flags, err, want)
		}
	}
	if err := usable(pkcs11.TokenInfo{MaxRwSessionCount: 1}, true); err == nil || err.Code != misconfigured {
		t.Errorf("a token of one session: %v, want a refusal", err)
	}
}
