package exchange

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

// An Impersonation has IAM make the tokens of a service account for somebody
// who has the right to (section 3.2).
type Impersonation struct {
	// Target is the e-mail or the unique id of the service account.
	Target string

	// Via mints the tokens of who has the right to impersonate it, or the
	// first of Delegates: roles/iam.serviceAccountTokenCreator, for ID tokens
	// roles/iam.serviceAccountOpenIdTokenCreator.
	Via token.Source

	// Delegates are the e-mails of the accounts between Via and Target, in
	// order: each has the right on the next.
	Delegates []string

	// UserProject is the project that the calls count against; "": that of the
	// caller.
	UserProject string

	// Lifetime of access tokens, 1 s to 12 h; default that of the service, 1 h,
	// and more only for accounts that an organisation policy lists
	// (constraints/iam.allowServiceAccountCredentialLifetimeExtension).
	Lifetime time.Duration

	// Subject is the user of a Workspace domain for whom access tokens are
	// made, where the domain has delegated that to Target; "": nobody.
	Subject string

	// Address is that of the target, without a method; default its address at
	// Google. TokenURL is where the assertion for a subject is exchanged;
	// default Google's token endpoint.
	Address, TokenURL string

	// Client makes the calls; nil: one of its own.
	Client *Client
}

// Addresses of Google's services.
const (
	GoogleIAM   = "https://iamcredentials.googleapis.com"
	GoogleToken = "https://oauth2.googleapis.com/token"
)

const (
	CloudPlatform  = "https://www.googleapis.com/auth/cloud-platform"
	DelegatePrefix = "projects/-/serviceAccounts/"
	MaxLifetime    = 12 * time.Hour
)

// Mint implements token.Source.
func (i *Impersonation) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	t, err := i.mint(ctx, req)
	if err != nil {
		return token.Token{}, About("impersonate "+i.Target, err)
	}
	return t, nil
}

func (i *Impersonation) mint(ctx context.Context, req token.Request) (token.Token, error) {
	switch {
	case i.Target == "" || i.Via == nil:
		return token.Token{}, &token.Error{Kind: token.Misconfigured, Err: errors.New("an Impersonation needs Target and Via")}
	case i.Lifetime != 0 && (i.Lifetime < time.Second || i.Lifetime > MaxLifetime):
		return token.Token{}, &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("a Lifetime of %v is not between 1s and 12h", i.Lifetime)}
	case req.Audience != "" && i.Subject != "":
		return token.Token{}, &token.Error{Kind: token.Unsupported, Err: errors.New("there are no ID tokens for a subject")}
	case req.Audience == "" && len(req.Scopes) == 0:
		return token.Token{}, &token.Error{Kind: token.InvalidRequest, Err: errors.New("an access token needs at least one scope")}
	}
	// Whatever is asked for, the caller of IAM needs cloud-platform.
	caller, err := i.Via.Mint(ctx, token.Request{Scopes: []string{CloudPlatform}})
	switch {
	case err != nil:
		return token.Token{}, fromOutside("token of the caller", err)
	case req.Audience != "":
		return i.identity(ctx, caller, req.Audience)
	case i.Subject != "":
		return i.delegated(ctx, caller, req.Scopes)
	}
	return i.access(ctx, caller, req.Scopes)
}

func (i *Impersonation) tokenURL() string { return cmp.Or(i.TokenURL, GoogleToken) }

func (i *Impersonation) address() string {
	return cmp.Or(i.Address, GoogleIAM+"/v1/projects/-/serviceAccounts/"+url.PathEscape(i.Target))
}

// delegate says through whom, if through anybody.
func (i *Impersonation) delegate(body map[string]any) {
	var names []string
	for _, d := range i.Delegates {
		names = append(names, DelegatePrefix+d)
	}
	if names != nil {
		body["delegates"] = names
	}
}

// iam calls a method on the target.
func (i *Impersonation) iam(ctx context.Context, caller token.Token, method string, body, answer any) (*Reply, error) {
	header := map[string]string{"Authorization": "Bearer " + caller.Value}
	if i.UserProject != "" {
		header["X-Goog-User-Project"] = i.UserProject
	}
	r, err := orOwn(i.Client).Post(ctx, Call{
		What: "IAM credentials", Address: i.address() + ":" + method, Field: "endpoints.iamcredentials",
		Body: body, Header: header,
	})
	if err != nil {
		return nil, err
	}
	if err := r.decode(answer); err != nil {
		return nil, About(r.From, err)
	}
	return r, nil
}

func (i *Impersonation) access(ctx context.Context, caller token.Token, scopes []string) (token.Token, error) {
	var answer struct {
		Value  string    `json:"accessToken"`
		Expiry time.Time `json:"expireTime"`
	}
	body := map[string]any{"scope": scopes}
	if i.Lifetime > 0 { // with a clock that is ahead, a literal hour is refused as more than one
		body["lifetime"] = fmt.Sprintf("%ds", int(i.Lifetime/time.Second))
	}
	i.delegate(body)
	r, err := i.iam(ctx, caller, "generateAccessToken", body, &answer)
	if err != nil {
		return token.Token{}, err
	}
	if err := CheckValue("accessToken", answer.Value); err != nil {
		return token.Token{}, About(r.From, err)
	}
	if answer.Expiry.IsZero() {
		return token.Token{}, About(r.From, Malformed("the answer does not say when the token expires (expireTime)"))
	}
	return r.Dated(answer.Value, answer.Expiry, "access token")
}

func (i *Impersonation) identity(ctx context.Context, caller token.Token, audience string) (token.Token, error) {
	var answer struct {
		Value string `json:"token"`
	}
	body := map[string]any{"audience": audience, "includeEmail": true}
	i.delegate(body)
	r, err := i.iam(ctx, caller, "generateIdToken", body, &answer)
	if err != nil {
		return token.Token{}, err
	}
	if err := CheckValue("token", answer.Value); err != nil {
		return token.Token{}, About(r.From, err)
	}
	expiry, err := ExpiryOf(answer.Value)
	if err != nil {
		return token.Token{}, About(r.From, Malformed("the token is no JWT: %w", err))
	}
	return r.Dated(answer.Value, expiry, "ID token")
}

// delegated has IAM sign an assertion for the subject, and exchanges it.
func (i *Impersonation) delegated(ctx context.Context, caller token.Token, scopes []string) (token.Token, error) {
	a := NewAssertion(i.Target, i.tokenURL(), time.Now())
	a.Subject, a.Scope = i.Subject, strings.Join(scopes, " ")
	payload, err := json.Marshal(a)
	if err != nil {
		return token.Token{}, err
	}
	var answer struct {
		JWT string `json:"signedJwt"`
	}
	body := map[string]any{"payload": string(payload)}
	i.delegate(body)
	r, err := i.iam(ctx, caller, "signJwt", body, &answer)
	if err != nil {
		return token.Token{}, err
	}
	if err := CheckValue("signedJwt", answer.JWT); err != nil {
		return token.Token{}, About(r.From, err)
	}
	return SendAssertion(ctx, orOwn(i.Client), i.tokenURL(), answer.JWT, false)
}
