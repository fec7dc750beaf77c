package main

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"
)

// A key is a private key in a token. It signs concurrently: each signature has a session of its own from a pool, since
// a session that is used by two at a time crashes modules.
type key struct {
	context *crypto11.Context
	signer  crypto11.Signer
}

// openKey finds the token and the key that the URI names, and logs in. The PIN is tried once, and not at all if the
// token would be locked by a wrong one.
func openKey(u uri, pin string) (signer, error) {
	slot, err := findSlot(u, pin != "")
	if err != nil {
		return nil, err
	}
	return openSlot(slot, u, pin)
}

// openSlot logs in to the token in that slot, or finds that somebody in this process has.
func openSlot(slot uint, u uri, pin string) (signer, error) {
	number := int(slot)
	context, err := crypto11.Configure(&crypto11.Config{
		Path: u.module, SlotNumber: &number, Pin: pin, LoginNotSupported: pin == "",
		MaxSessions: parallel + 1, // and one that keeps the login
	})
	if err != nil {
		return nil, explain(err, "cannot log in to the token")
	}
	s, err := findKey(context, u)
	if err != nil {
		context.Close()
		return nil, err
	}
	return &key{context, s}, nil
}

// findSlot returns the slot of the one token that the URI fits.
func findSlot(u uri, login bool) (uint, error) {
	if info, err := os.Stat(u.module); err != nil || info.IsDir() {
		return 0, refuse(misconfigured, "there is no PKCS#11 module %s; install it, or correct the path", u.module)
	}
	p := pkcs11.New(u.module)
	if p == nil {
		return 0, refuse(misconfigured, "%s cannot be loaded: it is no PKCS#11 module for this machine, or a library that it needs is missing (ldd %s)", u.module, u.module)
	}
	defer p.Destroy()
	if err := p.Initialize(); err != nil {
		return 0, explain(err, "the module %s does not start", u.module)
	}
	defer p.Finalize()
	slots, err := p.GetSlotList(true)
	if err != nil {
		return 0, explain(err, "the module %s does not list its slots", u.module)
	}
	var fit []uint
	var there []string
	var info pkcs11.TokenInfo
	for _, slot := range slots {
		i, err := p.GetTokenInfo(slot)
		if err != nil || i.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue // a card that is not for us
		}
		if u.fits(slot, i) {
			fit, info = append(fit, slot), i
		}
		there = append(there, fmt.Sprintf("%q (serial %s)", i.Label, i.SerialNumber))
	}
	switch {
	case len(fit) == 0:
		return 0, refuse(misconfigured, "no token fits the URI; the module has %s", list(there, "none"))
	case len(fit) > 1:
		return 0, refuse(misconfigured, "%d tokens fit the URI; add serial=… to it: the module has %s", len(fit), list(there, "none"))
	}
	if err := usable(info, login); err != nil {
		return 0, err
	}
	return fit[0], nil
}

// usable says why a token is none for us, or nil.
func usable(i pkcs11.TokenInfo, login bool) *refusal {
	switch {
	case i.MaxRwSessionCount == 1: // 0 is: no limit
		return refuse(misconfigured, "the token %q has one session only, two are needed", i.Label)
	case !login && i.Flags&pkcs11.CKF_LOGIN_REQUIRED != 0:
		return refuse(misconfigured, "the token %q wants a login; give its PIN", i.Label)
	case login && i.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return refuse(denied, "the PIN of the token %q is locked; the security officer can set a new one", i.Label)
	case login && i.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return refuse(denied, "the token %q would be locked by one more wrong PIN, so none is tried; log in by hand once", i.Label)
	}
	return nil
}

func (u uri) fits(slot uint, i pkcs11.TokenInfo) bool {
	return (u.slot == nil || *u.slot == slot) &&
		(u.token == "" || u.token == i.Label) &&
		(u.serial == "" || u.serial == i.SerialNumber) &&
		(u.manufacturer == "" || u.manufacturer == i.ManufacturerID) &&
		(u.model == "" || u.model == i.Model)
}

