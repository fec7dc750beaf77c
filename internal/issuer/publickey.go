package issuer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
)

// A PublicKey verifies what others sign: RSA of at least 2048 bits (RS256) or
// EC on P-256 (ES256).
type PublicKey struct {
	ID  string // kid that a token must name, if it names one; empty: any
	Key crypto.PublicKey
}

func (k PublicKey) check() error {
	switch public := k.Key.(type) {
	case *rsa.PublicKey:
		return checkBits(public)
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return errors.New("the EC key is not on curve P-256")
		}
		return nil
	}
	return errors.New("the key is neither RSA nor EC")
}

// signed reports whether the key made the signature of a token.
func (k PublicKey) signed(j jwt) bool {
	return (k.ID == "" || j.head.Kid == "" || k.ID == j.head.Kid) && j.by(k.Key)
}

// ParsePublicKeys reads keys from what people have: the JSON key of a service
// account, also one of Google Distributed Cloud (only its public half is
// kept), a JWK set, an object of certificates, or PEM with public keys or
// certificates. Owner is the
// account that a JSON key names, else empty.
func ParsePublicKeys(data []byte) (owner string, keys []PublicKey, err error) {
	data = bytes.TrimSpace(data)
	if bytes.HasPrefix(data, []byte("{")) {
		owner, keys, err = parseJSONKeys(data)
	} else {
		keys, err = parsePublicPEM(data)
	}
	if err == nil && len(keys) == 0 {
		err = errors.New("there is no key in it")
	}
	for _, k := range keys {
		if err == nil {
			err = k.check()
		}
	}
	if err != nil {
		return "", nil, err
	}
	return owner, keys, nil
}

func parseJSONKeys(data []byte) (owner string, keys []PublicKey, err error) {
	var f struct {
		Type, Project, Name string
		Email               string `json:"client_email"`
		KeyID               string `json:"private_key_id"`
		PrivateKey          string `json:"private_key"`
		Keys                []json.RawMessage
	}
	if json.Unmarshal(data, &f) != nil { // its text could show a part of the key
		return "", nil, errors.New("it is not JSON, or its fields have the wrong types")
	}
	switch {
	case f.Keys != nil:
		for n, raw := range f.Keys {
			k, err := parseJWK(raw)
			if err != nil {
				return "", nil, fmt.Errorf("key %d of the set: %w", n+1, err)
			}
			keys = append(keys, k)
		}
		return "", keys, nil
	case f.Type == "service_account":
		owner = f.Email
	case f.Type == "gdch_service_account" && f.Project != "" && f.Name != "":
		owner = "system:serviceaccount:" + f.Project + ":" + f.Name
	case f.Type == "":
		keys, err = parseCertificates(data)
		return "", keys, err
	default:
		return "", nil, fmt.Errorf("it is neither the key of a service account nor a JWK set (type %.40q)", f.Type)
	}
	if owner == "" {
		return "", nil, errors.New("field client_email is missing")
	}
	private, err := parsePrivate([]byte(f.PrivateKey))
	if err != nil {
		return "", nil, fmt.Errorf("private_key: %w", err)
	}
	return owner, []PublicKey{{f.KeyID, private.Public()}}, nil
}

// parseCertificates reads the older form in which Google publishes keys: an
// object of key ids and certificates.
func parseCertificates(data []byte) ([]PublicKey, error) {
	var certificates map[string]string
	if err := json.Unmarshal(data, &certificates); err != nil || len(certificates) == 0 {
		return nil, errors.New("it is neither the key of a service account, nor a JWK set, nor an object of certificates")
	}
	var keys []PublicKey
	for id, text := range certificates {
		parsed, err := parsePublicPEM([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("key %.40q: %w", id, err)
		}
		for _, k := range parsed {
			keys = append(keys, PublicKey{id, k.Key})
		}
	}
	return keys, nil
}

// parsePrivate reads the first PEM block, RSA or EC.
func parsePrivate(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	var parsed any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	signer, ok := parsed.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("it is damaged, or not a private key")
	}
	return signer, nil
}

func parsePublicPEM(data []byte) ([]PublicKey, error) {
	var keys []PublicKey
	for n := 1; ; n++ {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		var public any
		var err error
		switch block.Type {
		case "PUBLIC KEY":
			public, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			public, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			var cert *x509.Certificate
			if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
				public = cert.PublicKey
			}
		default:
			return nil, fmt.Errorf("PEM block %d is %.40q, expected \"PUBLIC KEY\" or \"CERTIFICATE\"", n, block.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", n, err)
		}
		keys = append(keys, PublicKey{Key: public})
	}
	if len(bytes.TrimSpace(data)) > 0 {
		return nil, errors.New("it is neither JSON nor PEM")
	}
	return keys, nil
}

// parseJWK reads a key of a JWK set (RFC 7517).
func parseJWK(data []byte) (PublicKey, error) {
	var k struct{ Kty, Kid, Crv, N, E, X, Y string }
	if err := json.Unmarshal(data, &k); err != nil {
		return PublicKey{}, err
	}
	number := func(s string) *big.Int {
		data, err := base64url.DecodeString(s)
		if err != nil || len(data) > maxKeyBytes {
			return new(big.Int)
		}
		return new(big.Int).SetBytes(data)
	}
	switch {
	case k.Kty == "RSA":
		e := number(k.E)
		if !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 {
			return PublicKey{}, errors.New("its exponent (e) is not a number from 3 to 2147483647")
		}
		return PublicKey{k.Kid, &rsa.PublicKey{N: number(k.N), E: int(e.Int64())}}, nil
	case k.Kty == "EC" && k.Crv == "P-256":
		point := make([]byte, 65)
		point[0] = 4 // uncompressed
		x, y := number(k.X), number(k.Y)
		if x.BitLen() > 256 || y.BitLen() > 256 {
			return PublicKey{}, errors.New("its point (x, y) is not on the curve")
		}
		x.FillBytes(point[1:33])
		y.FillBytes(point[33:])
		public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil {
			return PublicKey{}, errors.New("its point (x, y) is not on the curve")
		}
		return PublicKey{k.Kid, public}, nil
	}
	return PublicKey{}, fmt.Errorf("it is of kind %.20q %.20q, only RSA and EC on P-256 are supported", k.Kty, k.Crv)
}
