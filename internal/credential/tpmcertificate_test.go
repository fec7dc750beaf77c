package credential

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
)

// TestTPMCertificate: a workload whose certificate has its key in a TPM gets
// tokens by federation; Google sees that certificate in both connections.
func TestTPMCertificate(t *testing.T) {
	_, c, env := chip(t, TPMKey{Handle: "0x81010002"})
	named := Config{TPM: c}
	signer, err := named.OpenSigner(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	authority := newPKI(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "workload"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, authority.cert, signer.Public(), authority.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}

	var peers []string
	google := newCloud(t)
	google.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
	google.TLS.ClientCAs.AddCert(authority.cert)
	google.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peers = append(peers, r.TLS.PeerCertificates[0].Subject.CommonName)
		google.ServeHTTP(w, r)
	})
	google.StartTLS()
	roots := x509.NewCertPool()
	roots.AddCert(google.Certificate())
	env.Client = &exchange.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	env.Signer = func(string) (crypto.Signer, error) { return signer, nil }

	config := jsonFile(t, map[string]any{"cert_configs": map[string]any{"workload": map[string]any{"cert_path": textFile(t, certPEM(leaf))}}})
	file := google.file(t, map[string]any{
		"subject_token_type": exchange.TypeCertificate, "service_account_impersonation_url": google.robotURL(),
		"credential_source": map[string]any{"certificate": map[string]any{"certificate_config_location": config}},
	})
	source, _, err := Config{External: &External{File: file, Key: "chip"}}.Open(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := source.Mint(t.Context(), access); err != nil {
		t.Fatal(err)
	}
	if len(peers) != 2 || peers[0] != "workload" || peers[1] != "workload" {
		t.Errorf("Google saw the certificates %q, want that of the workload twice", peers)
	}
}
