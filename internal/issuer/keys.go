package issuer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

const (
	keyBits     = 2048
	maxKeys     = 8
	maxKeyBytes = 64 << 10
)

// A key is a signing key in all the forms in which it is published.
type key struct {
	private *rsa.PrivateKey
	id      string // kid: the first 40 hex digits of the SHA-256 of the SPKI
	web     jwk
	cert    string // PEM
}

type jwk struct {
	Use string `json:"use"`
	Kty string `json:"kty"`
	Kid string `json:"kid"`
	Alg string `json:"alg"`
	N   string `json:"n"`
	E   string `json:"e"`
}

func newKey(private *rsa.PrivateKey) (*key, error) {
	if err := checkBits(&private.PublicKey); err != nil {
		return nil, err
	}
	id, err := keyID(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	cert, err := certify(&private.PublicKey, private, "gcemds offline issuer")
	if err != nil {
		return nil, err
	}
	return &key{private: private, id: id, web: webKey(id, &private.PublicKey), cert: cert}, nil
}

func checkBits(public *rsa.PublicKey) error {
	if bits := public.N.BitLen(); bits < keyBits {
		return fmt.Errorf("the RSA key has %d bits, at least %d are needed", bits, keyBits)
	}
	return nil
}

func webKey(id string, public *rsa.PublicKey) jwk {
	return jwk{
		Use: "sig", Kty: "RSA", Kid: id, Alg: "RS256",
		N: base64url.EncodeToString(public.N.Bytes()),
		E: base64url.EncodeToString(big.NewInt(int64(public.E)).Bytes()),
	}
}

// keyID is the id of a key that nobody has named.
func keyID(public crypto.PublicKey) (string, error) {
	sum, err := fingerprint(public)
	return hex.EncodeToString(sum[:])[:40], err
}

func fingerprint(public crypto.PublicKey) ([sha256.Size]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	return sha256.Sum256(spki), err
}

// certify returns a certificate of the key in PEM.
func certify(public crypto.PublicKey, signer *rsa.PrivateKey, name string) (string, error) {
	sum, err := fingerprint(public)
	if err != nil {
		return "", err
	}
	// Nothing in the certificate depends on the clock or on chance: the same
	// key has the same certificate in each life. 99991231235959Z means that
	// it has no end (RFC 5280 section 4.1.2.5).
	cert := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(sum[:16]),
		Subject:               pkix.Name{CommonName: name},
		SubjectKeyId:          sum[:20],
		NotBefore:             time.Unix(0, 0).UTC(),
		NotAfter:              time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		SignatureAlgorithm:    x509.SHA256WithRSA,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, public, signer)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}

// generate makes the key of an issuer that was given none. Close waits for
// the goroutine: RSA generation cannot be interrupted, but it is short.
func (i *Issuer) generate() {
	go func() {
		defer close(i.made)
		private, err := rsa.GenerateKey(rand.Reader, keyBits)
		if err != nil {
			i.err = fmt.Errorf("generate a key: %w", err)
			return
		}
		k, err := newKey(private)
		if err != nil {
			i.err = fmt.Errorf("generate a key: %w", err)
			return
		}
		i.mu.Lock()
		i.keys = []*key{k}
		i.mu.Unlock()
	}()
}

// ready returns the keys, generated if need be. The generation outlives a
// caller that does not wait for it.
func (i *Issuer) ready(ctx context.Context) ([]*key, error) {
	i.begin.Do(i.generate)
	select {
	case <-i.made:
		i.mu.Lock()
		defer i.mu.Unlock()
		return i.keys, i.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Rotate makes a new key that signs from now on. The key that signed until
// now stays published, older ones do not: an ID token verifies until the
// second rotation after it, so rotate no more often than once an hour.
func (i *Issuer) Rotate(ctx context.Context) error {
	old, err := i.ready(ctx)
	if err != nil {
		return err
	}
	private, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return fmt.Errorf("generate a key: %w", err)
	}
	k, err := newKey(private)
	if err != nil {
		return fmt.Errorf("generate a key: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = []*key{k, old[0]} // a new slice: the old one is being read
	return nil
}

// accessSecret derives the HMAC key of access tokens, so that one key file
// makes both kinds of tokens last.
func accessSecret(private *rsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, der, nil, "gcemds offline issuer: access tokens", sha256.Size)
}

// LoadKeys returns the RSA keys of a PEM file (PKCS#8 or PKCS#1), for
// Options.Keys. A file that does not exist is created with a new key, whole
// and readable by its owner alone, so that the next start finds it.
//
// To rotate, put a new key first and keep the old one for 7 hours: verifiers
// cache the published keys for up to 20000 seconds, and an ID token lives one
// hour. A file that others can read is refused unless relaxed.
func LoadKeys(ctx context.Context, path string, relaxed bool) ([]*rsa.PrivateKey, error) {
	data, err := ReadSecretFile(path, relaxed, maxKeyBytes)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = createKey(ctx, path); err == nil && data == nil {
			data, err = ReadSecretFile(path, relaxed, maxKeyBytes) // another process was faster
		}
	}
	if err != nil {
		return nil, fmt.Errorf("issuer key file: %w", err)
	}
	keys, err := parseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("issuer key file %s: %w; repair it, or remove it to get a new key", path, err)
	}
	return keys, nil
}

func parseKeys(data []byte) ([]*rsa.PrivateKey, error) {
	var keys []*rsa.PrivateKey
	for n := 1; ; n++ {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if n > maxKeys {
			return nil, fmt.Errorf("more than %d keys", maxKeys)
		}
		var parsed any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			return nil, fmt.Errorf("PEM block %d is %q, expected \"PRIVATE KEY\"", n, block.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", n, err)
		}
		private, ok := parsed.(*rsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("PEM block %d is not an RSA key (the tokens are signed with RS256)", n)
		}
		if err := checkBits(&private.PublicKey); err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", n, err)
		}
		for _, k := range keys {
			if k.Equal(private) {
				return nil, fmt.Errorf("PEM block %d is the same key as an earlier one", n)
			}
		}
		keys = append(keys, private)
	}
	switch {
	case len(bytes.TrimSpace(data)) > 0:
		return nil, errors.New("there is text that is no PEM block")
	case len(keys) == 0:
		return nil, errors.New("there is no key in it")
	}
	return keys, nil
}

// createKey writes a new key to path and returns the content. It returns nil
// if the file has appeared in the meantime; that one is to be used.
func createKey(ctx context.Context, path string) ([]byte, error) {
	private, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})

	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return nil, err
	}
	// A link, unlike a rename, does not replace the file of a process that
	// was faster. Where there are no links, a rename must do.
	err = os.Link(f.Name(), path)
	if errors.Is(err, fs.ErrExist) {
		return nil, nil
	}
	if err != nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}
