package tpm

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// An Error says what the TPM did not do and what helps.
type Error struct {
	Device string
	Step   string // what was asked of it
	Fix    string // may be empty
	Again  bool   // it may work later without anybody doing anything
	Err    error
}

// Error returns all of it in one line. It has no secrets.
func (e *Error) Error() string {
	text := fmt.Sprintf("TPM %s: %s: %v", e.Device, e.Step, e.Err)
	if e.Fix != "" {
		text += " (" + e.Fix + ")"
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// stops reports an error after which the password must not be tried again.
func (e *Error) stops() bool {
	return slices.ContainsFunc([]tpm2.TPMRC{tpm2.TPMRCAuthFail, tpm2.TPMRCBadAuth, tpm2.TPMRCLockout},
		func(rc tpm2.TPMRC) bool { return errors.Is(e.Err, rc) })
}

// A step is something asked of the TPM that a password is shown for.
type step struct {
	name     string
	password string // the setting
}

var (
	makeParent = step{"make the parent key", "owner_password"}
	makeEK     = step{"make the endorsement key", "endorsement_password"}
	useEK      = step{"use the endorsement key as parent", "endorsement_password"}
	useParent  = step{"load the key", "parent_password"}
	importKey  = step{"import the key", "parent_password"}
	makeKey    = step{"make the key", "parent_password"}
	useKey     = step{"sign", "key_password"}
	checkPCRs  = step{"check the PCRs", ""}
	keepKey    = step{"keep the key at its handle", "owner_password"}
)

// remedies are what codes of the TPM mean for the person who set it up.
// PASSWORD stands for the setting of the step.
var remedies = []struct {
	code  tpm2.TPMRC
	step  string // "": any
	again bool
	fix   string
}{
	{tpm2.TPMRCAuthFail, "", false, "PASSWORD is wrong. It is not tried again, since a few wrong ones lock the TPM: correct it, or restart gcemds if the TPM was what was wrong"},
	{tpm2.TPMRCBadAuth, "", false, "PASSWORD is wrong. It is not tried again: correct it, or restart gcemds if the TPM was what was wrong"},
	{tpm2.TPMRCLockout, "", false, "the TPM is locked after wrong passwords. Nothing is tried any more: wait for it to unlock, or run tpm2_dictionarylockout --clear-lockout, then restart gcemds"},
	{tpm2.TPMRCPolicyFail, "", false, "the key is bound to other PCRs, other values of them, or another policy: compare pcrs and duplicate_select with how the key was made, or make the key anew for this state of the machine"},
	{tpm2.TPMRCValue, checkPCRs.name, false, "the PCRs have not the values of pcr_digest: the machine was started in another way"},
	{tpm2.TPMRCValue, importKey.name, false, "this TPM takes no RSA key of that size: create one with 2048 bits"},
	{tpm2.TPMRCPCRChanged, "", true, "a PCR changed in between"},
	{tpm2.TPMRCAuthUnavailable, "", false, "the key is bound to a policy, a password is not enough: set pcrs or duplicate_select to how it was made"},
	{tpm2.TPMRCIntegrity, useParent.name, false, "the key is wrapped under another parent, or by another TPM: set parent to h2, rsa-srk, ecc-srk, ek-rsa or its handle"},
	{tpm2.TPMRCType, useParent.name, false, "the parent is not a storage key: correct parent"},
	{tpm2.TPMRCTicket, "", false, "the key is restricted: it signs only what the TPM has hashed itself"},
	{tpm2.TPMRCScheme, "", false, "the key is fixed to another signature scheme: make one with scheme null"},
	{tpm2.TPMRCHandle, "", false, "there is no key at that handle; tpm2_getcap handles-persistent lists those"},
	{tpm2.TPMRCNVDefined, keepKey.name, false, "there is a key at that handle already: choose another, or remove it with tpm2_evictcontrol -c HANDLE"},
	{tpm2.TPMRCHierarchy, "", false, "the hierarchy is switched off in this TPM"},
	{tpm2.TPMRCObjectMemory, "", true, noPlace},
	{tpm2.TPMRCSessionMemory, "", true, noPlace},
	{tpm2.TPMRCSessionHandles, "", true, noPlace},
	{tpm2.TPMRCInitialize, "", true, "the TPM was not started: swtpm needs --flags startup-clear"},
	{tpm2.TPMRCRetry, "", true, ""},
	{tpm2.TPMRCTesting, "", true, ""},
	{tpm2.TPMRCYielded, "", true, ""},
}

const noPlace = "other programs hold all places of the TPM: use /dev/tpmrm0, which shares them, or free them with tpm2_flushcontext -t, -l and -s"

// failed makes an Error of what a step returned.
func (v *visit) failed(s step, err error) error {
	e := &Error{Device: v.device.address, Step: s.name, Err: err, Again: v.broken != nil || v.ctx.Err() != nil || forgotten(err)}
	for _, r := range remedies {
		if errors.Is(err, r.code) && (r.step == "" || r.step == s.name) {
			e.Again = e.Again || r.again
			e.Fix = strings.ReplaceAll(r.fix, "PASSWORD", s.password)
			break
		}
	}
	return e
}

// forgotten reports that the TPM does not know a handle that it gave us: it
// was restarted in between.
func forgotten(err error) bool {
	var rc tpm2.TPMRC
	return errors.As(err, &rc) && (tpm2.TPMRCReferenceH0 <= rc && rc <= tpm2.TPMRCReferenceH6 ||
		tpm2.TPMRCReferenceS0 <= rc && rc <= tpm2.TPMRCReferenceS6)
}

// NoKey reports that there is no key at the handle.
func NoKey(err error) bool {
	var e *Error
	return errors.As(err, &e) && errors.Is(e.Err, tpm2.TPMRCHandle)
}
