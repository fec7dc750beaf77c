package tpm

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/gcemds/gcemds/internal/tpm/swtpm"
)

// Keys that we make, under each parent, with a password, a policy and sessions
// that are salted, are keys that we can use; so can tpm2-tools.
func TestMakeKeys(t *testing.T) {
	s := swtpm.Start(t)
	info, err := Look(Key{Device: s.Device})
	if err != nil {
		t.Fatal(err)
	}
	name, _ := hex.DecodeString(info.EKName)
	if err := PersistParent(Key{Device: s.Device}, 0x81000001); err != nil {
		t.Fatal(err)
	}
	if err := PersistParent(Key{Device: s.Device, Parent: RSAEK}, ekHandle); err != nil {
		t.Fatal(err)
	}
	password := Passwords{Key: []byte("secret")}
	pcrs := Policy{PCRs: PCRs{"sha256", []uint{0, 16, 23}}}
	for what, k := range map[string]Key{
		"h2":                     {},
		"rsa-srk":                {Parent: RSASRK, Passwords: password},
		"ecc-srk":                {Parent: ECCSRK, Policy: pcrs},
		"ek-rsa":                 {Parent: RSAEK, Passwords: password},
		"ek-rsa, salted":         {Parent: RSAEK, Passwords: password, Policy: pcrs, EKName: name},
		"handle":                 {Parent: "0x81000001", Passwords: password},
		"password, salted":       {Passwords: password, EKName: name},
		"PCRs and password":      {Passwords: password, Policy: pcrs},
		"duplicate-select":       {Passwords: password, Policy: Policy{DuplicateSelect: true}},
		"PCRs, of which 9 exist": {Policy: Policy{PCRs: PCRs{"sha256", []uint{0, 1, 2, 3, 4, 5, 6, 7, 8}}}},
	} {
		k.Device = s.Device
		for _, make := range []func() (*KeyFile, error){
			func() (*KeyFile, error) { return Import(k, rsaKey()) },
			func() (*KeyFile, error) { return Create(k, P256) },
		} {
			f, err := make()
			left(t, s)
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			text, err := f.PEM()
			if err != nil {
				t.Fatal(err)
			}
			made := k
			if made.File, err = ParseKeyFile(text); err != nil {
				t.Fatal(err)
			}
			if err := sign(open(t, s, made)); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if made.PCRs.List != nil && made.Passwords.Key != nil {
				made.Passwords.Key = []byte("wrong")
				refuses(t, what+", with a wrong password", open(t, s, made), tpm2.TPMRCBadAuth, "key_password")
				made.Passwords.Key = nil
				refuses(t, what+", without the password", open(t, s, made), tpm2.TPMRCPolicyFail)
			}
			left(t, s)
		}
	}
	if n := failures(t, s); n != 0 {
		t.Errorf("wrong passwords for keys of ours count for the lock of the TPM: %d", n)
	}
}

// tpm2-tools load a key of ours and sign with it.
func TestToolsUseOurKeys(t *testing.T) {
	s := tools(t)
	persistent(t, s, "secret")
	s.File("message", []byte("message"))
	s.Tools("tpm2_sign -c 0x81010002 -p secret -g sha256 -s rsassa -f plain -o signature message")
	signature, err := os.ReadFile(s.File("signature", nil))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	if err := rsa.VerifyPKCS1v15(&rsaKey().PublicKey, crypto.SHA256, digest[:], signature); err != nil {
		t.Error(err)
	}
	out, err := s.Try("tpm2_readpublic -c 0x81010002")
	if err != nil || !strings.Contains(out, "noda") {
		t.Errorf("the imported key locks the TPM after wrong passwords: %s %v", out, err)
	}
	k := Key{Device: s.Device}
	if k.File, err = Create(k, P256); err != nil {
		t.Fatal(err)
	}
	if err := Persist(k, 0x81010002); !errors.Is(err, tpm2.TPMRCNVDefined) || !strings.Contains(err.Error(), "choose another") {
		t.Errorf("Persist at a handle that is taken = %v, want that it is", err)
	}
}

// A key that is too big for the TPM: one can do nothing but take another.
func TestImportTooBig(t *testing.T) {
	s := swtpm.Start(t)
	bits := func(n uint) *big.Int { return new(big.Int).SetBit(new(big.Int).SetInt64(1), int(n-1), 1) }
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: bits(4096), E: 65537}, Primes: []*big.Int{bits(2048), bits(2048)}}
	if _, err := Import(Key{Device: s.Device}, key); err == nil || !strings.Contains(err.Error(), "create one with 2048 bits") {
		t.Errorf("Import of a key of 4096 bits = %v, want what to do", err)
	}
}

// A key in the TPM is the key of a TLS client, EC or RSA.
func TestTLS(t *testing.T) {
	s := swtpm.Start(t)
	for _, kind := range []Kind{RSA2048, P256} {
		k := Key{Device: s.Device}
		f, err := Create(k, kind)
		if err != nil {
			t.Fatal(err)
		}
		k.File = f
		signer := open(t, s, k)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, DNSNames: []string{"tpm.test"}}
		der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AddCert(certificate)
		mine := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: signer}}
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			a, b := net.Pipe()
			server := tls.Server(a, &tls.Config{Certificates: mine, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MaxVersion: version})
			client := tls.Client(b, &tls.Config{Certificates: mine, RootCAs: pool, ServerName: "tpm.test"})
			failed := make(chan error, 1)
			go func() {
				err := server.Handshake()
				if err == nil {
					_, err = server.Write([]byte("x"))
				}
				a.Close()
				failed <- err
			}()
			_, err := client.Read(make([]byte, 1))
			if err == nil {
				err = <-failed
			}
			b.Close()
			if err != nil {
				t.Errorf("%s, TLS %x: %v", kind, version, err)
			}
		}
	}
}

// A key fixed to one scheme says that it cannot make another.
func TestFixedScheme(t *testing.T) {
	s := tools(t)
	s.Tools(`
		tpm2_import -C primary.ctx -G rsa2048:rsassa-sha256:null -g sha256 -i key.pem -u key.pub -r key.prv
		tpm2_encodeobject -C primary.ctx -u key.pub -r key.prv -o key.tss.pem`)
	signer := open(t, s, Key{File: file(t, s, "key.tss.pem")})
	if err := sign(signer); err != nil {
		t.Error(err)
	}
	_, err := signer.Sign(nil, make([]byte, 32), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
	if err == nil || !strings.Contains(err.Error(), "scheme null") {
		t.Errorf("PSS with a key fixed to PKCS #1 = %v, want what to do", err)
	}
	if _, err := signer.Sign(nil, make([]byte, 20), crypto.SHA1); err == nil {
		t.Error("a signature with SHA-1")
	}
}
