package credential

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
)

const (
	assertionLife = time.Hour        // the longest that Google accepts
	assertionSkew = 10 * time.Second // iat is that much in the past
	grantJWT      = "urn:ietf:params:oauth:grant-type:jwt-bearer"
)

// An assertion is what a service account signs to get a token (section 3.1).
type assertion struct {
	Issuer         string `json:"iss"`
	Subject        string `json:"sub,omitempty"`
	Audience       string `json:"aud"` // the token endpoint, exactly
	Scope          string `json:"scope,omitempty"`
	TargetAudience string `json:"target_audience,omitempty"`
	Issued         int64  `json:"iat"`
	Expiry         int64  `json:"exp"`
}

func newAssertion(email, audience string, now time.Time) assertion {
	issued := now.Add(-assertionSkew)
	return assertion{Issuer: email, Audience: audience, Issued: issued.Unix(), Expiry: issued.Add(assertionLife).Unix()}
}

// exchangeAssertion signs the assertion and sends it to the token endpoint,
// which answers with an ID token if it has a target audience and with an
// access token if not.
func exchangeAssertion(ctx context.Context, c *Client, tokenURI string, signer crypto.Signer, kid string, a assertion) (token.Token, error) {
	jwt, err := issuer.SignJWT(within(ctx, signer), kid, a)
	if err != nil {
		return token.Token{}, about("sign the assertion", err)
	}
	return sendAssertion(ctx, c, tokenURI, jwt, a.TargetAudience != "")
}

// sendAssertion exchanges a signed assertion for a token of that kind.
func sendAssertion(ctx context.Context, c *Client, tokenURI, jwt string, identity bool) (token.Token, error) {
	reply, err := c.post(ctx, call{
		what: "token endpoint", address: tokenURI, field: "token_uri",
		form: url.Values{"grant_type": {grantJWT}, "assertion": {jwt}},
	})
	if err != nil {
		return token.Token{}, err
	}
	var t token.Token
	if identity {
		t, err = reply.idToken()
	} else {
		t, err = reply.accessToken()
	}
	if err != nil {
		return token.Token{}, about(reply.from, err)
	}
	return t, nil
}

// expiryOf returns the exp claim of a JWT that was not verified: it came from
// the endpoint that made it.
func expiryOf(jwt string) (time.Time, error) {
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
