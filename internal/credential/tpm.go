package credential

import (
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tpm"
)

// A TPM is a service account whose key a TPM 2.0 keeps (section 3.9). Only the
// signature of the assertion is made there; the exchange is that of KeyFile.
type TPM struct {
	ServiceAccount `yaml:",inline"`
	TPMKey         `yaml:",inline"`
}

// A TPMKey says which key of which TPM it is, and what the TPM wants before it
// uses it.
type TPMKey struct {
	// Device is the TPM: a device, or for a software TPM unix:/PATH or
	// tcp:HOST:PORT. Default: /dev/tpmrm0; on Windows tbs.
	Device string `yaml:"device,omitempty"`

	// Handle is that of a key that stays in the TPM, such as 0x81010002;
	// KeyFile is a PEM file of the form TSS2 PRIVATE KEY. One of the two.
	Handle  string `yaml:"handle,omitempty"`
	KeyFile string `yaml:"key_file,omitempty"`

	// Permissions is "strict" (the default) or "relaxed"; see KeyFile.
	Permissions string `yaml:"permissions,omitempty" is:"strict|relaxed"`

	// Parent of the key in the file: h2, rsa-srk, ecc-srk, ek-rsa or a handle.
	// Default: the handle that the file names, or else h2.
	Parent string `yaml:"parent,omitempty"`

	// Passwords, each where one was set: of the owner hierarchy, which makes
	// the parent; of the endorsement hierarchy, for its key; of a parent with a
	// handle; of the key.
	OwnerPassword       Secret `yaml:"owner_password,omitempty" is:"secret"`
	EndorsementPassword Secret `yaml:"endorsement_password,omitempty" is:"secret"`
	ParentPassword      Secret `yaml:"parent_password,omitempty" is:"secret"`
	KeyPassword         Secret `yaml:"key_password,omitempty" is:"secret"`

	// PCRs that the key is bound to, in the form sha256:0,7. PCRDigest is the
	// SHA-256 of the values they must have, in hex; it changes no more than
	// how early and clearly the key is refused.
	PCRs      string `yaml:"pcrs,omitempty"`
	PCRDigest string `yaml:"pcr_digest,omitempty"`

	// DuplicateSelect says that the key was duplicated to the endorsement key
	// of this TPM, with the policy PolicyOR(PolicyAuthValue or PolicyPCR,
	// PolicyDuplicationSelect).
	DuplicateSelect bool `yaml:"duplicate_select,omitempty"`

	// EKName is the name of the endorsement key of the TPM, in hex. If it is
	// set, sessions are encrypted to that key and no other TPM is used. Where
	// the endorsement hierarchy has a password, that key should be kept at
	// 0x81010001; see tpm.Key.
	EKName string `yaml:"ek_name,omitempty"`
}

func (c *TPM) validate() error {
	return errors.Join(append(c.ServiceAccount.faults(), c.TPMKey.faults()...)...)
}

// faults are what is wrong with the fields.
func (c *TPMKey) faults() []error {
	var faults []error
	fault := func(field string, err error) {
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", field, err))
		}
	}
	_, err := c.options()
	if err != nil {
		faults = append(faults, err)
	}
	switch {
	case c.Handle == "" && c.KeyFile == "":
		faults = append(faults, errors.New("handle or key_file is missing: which key of the TPM it is (gcemds tpm import makes one)"))
	case c.Handle != "" && c.KeyFile != "":
		faults = append(faults, errors.New("a key has a handle or a key_file, keep one"))
	case c.Handle != "" && c.Parent != "":
		faults = append(faults, errors.New("parent is for a key_file: a key with a handle needs none"))
	}
	if c.ParentPassword != "" && c.Parent != "" {
		if _, err := tpm.ParseHandle(c.Parent); err != nil {
			faults = append(faults, errors.New("parent_password is for a parent with a handle: the others are made anew, with owner_password or endorsement_password"))
		}
	}
	if c.DuplicateSelect && c.KeyFile != "" && c.Parent != string(tpm.RSAEK) {
		faults = append(faults, errors.New("duplicate_select is for a key with parent: ek-rsa"))
	}
	fault("owner_password", c.OwnerPassword.check())
	fault("endorsement_password", c.EndorsementPassword.check())
	fault("parent_password", c.ParentPassword.check())
	fault("key_password", c.KeyPassword.check())
	switch c.Permissions {
	case "", "strict", "relaxed":
	default:
		faults = append(faults, fmt.Errorf("permissions %q is neither strict nor relaxed", c.Permissions))
	}
	return faults
}

func (c *TPMKey) files() []string {
	var files []string
	if c.KeyFile != "" {
		files = append(files, c.KeyFile)
	}
	for _, s := range []Secret{c.OwnerPassword, c.EndorsementPassword, c.ParentPassword, c.KeyPassword} {
		files = append(files, s.files()...)
	}
	return files
}

