package credential

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tpm/swtpm"
)

func TestTPMIsChecked(t *testing.T) {
	name := "000b" + strings.Repeat("0a", 32)
	for _, c := range []struct {
		key  TPMKey
		want string // empty: nothing is wrong
	}{
		{TPMKey{}, "handle or key_file is missing"},
		{TPMKey{Handle: "0x81010002", KeyFile: "a"}, "keep one"},
		{TPMKey{Handle: "0x81010002"}, ""},
		{TPMKey{Handle: "0x40000001"}, "not the handle of a key"},
		{TPMKey{Handle: "0x81010002", Parent: "h2"}, "parent is for a key_file"},
		{TPMKey{KeyFile: "a", Parent: "srk"}, `parent: "srk" is not a parent`},
		{TPMKey{KeyFile: "a", Parent: "0x81000001", ParentPassword: "env:P"}, ""},
		{TPMKey{KeyFile: "a", ParentPassword: "env:P"}, ""}, // the file may name a handle
		{TPMKey{KeyFile: "a", Parent: "h2", ParentPassword: "env:P"}, "parent_password is for a parent with a handle"},
		{TPMKey{KeyFile: "a", KeyPassword: "geheim"}, "key_password: a secret is given by reference"},
		{TPMKey{KeyFile: "a", OwnerPassword: "geheim"}, "owner_password: a secret"},
		{TPMKey{KeyFile: "a", EndorsementPassword: "geheim"}, "endorsement_password: a secret"},
		{TPMKey{KeyFile: "a", PCRs: "0,7"}, "pcrs: "},
		{TPMKey{KeyFile: "a", PCRs: "sha256:0,7", PCRDigest: strings.Repeat("ab", 32)}, ""},
		{TPMKey{KeyFile: "a", PCRs: "sha256:0,7", PCRDigest: "ab"}, "pcr_digest: must be 64 hex digits"},
		{TPMKey{KeyFile: "a", PCRDigest: strings.Repeat("ab", 32)}, "of the values of pcrs"},
		{TPMKey{KeyFile: "a", DuplicateSelect: true}, "duplicate_select is for a key with parent: ek-rsa"},
		{TPMKey{KeyFile: "a", DuplicateSelect: true, Parent: "ek-rsa"}, ""},
		{TPMKey{KeyFile: "a", EKName: name}, ""},
		{TPMKey{KeyFile: "a", EKName: name[2:]}, "ek_name: must be 68 hex digits"},
		{TPMKey{KeyFile: "a", Device: "tpm0"}, `device: "tpm0" is not a TPM`},
		{TPMKey{KeyFile: "a", Permissions: "lax"}, "neither strict nor relaxed"},
	} {
		err := (Config{TPM: &TPM{ServiceAccount{Email: robot}, c.key}}).Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("Validate(%+v) = %v, want %q", c.key, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("Validate shows a password: %v", err)
		}
	}
	if err := (Config{TPM: &TPM{TPMKey: TPMKey{Handle: "0x81010002"}}}).Validate(); err == nil || !strings.Contains(err.Error(), "email is missing") {
		t.Errorf("Validate without an e-mail = %v", err)
	}
	key := TPMKey{KeyFile: "k.pem", KeyPassword: "file:pin", OwnerPassword: "env:X"}
	if got, want := (Config{TPM: &TPM{TPMKey: key}}).Files(), []string{"k.pem", "pin"}; !cmp.Equal(got, want) {
		t.Errorf("Files = %v, want %v", got, want)
	}
}

// chip is a TPM that has the key of robot, and the source that uses it.
func chip(t *testing.T, config TPMKey) (*swtpm.TPM, *TPM, Env) {
	t.Helper()
	s := swtpm.Start(t)
	config.Device = s.Device
	c := &TPM{TPMKey: config}
	if err := c.Import(keyPath(t, keyJSON(t, map[string]any{"token_uri": newGoogle(t).URL + "/token"}))); err != nil {
		t.Fatal(err)
	}
	return s, c, Env{Client: &exchange.Client{UserAgent: "gcemds/test"}}
}

