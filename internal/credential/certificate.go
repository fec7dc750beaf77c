package credential

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
)

// A certificateSource says where the certificate is that proves who we are
// (section 3.3).
type certificateSource struct {
	UseDefault bool   `json:"use_default_certificate_config"`
	Config     string `json:"certificate_config_location"`
	TrustChain string `json:"trust_chain_path"`
}

// A certificate is that of a workload, with its key. It is read anew for each
// connection, since somebody else renews it.
type certificate struct {
	certFile, keyFile string
	relaxed           bool          // the permissions of keyFile
	key               crypto.Signer // nil: in keyFile
	chain             string        // PEM file with those above it; may be empty
}

const maxCertificates = 256 << 10

// certificate finds the certificate and reads it once, to see that all is
// there.
func (c *External) certificate(s *certificateSource, env Env) (*certificate, error) {
	config := s.Config
	switch {
	case s.UseDefault && config != "":
		return nil, errors.New("certificate has both use_default_certificate_config and certificate_config_location")
	case !s.UseDefault && config == "":
		return nil, errors.New("certificate has neither use_default_certificate_config nor certificate_config_location")
	case s.UseDefault:
		config = cmp.Or(os.Getenv("GOOGLE_API_CERTIFICATE_CONFIG"), filepath.Join(gcloudFolder(), "certificate_config.json"))
	}
	data, err := issuer.ReadSecretFile(config, true, maxKeyFile)
	if err != nil {
		return nil, err
	}
	cert, err := parseCertificateConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", config, err)
	}
	cert.relaxed, cert.chain = c.Permissions == "relaxed", s.TrustChain
	switch {
	case c.Key != "":
		if env.Signer == nil {
			return nil, fmt.Errorf("key %q: there are no other sources here", c.Key)
		}
		if cert.key, err = env.Signer(c.Key); err != nil {
			return nil, fmt.Errorf("key %q: %w", c.Key, err)
		}
	case cert.keyFile == "":
		return nil, fmt.Errorf("%s: field key_path is missing (or name a source that has the key as key: in the configuration)", config)
	}
	if _, err := cert.load(); err != nil {
		return nil, err
	}
	_, err = cert.subject(context.Background())
	return cert, err
}

// parseCertificateConfig reads the file that gcloud writes.
func parseCertificateConfig(data []byte) (*certificate, error) {
	var f struct {
		Configs map[string]json.RawMessage `json:"cert_configs"`
	}
	if json.Unmarshal(data, &f) != nil {
		return nil, errors.New("not a certificate configuration: it is no JSON object with cert_configs")
	}
	var w struct {
		Cert string `json:"cert_path"`
		Key  string `json:"key_path"`
	}
	raw, ok := f.Configs["workload"]
	switch {
	case !ok && len(f.Configs) > 0:
		return nil, errors.New("cert_configs has no workload; certificates in a PKCS#11 module or in the store of the system go by key: in the configuration")
	case !ok:
		return nil, errors.New("field cert_configs.workload is missing")
	case json.Unmarshal(raw, &w) != nil || w.Cert == "":
		return nil, errors.New("field cert_configs.workload.cert_path is missing")
	}
	return &certificate{certFile: w.Cert, keyFile: w.Key}, nil
}

// load reads the key pair.
func (c *certificate) load() (*tls.Certificate, error) {
	certs, err := readCertificates(c.certFile)
	if err != nil {
		return nil, err
	}
	pair := &tls.Certificate{PrivateKey: c.key, Leaf: certs[0]}
	for _, cert := range certs {
		pair.Certificate = append(pair.Certificate, cert.Raw)
	}
	if c.key == nil {
		data, err := issuer.ReadSecretFile(c.keyFile, c.relaxed, maxKeyFile)
		if err != nil {
			return nil, err
		}
		if pair.PrivateKey, err = parseTLSKey(data); err != nil {
			return nil, fmt.Errorf("%s: %w", c.keyFile, err)
		}
	}
	public, ok := certs[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	signer, signs := pair.PrivateKey.(crypto.Signer)
	if !ok || !signs || !public.Equal(signer.Public()) {
		return nil, fmt.Errorf("the key is not that of the certificate in %s", c.certFile)
	}
	return pair, nil
}

// parseTLSKey reads a private key of any kind that TLS takes.
func parseTLSKey(data []byte) (crypto.Signer, error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return nil, errors.New("there is no private key in PEM")
		}
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		default: // parameters of a curve, a certificate
			continue
		}
		if signer, ok := key.(crypto.Signer); ok && err == nil {
			return signer, nil
		}
		return nil, errors.New("the private key is damaged")
	}
}

// configure has every connection begin with the key pair that is there then.
func (c *certificate) configure(config *tls.Config) {
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.load() }
}

// subject returns the certificate and those above it as Google wants them: a
// JSON array, the leaf first.
func (c *certificate) subject(context.Context) (string, error) {
	certs, err := readCertificates(c.certFile)
	if err != nil {
		return "", &token.Error{Kind: token.Unavailable, Err: err}
	}
	leaf := certs[0]
	if now := time.Now(); now.After(leaf.NotAfter) {
		return "", &token.Error{Kind: token.Unavailable, Err: fmt.Errorf("it has expired at %s; does what renews it still run?", leaf.NotAfter.UTC().Format(time.RFC3339))}
	}
	list := []string{base64.StdEncoding.EncodeToString(leaf.Raw)}
	if c.chain != "" {
		above, err := readCertificates(c.chain)
		if err != nil {
			return "", &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("trust_chain_path: %w", err)}
		}
		for i, cert := range above {
			switch isLeaf := bytes.Equal(cert.Raw, leaf.Raw); {
			case isLeaf && i > 0:
				return "", &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("trust_chain_path: the certificate itself is number %d in %s; it must be the first or not be there", i+1, c.chain)}
			case !isLeaf:
				list = append(list, base64.StdEncoding.EncodeToString(cert.Raw))
			}
		}
	}
	data, err := json.Marshal(list)
	return string(data), err
}

// readCertificates reads the certificates of a PEM file; there is one at least.
func readCertificates(path string) ([]*x509.Certificate, error) {
	data, err := issuer.ReadSecretFile(path, true, maxCertificates)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d is damaged: %w", path, len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s: there is no certificate in PEM", path)
	}
	return certs, nil
}

// gcloudFolder is where gcloud keeps its files.
func gcloudFolder() string {
	if dir := os.Getenv("CLOUDSDK_CONFIG"); dir != "" {
		return dir
	}
	if runtime.GOOS == "windows" {
		return filepath.Join(os.Getenv("APPDATA"), "gcloud")
	}
	home, _ := os.UserHomeDir()
	return filepath.Join(home, ".config", "gcloud")
}