// options are what the fields say to package tpm, without the key and the
// passwords.
func (c *TPMKey) options() (tpm.Key, error) {
	k := tpm.Key{Device: c.Device, Policy: tpm.Policy{DuplicateSelect: c.DuplicateSelect}}
	var faults []error
	fault := func(field string, err error) {
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", field, err))
		}
	}
	var err error
	fault("device", tpm.CheckDevice(c.Device))
	k.Parent, err = tpm.ParseParent(c.Parent)
	fault("parent", err)
	if c.PCRs != "" {
		k.PCRs, err = tpm.ParsePCRs(c.PCRs)
		fault("pcrs", err)
	}
	if c.PCRDigest != "" {
		k.PCRDigest, err = hex.DecodeString(c.PCRDigest)
		if err != nil || len(k.PCRDigest) != 32 || c.PCRs == "" {
			fault("pcr_digest", errors.New("must be 64 hex digits, the SHA-256 of the values of pcrs"))
		}
	}
	if c.EKName != "" {
		k.EKName, err = hex.DecodeString(c.EKName)
		if err != nil || len(k.EKName) != 34 || k.EKName[0] != 0 || k.EKName[1] != 0x0b { // of SHA-256
			fault("ek_name", errors.New("must be 68 hex digits that begin with 000b, as gcemds tpm init prints"))
		}
	}
	if c.Handle != "" {
		_, err = tpm.ParseHandle(c.Handle)
		fault("handle", err)
	}
	return k, errors.Join(faults...)
}

// unlocked adds the passwords to the options.
func (c *TPMKey) unlocked() (tpm.Key, error) {
	k, err := c.options()
	if err != nil {
		return k, err
	}
	var faults []error
	for _, p := range []struct {
		field string
		from  Secret
		to    *[]byte
	}{
		{"owner_password", c.OwnerPassword, &k.Passwords.Owner},
		{"endorsement_password", c.EndorsementPassword, &k.Passwords.Endorsement},
		{"parent_password", c.ParentPassword, &k.Passwords.Parent},
		{"key_password", c.KeyPassword, &k.Passwords.Key},
	} {
		if *p.to, err = p.from.read(); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", p.field, err))
		}
	}
	return k, errors.Join(faults...)
}

// signer opens the key as a crypto.Signer, which is a crypto.MessageSigner
// too. It can be the PrivateKey of a tls.Certificate, if the key is an EC key
// or an RSA key with scheme null. It holds nothing that needs closing, and
// shows the TPM no password before the first signature. Errors of signatures
// are *token.Error: unavailable if the next may succeed.
func (c *TPMKey) signer(ctx context.Context) (*tpmSigner, error) {
	k, err := c.unlocked()
	if err != nil {
		return nil, err
	}
	if c.Handle != "" {
		if k.Handle, err = tpm.ParseHandle(c.Handle); err != nil {
			return nil, err
		}
	} else {
		text, err := readKeyFile(c.KeyFile, c.Permissions)
		if err != nil {
			return nil, err
		}
		if k.File, err = tpm.ParseKeyFile(text); err != nil {
			return nil, fmt.Errorf("%s: %w", c.KeyFile, err)
		}
	}
	s, err := tpm.Open(ctx, k)
	if err != nil {
		return nil, err
	}
	return &tpmSigner{s}, nil
}

// A tpmSigner is a key in a TPM whose errors have a kind.
type tpmSigner struct{ *tpm.Signer }

func (s *tpmSigner) within(ctx context.Context) crypto.Signer { return &tpmSigner{s.Within(ctx)} }

func (s *tpmSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.kind(s.Signer.Sign(rand, digest, opts))
}

func (s *tpmSigner) SignMessage(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.kind(s.Signer.SignMessage(rand, message, opts))
}

func (*tpmSigner) kind(signature []byte, err error) ([]byte, error) {
	if err == nil {
		return signature, nil
	}
	kind := token.Misconfigured
	var e *tpm.Error
	if errors.As(err, &e) && e.Again {
		kind = token.Unavailable
	}
	return nil, &token.Error{Kind: kind, Err: err}
}

// where names the key, for people.
func (c *TPMKey) where() string {
	if c.Handle != "" {
		return "key " + c.Handle + " in the TPM"
	}
	return "key of the TPM in " + c.KeyFile
}

func (c *TPM) open(ctx context.Context, env Env) (token.Source, Identity, error) {
	signer, err := c.signer(ctx)
	if err != nil {
		return nil, Identity{}, err
	}
	if _, ok := signer.Public().(*rsa.PublicKey); !ok {
		return nil, Identity{}, fmt.Errorf("the %s is no RSA key, but Google takes RSA keys only (RS256)", c.where())
	}
	env.log().Debug("TPM key opened", "key", c.where(), "account", c.Email)
	return c.source(c.where(), signer, env)
}

// openSigner lets a federation with certificates use the key.
func (c *TPM) openSigner(ctx context.Context, _ Env) (crypto.Signer, error) {
	return c.TPMKey.signer(ctx)
}
