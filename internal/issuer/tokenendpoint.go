package issuer

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

const (
	grantJWT      = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	grantRefresh  = "refresh_token"
	grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	grantGDCH     = "urn:ietf:params:oauth:token-type:token-exchange" // sic (section 3.6)

	typeAccess     = "urn:ietf:params:oauth:token-type:access_token"
	typeKubernetes = "urn:k8s:params:oauth:token-type:serviceaccount"

	// What libraries sent before there was RFC 7523.
	grantAssertion = "assertion"
	assertionJWT   = "http://oauth.net/grant_type/jwt/1.0/bearer"
)

// token is the token endpoint: assertions of service accounts, refresh tokens
// of people, and the exchange of Google Distributed Cloud.
func (i *Issuer) token(r *http.Request) (any, error) {
	form, err := parameters(r)
	if err != nil {
		return nil, err
	}
	switch grant := form.Get("grant_type"); {
	case grant == grantJWT, grant == grantAssertion && form.Get("assertion_type") == assertionJWT:
		if form.Get("assertion") == "" {
			return nil, bad("invalid_request", "Missing required parameter: assertion")
		}
		return i.assertionGrant(r, form.Get("assertion"))
	case grant == grantRefresh:
		return i.refreshGrant(r, form, func(u User) bool { return u.Email != "" })
	case grant == grantGDCH:
		return i.distributedGrant(r, form)
	case grant == "":
		return nil, bad("invalid_request", "Missing required parameter: grant_type")
	default:
		return nil, bad("unsupported_grant_type", "Invalid grant_type: %.60s", grant)
	}
}

// workforceToken renews the login of a workforce user at the Security Token
// Service (section 3.4).
func (i *Issuer) workforceToken(r *http.Request) (any, error) {
	form, err := parameters(r)
	if err != nil {
		return nil, err
	}
	if grant := form.Get("grant_type"); grant != grantRefresh {
		return nil, bad("unsupported_grant_type", "Invalid grant_type: %.60s", grant)
	}
	return i.refreshGrant(r, form, func(u User) bool { return u.Principal != "" })
}

// parameters returns the parameters of a form, or of a JSON object of strings
// whose names are brought to the form of RFC 6749 (grantType is grant_type).
// None may be there twice.
func parameters(r *http.Request) (url.Values, error) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind != "application/json" {
		if err := r.ParseForm(); err != nil {
			return nil, errForm
		}
		for name, values := range r.PostForm {
			if len(values) > 1 {
				return nil, bad("invalid_request", "OAuth 2 parameters can only have a single value: %.60s", name)
			}
		}
		return r.PostForm, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, errForm
	}
	var object map[string]string
	if json.Unmarshal(body, &object) != nil {
		return nil, bad("invalid_request", "The body is not a JSON object of strings")
	}
	form := url.Values{}
	for name, value := range object {
		snake := snakeCase(name)
		if form.Has(snake) {
			return nil, bad("invalid_request", "OAuth 2 parameters can only have a single value: %.60s", name)
		}
		form.Set(snake, value)
	}
	return form, nil
}

func snakeCase(name string) string {
	var b strings.Builder
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			b.WriteByte('_')
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}

// tokenURIs are the audiences that an assertion may have: the address under
// which the client sees us, and those under which it knows Google.
func (i *Issuer) tokenURIs(r *http.Request) []string {
	return []string{
		i.base(r) + r.URL.Path,
		"https://oauth2.googleapis.com/token",
		"https://www.googleapis.com/oauth2/v4/token",
		"https://accounts.google.com/o/oauth2/token",
	}
}

