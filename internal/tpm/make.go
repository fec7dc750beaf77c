package tpm

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// A Kind is a kind of key to make. Its keys have no scheme of their own, so
// that they serve assertions as well as TLS.
type Kind string

// The kinds.
const (
	RSA2048 Kind = "rsa2048"
	P256    Kind = "p256"
)

// Import wraps a private key so that only this TPM can use it, and returns it
// so wrapped. The device, the parent, the passwords and the policy are those of
// k, which has neither handle nor file. Wrong passwords for the key do not lock
// the TPM.
func Import(k Key, key *rsa.PrivateKey) (*KeyFile, error) {
	exponent := uint32(key.E)
	if exponent == 65537 {
		exponent = 0 // means that
	}
	if len(key.Primes) != 2 {
		return nil, errors.New("a TPM takes RSA keys of two primes only")
	}
	area := template(RSA2048)
	area.Parameters = rsaParameters(key.N.BitLen(), exponent)
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
	return k.make(area, func(p place, area tpm2.TPMTPublic) (private tpm2.TPM2BPrivate, made tpm2.TPMTPublic, err error) {
		name, err := tpm2.ObjectName(&area)
		if err != nil {
			return private, area, err
		}
		to, err := tpm2.ImportEncapsulationKey(&p.parent.public)
		if err != nil {
			return private, area, err
		}
		secret := tpm2.Marshal(tpm2.TPMTSensitive{
			SensitiveType: tpm2.TPMAlgRSA,
			AuthValue:     tpm2.TPM2BAuth{Buffer: k.Passwords.Key},
			Sensitive:     tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgRSA, &tpm2.TPM2BPrivateKeyRSA{Buffer: key.Primes[0].Bytes()}),
		})
		duplicate, seed, err := tpm2.CreateDuplicate(rand.Reader, to, name.Buffer, secret) // encrypted to the parent
		if err != nil {
			return private, area, err
		}
		answer, err := tpm2.Import{
			ParentHandle: p.handle(),
			ObjectPublic: tpm2.New2B(area),
			Duplicate:    tpm2.TPM2BPrivate{Buffer: duplicate},
			InSymSeed:    tpm2.TPM2BEncryptedSecret{Buffer: seed},
			Symmetric:    tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull},
		}.Execute(p.visit)
		if err != nil {
			return private, area, p.visit.failed(importKey, err)
		}
		return answer.OutPrivate, area, nil
	})
}

// Create has the TPM make a key that never was outside of it; see Import.
func Create(k Key, kind Kind) (*KeyFile, error) {
	area := template(kind)
	area.ObjectAttributes.FixedTPM = true
	area.ObjectAttributes.FixedParent = true
	area.ObjectAttributes.SensitiveDataOrigin = true
	return k.make(area, func(p place, area tpm2.TPMTPublic) (private tpm2.TPM2BPrivate, made tpm2.TPMTPublic, err error) {
		answer, err := tpm2.Create{
			ParentHandle: p.handle(),
			InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: k.Passwords.Key}}},
			InPublic:     tpm2.New2B(area),
		}.Execute(p.visit, p.hide...)
		if err != nil {
			return private, area, p.visit.failed(makeKey, err)
		}
		public, err := answer.OutPublic.Contents()
		if err != nil {
			return private, area, err
		}
		return answer.OutPrivate, *public, nil
	})
}

// template is the public area of a key to be.
func template(kind Kind) tpm2.TPMTPublic {
	t := tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgRSA,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters:       rsaParameters(2048, 0),
		Unique:           tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{}),
	}
	if kind == P256 {
		t.Type = tpm2.TPMAlgECC
		t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	}
	return t
}

func rsaParameters(bits int, exponent uint32) tpm2.TPMUPublicParms {
	return tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: tpm2.TPMKeyBits(bits), Exponent: exponent})
}

// A place is where a key is made: under a parent, with the session that lets
// us use that, and those that hide what we send from who listens on the way.
type place struct {
	visit   *visit
	parent  object
	session tpm2.Session
	hide    []tpm2.Session
}

func (p place) handle() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: p.parent.handle, Name: p.parent.name, Auth: p.session}
}

