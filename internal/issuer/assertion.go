package issuer

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

const (
	assertionLife = time.Hour
	assertionSkew = 5 * time.Minute // of clocks, before and after
)

// The texts are Google's, by which libraries and people know what is wrong
// (section 2.3).
var (
	errMalformed = bad("invalid_grant", "Bad Request")
	errSignature = bad("invalid_grant", "Invalid JWT Signature.")
	errAccount   = bad("invalid_grant", "Invalid grant: account not found")
	errAudience  = bad("invalid_grant", "Invalid JWT: Failed audience check.")
	errTimeframe = bad("invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.")
	errScope     = bad("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
	errSubject   = bad("invalid_grant", "Invalid email or User ID")
	errDelegated = refusal{http.StatusUnauthorized, "unauthorized_client", "Client is unauthorized to retrieve access tokens using this method, or client not authorized for any of the scopes requested."}
)

// An assertion is what an account signs to get a token (section 3.1).
type assertion struct {
	Issuer         string      `json:"iss"`
	Subject        string      `json:"sub"`
	Principal      string      `json:"prn"` // an old name of sub
	Audience       any         `json:"aud"`
	Scope          string      `json:"scope"`
	TargetAudience string      `json:"target_audience"`
	Issued         json.Number `json:"iat"`
	Expiry         json.Number `json:"exp"`
}

// verifyAssertion returns what an account of the directory has signed for one
// of the audiences, not long ago.
func (i *Issuer) verifyAssertion(value string, audiences []string) (*Account, assertion, error) {
	var a assertion
	j, err := parseJWT(value)
	if err != nil || decodeJSON(j.claims, &a) != nil {
		return nil, a, errMalformed
	}
	account := i.directory.Load().accounts[a.Issuer]
	if account == nil || account.Email != a.Issuer { // not by its unique id
		return nil, a, errAccount
	}
	if !i.signedBy(account, j) {
		return nil, a, errSignature
	}
	if audience, ok := a.Audience.(string); !ok || !slices.Contains(audiences, audience) {
		return nil, a, errAudience
	}
	issued, expiry, ok := times(a.Issued, a.Expiry)
	if now := i.now(); !ok || expiry.Sub(issued) > assertionLife || expiry.Before(now.Add(-assertionSkew)) || issued.After(now.Add(assertionSkew)) {
		return nil, a, errTimeframe
	}
	if a.Subject == "" {
		a.Subject = a.Principal
	}
	return account, a, nil
}

// signedBy reports whether a key of the account, registered or kept for it,
// made the signature.
func (i *Issuer) signedBy(account *Account, j jwt) bool {
	if slices.ContainsFunc(account.Keys, func(k PublicKey) bool { return k.signed(j) }) {
		return true
	}
	k := i.madeKey(account.Email)
	return k != nil && k.id == j.head.Kid && j.by(&k.private.PublicKey)
}

// times reads two claims in seconds; a fraction is dropped.
func times(issued, expiry json.Number) (time.Time, time.Time, bool) {
	iat, err := issued.Float64()
	exp, err2 := expiry.Float64()
	const latest = 1 << 40 // seconds; beyond it a float is no time
	ok := err == nil && err2 == nil && iat > 0 && exp > 0 && iat < latest && exp < latest
	if !ok {
		return time.Time{}, time.Time{}, false
	}
	return time.Unix(int64(iat), 0), time.Unix(int64(exp), 0), true
}

// assertionGrant answers the jwt-bearer grant: with an ID token if the
// assertion has a target audience, else with an access token.
func (i *Issuer) assertionGrant(r *http.Request, value string) (any, error) {
	account, a, err := i.verifyAssertion(value, i.tokenURIs(r))
	if err != nil {
		return nil, err
	}
	scopes := strings.Fields(a.Scope)
	switch {
	case (len(scopes) == 0) == (a.TargetAudience == ""):
		return nil, errScope
	case a.TargetAudience != "":
		return i.idAnswer(r, account.Email, a.TargetAudience)
	case a.Subject == "" || a.Subject == account.Email:
		return i.accessAnswer(i.options.Prefix, accessClaims{Email: account.Email, Scope: a.Scope}, i.options.Life)
	case !strings.Contains(a.Subject, "@"):
		return nil, errSubject
	case !account.DomainWide.speaksFor(a.Subject):
		return nil, errDelegated
	}
	for _, s := range scopes {
		if !slices.Contains(account.DomainWide.Scopes, s) {
			return nil, errDelegated
		}
	}
	return i.accessAnswer(userPrefix, accessClaims{Email: a.Subject, Principal: "user:" + a.Subject, Scope: a.Scope}, i.options.Life)
}

// idAnswer is an ID token of an account, with its e-mail as those of the
// token endpoint have it.
func (i *Issuer) idAnswer(r *http.Request, email, audience string) (any, error) {
	t, err := i.Source(email).Mint(r.Context(), token.Request{Audience: audience, Claims: emailClaims(email)})
	return map[string]string{"id_token": t.Value}, err
}

func emailClaims(email string) string {
	claims, _ := json.Marshal(map[string]any{"email": email, "email_verified": true}) // always marshals
	return string(claims)
}
