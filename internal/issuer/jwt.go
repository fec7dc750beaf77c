package issuer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

var base64url = base64.RawURLEncoding

// SignJWT returns the claims as a JWT signed with RS256 (RFC 7515). The kid
// may be empty; then the header has none. A crypto.MessageSigner gets the text,
// any other signer its SHA-256.
func SignJWT(signer crypto.Signer, kid string, claims any) (string, error) {
	head, err := json.Marshal(jwtHeader{Alg: "RS256", Kid: kid, Typ: "JWT"})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed := base64url.EncodeToString(head) + "." + base64url.EncodeToString(body)
	sig, err := crypto.SignMessage(signer, rand.Reader, []byte(signed), crypto.SHA256)
	if err != nil {
		return "", err
	}
	return signed + "." + base64url.EncodeToString(sig), nil
}

type jwtHeader struct {
	Alg  string          `json:"alg"`
	Kid  string          `json:"kid,omitempty"`
	Typ  string          `json:"typ"`
	Crit json.RawMessage `json:"crit,omitempty"` // extensions that must be understood; we know none
}

// A jwt is a token taken apart, not verified yet.
type jwt struct {
	head   jwtHeader
	claims string // base64url
	signed string // what the signature is over
	sig    []byte
}

func (j jwt) header() string {
	head, _, _ := strings.Cut(j.signed, ".")
	return strings.TrimRight(head, "=")
}

// parseJWT takes a token apart. Padding is accepted, as Google does: old
// versions of Python's google-auth write it.
func parseJWT(value string) (jwt, error) {
	if len(value) > maxToken {
		return jwt{}, errToken
	}
	parts := strings.Split(value, ".")
	if len(parts) != 3 {
		return jwt{}, errToken
	}
	j := jwt{signed: parts[0] + "." + parts[1]}
	for n := range parts {
		parts[n] = strings.TrimRight(parts[n], "=")
	}
	j.claims = parts[1]
	if err := decodeJSON(parts[0], &j.head); err != nil || j.head.Crit != nil {
		return jwt{}, errToken
	}
	var err error
	if j.sig, err = base64url.DecodeString(parts[2]); err != nil || base64url.EncodeToString(j.sig) != parts[2] { // one token, one spelling
		return jwt{}, errToken
	}
	return j, nil
}

// by reports whether the key made the signature. The kind of key says which
// algorithm is to be expected, the token only has to agree.
func (j jwt) by(public crypto.PublicKey) bool {
	sum := sha256.Sum256([]byte(j.signed))
	switch public := public.(type) {
	case *rsa.PublicKey:
		return j.head.Alg == "RS256" && rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], j.sig) == nil
	case *ecdsa.PublicKey:
		const half = 32 // bytes of a number of P-256
		if j.head.Alg != "ES256" || public.Curve != elliptic.P256() || len(j.sig) != 2*half {
			return false
		}
		r, s := new(big.Int).SetBytes(j.sig[:half]), new(big.Int).SetBytes(j.sig[half:])
		return ecdsa.Verify(public, sum[:], r, s)
	}
	return false
}

// errToken is all that a stranger learns about a token that is not good.
var errToken = errors.New("not a valid token of this issuer")

// verifyID returns the header and the claims of an ID token, if one of the
// keys signed it, it is ours and it has not expired.
func (i *Issuer) verifyID(keys []*key, value string) (jwtHeader, map[string]any, error) {
	none := func() (jwtHeader, map[string]any, error) { return jwtHeader{}, nil, errToken }
	j, err := parseJWT(value)
	if err != nil || strings.Contains(value, "=") { // we write none
		return none()
	}
	for _, k := range keys {
		if k.id != j.head.Kid || !j.by(&k.private.PublicKey) {
			continue
		}
		var claims map[string]any
		if err := decodeJSON(j.claims, &claims); err != nil {
			return none()
		}
		exp, _ := claims["exp"].(json.Number)
		seconds, err := exp.Int64()
		if err != nil || i.now().Unix() >= seconds || claims["iss"] != i.options.URL {
			return none()
		}
		return j.head, claims, nil
	}
	return none()
}

// decodeJSON decodes a part of a token. Numbers stay as they are written.
func decodeJSON(part string, v any) error {
	data, err := base64url.DecodeString(part)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(v)
}

// accessClaims are what an access token of ours says. It is opaque to all but
// the issuer: prefix, base64url of the JSON, a dot, an HMAC of all before it.
type accessClaims struct {
	Email     string `json:"email,omitempty"`
	Principal string `json:"principal,omitempty"` // who it is, if not a service account
	Scope     string `json:"scope"`
	Issued    int64  `json:"iat"`
	Expiry    int64  `json:"exp"`
	TokenID   string `json:"jti"`
	Pad       string `json:"pad,omitempty"`
}

// member is the owner of the token as IAM policies name it.
func (c accessClaims) member() string {
	if c.Principal != "" {
		return c.Principal
	}
	return "serviceAccount:" + c.Email
}

// Prefixes of access tokens beside Options.Prefix: those of the Security
// Token Service and of people (section 4.1).
const (
	federatedPrefix = "ya29.d.offline."
	userPrefix      = "ya29.a0.offline."
)

func (i *Issuer) signAccess(prefix string, c accessClaims) (string, error) {
	value, err := i.sealAccess(prefix, c)
	if missing := i.options.Size - len(value); err == nil && missing > 0 {
		// Four characters of base64 hold three of padding. A few characters
		// too many are better than one too few.
		c.Pad = strings.Repeat("0", max(1, (missing*3+3)/4-len(`,"pad":""`)))
		value, err = i.sealAccess(prefix, c)
	}
	return value, err
}

func (i *Issuer) sealAccess(prefix string, c accessClaims) (string, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encode an access token: %w", err)
	}
	signed := prefix + base64url.EncodeToString(body)
	return signed + "." + accessMAC(i.secrets[0], signed), nil
}

func accessMAC(secret []byte, signed string) string {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(signed))
	return base64url.EncodeToString(h.Sum(nil))
}

// verifyAccess returns the claims of an access token that is ours and has not
// expired.
func (i *Issuer) verifyAccess(value string) (accessClaims, error) {
	dot := strings.LastIndexByte(value, '.')
	if len(value) > maxToken || dot < 0 {
		return accessClaims{}, errToken
	}
	signed, mac := value[:dot], value[dot+1:]
	for _, prefix := range []string{i.options.Prefix, federatedPrefix, userPrefix} {
		body, ok := strings.CutPrefix(signed, prefix)
		if !ok {
			continue
		}
		for _, secret := range i.secrets {
			if !hmac.Equal([]byte(mac), []byte(accessMAC(secret, signed))) {
				continue
			}
			var c accessClaims
			if decodeJSON(body, &c) != nil || i.now().Unix() >= c.Expiry {
				return accessClaims{}, errToken
			}
			return c, nil
		}
	}
	return accessClaims{}, errToken
}
