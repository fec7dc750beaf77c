package tpm

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// A visit is one use of a TPM. What it loads and the sessions it begins are
// gone when it leaves.
type visit struct {
	ctx       context.Context
	device    *device
	transport transport.TPM
	broken    error            // set: the connection is of no more use
	guests    []tpm2.TPMHandle // objects and sessions of ours in the TPM
	salt      *object          // set: sessions are salted to this key
}

// Send implements transport.TPM for the commands of tpm2.
func (v *visit) Send(command []byte) ([]byte, error) {
	if v.ctx.Err() != nil {
		return nil, context.Cause(v.ctx)
	}
	return leaving{v}.Send(command)
}

// A leaving visit sends what has to be said when its context has ended, too.
type leaving struct{ *visit }

func (v leaving) Send(command []byte) ([]byte, error) {
	if v.broken != nil {
		return nil, v.broken
	}
	answer, err := v.transport.Send(command)
	v.broken = err
	return answer, err
}

// leave flushes all guests, and returns those that it could not because the
// connection is broken. A resource manager has forgotten them with it; without
// one they are in the way of the next visit.
func (v *visit) leave() (lost []tpm2.TPMHandle) {
	for len(v.guests) > 0 && v.broken == nil {
		v.flush(v.guests[len(v.guests)-1])
	}
	return v.guests
}

// flush removes a guest. That only fails if it is gone already, or stays one
// because the connection broke.
func (v *visit) flush(h tpm2.TPMHandle) {
	i := slices.Index(v.guests, h)
	if i < 0 {
		return
	}
	tpm2.FlushContext{FlushHandle: h}.Execute(leaving{v})
	if v.broken == nil {
		v.guests = slices.Delete(v.guests, i, i+1)
	}
}

// An object is a key in the TPM. The name of one that others are trusted by, a
// parent or an endorsement key, is made from its public part: what an answer
// says of it, somebody on the way may have written.
type object struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
}

// guest is an object that the TPM has just made room for.
func (v *visit) guest(handle tpm2.TPMHandle, name tpm2.TPM2BName, public *tpm2.TPMTPublic) object {
	v.guests = append(v.guests, handle)
	return object{handle, name, *public}
}

// persistent looks at a key that stays in the TPM.
func (v *visit) persistent(handle uint32, what string) (object, error) {
	look := step{fmt.Sprintf("read the %s at 0x%08x", what, handle), ""}
	answer, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMIDHObject(handle)}.Execute(v)
	if err != nil {
		return object{}, v.failed(look, err)
	}
	public, err := answer.OutPublic.Contents()
	if err != nil {
		return object{}, v.failed(look, err)
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return object{}, v.failed(look, err)
	}
	return object{tpm2.TPMHandle(handle), *name, *public}, nil
}

// aes encrypts the first parameter of a command: the sizes that every TPM has.
var aes = tpm2.AESEncryption(128, tpm2.EncryptIn)

// options are those of a session that proves a password.
func (v *visit) options(password []byte) []tpm2.AuthOption {
	o := []tpm2.AuthOption{tpm2.Auth(password)}
	if v.salt != nil {
		o = append(o, aes, tpm2.Salted(v.salt.handle, v.salt.public))
	}
	return o
}

// nonceSize is that of SHA-256.
const nonceSize = 32

// session begins a session that proves a password without showing it.
func (v *visit) session(password []byte) (tpm2.Session, error) {
	if len(password) == 0 && v.salt == nil {
		return tpm2.PasswordAuth(nil), nil
	}
	s, _, err := tpm2.HMACSession(v, tpm2.TPMAlgSHA256, nonceSize, v.options(password)...)
	if err != nil {
		return nil, err
	}
	v.guests = append(v.guests, s.Handle())
	return s, nil
}

// policySession begins a session for a policy.
func (v *visit) policySession(password []byte) (tpm2.Session, error) {
	s, _, err := tpm2.PolicySession(v, tpm2.TPMAlgSHA256, nonceSize, v.options(password)...)
	if err != nil {
		return nil, err
	}
	v.guests = append(v.guests, s.Handle())
	return s, nil
}