// Tokens come from a key that is only in the TPM.
func TestTPMMints(t *testing.T) {
	s, c, env := chip(t, TPMKey{Handle: "0x81010002"})
	if c.Email != robot || c.KeyID != "key-1" || c.TokenURI == "" {
		t.Errorf("Import completes the source to %+v, want what the JSON file says", c.ServiceAccount)
	}
	source, id, err := Config{TPM: c}.Open(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	if want := "key 0x81010002 in the TPM"; id.Email != robot || id.ProjectID != "my-project" || len(id.Steps) != 2 || id.Steps[0] != want {
		t.Errorf("identity %+v, want robot's, beginning with %q", id, want)
	}
	req := token.Request{Scopes: []string{exchange.CloudPlatform}}
	if got, err := source.Mint(t.Context(), req); err != nil || !strings.HasPrefix(got.Value, "ya29.") {
		t.Errorf("Mint of an access token = %v", err)
	}
	if _, err := source.Mint(t.Context(), token.Request{Audience: "https://service.example"}); err != nil {
		t.Errorf("Mint of an ID token = %v", err)
	}

	// A mint ends with its context, whatever the TPM does.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := source.Mint(ended, req); kindOf(t, err) != token.Unavailable || !strings.Contains(err.Error(), "wait for the TPM") && !strings.Contains(err.Error(), "connect") {
		t.Errorf("Mint with a context that has ended = %v, want that the TPM is not asked", err)
	}

	// Without the TPM there are no tokens, but may be later. The workload
	// hears no more than that; the log hears all.
	s.Kill()
	_, err = source.Mint(t.Context(), req)
	var e *token.Error
	if !errors.As(err, &e) || e.Kind != token.Unavailable {
		t.Fatalf("Mint without the TPM = %v, want unavailable", err)
	}
	for _, want := range []string{robot, "sign the assertion", s.Device, "connect", "is swtpm running there"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Mint without the TPM = %v, want %q in it", err, want)
		}
	}
	if strings.Contains(e.Public(), "TPM") {
		t.Errorf("the workload hears %q", e.Public())
	}
	if _, _, err := (Config{TPM: c}).Open(t.Context(), env); err == nil {
		t.Error("Open of a handle without the TPM does not fail")
	}
	s.Power()
	if _, err := source.Mint(t.Context(), req); err != nil {
		t.Errorf("Mint when the TPM is back = %v", err)
	}
}

