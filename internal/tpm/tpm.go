// Package tpm signs with keys that a TPM 2.0 keeps, and puts keys into one.
//
// Each use is a visit: connect, load the key, do one thing, leave nothing
// behind. So a TPM that was restarted needs no care, several keys share the
// few places that a TPM has, and other programs find theirs. Package tpm knows
// nothing of tokens or configuration files.
package tpm

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// A Key says which key it is and what the TPM wants before it uses it.
type Key struct {
	Device string // "" is DefaultDevice; see CheckDevice

	// One of the two: a key that stays in the TPM under this handle, or one
	// that is loaded for each use, as ParseKeyFile returned it.
	Handle uint32
	File   *KeyFile

	Parent Parent // of a key in a file
	Passwords
	Policy

	// EKName is the name of the endorsement key (EKName in Info). If it is set
	// sessions are salted and encrypted to it: no other TPM gets to use a
	// password, and nobody in between learns or changes what is said. The one
	// exception is how that key is found, unless it is kept at 0x81010001:
	// making it proves the endorsement password, if there is one, in the clear
	// to whoever listens or is another TPM. They do not learn it, but can try
	// guesses; it should be long and random, or the key be kept.
	EKName []byte
}

// Passwords are what the TPM is to be shown. They never travel as they are: a
// session proves that we know them. Nil: there is none.
type Passwords struct {
	Owner       []byte // of the owner hierarchy, for parents that are made anew
	Endorsement []byte // of the endorsement hierarchy, for its key
	Parent      []byte // of a parent with a handle
	Key         []byte
}

// Format shows none of them, whatever the verb.
func (Passwords) Format(s fmt.State, _ rune) { io.WriteString(s, "[passwords]") }

// maxPassword is the size of SHA-256, the name algorithm of our keys.
const maxPassword = 32

// check reports what the TPM would not take, or would take for another
// password.
func (p Passwords) check() error {
	for _, password := range [][]byte{p.Owner, p.Endorsement, p.Parent, p.Key} {
		switch {
		case bytes.IndexByte(password, 0) >= 0:
			return errors.New("a password of a TPM cannot have zero bytes")
		case len(password) > maxPassword:
			return fmt.Errorf("a password of a TPM has at most %d bytes, this one has %d", maxPassword, len(password))
		}
	}
	return nil
}

// A Signer is a key in a TPM as a crypto.Signer and crypto.MessageSigner. It
// may be used by many goroutines at once; the TPM serves them one after the
// other, and refuses when too many wait. Its errors are *Error.
//
// After a wrong password it signs no more: a few of them lock all keys of a
// TPM for hours. Open makes a new one.
type Signer struct {
	key    Key
	device *device
	object object // public part and name; its handle is that of a key that has one
	public crypto.PublicKey
	spent  *spent
	ctx    context.Context // see Within
}

// spent says why a signer signs no more. It is guarded by the turn of the device.
type spent struct{ why *Error }

