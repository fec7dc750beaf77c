package daemon

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/tree"
)

func openNew(t *testing.T, dir string) *authority {
	t.Helper()
	a, err := openAuthority(filepath.Join(dir, "root.crt"), filepath.Join(dir, "root.key"), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// bubble is synctest.Test for what makes keys: the entropy source of FIPS 140
// measures time, and there time stands still.
func bubble(t *testing.T, f func(*testing.T)) {
	if fips140.Enabled() {
		t.Skip("keys cannot be made in a bubble under GODEBUG=fips140; run without it")
	}
	synctest.Test(t, f)
}

// TestServerCertificateIsRenewed: long before the server certificate ends,
// there is another one, and until then it is always the same.
func TestServerCertificateIsRenewed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := openNew(t, t.TempDir())
		first, err := a.server()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(renewEvery - time.Second)
		if same, err := a.server(); err != nil || same != first {
			t.Errorf("the certificate is renewed before its time (%v)", err)
		}
		time.Sleep(time.Second)
		next, err := a.server()
		if err != nil || next == first {
			t.Fatalf("the certificate is not renewed after %v (%v)", renewEvery, err)
		}
		if left := time.Until(first.Leaf.NotAfter); left < 24*time.Hour {
			t.Errorf("the old certificate is good for %v when it is renewed; clients that hold it need a day", left)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(a.pem)
		if _, err := next.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "metadata.google.internal"}); err != nil {
			t.Errorf("the new certificate is not accepted: %v", err)
		}
	})
}

// TestClientCertificatesAreRenewed: the files of the client are written anew
// before what is in them ends.
func TestClientCertificatesAreRenewed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		machine := &fleet.Instance{Name: "vm-1", Metadata: tree.NewStore(fleet.Builtin())}
		d := &Daemon{
			log:       slog.New(slog.DiscardHandler),
			instances: []*fleet.Instance{machine},
			listeners: []*listener{{name: "plain"}, {name: "secure", authority: openNew(t, t.TempDir()), clientDir: dir}},
		}
		if err := d.writeClientCertificates(); err != nil {
			t.Fatal(err)
		}
		read := func() []byte {
			data, err := os.ReadFile(filepath.Join(dir, "client.key"))
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		first := read()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go d.renewClientCertificates(ctx)
		time.Sleep(renewEvery - time.Second)
		synctest.Wait()
		if !bytes.Equal(read(), first) {
			t.Error("the client certificate is renewed before its time")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if bytes.Equal(read(), first) {
			t.Errorf("the client certificate is not renewed after %v", renewEvery)
		}
	})
}

// TestAuthorityExpires: an authority that has ended is refused, since every
// client would refuse it.
func TestAuthorityExpires(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		openNew(t, dir)
		time.Sleep(authorityLife + time.Second)
		_, err := openAuthority(filepath.Join(dir, "root.crt"), filepath.Join(dir, "root.key"), true, nil)
		if err == nil || !strings.Contains(err.Error(), "root.crt expired on ") {
			t.Errorf("an authority that has ended: %v", err)
		}
	})
}

// TestStrangeAuthorities: what cannot sign is refused with what to do.
func TestStrangeAuthorities(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, isCA bool, private any, public any, keyType string, der []byte) (cert, key string) {
		t.Helper()
		template := certificate(pkix.Name{CommonName: name}, time.Hour)
		template.IsCA, template.BasicConstraintsValid = isCA, true
		raw, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
		if err != nil {
			t.Fatal(err)
		}
		cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
		for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: raw}, key: {Type: keyType, Bytes: der}} {
			if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return cert, key
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	leaf, leafKey := write("leaf", false, ec, ec.Public(), "EC PRIVATE KEY", ecDER)
	rsaCert, rsaKey := write("rsa", true, other, other.Public(), "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(other))
	for name, c := range map[string]struct{ cert, key, want string }{
		"no authority": {leaf, leafKey, "is not the certificate of an authority (CA:TRUE is missing)"},
		"RSA":          {rsaCert, rsaKey, "the key of the certificate authority is not an EC key; make one with: openssl ecparam"},
		"two pairs":    {leaf, rsaKey, "are not a certificate and its key"},
		"missing":      {filepath.Join(dir, "none.crt"), filepath.Join(dir, "none.key"), "cannot read the certificate authority: "},
	} {
		if _, err := openAuthority(c.cert, c.key, false, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant …%s", name, err, c.want)
		}
	}
}
