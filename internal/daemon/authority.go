package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Lives of certificates (protocol section 8): the guest agent renews its own
// every 48 hours, and a client certificate is good for about a week.
const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 7 * 24 * time.Hour
	renewEvery      = 48 * time.Hour
)

// An authority is the certificate authority of mutual TLS: clients trust it,
// and it signs who may connect. Its methods may be called concurrently.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
	host []string // names of the server certificate

	mu     sync.Mutex
	served *tls.Certificate // the server's own, renewed when it is old
	signed time.Time
}

// serverNames are those of the real server (section 1.1) and of this machine.
var serverNames = []string{
	"metadata.google.internal", "metadata.goog", "metadata", "localhost",
	"169.254.169.254", "fd20:ce::254", "127.0.0.1", "::1",
}

// openAuthority reads the authority from two PEM files, or makes one if both
// are missing and may be made.
func openAuthority(certFile, keyFile string, create bool, names []string) (*authority, error) {
	certPEM, err := os.ReadFile(certFile)
	keyPEM, keyErr := os.ReadFile(keyFile)
	if create && errors.Is(err, os.ErrNotExist) && errors.Is(keyErr, os.ErrNotExist) {
		if err := makeAuthority(certFile, keyFile); err != nil {
			return nil, fmt.Errorf("cannot make a certificate authority: %w", err)
		}
		certPEM, err = os.ReadFile(certFile)
		keyPEM, keyErr = os.ReadFile(keyFile)
	}
	if err := errors.Join(err, keyErr); err != nil {
		return nil, fmt.Errorf("cannot read the certificate authority: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are not a certificate and its key: %w", certFile, keyFile, err)
	}
	a := &authority{cert: pair.Leaf, pem: certPEM, host: append(names, serverNames...)}
	var ok bool
	if a.key, ok = pair.PrivateKey.(*ecdsa.PrivateKey); !ok {
		return nil, fmt.Errorf("%s: the key of the certificate authority is not an EC key; make one with: openssl ecparam -name prime256v1 -genkey", keyFile)
	}
	if !a.cert.IsCA {
		return nil, fmt.Errorf("%s is not the certificate of an authority (CA:TRUE is missing)", certFile)
	}
	if time.Now().After(a.cert.NotAfter) {
		return nil, fmt.Errorf("%s expired on %s", certFile, a.cert.NotAfter.Format(time.DateOnly))
	}
	return a, nil
}

func makeAuthority(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := certificate(pkix.Name{Country: []string{"US"}, Organization: []string{"Google Compute Internal"}, CommonName: "google.internal"}, authorityLife)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(certFile), 0o700); err != nil {
		return err
	}
	if err := writeFile(keyFile, keyPEM, 0o600); err != nil {
		return err
	}
	return writeFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

func certificate(subject pkix.Name, life time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // crypto/rand does not fail
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-5 * time.Minute), // clocks differ
		NotAfter:     now.Add(life),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

// sign makes a key and a certificate for it.
func (a *authority) sign(subject pkix.Name, usage x509.ExtKeyUsage, names []string) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := certificate(subject, certificateLife)
	template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err = encodeKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM, err
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// client signs a certificate for an instance: certificate and key in one PEM,
// as the files on a virtual machine have it.
func (a *authority) client(instance, project string) ([]byte, error) {
	subject := pkix.Name{Country: []string{"US"}, Organization: []string{"Google Compute Engine"}, CommonName: instance}
	cert, key, err := a.sign(subject, x509.ExtKeyUsageClientAuth, []string{instance + ".c." + project + ".internal"})
	return append(cert, key...), err
}

// config is for a listener that only clients of this authority may use.
func (a *authority) config() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		ClientAuth:     tls.RequireAndVerifyClientCert,
		ClientCAs:      pool,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.server() },
	}
}

// server returns the server certificate, renewed when it is old.
func (a *authority) server() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.served != nil && time.Since(a.signed) < renewEvery {
		return a.served, nil
	}
	subject := pkix.Name{Country: []string{"US"}, Organization: []string{"Google Compute Internal"}, CommonName: "metadata.google.internal"}
	cert, key, err := a.sign(subject, x509.ExtKeyUsageServerAuth, a.host)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	a.served, a.signed = &pair, time.Now()
	return a.served, nil
}

// writeFile replaces a file at once, with these permissions whatever the umask.
func writeFile(name string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".gcemds-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