// make gives the area the policy of k, and has f make the key in its place.
func (k Key) make(area tpm2.TPMTPublic, f func(place, tpm2.TPMTPublic) (tpm2.TPM2BPrivate, tpm2.TPMTPublic, error)) (*KeyFile, error) {
	if k.Handle != 0 || k.File != nil {
		return nil, errors.New("there is a key already")
	}
	if err := k.Passwords.check(); err != nil {
		return nil, err
	}
	var file *KeyFile
	err := deviceAt(k.Device).visit(context.Background(), func(v *visit) error {
		ek, end, err := v.greet(&k)
		if err != nil {
			return err
		}
		if !k.Policy.none() {
			commands, err := v.wanted(&k, 0, ek)
			if err != nil {
				return err
			}
			if area.AuthPolicy, err = digestOf(commands...); err != nil {
				return err
			}
			area.ObjectAttributes.UserWithAuth = false // else the password alone would do
		}
		parent, session, err := v.parent(&k, ek)
		if err != nil {
			return err
		}
		end()
		there := place{visit: v, parent: parent, session: session}
		if k.EKName == nil { // else session hides it
			v.salt = &parent
			hide, err := v.session(nil)
			v.salt = nil
			if err != nil {
				return v.failed(step{"begin a session", ""}, err)
			}
			there.hide = append(there.hide, hide)
		}
		private, made, err := f(there, area)
		if err != nil {
			return err
		}
		p, hierarchy := k.parent()
		file = &KeyFile{parent: uint32(hierarchy), private: private, withPassword: len(k.Passwords.Key) > 0}
		if handle := p.handle(); handle != 0 {
			file.parent = handle
		}
		return file.setPublic(made)
	})
	return file, err
}

// Persist keeps the key of k, which has a file, in the TPM under a handle.
func Persist(k Key, handle uint32) error {
	return k.persist(handle, func(v *visit, ek *object, end func()) (object, error) { return v.bring(&k, ek, end) })
}

// PersistParent keeps the parent of k in the TPM under a handle.
func PersistParent(k Key, handle uint32) error {
	return k.persist(handle, func(v *visit, ek *object, end func()) (object, error) {
		parent, _, err := v.parent(&k, ek)
		if err == nil {
			end()
		}
		return parent, err
	})
}

func (k Key) persist(handle uint32, load func(*visit, *object, func()) (object, error)) error {
	if !isPersistent(handle) {
		return fmt.Errorf("0x%08x is not a handle for a key that stays in the TPM: those begin with 0x81", handle)
	}
	return deviceAt(k.Device).visit(context.Background(), func(v *visit) error {
		ek, end, err := v.greet(&k)
		if err != nil {
			return err
		}
		key, err := load(v, ek, end)
		if err != nil {
			return err
		}
		owner, err := v.session(k.Owner)
		if err != nil {
			return v.failed(keepKey, err)
		}
		_, err = tpm2.EvictControl{
			Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Name: tpm2.HandleName(tpm2.TPMRHOwner), Auth: owner},
			ObjectHandle:     tpm2.NamedHandle{Handle: key.handle, Name: key.name},
			PersistentHandle: tpm2.TPMIDHPersistent(handle),
		}.Execute(v)
		if err != nil {
			return v.failed(keepKey, err)
		}
		return nil
	})
}

// An Info is what there is to know of a TPM.
type Info struct {
	Device       string `json:"device"`
	Manufacturer string `json:"manufacturer"`
	EKName       string `json:"ek_name"`     // of the RSA endorsement key, in hex
	ParentName   string `json:"parent_name"` // in hex
	Failures     uint32 `json:"failed_authorizations"`
	MaxFailures  uint32 `json:"max_failed_authorizations"` // the TPM locks when it has so many
}

// Look asks a TPM about itself, and makes the parent of k to see that it can.
func Look(k Key) (Info, error) {
	info := Info{Device: deviceAt(k.Device).address}
	err := deviceAt(k.Device).visit(context.Background(), func(v *visit) error {
		var maker uint32
		for property, into := range map[tpm2.TPMPT]*uint32{
			tpm2.TPMPTManufacturer: &maker, tpm2.TPMPTLockoutCounter: &info.Failures, tpm2.TPMPTMaxAuthFail: &info.MaxFailures,
		} {
			value, err := v.property(property)
			if err != nil {
				return v.failed(step{"ask for its properties", ""}, err)
			}
			*into = value
		}
		info.Manufacturer = strings.TrimRight(string([]byte{byte(maker >> 24), byte(maker >> 16), byte(maker >> 8), byte(maker)}), " \x00")
		ek, err := v.ek(k.EKName, k.Endorsement)
		if err != nil {
			return err
		}
		info.EKName = fmt.Sprintf("%x", ek.name.Buffer)
		parent, _, err := v.parent(&k, &ek)
		info.ParentName = fmt.Sprintf("%x", parent.name.Buffer)
		return err
	})
	return info, err
}

// property returns one of the numbers that describe a TPM.
func (v *visit) property(p tpm2.TPMPT) (uint32, error) {
	answer, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(p), PropertyCount: 1}.Execute(v)
	if err != nil {
		return 0, err
	}
	list, err := answer.CapabilityData.Data.TPMProperties()
	if err != nil {
		return 0, err
	}
	for _, item := range list.TPMProperty {
		if item.Property == p {
			return item.Value, nil
		}
	}
	return 0, fmt.Errorf("it has no property 0x%x", uint32(p))
}
