package credential

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// parsePEM returns the signer of an RSA private key, PKCS#8 or PKCS#1. What a
// key is made of does not matter to the rest of the package: a key in a TPM
// or behind a command is a crypto.Signer too.
func parsePEM(text string) (crypto.Signer, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		if strings.Contains(text, "-----BEGIN") && strings.Contains(text, `\n`) {
			return nil, errors.New(`it contains \n as two characters instead of line breaks; the file was escaped once too often`)
		}
		return nil, errors.New("it is not PEM; the file is damaged, download the key again or create a new one")
	}
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("it is encrypted; decrypt it first: openssl pkey -in FILE")
	default:
		return nil, fmt.Errorf("PEM block is %.40q, expected \"PRIVATE KEY\"", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("the key is damaged: %w", err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T, but Google takes RSA keys only (RS256)", parsed)
	}
	return key, nil
}
