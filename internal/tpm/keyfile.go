package tpm

import (
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// A KeyFile is a key as the TPM wrapped it under a parent: only that TPM can
// use it. Its form is the PEM block TSS2 PRIVATE KEY that tpm2-tools, openssl
// and others share.
type KeyFile struct {
	parent  uint32 // a hierarchy or a handle
	public  tpm2.TPM2BPublic
	private tpm2.TPM2BPrivate
	area    tpm2.TPMTPublic // public, decoded
	name    tpm2.TPM2BName

	withPassword bool // when written; when read nobody can tell
}

const pemType = "TSS2 PRIVATE KEY"

var (
	loadable   = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}
	importable = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 4}
	sealed     = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 5}
)

// tss2Key is TPMKey of the draft "ASN.1 Specification for TPM 2.0 Key Files".
// What we do not use is kept raw. EmptyAuth says whether there is no password,
// but widespread versions of tpm2-tools write the opposite, so it is ignored.
type tss2Key struct {
	Type        asn1.ObjectIdentifier
	EmptyAuth   bool          `asn1:"optional,explicit,tag:0"`
	Policy      asn1.RawValue `asn1:"optional,explicit,tag:1"`
	Secret      asn1.RawValue `asn1:"optional,explicit,tag:2"`
	AuthPolicy  asn1.RawValue `asn1:"optional,explicit,tag:3"`
	Description asn1.RawValue `asn1:"optional,explicit,tag:4"`
	RSAParent   bool          `asn1:"optional,explicit,tag:5"`
	Parent      int64
	Public      []byte // TPM2B_PUBLIC
	Private     []byte // TPM2B_PRIVATE
}

// ParseKeyFile reads the PEM form. Text around the block is ignored.
func ParseKeyFile(text []byte) (*KeyFile, error) {
	block, _ := pem.Decode(text)
	switch {
	case block == nil:
		return nil, errors.New("it has no PEM block; a key of a TPM begins with -----BEGIN " + pemType + "-----")
	case block.Type != pemType:
		return nil, fmt.Errorf("it is a %.40q, not a %q; gcemds tpm import and tpm2_encodeobject write those", block.Type, pemType)
	}
	var k tss2Key
	rest, err := asn1.Unmarshal(block.Bytes, &k)
	switch {
	case err != nil || len(rest) > 0:
		return nil, errors.New("the block is damaged")
	case k.Type.Equal(importable):
		return nil, errors.New("it is a key still to be imported; import it first (gcemds tpm import takes the JSON of the key)")
	case k.Type.Equal(sealed):
		return nil, errors.New("it is sealed data, not a key")
	case !k.Type.Equal(loadable):
		return nil, fmt.Errorf("it is of the unknown type %v", k.Type)
	case k.Parent < 0 || k.Parent > 0xffffffff:
		return nil, errors.New("its parent is not a handle")
	}
	f := &KeyFile{parent: uint32(k.Parent)}
	public, err := sized(k.Public)
	if err != nil {
		return nil, fmt.Errorf("its public part is damaged: %w", err)
	}
	private, err := sized(k.Private)
	if err != nil {
		return nil, fmt.Errorf("its private part is damaged: %w", err)
	}
	f.private = tpm2.TPM2BPrivate{Buffer: private}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil {
		return nil, fmt.Errorf("its public part is damaged: %w", err)
	}
	return f, f.setPublic(*area)
}

func (f *KeyFile) setPublic(area tpm2.TPMTPublic) error {
	name, err := tpm2.ObjectName(&area)
	if err != nil {
		return fmt.Errorf("its public part is damaged: %w", err)
	}
	if _, err := signing(&area); err != nil {
		return err
	}
	f.area, f.public, f.name = area, tpm2.New2B(area), *name
	return nil
}

// sized returns what follows a size of two bytes.
func sized(b []byte) ([]byte, error) {
	if len(b) < 2 || int(b[0])<<8|int(b[1]) != len(b)-2 {
		return nil, errors.New("its size is not what it says")
	}
	return b[2:], nil
}

// PEM returns the file.
func (f *KeyFile) PEM() ([]byte, error) {
	der, err := asn1.Marshal(tss2Key{
		Type:      loadable,
		EmptyAuth: !f.withPassword,
		Parent:    int64(f.parent),
		Public:    tpm2.Marshal(f.public),
		Private:   tpm2.Marshal(f.private),
	})
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

func (f *KeyFile) object() object { return object{name: f.name, public: f.area} }

// parent returns the parent of the key in the file and its hierarchy, if it is
// made from a template.
func (k *Key) parent() (Parent, tpm2.TPMHandle) {
	if t, ok := templates[k.Parent]; ok {
		return k.Parent, t.hierarchy
	}
	if k.Parent != AsInFile {
		return k.Parent, 0
	}
	if k.File == nil {
		return H2, tpm2.TPMRHOwner
	}
	if isPersistent(k.File.parent) {
		return Parent(fmt.Sprintf("0x%08x", k.File.parent)), 0
	}
	return H2, tpm2.TPMHandle(k.File.parent)
}