// Open connects to the TPM and returns the signer of a key. It shows no
// password yet.
func Open(ctx context.Context, k Key) (*Signer, error) {
	if err := k.check(); err != nil {
		return nil, err
	}
	s := &Signer{key: k, device: deviceAt(k.Device), spent: &spent{}, ctx: context.Background()}
	if k.File != nil {
		s.object = k.File.object()
	}
	err := s.device.visit(ctx, func(v *visit) (err error) {
		if k.File == nil {
			s.object, err = v.persistent(k.Handle, "key")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if s.public, err = signing(&s.object.public); err != nil {
		return nil, err
	}
	return s, nil
}

func (k *Key) check() error {
	if (k.Handle == 0) == (k.File == nil) {
		return errors.New("a key has either a handle or a file")
	}
	if k.Handle != 0 && !isPersistent(k.Handle) {
		return fmt.Errorf("0x%08x is not the handle of a key that stays in the TPM: those begin with 0x81", k.Handle)
	}
	return k.Passwords.check()
}

func isPersistent(handle uint32) bool { return handle>>24 == uint32(tpm2.TPMHTPersistent) }

// signing returns the public key of a public area, if it is of a kind that signs.
func signing(p *tpm2.TPMTPublic) (crypto.PublicKey, error) {
	public, err := tpm2.Pub(*p)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the key is of a kind that makes no signatures we can use: %w", err)
	case !p.ObjectAttributes.SignEncrypt:
		return nil, errors.New("the key is not for signing, it has not the attribute sign; is it a parent key?")
	}
	return public, nil
}

// Within returns the signer for calls that end with ctx.
func (s *Signer) Within(ctx context.Context) *Signer {
	bound := *s
	bound.ctx = ctx
	return &bound
}

// Public returns the public key.
func (s *Signer) Public() crypto.PublicKey { return s.public }

// restricted reports whether the key signs only what the TPM itself has
// hashed, so that SignMessage works and Sign does not.
func (s *Signer) restricted() bool { return s.object.public.ObjectAttributes.Restricted }

// Sign signs a digest. The reader is ignored: the TPM has its own.
func (s *Signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if s.restricted() {
		return nil, &Error{Device: s.device.address, Step: "sign", Fix: "use a key without that attribute",
			Err: errors.New("the key is restricted: it signs no digest from outside")}
	}
	return s.sign(digest, opts, func(*visit) ([]byte, tpm2.TPMTTKHashCheck, error) { return digest, noTicket, nil })
}

// SignMessage hashes a message, in the TPM if the key wants that, and signs it.
func (s *Signer) SignMessage(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	hash := opts.HashFunc()
	if !hash.Available() {
		return nil, &Error{Device: s.device.address, Step: "sign", Err: fmt.Errorf("there is no hash function %v", hash)}
	}
	h := hash.New()
	h.Write(message)
	digest := h.Sum(nil)
	if !s.restricted() {
		return s.Sign(rand, digest, opts)
	}
	return s.sign(digest, opts, func(v *visit) ([]byte, tpm2.TPMTTKHashCheck, error) { return v.hash(message, hash) })
}

// sign has the TPM sign what hashed returns, and checks the signature with the
// digest as we know it.
func (s *Signer) sign(digest []byte, opts crypto.SignerOpts, hashed func(*visit) ([]byte, tpm2.TPMTTKHashCheck, error)) ([]byte, error) {
	scheme, err := schemeFor(&s.object.public, opts)
	if err != nil {
		return nil, &Error{Device: s.device.address, Step: "sign", Err: err}
	}
	var signature tpm2.TPMTSignature
	err = s.device.visit(s.ctx, func(v *visit) error {
		if s.spent.why != nil { // looked at when it is our turn: others were before us
			return s.spent.why
		}
		key, session, err := v.load(&s.key, s.object)
		if err != nil {
			return s.refused(err)
		}
		digest, ticket, err := hashed(v)
		if err != nil {
			return err
		}
		answer, err := tpm2.Sign{
			KeyHandle: tpm2.AuthHandle{Handle: key.handle, Name: key.name, Auth: session},
			Digest:    tpm2.TPM2BDigest{Buffer: digest}, InScheme: scheme, Validation: ticket,
		}.Execute(v)
		if err != nil {
			return s.refused(v.failed(useKey, err))
		}
		signature = answer.Signature
		return nil
	})
	if err != nil {
		return nil, err
	}
	der, err := encode(&signature)
	if err == nil {
		err = verify(s.public, digest, der, opts)
	}
	if err != nil {
		return nil, &Error{Device: s.device.address, Step: "verify the signature", Err: err}
	}
	return der, nil
}

// refused remembers that a password was wrong.
func (s *Signer) refused(err error) error {
	var e *Error
	if errors.As(err, &e) && e.stops() {
		e.Again = false // though its context may have ended just then
		s.spent.why = e
	}
	return err
}

// A Parent is the key under which a key in a file is wrapped: the name of a
// template, from which the TPM makes the same key each time, or a handle.
type Parent string

// The templates.
const (
	AsInFile Parent = ""        // what the file says: a handle, or H2 in a hierarchy
	H2       Parent = "h2"      // ECC P-256, of the owner; what openssl, systemd and go-tpm-keyfiles use
	RSASRK   Parent = "rsa-srk" // the storage root key of the TCG, RSA
	ECCSRK   Parent = "ecc-srk" // the same, ECC
	RSAEK    Parent = "ek-rsa"  // the endorsement key, RSA
)

var templates = map[Parent]struct {
	hierarchy tpm2.TPMHandle
	public    tpm2.TPMTPublic
}{
	H2:     {tpm2.TPMRHOwner, h2Template()},
	RSASRK: {tpm2.TPMRHOwner, tpm2.RSASRKTemplate},
	ECCSRK: {tpm2.TPMRHOwner, tpm2.ECCSRKTemplate},
	RSAEK:  {tpm2.TPMRHEndorsement, tpm2.RSAEKTemplate},
}

// h2Template is the ECC storage key with an empty unique field.
func h2Template() tpm2.TPMTPublic {
	t := tpm2.ECCSRKTemplate
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return t
}

// ParseParent checks a parent.
func ParseParent(s string) (Parent, error) {
	p := Parent(s)
	if _, ok := templates[p]; ok || p == AsInFile {
		return p, nil
	}
	if _, err := ParseHandle(s); err != nil {
		return "", fmt.Errorf("%q is not a parent: it is h2, rsa-srk, ecc-srk, ek-rsa or a handle such as 0x81000001", s)
	}
	return p, nil
}

// handle returns the handle of a parent that has one, else 0.
func (p Parent) handle() uint32 {
	h, err := ParseHandle(string(p))
	if err != nil {
		return 0
	}
	return h
}

// ParseHandle reads the handle of a key that stays in the TPM.
func ParseHandle(s string) (uint32, error) {
	var h uint32
	hex, ok := strings.CutPrefix(strings.ToLower(s), "0x")
	if _, err := fmt.Sscanf(hex, "%x", &h); !ok || err != nil || len(hex) != 8 || !isPersistent(h) {
		return 0, fmt.Errorf("%q is not the handle of a key that stays in the TPM, such as 0x81010002", s)
	}
	return h, nil
}
