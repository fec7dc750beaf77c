package tpm

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gcemds/gcemds/internal/tpm/swtpm"
)

// rsaKey is the key that is put into TPMs; made once, since that is slow.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

const attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"

// tools is a TPM with the H2 primary in primary.ctx and our key in key.pem,
// made by tpm2-tools.
func tools(t testing.TB) *swtpm.TPM {
	t.Helper()
	s := swtpm.Start(t)
	s.File("unique.dat", []byte{0, 0})
	der, err := x509.MarshalPKCS8PrivateKey(rsaKey())
	if err != nil {
		t.Fatal(err)
	}
	s.File("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	s.Tools("tpm2_createprimary -C o -G ecc -g sha256 -c primary.ctx -a " + attributes + " -u unique.dat")
	return s
}

// file reads a key that tpm2-tools wrote.
func file(t testing.TB, s *swtpm.TPM, name string) *KeyFile {
	t.Helper()
	text, err := os.ReadFile(s.File(name, nil))
	if err != nil {
		t.Fatal(err)
	}
	f, err := ParseKeyFile(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// open opens a key that must open.
func open(t testing.TB, s *swtpm.TPM, k Key) *Signer {
	t.Helper()
	k.Device = s.Device
	signer, err := Open(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// sign signs something, and checks it with package crypto.
func sign(s *Signer) error {
	digest := sha256.Sum256([]byte("assertion"))
	signature, err := s.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
	return verify(s.Public(), digest[:], signature, crypto.SHA256)
}

// refuses checks that a signer says why it does not sign.
func refuses(t *testing.T, promise string, s *Signer, code tpm2.TPMRC, words ...string) {
	t.Helper()
	err := sign(s)
	var e *Error
	if !errors.As(err, &e) || code != 0 && !errors.Is(err, code) {
		t.Fatalf("%s: Sign = %v, want an *Error of code 0x%x", promise, err, uint32(code))
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: Sign = %v, want %q in it", promise, err, w)
		}
	}
}

// left fails if something of ours is still in the TPM.
func left(t testing.TB, s *swtpm.TPM) {
	t.Helper()
	for _, kind := range []string{"handles-transient", "handles-loaded-session", "handles-saved-session"} {
		out, err := s.Try("keep tpm2_getcap " + kind)
		if err != nil || strings.Contains(out, "0x") {
			t.Errorf("a visit left %s in the TPM: %v %v", kind, out, err)
		}
	}
}

// failures returns how many wrong passwords the TPM has counted.
func failures(t testing.TB, s *swtpm.TPM) uint32 {
	t.Helper()
	info, err := Look(Key{Device: s.Device})
	if err != nil {
		t.Fatal(err)
	}
	return info.Failures
}

// Keys that tpm2-tools made are used as they are.
func TestKeysOfTools(t *testing.T) {
	s := tools(t)
	imported := func(name, options string) string {
		return "tpm2_import -C primary.ctx -g sha256 -i key.pem -u " + name + ".pub -r " + name + ".prv " + options + "\n" +
			"tpm2_encodeobject -C primary.ctx -u " + name + ".pub -r " + name + ".prv -o " + name + ".tss.pem\n"
	}
	s.Tools(imported("plain", "-G rsa2048:rsassa:null") + imported("password", "-G rsa2048 -p secret -a userwithauth|noda|sign") + `
		tpm2_load -C primary.ctx -u plain.pub -r plain.prv -c key.ctx
		tpm2_evictcontrol -C o -c key.ctx 0x81010002
		tpm2_load -C primary.ctx -u password.pub -r password.prv -c key.ctx
		tpm2_evictcontrol -C o -c key.ctx 0x81010003
		tpm2_evictcontrol -C o -c primary.ctx 0x81000001`)
	secret := Passwords{Key: []byte("secret")}
	for name, k := range map[string]Key{
		"handle":                      {Handle: 0x81010002},
		"handle with password":        {Handle: 0x81010003, Passwords: secret},
		"PEM":                         {File: file(t, s, "plain.tss.pem")},
		"PEM under a stated parent":   {File: file(t, s, "plain.tss.pem"), Parent: H2},
		"PEM under the parent's copy": {File: file(t, s, "plain.tss.pem"), Parent: "0x81000001"},
		"PEM with password":           {File: file(t, s, "password.tss.pem"), Passwords: secret},
	} {
		signer := open(t, s, k)
		if !rsaKey().PublicKey.Equal(signer.Public()) {
			t.Errorf("%s: it is another key", name)
		}
		if err := sign(signer); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		left(t, s)
	}
	refuses(t, "a password that is missing", open(t, s, Key{Handle: 0x81010003}), tpm2.TPMRCBadAuth, "key_password is wrong")
	refuses(t, "another parent", open(t, s, Key{File: file(t, s, "plain.tss.pem"), Parent: RSASRK}), tpm2.TPMRCIntegrity, "set parent to h2")
	refuses(t, "another parent", open(t, s, Key{File: file(t, s, "plain.tss.pem"), Parent: ECCSRK}), tpm2.TPMRCIntegrity)
	refuses(t, "the endorsement key as parent", open(t, s, Key{File: file(t, s, "plain.tss.pem"), Parent: RSAEK}), tpm2.TPMRCIntegrity)
	refuses(t, "a parent that is none", open(t, s, Key{File: file(t, s, "plain.tss.pem"), Parent: "0x81010002"}), 0, "correct parent")
	refuses(t, "a parent that is not there", open(t, s, Key{File: file(t, s, "plain.tss.pem"), Parent: "0x81000009"}), tpm2.TPMRCHandle, "no key at that handle")
	if _, err := Open(t.Context(), Key{Device: s.Device, Handle: 0x81010009}); !errors.Is(err, tpm2.TPMRCHandle) {
		t.Errorf("Open of a handle without a key = %v, want that it is not there", err)
	}
	if _, err := Open(t.Context(), Key{Device: s.Device, Handle: 0x81000001}); err == nil || !strings.Contains(err.Error(), "is it a parent key") {
		t.Errorf("Open of a storage key = %v, want that it does not sign", err)
	}
	left(t, s)
}

// A wrong password is tried once, however many ask at the same time.
func TestWrongPasswordOnce(t *testing.T) {
	s := tools(t)
	s.Tools(`
		tpm2_import -C primary.ctx -G rsa2048 -g sha256 -i key.pem -u key.pub -r key.prv -p secret
		tpm2_encodeobject -C primary.ctx -u key.pub -r key.prv -o key.tss.pem`)
	k := Key{File: file(t, s, "key.tss.pem"), Passwords: Passwords{Key: []byte("wrong")}}
	signer := open(t, s, k)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			if err := sign(signer); !errors.Is(err, tpm2.TPMRCAuthFail) {
				t.Errorf("Sign with a wrong password = %v, want AUTH_FAIL", err)
			}
		})
	}
	callers.Wait()
	if n := failures(t, s); n != 1 {
		t.Errorf("the TPM has counted %d wrong passwords, want 1: it was tried again", n)
	}
	refuses(t, "after a wrong password", signer, tpm2.TPMRCAuthFail, "key_password is wrong", "not tried again", s.Device)

	// Opened again, with the right one, it works.
	k.Passwords.Key = []byte("secret")
	if err := sign(open(t, s, k)); err != nil {
		t.Error(err)
	}
	// Two more wrong ones, each by a signer of its own, lock this TPM.
	for range 2 {
		k.Passwords.Key = []byte("worse")
		refuses(t, "a wrong password", open(t, s, k), tpm2.TPMRCAuthFail)
	}
	k.Passwords.Key = []byte("secret")
	signer = open(t, s, k)
	refuses(t, "a TPM that is locked", signer, tpm2.TPMRCLockout, "tpm2_dictionarylockout --clear-lockout")
	s.Tools("tpm2_dictionarylockout --clear-lockout")
	refuses(t, "a signer that was stopped", signer, tpm2.TPMRCLockout)
	if err := sign(open(t, s, k)); err != nil {
		t.Errorf("opened again after the lock was cleared: %v", err)
	}
	left(t, s)
}

// Passwords of hierarchies and of a parent.
func TestPasswordsAbove(t *testing.T) {
	s := tools(t)
	s.Tools(`
		tpm2_createprimary -C o -G ecc -g sha256 -c locked.ctx -p parent -a ` + attributes + ` -u unique.dat
		tpm2_evictcontrol -C o -c locked.ctx 0x81000001
		tpm2_import -C locked.ctx -P parent -G rsa2048 -g sha256 -i key.pem -u key.pub -r key.prv -a userwithauth|noda|sign
		tpm2_encodeobject -C locked.ctx -P parent -u key.pub -r key.prv -o key.tss.pem
		tpm2_changeauth -c owner owner
		tpm2_changeauth -c endorsement endorse`)
	f := file(t, s, "key.tss.pem")
	for name, c := range map[string]struct {
		parent    Parent
		passwords Passwords
		code      tpm2.TPMRC
		words     string
	}{
		"parent":               {"0x81000001", Passwords{Parent: []byte("parent")}, 0, ""},
		"parent, wrong":        {"0x81000001", Passwords{Parent: []byte("wrong")}, tpm2.TPMRCBadAuth, "parent_password is wrong"},
		"owner":                {H2, Passwords{Owner: []byte("owner")}, 0, ""},
		"owner, wrong":         {H2, Passwords{Owner: []byte("wrong")}, tpm2.TPMRCBadAuth, "owner_password is wrong"},
		"endorsement, missing": {RSAEK, Passwords{}, tpm2.TPMRCBadAuth, "endorsement_password is wrong"},
		"endorsement":          {RSAEK, Passwords{Endorsement: []byte("endorse")}, tpm2.TPMRCIntegrity, "another parent"},
	} {
		signer := open(t, s, Key{File: f, Parent: c.parent, Passwords: c.passwords})
		if c.code != 0 {
			refuses(t, name, signer, c.code, c.words)
		} else if err := sign(signer); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		left(t, s)
	}
	if n, err := Look(Key{Device: s.Device, Passwords: Passwords{Owner: []byte("owner"), Endorsement: []byte("endorse")}}); err != nil || n.Failures != 0 {
		t.Errorf("the TPM counts %d wrong passwords (%v), want none: hierarchies do not lock it", n.Failures, err)
	}
	if _, err := Open(t.Context(), Key{Device: s.Device, File: f, Passwords: Passwords{Key: []byte("a\x00b")}}); err == nil {
		t.Error("Open takes a password with a zero byte, which the TPM would take for another")
	}
	if _, err := Open(t.Context(), Key{Device: s.Device, File: f, Passwords: Passwords{Key: make([]byte, 33)}}); err == nil {
		t.Error("Open takes a password of 33 bytes")
	}
}

// PCRs that a key is bound to: right, another list, changed, reset.
func TestPCRs(t *testing.T) {
	s := tools(t)
	s.Tools(`
		keep tpm2_startauthsession -S s
		keep tpm2_policypcr -S s -l sha256:16,23 -L pcr.policy
		tpm2_flushcontext s
		tpm2_import -C primary.ctx -G rsa2048:rsassa:null -g sha256 -i key.pem -u key.pub -r key.prv -L pcr.policy -a sign
		tpm2_encodeobject -C primary.ctx -u key.pub -r key.prv -o key.tss.pem`)
	f := file(t, s, "key.tss.pem")
	at := func(list string, digest []byte) *Signer {
		pcrs, err := ParsePCRs(list)
		if err != nil {
			t.Fatal(err)
		}
		return open(t, s, Key{File: f, Policy: Policy{PCRs: pcrs, PCRDigest: digest}})
	}
	zero := sha256.Sum256(make([]byte, 64)) // two PCRs after a reset
	right, exact := at("sha256:23,16", nil), at("sha256:16,23", zero[:])
	good := func(when string) {
		t.Helper()
		for _, signer := range []*Signer{right, exact} {
			if err := sign(signer); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	good("right PCRs")
	refuses(t, "another list", at("sha256:16", nil), tpm2.TPMRCPolicyFail, "bound to other PCRs")
	refuses(t, "another bank", at("sha1:16,23", nil), tpm2.TPMRCPolicyFail)
	refuses(t, "a password instead", open(t, s, Key{File: f}), tpm2.TPMRCAuthUnavailable, "set pcrs")
	refuses(t, "other values expected", at("sha256:16,23", make([]byte, 32)), tpm2.TPMRCValue, "pcr_digest")
	s.Tools("tpm2_pcrextend 23:sha256=" + strings.Repeat("ab", 32))
	refuses(t, "a PCR was extended", right, tpm2.TPMRCPolicyFail)
	refuses(t, "a PCR was extended", exact, tpm2.TPMRCValue)
	s.Tools("tpm2_pcrreset 23")
	good("the PCR was reset")
	left(t, s)
}

// ekName is the name of the endorsement key as tpm2-tools tell it.
func ekName(t testing.TB, s *swtpm.TPM) []byte {
	t.Helper()
	s.Tools("tpm2_createek -c ek.ctx -G rsa -u ek.pub\n" +
		"tpm2_readpublic -c ek.ctx -n ek.name")
	name, err := os.ReadFile(s.File("ek.name", nil))
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// A key that was duplicated to the endorsement key, by tpm2-tools, from
// another primary.
func TestDuplicateSelect(t *testing.T) {
	for _, first := range []string{"password", "pcr"} {
		t.Run(first, func(t *testing.T) {
			s := tools(t)
			name := ekName(t, s)
			branch, password := "tpm2_policyauthvalue -S s -L a", "-p secret"
			if first == "pcr" {
				branch, password = "tpm2_policypcr -S s -l sha256:23 -L a", ""
			}
			s.Tools(`
				keep tpm2_startauthsession -S s
				keep ` + branch + `
				tpm2_flushcontext s
				keep tpm2_startauthsession -S s
				keep tpm2_policyduplicationselect -S s -N ek.name -L d
				tpm2_flushcontext s
				keep tpm2_startauthsession -S s
				keep tpm2_policyor -S s -L or sha256:a,d
				tpm2_flushcontext s
				tpm2_import -C primary.ctx -G rsa2048:rsassa:null -g sha256 -i key.pem -u key.pub -r key.prv -L or ` + password + ` -a sign
				keep tpm2_load -C primary.ctx -u key.pub -r key.prv -c key.ctx
				tpm2_readpublic -c key.ctx -n key.name
				keep tpm2_loadexternal -C n -u ek.pub -c parent.ctx
				keep tpm2_startauthsession --policy-session -S s
				keep tpm2_policyduplicationselect -S s -N ek.name -n key.name
				keep tpm2_policyor -S s -L x sha256:a,d
				tpm2_duplicate -C parent.ctx -c key.ctx -G null -p session:s -r dup.prv -s dup.seed
				keep tpm2_startauthsession --policy-session -S s
				keep tpm2_policysecret -S s -c e
				tpm2_import -C ek.ctx -P session:s -u key.pub -i dup.prv -s dup.seed -r there.prv -L or
				keep tpm2_startauthsession --policy-session -S s
				keep tpm2_policysecret -S s -c e
				tpm2_encodeobject -C ek.ctx -P session:s -u key.pub -r there.prv -o key.tss.pem`)
			k := Key{File: file(t, s, "key.tss.pem"), Parent: RSAEK, Policy: Policy{DuplicateSelect: true}}
			if first == "pcr" {
				k.PCRs = PCRs{"sha256", []uint{23}}
			} else {
				k.Passwords.Key = []byte("secret")
			}
			if err := sign(open(t, s, k)); err != nil {
				t.Error(err)
			}
			left(t, s)
			salted := k
			salted.EKName = name
			if err := sign(open(t, s, salted)); err != nil {
				t.Errorf("with sessions salted to the same key: %v", err)
			}
			left(t, s)
			if first == "pcr" {
				s.Tools("tpm2_pcrextend 23:sha256=" + strings.Repeat("ab", 32))
				refuses(t, "a PCR was extended", open(t, s, k), tpm2.TPMRCPolicyFail)
				return
			}
			k.Passwords.Key = []byte("wrong")
			refuses(t, "a wrong password", open(t, s, k), tpm2.TPMRCAuthFail, "key_password is wrong")
			k.Passwords.Key, k.DuplicateSelect = []byte("secret"), false
			refuses(t, "a policy that is not mentioned", open(t, s, k), tpm2.TPMRCAuthUnavailable, "duplicate_select")
			left(t, s)
		})
	}
}

// Sessions are salted to one endorsement key and no other.
func TestSaltedSessions(t *testing.T) {
	s := tools(t)
	s.Tools(`
		tpm2_import -C primary.ctx -G rsa2048:rsassa:null -g sha256 -i key.pem -u key.pub -r key.prv -p secret -a userwithauth|noda|sign
		tpm2_encodeobject -C primary.ctx -u key.pub -r key.prv -o key.tss.pem
		tpm2_load -C primary.ctx -u key.pub -r key.prv -c key.ctx
		tpm2_evictcontrol -C o -c key.ctx 0x81010002`)
	name := ekName(t, s)
	info, err := Look(Key{Device: s.Device})
	if err != nil || info.EKName != hex.EncodeToString(name) {
		t.Fatalf("Look says that the endorsement key is %s (%v), tpm2_createek says %x", info.EKName, err, name)
	}
	secret := Passwords{Key: []byte("secret")}
	keys := map[string]Key{
		"PEM":    {File: file(t, s, "key.tss.pem"), Passwords: secret, EKName: name},
		"handle": {Handle: 0x81010002, Passwords: secret, EKName: name},
	}
	for what, k := range keys {
		if err := sign(open(t, s, k)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		left(t, s)
		k.EKName = append(name[:len(name)-1:len(name)-1], name[len(name)-1]^1)
		refuses(t, what+" of another TPM", open(t, s, k), 0, "this is another TPM", "ek_name")
		k.EKName, k.Passwords.Key = name, []byte("wrong")
		refuses(t, what+" with a wrong password", open(t, s, k), tpm2.TPMRCBadAuth)
		left(t, s)
	}
	s.Tools("tpm2_evictcontrol -C o -c ek.ctx 0x81010001")
	for what, k := range keys {
		if err := sign(open(t, s, k)); err != nil {
			t.Errorf("%s, with the endorsement key where firmware keeps it: %v", what, err)
		}
		left(t, s)
	}
}

// A liar says that its key has the name that we look for.
type liar struct {
	transport.TPM
	truth, lie []byte
}

func (l liar) Send(command []byte) ([]byte, error) {
	answer, err := l.TPM.Send(command)
	return bytes.ReplaceAll(answer, l.truth, l.lie), err
}

// The name of the endorsement key is that of the public key which sessions are
// salted to, whatever the answer says: else who is on the way salts them to a
// key of its own.
func TestNameIsOfTheKey(t *testing.T) {
	s := tools(t)
	name := ekName(t, s)
	lie := append(name[:len(name)-1:len(name)-1], name[len(name)-1]^1)
	device := deviceAt(s.Device)
	for _, where := range []string{"made", "kept"} {
		if where == "kept" {
			s.Tools("tpm2_evictcontrol -C o -c ek.ctx 0x81010001")
		}
		err := device.visit(t.Context(), func(v *visit) error {
			if _, err := v.ek(name, nil); err != nil {
				t.Errorf("%s: the endorsement key is %v", where, err)
			}
			v.transport = liar{v.transport, name, lie}
			_, err := v.ek(lie, nil)
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "this is another TPM") {
			t.Errorf("%s: an endorsement key that says it has another name is taken for that: %v", where, err)
		}
	}
	left(t, s)
}

// A restricted key signs what the TPM has hashed, in one piece or several.
func TestRestricted(t *testing.T) {
	s := tools(t)
	s.Tools(`
		tpm2_create -C primary.ctx -G rsa2048:rsassa-sha256:null -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign|restricted -u key.pub -r key.prv
		tpm2_encodeobject -C primary.ctx -u key.pub -r key.prv -o key.tss.pem`)
	signer := open(t, s, Key{File: file(t, s, "key.tss.pem")})
	for _, size := range []int{10, 1024, 1025, 5000} {
		message := make([]byte, size)
		rand.Read(message)
		signature, err := crypto.SignMessage(signer, rand.Reader, message, crypto.SHA256)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		digest := sha256.Sum256(message)
		if err := rsa.VerifyPKCS1v15(signer.Public().(*rsa.PublicKey), crypto.SHA256, digest[:], signature); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		left(t, s)
	}
	refuses(t, "a digest from outside", signer, 0, "restricted")
}

// TestPasswordsInText: whoever prints a key shows no password of it.
func TestPasswordsInText(t *testing.T) {
	k := Key{Passwords: Passwords{Owner: []byte("planted"), Key: []byte("planted")}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, k); strings.Contains(got, "planted") || strings.Contains(got, "706c616e746564") || strings.Contains(got, "0x70") {
			t.Errorf("%s shows %s", verb, got)
		}
	}
}