// A wrong password stops the source until it is opened again.
func TestTPMWrongPassword(t *testing.T) {
	t.Setenv("GCEMDS_TEST_PIN", "geheim")
	s, c, env := chip(t, TPMKey{KeyFile: filepath.Join(t.TempDir(), "k.pem"), KeyPassword: "env:GCEMDS_TEST_PIN", PCRs: "sha256:23"})
	open := func() func() error {
		source, _, err := Config{TPM: c}.Open(t.Context(), env)
		if err != nil {
			t.Fatalf("Open shows the TPM a password: %v", err)
		}
		return func() error {
			_, err := source.Mint(t.Context(), token.Request{Scopes: []string{exchange.CloudPlatform}})
			return err
		}
	}
	right := open()
	if err := right(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GCEMDS_TEST_PIN", "falsch")
	wrong := open()
	err := wrong()
	if kindOf(t, err) != token.Misconfigured || !strings.Contains(err.Error(), "key_password is wrong") || strings.Contains(err.Error(), "falsch") {
		t.Errorf("Mint with a wrong password = %v, want misconfigured, with the setting and without the password", err)
	}
	t.Setenv("GCEMDS_TEST_PIN", "geheim")
	if err := wrong(); kindOf(t, err) != token.Misconfigured {
		t.Errorf("Mint after a wrong password = %v, want the same", err)
	}
	s.Tools("tpm2_pcrextend 23:sha256=" + strings.Repeat("ab", 32))
	if err := right(); kindOf(t, err) != token.Misconfigured || !strings.Contains(err.Error(), "bound to other PCRs") {
		t.Errorf("Mint after a PCR changed = %v, want misconfigured", err)
	}
	s.Tools("tpm2_pcrreset 23")
	if err := right(); err != nil {
		t.Errorf("Mint after the PCR was reset: %v", err)
	}
	if err := open()(); err != nil {
		t.Errorf("opened again with the right password: %v", err)
	}
}

// Files that others can read, keys of another kind, and broken files.
func TestTPMKeyFiles(t *testing.T) {
	s := swtpm.Start(t)
	key := TPMKey{Device: s.Device, KeyFile: s.File("ec.pem", nil)}
	if err := key.Create("p256"); err != nil {
		t.Fatal(err)
	}
	open := func(k TPMKey) error {
		_, _, err := Config{TPM: &TPM{ServiceAccount{Email: robot}, k}}.Open(t.Context(), Env{})
		return err
	}
	if err := open(key); err == nil || !strings.Contains(err.Error(), "Google takes RSA keys only") {
		t.Errorf("Open of an EC key = %v, want that Google does not take it", err)
	}
	if _, err := key.signer(t.Context()); err != nil {
		t.Errorf("an EC key is no signer: %v", err)
	}
	if err := os.Chmod(key.KeyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := open(key); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("Open of a file that all can read = %v, want what to run", err)
	}
	key.Permissions = "relaxed"
	if _, err := key.signer(t.Context()); err != nil {
		t.Errorf("with permissions: relaxed: %v", err)
	}
	if err := key.Create("p256"); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("Create over a key = %v, want a refusal: it may be the only copy", err)
	}
	if err := open(TPMKey{Device: s.Device, KeyFile: s.File("broken.pem", []byte("x"))}); err == nil || !strings.Contains(err.Error(), "broken.pem: it has no PEM block") {
		t.Errorf("Open of a broken file = %v", err)
	}
	if err := open(TPMKey{Device: s.Device, Handle: "0x81010009"}); err == nil || !strings.Contains(err.Error(), "there is no key at that handle") {
		t.Errorf("Open of an empty handle = %v", err)
	}
	if _, err := (&TPMKey{Device: s.Device, KeyFile: key.KeyFile, Permissions: "relaxed"}).Certificate("x", time.Hour); err != nil {
		t.Errorf("a certificate of an EC key: %v", err)
	}
}

var _ crypto.MessageSigner = (*tpmSigner)(nil) // so it hashes for itself, also for TLS

// A restricted key signs assertions: the TPM hashes them.
func TestTPMRestricted(t *testing.T) {
	s := swtpm.Start(t)
	s.File("unique.dat", []byte{0, 0})
	s.Tools(`
		tpm2_createprimary -C o -G ecc -g sha256 -c primary.ctx -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt -u unique.dat
		tpm2_create -C primary.ctx -G rsa2048:rsassa-sha256:null -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign|restricted -u key.pub -r key.prv
		tpm2_encodeobject -C primary.ctx -u key.pub -r key.prv -o key.tss.pem`)
	key := TPMKey{Device: s.Device, KeyFile: s.File("key.tss.pem", nil), Permissions: "relaxed"}
	signer, err := key.signer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, scope := range []string{"a", strings.Repeat("a ", 2000)} {
		jwt, err := issuer.SignJWT(signer, "", exchange.Assertion{Issuer: robot, Scope: scope})
		if err != nil {
			t.Fatal(err)
		}
		dot := strings.LastIndexByte(jwt, '.')
		signature, _ := base64.RawURLEncoding.DecodeString(jwt[dot+1:])
		sum := sha256.Sum256([]byte(jwt[:dot]))
		if err := rsa.VerifyPKCS1v15(signer.Public().(*rsa.PublicKey), crypto.SHA256, sum[:], signature); err != nil {
			t.Errorf("an assertion of %d bytes: %v", len(jwt), err)
		}
	}
}
