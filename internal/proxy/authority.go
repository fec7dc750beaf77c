package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// GoogleHosts are the names under which programs know the services that hand
// out identity.
var GoogleHosts = []string{"accounts.google.com", "*.googleapis.com", "*.mtls.googleapis.com"}

// authorityLife is that of a run: the key of an authority is never stored.
const authorityLife = 30 * 24 * time.Hour

// An Authority is a certificate authority that lives as long as the process,
// and the one certificate that it signed. Its certificate says that it is good
// for these hosts only (name constraints), so trusting it endangers no others.
type Authority struct {
	pem  []byte
	cert tls.Certificate
}

// NewAuthority makes an authority for hosts; *.example.com is every name one
// label below example.com.
func NewAuthority(hosts ...string) (*Authority, error) {
	var domains []string
	for _, h := range hosts {
		domains = append(domains, strings.TrimPrefix(h, "*."))
	}
	root := template("gcemds fake Google, not Google")
	root.IsCA, root.BasicConstraintsValid, root.MaxPathLenZero = true, true, true
	root.KeyUsage = x509.KeyUsageCertSign
	root.PermittedDNSDomainsCritical, root.PermittedDNSDomains = true, domains
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	root, err = x509.ParseCertificate(rootDER) // with the key id that the leaf refers to
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}

	leaf := template("gcemds fake Google, not Google, server")
	leaf.DNSNames = hosts
	leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a server certificate: %w", err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), rootKey)
	if err != nil {
		return nil, fmt.Errorf("make a server certificate: %w", err)
	}
	parsed, err := x509.ParseCertificate(leafDER)
	if err != nil {
		return nil, fmt.Errorf("make a server certificate: %w", err)
	}
	return &Authority{
		pem:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}),
		cert: tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: leafKey, Leaf: parsed},
	}, nil
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // crypto/rand does not fail
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-5 * time.Minute), // clocks differ
		NotAfter:     time.Now().Add(authorityLife),
	}
}

// PEM is the certificate that programs must trust.
func (a *Authority) PEM() []byte { return a.pem }

// standsFor reports whether the certificate is for a host.
func (a *Authority) standsFor(host string) bool { return a.cert.Leaf.VerifyHostname(host) == nil }

func (a *Authority) serverConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// For X.509 federation. Whether it is good is for the handler to say.
		ClientAuth: tls.RequestClientCert,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if !a.standsFor(hello.ServerName) {
				return nil, fmt.Errorf("TLS for %.100q, which this proxy does not stand for", hello.ServerName)
			}
			return &a.cert, nil
		},
	}
}