// primary makes a key from a template: the same one each time.
func (v *visit) primary(p Parent, hierarchy tpm2.TPMHandle, password []byte, s step) (object, error) {
	session, err := v.session(password)
	if err != nil {
		return object{}, v.failed(s, err)
	}
	answer, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Name: tpm2.HandleName(hierarchy), Auth: session},
		InPublic:      tpm2.New2B(templates[p].public),
	}.Execute(v)
	v.flush(session.Handle())
	if err != nil {
		return object{}, v.failed(s, err)
	}
	public, err := answer.OutPublic.Contents()
	if err != nil {
		return object{}, v.failed(s, err)
	}
	made := v.guest(answer.ObjectHandle, answer.Name, public)
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return object{}, v.failed(s, err)
	}
	made.name = *name
	return made, nil
}

// ekHandle is where firmware and operating systems keep the endorsement key
// (TCG EK Credential Profile, section 2.2.1.4). It spares making it, which
// takes some TPMs seconds.
const ekHandle = 0x81010001

// ek returns the endorsement key, and refuses one that has not that name. If
// none is kept under the handle, it is made, and for that the password of the
// hierarchy is proven in a session that is not salted yet: there is nothing to
// salt it to. Who listens then can try passwords on what was said.
func (v *visit) ek(name, password []byte) (object, error) {
	if name != nil {
		if kept, err := v.persistent(ekHandle, "endorsement key"); err == nil && bytes.Equal(kept.name.Buffer, name) {
			return kept, nil
		} else if v.broken != nil {
			return object{}, err
		}
	}
	ek, err := v.primary(RSAEK, tpm2.TPMRHEndorsement, password, makeEK)
	if err == nil && name != nil && !bytes.Equal(ek.name.Buffer, name) {
		return ek, &Error{Device: v.device.address, Step: "compare the endorsement key", Fix: "this is another TPM; if that is right, set ek_name to what gcemds tpm init prints",
			Err: fmt.Errorf("its name is %x, not %x", ek.name.Buffer, name)}
	}
	return ek, err
}

// parent returns the parent of a key in a file, and the session that lets us
// use it. The endorsement key may be there already.
func (v *visit) parent(k *Key, ek *object) (object, tpm2.Session, error) {
	p, hierarchy := k.parent()
	if handle := p.handle(); handle != 0 {
		parent, err := v.persistent(handle, "parent key")
		if err != nil {
			return parent, nil, err
		}
		session, err := v.session(k.Passwords.Parent)
		if err != nil {
			return parent, nil, v.failed(useParent, err)
		}
		return parent, session, nil
	}
	if p == RSAEK {
		session, err := v.useEK(k.Endorsement)
		return *ek, session, err
	}
	password := k.Owner
	if hierarchy == tpm2.TPMRHEndorsement {
		password = k.Endorsement
	}
	parent, err := v.primary(p, hierarchy, password, makeParent)
	if err != nil {
		return parent, nil, err
	}
	session, err := v.session(nil) // it was made without a password
	if err != nil {
		return parent, nil, v.failed(useParent, err)
	}
	return parent, session, nil
}

// useEK begins the session that the policy of the endorsement key wants.
func (v *visit) useEK(password []byte) (tpm2.Session, error) {
	policy, err := v.policySession(nil)
	if err != nil {
		return nil, v.failed(useEK, err)
	}
	proof, err := v.session(password)
	if err != nil {
		return nil, v.failed(useEK, err)
	}
	_, err = tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Name: tpm2.HandleName(tpm2.TPMRHEndorsement), Auth: proof},
		PolicySession: policy.Handle(),
		NonceTPM:      policy.NonceTPM(),
	}.Execute(v)
	v.flush(proof.Handle())
	if err != nil {
		return nil, v.failed(useEK, err)
	}
	return policy, nil
}