// findKey returns the one key pair that the URI fits.
func findKey(context *crypto11.Context, u uri) (crypto11.Signer, error) {
	find := func() ([]crypto11.Signer, error) { return context.FindKeyPairs([]byte(u.id), []byte(u.object)) }
	if u.object == "" && u.id == "" {
		find = context.FindAllKeyPairs
	}
	fit, err := find()
	if err != nil {
		return nil, explain(err, "cannot find the key")
	}
	switch {
	case len(fit) == 0:
		return nil, refuse(misconfigured, "no key fits the URI (a private and a public object of one id are needed); the token has %s", describe(context))
	case len(fit) > 1:
		return nil, refuse(misconfigured, "%d keys fit the URI; add object=… and id=… to it: the token has %s", len(fit), describe(context))
	}
	if _, ok := fit[0].Public().(*rsa.PublicKey); !ok {
		return nil, refuse(misconfigured, "the key is a %T, but Google takes RSA keys only (RS256)", fit[0].Public())
	}
	return fit[0], nil
}

// describe lists the keys of the token as attributes of a URI.
func describe(context *crypto11.Context) string {
	keys, _ := context.FindAllKeyPairs() // it is for a message that there is in any case
	var there []string
	for _, k := range keys {
		var text []string
		if a, err := context.GetAttribute(k, crypto11.CkaLabel); err == nil && a != nil && len(a.Value) > 0 {
			text = append(text, "object="+escape(a.Value))
		}
		if a, err := context.GetAttribute(k, crypto11.CkaId); err == nil && a != nil {
			text = append(text, "id="+escape(a.Value))
		}
		there = append(there, strings.Join(text, ";"))
	}
	return list(there, "no key pair")
}

// escape writes a value as it stands in a URI.
func escape(value []byte) string {
	var text strings.Builder
	for _, b := range value {
		if 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '-' || b == '_' || b == '.' {
			text.WriteByte(b)
		} else {
			fmt.Fprintf(&text, "%%%02X", b)
		}
	}
	return text.String()
}

func list(things []string, none string) string {
	const most = 5
	switch {
	case len(things) == 0:
		return none
	case len(things) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(things[:most], ", "), len(things)-most)
	}
	return strings.Join(things, ", ")
}

func (k *key) Public() crypto.PublicKey { return k.signer.Public() }

func (k *key) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := k.signer.Sign(random, digest, opts)
	if err != nil {
		return nil, explain(err, "the token does not sign")
	}
	return signature, nil
}

func (k *key) Close() error { return k.context.Close() }

// causes are the errors of modules that are not there to pass by themselves.
var causes = map[pkcs11.Error]struct{ code, message string }{
	pkcs11.CKR_PIN_INCORRECT:              {denied, "the PIN is wrong"},
	pkcs11.CKR_PIN_INVALID:                {denied, "the PIN has characters that the token does not take"},
	pkcs11.CKR_PIN_LEN_RANGE:              {denied, "the PIN is too short or too long for the token"},
	pkcs11.CKR_PIN_EXPIRED:                {denied, "the PIN has expired; set a new one"},
	pkcs11.CKR_PIN_LOCKED:                 {denied, "the PIN is locked; the security officer can set a new one"},
	pkcs11.CKR_USER_PIN_NOT_INITIALIZED:   {denied, "the token has no PIN of the user yet"},
	pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED: {misconfigured, "the key is not for signing (CKA_SIGN)"},
	pkcs11.CKR_MECHANISM_INVALID:          {misconfigured, "the token has no RSA signatures (CKM_RSA_PKCS)"},
}

// explain makes an error of a module a refusal.
func explain(err error, format string, args ...any) *refusal {
	what := fmt.Sprintf(format, args...)
	var code pkcs11.Error
	if errors.As(err, &code) {
		if c, ok := causes[code]; ok {
			return refuse(c.code, "%s: %s (%v)", what, c.message, code)
		}
	}
	return refuse(unavailable, "%s: %v", what, err)
}
