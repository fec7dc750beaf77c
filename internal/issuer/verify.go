package issuer

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// DecodeJWT returns the header and the claims of a token, without a look at
// its signature. Numbers are json.Number.
func DecodeJWT(token string) (header, claims map[string]any, err error) {
	j, err := parseJWT(token)
	if err != nil {
		return nil, nil, errors.New("not a JWT")
	}
	return j.decode()
}

// VerifyJWT returns the header and the claims of a token, if one of the keys
// has signed it and it has not expired at that time. Who issued it, and for
// whom, the caller must look at. Errors say what is wrong, without the token.
func VerifyJWT(keys []PublicKey, token string, now time.Time) (header, claims map[string]any, err error) {
	j, err := parseJWT(token)
	if err != nil {
		return nil, nil, errors.New("not a JWT")
	}
	if header, claims, err = j.decode(); err != nil {
		return nil, nil, err
	}
	named := func(k PublicKey) bool { return k.ID == "" || k.ID == j.head.Kid }
	switch {
	case j.head.Alg != "RS256" && j.head.Alg != "ES256":
		return nil, nil, fmt.Errorf("the algorithm is %q, neither RS256 nor ES256", j.head.Alg)
	case !slices.ContainsFunc(keys, named):
		return nil, nil, fmt.Errorf("the key %q is none of those of the issuer", j.head.Kid)
	case !slices.ContainsFunc(keys, func(k PublicKey) bool { return k.signed(j) }):
		return nil, nil, errors.New("the signature is wrong")
	}
	exp, _ := claims["exp"].(json.Number)
	seconds, err := exp.Int64()
	if err != nil {
		return nil, nil, errors.New("there is no time of expiry in it")
	}
	if now.Unix() >= seconds {
		return nil, nil, fmt.Errorf("it expired at %s", time.Unix(seconds, 0).UTC().Format(time.RFC3339))
	}
	return header, claims, nil
}

func (j jwt) decode() (header, claims map[string]any, err error) {
	if decodeJSON(j.header(), &header) != nil || decodeJSON(j.claims, &claims) != nil {
		return nil, nil, errors.New("not a JWT")
	}
	return header, claims, nil
}