// greet fetches the endorsement key if the visit needs it, salts all sessions
// to come if that is wanted, and returns the function that ends both. That is
// called before a second key is loaded: a TPM has three places, and needs one
// itself.
func (v *visit) greet(k *Key) (ek *object, end func(), err error) {
	p, _ := k.parent()
	isParent := k.Handle == 0 && p == RSAEK
	if k.EKName == nil && !k.DuplicateSelect && !isParent {
		return nil, func() {}, nil
	}
	found, err := v.ek(k.EKName, k.Endorsement)
	if err != nil {
		return nil, nil, err
	}
	if k.EKName != nil {
		v.salt = &found
	}
	return &found, func() {
		v.salt = nil
		if !isParent {
			v.flush(found.handle)
		}
	}, nil
}

// load brings in the key and begins the session to use it with.
func (v *visit) load(k *Key, known object) (object, tpm2.Session, error) {
	ek, end, err := v.greet(k)
	if err != nil {
		return object{}, nil, err
	}
	if k.Handle != 0 {
		// A password shown for another key than the one we know would be wrong.
		there, err := v.persistent(k.Handle, "key")
		if err != nil {
			return there, nil, err
		}
		if !bytes.Equal(there.name.Buffer, known.name.Buffer) {
			return there, nil, &Error{Device: v.device.address, Step: "find the key", Fix: "restart gcemds, if that is the key you want",
				Err: fmt.Errorf("another key is at 0x%08x now", k.Handle)}
		}
	}
	session, err := v.authorize(k, ek)
	if err != nil {
		return object{}, nil, err
	}
	if k.Handle != 0 {
		end()
		return known, session, nil
	}
	key, err := v.bring(k, ek, end)
	return key, session, err
}

// bring loads the key of a file under its parent, and lets that go.
func (v *visit) bring(k *Key, ek *object, end func()) (object, error) {
	parent, session, err := v.parent(k, ek)
	if err != nil {
		return object{}, err
	}
	end()
	answer, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: parent.handle, Name: parent.name, Auth: session},
		InPrivate:    k.File.private,
		InPublic:     k.File.public,
	}.Execute(v)
	v.flush(parent.handle)
	v.flush(session.Handle())
	if err != nil {
		return object{}, v.failed(useParent, err)
	}
	return v.guest(answer.ObjectHandle, answer.Name, &k.File.area), nil
}

var noTicket = tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}

// maxBuffer is what every TPM takes at once.
const maxBuffer = 1024

// hash has the TPM hash a message, for the ticket that says so.
func (v *visit) hash(message []byte, hash crypto.Hash) (digest []byte, ticket tpm2.TPMTTKHashCheck, err error) {
	inTPM := step{"hash the message", ""}
	alg, ok := hashes[hash]
	if !ok {
		return nil, ticket, v.failed(inTPM, fmt.Errorf("no hash function %v", hash))
	}
	if len(message) <= maxBuffer {
		answer, err := tpm2.Hash{Data: tpm2.TPM2BMaxBuffer{Buffer: message}, HashAlg: alg, Hierarchy: tpm2.TPMRHOwner}.Execute(v)
		if err != nil {
			return nil, ticket, v.failed(inTPM, err)
		}
		return answer.OutHash.Buffer, answer.Validation, nil
	}
	begun, err := tpm2.HashSequenceStart{HashAlg: alg}.Execute(v)
	if err != nil {
		return nil, ticket, v.failed(inTPM, err)
	}
	v.guests = append(v.guests, begun.SequenceHandle)
	sequence := tpm2.AuthHandle{Handle: begun.SequenceHandle, Auth: tpm2.PasswordAuth(nil)}
	for len(message) > maxBuffer {
		if _, err := (tpm2.SequenceUpdate{SequenceHandle: sequence, Buffer: tpm2.TPM2BMaxBuffer{Buffer: message[:maxBuffer]}}).Execute(v); err != nil {
			return nil, ticket, v.failed(inTPM, err)
		}
		message = message[maxBuffer:]
	}
	answer, err := tpm2.SequenceComplete{SequenceHandle: sequence, Buffer: tpm2.TPM2BMaxBuffer{Buffer: message}, Hierarchy: tpm2.TPMRHOwner}.Execute(v)
	if err != nil {
		return nil, ticket, v.failed(inTPM, err)
	}
	v.guests = v.guests[:len(v.guests)-1] // it ended itself
	return answer.Result.Buffer, answer.Validation, nil
}
