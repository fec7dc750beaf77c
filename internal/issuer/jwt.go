package issuer

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

var base64url = base64.RawURLEncoding

// SignJWT returns the claims as a JWT signed with RS256 (RFC 7515). The kid
// may be empty; then the header has none.
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
	sum := sha256.Sum256([]byte(signed))
	sig, err := signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return "", err
	}
	return signed + "." + base64url.EncodeToString(sig), nil
}

type jwtHeader struct {
	Alg string `json:"alg"`
	Kid string `json:"kid,omitempty"`
	Typ string `json:"typ"`
}

// errToken is all that a stranger learns about a token that is not good.
var errToken = errors.New("not a valid token of this issuer")

// verifyID returns the header and the claims of an ID token, if one of the
// keys signed it, it is ours and it has not expired.
func (i *Issuer) verifyID(keys []*key, value string) (jwtHeader, map[string]any, error) {
	none := func() (jwtHeader, map[string]any, error) { return jwtHeader{}, nil, errToken }
	if len(value) > maxToken {
		return none()
	}
	parts := strings.Split(value, ".")
	if len(parts) != 3 {
		return none()
	}
	var head jwtHeader
	if err := decodeJSON(parts[0], &head); err != nil || head.Alg != "RS256" {
		return none()
	}
	sig, err := base64url.DecodeString(parts[2])
	if err != nil || base64url.EncodeToString(sig) != parts[2] { // one token, one spelling
		return none()
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	for _, k := range keys {
		if k.id != head.Kid || rsa.VerifyPKCS1v15(&k.private.PublicKey, crypto.SHA256, sum[:], sig) != nil {
			continue
		}
		var claims map[string]any
		if err := decodeJSON(parts[1], &claims); err != nil {
			return none()
		}
		exp, _ := claims["exp"].(json.Number)
		seconds, err := exp.Int64()
		if err != nil || time.Now().Unix() >= seconds || claims["iss"] != i.options.URL {
			return none()
		}
		return head, claims, nil
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
	Email   string `json:"email"`
	Scope   string `json:"scope"`
	Issued  int64  `json:"iat"`
	Expiry  int64  `json:"exp"`
	TokenID string `json:"jti"`
	Pad     string `json:"pad,omitempty"`
}

func (i *Issuer) signAccess(c accessClaims) (string, error) {
	value, err := i.sealAccess(c)
	if missing := i.options.Size - len(value); err == nil && missing > 0 {
		// Four characters of base64 hold three of padding. A few characters
		// too many are better than one too few.
		c.Pad = strings.Repeat("0", max(1, (missing*3+3)/4-len(`,"pad":""`)))
		value, err = i.sealAccess(c)
	}
	return value, err
}

func (i *Issuer) sealAccess(c accessClaims) (string, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encode an access token: %w", err)
	}
	signed := i.options.Prefix + base64url.EncodeToString(body)
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
	if len(value) > maxToken || dot < len(i.options.Prefix) || !strings.HasPrefix(value, i.options.Prefix) {
		return accessClaims{}, errToken
	}
	signed, mac := value[:dot], value[dot+1:]
	for _, secret := range i.secrets {
		if !hmac.Equal([]byte(mac), []byte(accessMAC(secret, signed))) {
			continue
		}
		var c accessClaims
		if decodeJSON(signed[len(i.options.Prefix):], &c) != nil || time.Now().Unix() >= c.Expiry {
			return accessClaims{}, errToken
		}
		return c, nil
	}
	return accessClaims{}, errToken
}
