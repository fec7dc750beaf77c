package exchange

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

const (
	assertionLife = time.Hour        // the longest that Google accepts
	assertionSkew = 10 * time.Second // iat is that much in the past
	GrantJWT      = "urn:ietf:params:oauth:grant-type:jwt-bearer"
)

// An Assertion is what a service account signs to get a token (section 3.1).
type Assertion struct {
	Issuer         string `json:"iss"`
	Subject        string `json:"sub,omitempty"`
	Audience       string `json:"aud"` // the token endpoint, exactly
	Scope          string `json:"scope,omitempty"`
	TargetAudience string `json:"target_audience,omitempty"`
	Issued         int64  `json:"iat"`
	Expiry         int64  `json:"exp"`
}

func NewAssertion(email, audience string, now time.Time) Assertion {
	issued := now.Add(-assertionSkew)
	return Assertion{Issuer: email, Audience: audience, Issued: issued.Unix(), Expiry: issued.Add(assertionLife).Unix()}
}

// SendAssertion exchanges a signed assertion for a token of that kind.
func SendAssertion(ctx context.Context, c *Client, tokenURI, jwt string, identity bool) (token.Token, error) {
	reply, err := c.Post(ctx, Call{
		What: "token endpoint", Address: tokenURI, Field: "token_uri",
		Form: url.Values{"grant_type": {GrantJWT}, "assertion": {jwt}},
	})
	if err != nil {
		return token.Token{}, err
	}
	var t token.Token
	if identity {
		t, err = reply.idToken()
	} else {
		t, err = reply.AccessToken()
	}
	if err != nil {
		return token.Token{}, About(reply.From, err)
	}
	return t, nil
}

// ExpiryOf returns the exp claim of a JWT that was not verified: it came from
// the endpoint that made it.
func ExpiryOf(jwt string) (time.Time, error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return time.Time{}, errors.New("it has not three parts")
	}
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return time.Time{}, errors.New("its claims are not base64url")
	}
	var claims struct {
		Expiry float64 `json:"exp"`
	}
	if json.Unmarshal(data, &claims) != nil {
		return time.Time{}, errors.New("its claims are not a JSON object with a number as exp")
	}
	const latest = 1 << 40 // seconds; beyond it a float is no time
	if claims.Expiry <= 0 || claims.Expiry > latest {
		return time.Time{}, errors.New("it has no exp claim that is a time")
	}
	return time.Unix(int64(claims.Expiry), 0), nil
}
