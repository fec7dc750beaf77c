package issuer

import (
	"crypto/sha256"
	"math/big"
)

// UniqueID returns the numeric id of an account that is known by its e-mail
// only: 21 digits like Google's, always the same ones.
func UniqueID(email string) string {
	sum := sha256.Sum256([]byte(email))
	digits := new(big.Int).SetBytes(sum[:]).String()
	for len(digits) < 20 {
		digits = "0" + digits
	}
	return "1" + digits[:20]
}
