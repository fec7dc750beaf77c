package credential

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// A pki makes certificates that one authority has signed.
type pki struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newPKI(t testing.TB) *pki {
	p := &pki{}
	p.key, p.cert = p.leaf(t, "authority", time.Now().Add(time.Hour))
	return p
}

func (p *pki) leaf(t testing.TB, name string, until time.Time) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<60))
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until}
	parent, signer := p.cert, p.key
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

func certPEM(certs ...*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certs {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.String()
}

// x509Files writes a key pair and the file that names it.
func x509Files(t testing.TB, cert *x509.Certificate, key any) (config, certFile, keyFile string) {
	certFile, keyFile = textFile(t, certPEM(cert)), textFile(t, pemOf(t, key))
	return jsonFile(t, map[string]any{"version": 1, "cert_configs": map[string]any{"workload": map[string]any{"cert_path": certFile, "key_path": keyFile}}}), certFile, keyFile
}

// With a certificate, both calls are made with it, and the exchange gets it
// with those above it. It is read anew each time.
func TestExternalCertificate(t *testing.T) {
	authority := newPKI(t)
	var peers []string
	google := newCloud(t)
	google.EnableHTTP2 = true
	google.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
	google.TLS.ClientCAs.AddCert(authority.cert)
	google.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peers = append(peers, r.TLS.PeerCertificates[0].Subject.CommonName)
		google.ServeHTTP(w, r)
	})
	google.StartTLS()
	roots := x509.NewCertPool()
	roots.AddCert(google.Certificate())
	env := func() Env {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
		return Env{Client: &exchange.Client{Transport: transport}}
	}
	key, leaf := authority.leaf(t, "first", time.Now().Add(time.Hour))
	config, certFile, keyFile := x509Files(t, leaf, key)
	file := func(source map[string]any) string {
		return google.file(t, map[string]any{
			"subject_token_type": exchange.TypeCertificate, "service_account_impersonation_url": google.robotURL(),
			"credential_source": map[string]any{"certificate": source},
		})
	}
	subject := func(certs ...*x509.Certificate) string {
		var list []string
		for _, c := range certs {
			list = append(list, base64.StdEncoding.EncodeToString(c.Raw))
		}
		data, _ := json.Marshal(list)
		return string(data)
	}
	check := func(name string, want string) {
		t.Helper()
		if got := google.form.Get("subject_token"); got != want {
			t.Errorf("%s: the exchange got %s, want %s", name, got, want)
		}
	}

	config1 := Config{External: &External{File: file(map[string]any{"certificate_config_location": config})}}
	source, _, err := config1.Open(t.Context(), env())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := source.Mint(t.Context(), access); err != nil {
		t.Fatal(err)
	}
	check("alone", subject(leaf))
	key2, leaf2 := authority.leaf(t, "second", time.Now().Add(time.Hour))
	if err := errors.Join(os.WriteFile(certFile, []byte(certPEM(leaf2)), 0o600), os.WriteFile(keyFile, []byte(pemOf(t, key2)), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Mint(t.Context(), access); err != nil {
		t.Fatal(err)
	}
	check("renewed", subject(leaf2))
	if got := strings.Join(peers, " "); got != "first first second second" {
		t.Errorf("the calls were made as %s, want both as the first and then both as the second", got)
	}

	t.Setenv("GOOGLE_API_CERTIFICATE_CONFIG", config)
	for name, certs := range map[string][]*x509.Certificate{"chain": {authority.cert}, "chain with the leaf": {leaf2, authority.cert}} {
		path := file(map[string]any{"use_default_certificate_config": true, "trust_chain_path": textFile(t, certPEM(certs...))})
		if _, _, err := mint(t, Config{External: &External{File: path}}, env(), access); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		check(name, subject(leaf2, authority.cert))
	}

	// A key that is not in a file is that of another source.
	bare := jsonFile(t, map[string]any{"cert_configs": map[string]any{"workload": map[string]any{"cert_path": certFile}}})
	withKey := env()
	withKey.Signer = func(name string) (crypto.Signer, error) {
		if name != "chip" {
			t.Errorf("the key of %q was asked for, want that of chip", name)
		}
		return struct{ crypto.Signer }{key2}, nil // nothing but a signer
	}
	if _, _, err := mint(t, Config{External: &External{File: file(map[string]any{"certificate_config_location": bare}), Key: "chip"}}, withKey, access); err != nil {
		t.Errorf("with the key of another source: %v", err)
	}

	expiredKey, expired := authority.leaf(t, "expired", time.Now().Add(-time.Hour))
	otherKey, _ := authority.leaf(t, "other", time.Now().Add(time.Hour))
	expiredConfig, _, _ := x509Files(t, expired, expiredKey)
	mixed, _, _ := x509Files(t, leaf, otherKey)
	open := func(mode os.FileMode) string {
		config, _, keyFile := x509Files(t, leaf, key)
		if err := os.Chmod(keyFile, mode); err != nil {
			t.Fatal(err)
		}
		return config
	}
	text := func(s string) string { return textFile(t, s) }
	workload := func(cert, key string) string {
		return jsonFile(t, map[string]any{"cert_configs": map[string]any{"workload": map[string]any{"cert_path": cert, "key_path": key}}})
	}
	for name, tc := range map[string]struct {
		source map[string]any
		config External
		want   string
	}{
		"both places":       {map[string]any{"certificate_config_location": config, "use_default_certificate_config": true}, External{}, "has both"},
		"no config":         {map[string]any{"certificate_config_location": filepath.Join(t.TempDir(), "none")}, External{}, "no such file"},
		"no JSON":           {map[string]any{"certificate_config_location": text("planted")}, External{}, "not a certificate configuration"},
		"a store":           {map[string]any{"certificate_config_location": text(`{"cert_configs":{"pkcs11":{"slot":"0x1"}}}`)}, External{}, "go by key: in the configuration"},
		"no workload":       {map[string]any{"certificate_config_location": text(`{}`)}, External{}, "cert_configs.workload is missing"},
		"no cert_path":      {map[string]any{"certificate_config_location": text(`{"cert_configs":{"workload":{}}}`)}, External{}, "cert_path is missing"},
		"no key_path":       {map[string]any{"certificate_config_location": bare}, External{}, "key_path is missing"},
		"no source of it":   {map[string]any{"certificate_config_location": bare}, External{Key: "chip"}, "no other sources"},
		"expired":           {map[string]any{"certificate_config_location": expiredConfig}, External{}, "it has expired at"},
		"not its key":       {map[string]any{"certificate_config_location": mixed}, External{}, "the key is not that of the certificate"},
		"open key":          {map[string]any{"certificate_config_location": open(0o644)}, External{}, "chmod 600"},
		"no certificate":    {map[string]any{"certificate_config_location": workload(text("planted"), keyFile)}, External{}, "there is no certificate in PEM"},
		"damaged":           {map[string]any{"certificate_config_location": workload(text(strings.Replace(certPEM(leaf), "MII", "MIX", 1)), keyFile)}, External{}, "certificate 1 is damaged"},
		"no key in it":      {map[string]any{"certificate_config_location": workload(certFile, text("planted"))}, External{}, "there is no private key in PEM"},
		"leaf is not first": {map[string]any{"certificate_config_location": config, "trust_chain_path": text(certPEM(authority.cert, leaf2))}, External{}, "it must be the first or not be there"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.config.File = file(tc.source)
			_, _, err := mint(t, Config{External: &tc.config}, env(), access)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.config.File) {
				t.Errorf("Open = %v, want %q", err, tc.want)
			}
		})
	}
	relaxed := External{File: file(map[string]any{"certificate_config_location": open(0o644)}), Permissions: "relaxed"}
	if _, _, err := (Config{External: &relaxed}).Open(t.Context(), env()); err != nil {
		t.Errorf("an open key, relaxed = %v, want nil", err)
	}

	// A certificate that has expired since is not sent.
	if err := os.WriteFile(certFile, []byte(certPEM(expired)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Mint(t.Context(), access); kindOf(t, err) != token.Unavailable || !strings.Contains(err.Error(), "certificate in "+certFile) {
		t.Errorf("Mint with a certificate that has expired = %v, want Unavailable", err)
	}
}

// A source without a key that signs says so.
func TestSigner(t *testing.T) {
	if _, err := (Config{Issuer: &Issuer{}}).OpenSigner(t.Context(), Env{}); err == nil || !strings.Contains(err.Error(), "kind issuer has no key") {
		t.Errorf("Signer of the issuer = %v, want a refusal", err)
	}
	if _, err := (Config{}).OpenSigner(t.Context(), Env{}); err == nil {
		t.Error("Signer of nothing = nil")
	}
}

func FuzzParseCertificateConfig(f *testing.F) {
	f.Add([]byte(`{"version":1,"cert_configs":{"workload":{"cert_path":"/c","key_path":"/k"}}}`))
	f.Add([]byte(`{"cert_configs":{"pkcs11":{"slot":"0x1"}},"libs":{"ecp":"/e"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := parseCertificateConfig(data); err == nil && c.certFile == "" {
			t.Errorf("a configuration without a certificate was accepted: %s", data)
		}
	})
}
