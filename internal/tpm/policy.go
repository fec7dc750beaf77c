package tpm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// A Policy is what a key demands besides, or instead of, a password. Its zero
// value is no policy.
type Policy struct {
	PCRs PCRs

	// PCRDigest is what the PCRs must be: the SHA-256 of their values, one
	// after the other in the order of their numbers. Nil: what they are.
	PCRDigest []byte

	// DuplicateSelect: the key came from elsewhere by duplication to the
	// endorsement key of this TPM, and its policy is what is above, or the
	// password, for signing, or else that duplication.
	DuplicateSelect bool
}

// PCRs are registers of one bank.
type PCRs struct {
	Bank string // of a hash function, such as sha256
	List []uint // ascending
}

var banks = map[string]tpm2.TPMIAlgHash{
	"sha1": tpm2.TPMAlgSHA1, "sha256": tpm2.TPMAlgSHA256, "sha384": tpm2.TPMAlgSHA384, "sha512": tpm2.TPMAlgSHA512,
}

// maxPCR is the last PCR of a PC.
const maxPCR = 23

// ParsePCRs reads the form of tpm2-tools for one bank: sha256:0,7.
func ParsePCRs(s string) (PCRs, error) {
	bank, list, _ := strings.Cut(s, ":")
	p := PCRs{Bank: bank}
	if _, ok := banks[bank]; !ok {
		return p, fmt.Errorf("%q does not begin with a bank of PCRs: write sha256:0,7 (or sha1, sha384, sha512)", s)
	}
	for _, number := range strings.Split(list, ",") {
		n, err := strconv.ParseUint(number, 10, 8)
		if err != nil || n > maxPCR {
			return p, fmt.Errorf("%q in %q is not a PCR from 0 to %d", number, s, maxPCR)
		}
		p.List = append(p.List, uint(n))
	}
	slices.Sort(p.List)
	p.List = slices.Compact(p.List)
	return p, nil
}

func (p PCRs) selection() tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: banks[p.Bank], PCRSelect: tpm2.PCClientCompatible.PCRs(p.List...)},
	}}
}

// pcrDigest returns the digest of the values that the PCRs have.
func (v *visit) pcrDigest(p PCRs) ([]byte, error) {
	h := sha256.New()
	for _, n := range p.List { // one at a time: an answer has room for eight
		answer, err := tpm2.PCRRead{PCRSelectionIn: PCRs{p.Bank, []uint{n}}.selection()}.Execute(v)
		if err != nil {
			return nil, v.failed(checkPCRs, err)
		}
		if len(answer.PCRValues.Digests) != 1 {
			return nil, v.failed(checkPCRs, fmt.Errorf("this TPM has no PCR %d in bank %s", n, p.Bank))
		}
		h.Write(answer.PCRValues.Digests[0].Buffer)
	}
	return h.Sum(nil), nil
}

func (p Policy) none() bool { return len(p.PCRs.List) == 0 && !p.DuplicateSelect }

// commands are what is said to a session to satisfy the policy of a key with
// that password, in order. The same commands, calculated, are its digest.
func (p Policy) commands(session tpm2.TPMHandle, password, pcrDigest []byte, ek *object) ([]tpm2.PolicyCommand, error) {
	var c []tpm2.PolicyCommand
	if len(p.PCRs.List) > 0 {
		c = append(c, tpm2.PolicyPCR{PolicySession: session, Pcrs: p.PCRs.selection(), PcrDigest: tpm2.TPM2BDigest{Buffer: pcrDigest}})
	}
	if len(password) > 0 || len(p.PCRs.List) == 0 {
		c = append(c, tpm2.PolicyAuthValue{PolicySession: session})
	}
	if p.DuplicateSelect {
		sign, err := digestOf(c...)
		if err != nil {
			return nil, err
		}
		move, err := digestOf(tpm2.PolicyDuplicationSelect{NewParentName: ek.name})
		if err != nil {
			return nil, err
		}
		c = append(c, tpm2.PolicyOr{PolicySession: session, PHashList: tpm2.TPMLDigest{Digests: []tpm2.TPM2BDigest{sign, move}}})
	}
	return c, nil
}

func digestOf(commands ...tpm2.PolicyCommand) (tpm2.TPM2BDigest, error) {
	calculator, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return tpm2.TPM2BDigest{}, err
	}
	for _, c := range commands {
		if err := c.Update(calculator); err != nil {
			return tpm2.TPM2BDigest{}, err
		}
	}
	return tpm2.TPM2BDigest{Buffer: calculator.Hash().Digest}, nil
}

// wanted returns the commands of the policy, with the values that the PCRs
// have where none are given.
func (v *visit) wanted(k *Key, session tpm2.TPMHandle, ek *object) ([]tpm2.PolicyCommand, error) {
	digest := k.PCRDigest
	if digest == nil && len(k.PCRs.List) > 0 {
		var err error
		if digest, err = v.pcrDigest(k.PCRs); err != nil {
			return nil, err
		}
	}
	return k.commands(session, k.Passwords.Key, digest, ek)
}

// authorize begins the session that the key is used with.
func (v *visit) authorize(k *Key, ek *object) (tpm2.Session, error) {
	if k.Policy.none() {
		s, err := v.session(k.Passwords.Key)
		if err != nil {
			return nil, v.failed(useKey, err)
		}
		return s, nil
	}
	s, err := v.policySession(k.Passwords.Key)
	if err != nil {
		return nil, v.failed(useKey, err)
	}
	commands, err := v.wanted(k, s.Handle(), ek)
	if err != nil {
		return nil, err
	}
	for _, c := range commands {
		step := useKey
		switch c := c.(type) {
		case tpm2.PolicyPCR:
			step = checkPCRs
			_, err = c.Execute(v)
		case tpm2.PolicyAuthValue:
			_, err = c.Execute(v)
		case tpm2.PolicyOr:
			_, err = c.Execute(v)
		default:
			err = errors.New("no such policy")
		}
		if err != nil {
			return nil, v.failed(step, err)
		}
	}
	return s, nil
}
