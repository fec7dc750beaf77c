package credential

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tpm"
)

// Import puts the key of a JSON file into the TPM, in the place and with the
// password and the policy that c names, signs something with it as a proof,
// and completes c to what the configuration needs.
func (c *TPM) Import(jsonFile string) error {
	data, err := issuer.ReadSecretFile(jsonFile, false, maxKeyFile)
	if err != nil {
		return err
	}
	key, err := parseKey(data)
	if err != nil {
		return fmt.Errorf("%s: %w", jsonFile, err)
	}
	private, ok := key.signer.(*rsa.PrivateKey)
	if !ok {
		return fmt.Errorf("%s: it has no RSA key", jsonFile)
	}
	if err := c.TPMKey.keep(func(k tpm.Key) (*tpm.KeyFile, error) { return tpm.Import(k, private) }); err != nil {
		return err
	}
	c.Email, c.KeyID = key.identity.Email, key.id
	if key.tokenURI != (Endpoints{}).token() {
		c.TokenURI = key.tokenURI
	}
	return nil
}

// Create has the TPM make a key; see Import. The kind is rsa2048 or p256.
func (c *TPMKey) Create(kind string) error {
	switch k := tpm.Kind(kind); k {
	case tpm.RSA2048, tpm.P256:
		return c.keep(func(key tpm.Key) (*tpm.KeyFile, error) { return tpm.Create(key, k) })
	}
	return fmt.Errorf("%q is not a kind of key: it is %s or %s", kind, tpm.RSA2048, tpm.P256)
}

// keep makes a key and puts it where c says: at its handle, or in its file,
// which must not be there yet.
func (c *TPMKey) keep(make func(tpm.Key) (*tpm.KeyFile, error)) error {
	making := *c // for a parent and a handle: once the key has that, it has no parent
	if c.Handle != "" {
		c.Parent, c.OwnerPassword, c.ParentPassword = "", "", ""
		if c.EKName == "" && !c.DuplicateSelect {
			c.EndorsementPassword = ""
		}
	}
	if faults := c.faults(); len(faults) > 0 {
		return errors.Join(faults...)
	}
	if c.KeyFile != "" {
		if _, err := os.Lstat(c.KeyFile); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there already; it may be the only form of a key, so remove it yourself or choose another name", c.KeyFile)
		}
	}
	k, err := making.unlocked()
	if err != nil {
		return err
	}
	made, err := make(k)
	if err != nil {
		return err
	}
	if c.Handle != "" {
		handle, err := tpm.ParseHandle(c.Handle)
		if err != nil {
			return err
		}
		k.File = made
		if err := tpm.Persist(k, handle); err != nil {
			return err
		}
	} else if err := c.save(made); err != nil {
		return err
	}
	signer, err := c.signer(context.Background())
	if err != nil {
		return err
	}
	return signer.prove()
}

func (c *TPMKey) save(key *tpm.KeyFile) error {
	text, err := key.PEM()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.KeyFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// prove makes a signature, which is verified on the way.
func (s *tpmSigner) prove() error {
	_, err := s.SignMessage(rand.Reader, []byte("gcemds"), crypto.SHA256)
	return err
}

// Exists reports whether there is a key where c says.
func (c *TPMKey) Exists() (bool, error) {
	if c.KeyFile != "" {
		_, err := os.Lstat(c.KeyFile)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}
	if _, err := c.signer(context.Background()); err != nil {
		if tpm.NoKey(err) {
			return false, nil
		}
		return false, err
	}
	return true, nil
}

// Certificate returns a certificate of the key, signed by itself, in PEM.
// Google takes it as the public part of a service account key, which is good
// as long as the certificate is.
func (c *TPMKey) Certificate(name string, life time.Duration) ([]byte, error) {
	signer, err := c.signer(context.Background())
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-5 * time.Minute), // clocks differ
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		SignatureAlgorithm:    x509.SHA256WithRSA,
	}
	if _, ok := signer.Public().(*ecdsa.PublicKey); ok {
		t.SignatureAlgorithm = x509.ECDSAWithSHA256
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, signer.Public(), signer)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Look asks the TPM that c names about itself.
func (c *TPMKey) Look() (tpm.Info, error) {
	k, err := c.unlocked()
	if err != nil {
		return tpm.Info{}, err
	}
	return tpm.Look(k)
}

// PersistParent keeps the parent that c names in the TPM under a handle.
func (c *TPMKey) PersistParent(handle string) error {
	h, err := tpm.ParseHandle(handle)
	if err != nil {
		return err
	}
	k, err := c.unlocked()
	if err != nil {
		return err
	}
	return tpm.PersistParent(k, h)
}

// A TPMFinding is one step of a check.
type TPMFinding struct {
	Step   string `json:"step"`
	Detail string `json:"detail,omitempty"`
	Error  string `json:"error,omitempty"` // empty: it went well
}

// Check goes the way of a token step by step, until one fails: the public key,
// a signature, and if it is to mint, an access token for cloud-platform.
func (c *TPM) Check(ctx context.Context, env Env, mint bool) []TPMFinding {
	var found []TPMFinding
	step := func(name, detail string, err error) bool {
		f := TPMFinding{Step: name, Detail: detail}
		if err != nil {
			f.Error = err.Error()
		}
		found = append(found, f)
		return err == nil
	}
	if !step("configuration", "", c.validate()) {
		return found
	}
	source, id, err := c.open(ctx, env)
	if err != nil {
		step("public key", "", err)
		return found
	}
	signer := source.(*signingSource).signer.(*tpmSigner)
	step("public key", signer.describe(), nil)
	begin := time.Now()
	err = signer.prove()
	if !step("signature", fmt.Sprintf("made and verified in %v", time.Since(begin).Round(time.Millisecond)), err) || !mint {
		return found
	}
	t, err := source.Mint(ctx, token.Request{Scopes: []string{exchange.CloudPlatform}})
	detail := id.Steps[len(id.Steps)-1]
	if err == nil {
		detail += fmt.Sprintf(", good for %v", time.Until(t.Expiry).Round(time.Second))
	}
	step("access token", detail, err)
	return found
}

// describe names the public key: its kind, and the SHA-256 of its standard
// form, which tells it from others.
func (s *tpmSigner) describe() string {
	kind := "EC"
	if key, ok := s.Public().(*rsa.PublicKey); ok {
		kind = fmt.Sprintf("RSA %d", key.N.BitLen())
	}
	der, err := x509.MarshalPKIXPublicKey(s.Public())
	if err != nil {
		return kind
	}
	return fmt.Sprintf("%s, SHA-256 %x", kind, sha256.Sum256(der))
}