// refreshGrant answers with an access token for a login, and with an ID token
// for its client if it asked for openid.
func (i *Issuer) refreshGrant(r *http.Request, form url.Values, here func(User) bool) (any, error) {
	id, secret, ok := r.BasicAuth() // the client says who it is there or in the body
	if !ok {
		id, secret = form.Get("client_id"), form.Get("client_secret")
	}
	u, err := i.renew(id, secret, form.Get("refresh_token"), here)
	if err != nil {
		return nil, err
	}
	claims := accessClaims{Email: u.Email, Principal: u.Principal, Scope: strings.Join(u.Scopes, " ")}
	if u.Principal != "" {
		answer, err := i.accessAnswer(federatedPrefix, claims, time.Hour)
		answer.Refresh, answer.Issued = u.RefreshToken, typeAccess
		return answer, err
	}
	claims.Principal = "user:" + u.Email
	answer, err := i.accessAnswer(userPrefix, claims, time.Hour)
	if err != nil {
		return nil, err
	}
	answer.Scope, answer.Refresh = claims.Scope, u.RefreshToken
	if slices.Contains(u.Scopes, "openid") {
		t, err := i.Source(u.Email).Mint(r.Context(), token.Request{Audience: u.ClientID, Claims: emailClaims(u.Email)})
		if err != nil {
			return nil, err
		}
		answer.ID = t.Value
	}
	return answer, nil
}

// renew finds the login of a client. Its refresh token is the one to use from
// now on, or empty if it stays as it is.
func (i *Issuer) renew(id, secret, refresh string, here func(User) bool) (User, error) {
	x := i.directory.Load()
	i.mu.Lock()
	defer i.mu.Unlock()
	known, proven := false, false
	for n := range x.users {
		u := &x.users[n]
		if !here(*u) || u.ClientID != id {
			continue
		}
		known = true
		if !same(u.ClientSecret, secret) {
			continue
		}
		proven = true
		if refresh == "" || !same(u.RefreshToken, refresh) {
			continue
		}
		renewed := *u
		renewed.RefreshToken = ""
		if u.Rotate {
			u.RefreshToken = "1//offline-" + rand.Text()
			renewed.RefreshToken = u.RefreshToken
		}
		return renewed, nil
	}
	switch {
	case !known:
		return User{}, refusal{http.StatusUnauthorized, "invalid_client", "The OAuth client was not found."}
	case !proven:
		return User{}, refusal{http.StatusUnauthorized, "invalid_client", "Unauthorized"}
	case refresh == "":
		return User{}, bad("invalid_request", "Missing required parameter: refresh_token")
	}
	return User{}, bad("invalid_grant", "Token has been expired or revoked.")
}

// distributedGrant is the exchange of Google Distributed Cloud: an assertion
// that names nobody but the account itself, for a token for an audience.
func (i *Issuer) distributedGrant(r *http.Request, form url.Values) (any, error) {
	switch {
	case form.Get("subject_token_type") != typeKubernetes:
		return nil, bad("invalid_request", "subject_token_type must be %s", typeKubernetes)
	case form.Get("requested_token_type") != typeAccess:
		return nil, bad("invalid_request", "requested_token_type must be %s", typeAccess)
	case form.Get("audience") == "":
		return nil, bad("invalid_request", "Missing required parameter: audience")
	}
	account, a, err := i.verifyAssertion(form.Get("subject_token"), i.tokenURIs(r)[:1])
	if err != nil {
		return nil, err
	}
	if a.Subject != account.Email {
		return nil, errSubject
	}
	answer, err := i.accessAnswer(i.options.Prefix, accessClaims{Email: account.Email, Scope: form.Get("audience")}, time.Hour)
	answer.Issued = typeAccess
	return answer, err
}

// An answer has an access token.
type answer struct {
	Value   string `json:"access_token"`
	Expiry  *int64 `json:"expires_in,omitempty"` // seconds
	Issued  string `json:"issued_token_type,omitempty"`
	Refresh string `json:"refresh_token,omitempty"`
	Scope   string `json:"scope,omitempty"`
	Type    string `json:"token_type"`
	ID      string `json:"id_token,omitempty"`
}

// accessAnswer makes an access token that lives for so long, unless a knob
// says otherwise.
func (i *Issuer) accessAnswer(prefix string, c accessClaims, life time.Duration) (answer, error) {
	life = i.life(life)
	t, err := i.access(prefix, c, life)
	if err != nil {
		return answer{}, err
	}
	if len(t.Value) > maxToken {
		return answer{}, bad("invalid_scope", "The token would be longer than %d characters", maxToken)
	}
	a := answer{Value: t.Value, Type: "Bearer"}
	if i.tellsExpiry() {
		seconds := int64(life / time.Second)
		a.Expiry = &seconds
	}
	return a, nil
}
