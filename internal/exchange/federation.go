package exchange

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

// GoogleSTS is the address of Google's security token service.
const GoogleSTS = "https://sts.googleapis.com/v1/token"

const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	TypeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	TypeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	TypeIDToken     = "urn:ietf:params:oauth:token-type:id_token"
	TypeSAML        = "urn:ietf:params:oauth:token-type:saml2"
	TypeCertificate = "urn:ietf:params:oauth:token-type:mtls"
	TypeAWS         = "urn:ietf:params:aws:token-type:aws4_request"

	MaxSubject = 64 << 10
)

// A Federation exchanges the tokens of another identity provider for access
// tokens of Google, at its security token service (section 3.3). Those are
// tokens of a federated principal, which is no service account: over them,
// Impersonate makes those of one.
type Federation struct {
	// Audience is the full name of the provider:
	// //iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER
	// or //iam.googleapis.com/locations/global/workforcePools/POOL/providers/PROVIDER.
	Audience string

	// SubjectTokenType is that of what Subject returns; default a JWT.
	SubjectTokenType string

	// Subject returns the token that proves who we are to the other provider.
	// It is called for each exchange, possibly from several goroutines. Holder
	// says what it is, for people: "subject token in /run/token".
	Subject func(ctx context.Context) (string, error)
	Holder  string

	// TokenURL is the address of the service; default Google's.
	TokenURL string

	// UserProject is the project that pays for a workforce user.
	UserProject string

	// ClientID and ClientSecret are those of an OAuth client of ours; then
	// UserProject has no meaning.
	ClientID     string
	ClientSecret string

	// Client makes the calls; nil: one of its own.
	Client *Client
}

// Steps are how a token is made, for people.
func (f *Federation) Steps() []string {
	steps := []string{f.holder()}
	if u, err := url.Parse(f.tokenURL()); err == nil {
		steps = append(steps, "token exchange at "+u.Host)
	}
	return steps
}

func (f *Federation) holder() string    { return cmp.Or(f.Holder, "subject token") }
func (f *Federation) tokenURL() string  { return cmp.Or(f.TokenURL, GoogleSTS) }
func (f *Federation) tokenType() string { return cmp.Or(f.SubjectTokenType, TypeJWT) }

// Format shows the audience, whatever the verb: no secret of ours is in a text.
func (f Federation) Format(s fmt.State, _ rune) { fmt.Fprintf(s, "[federation %s]", f.Audience) }

// Mint implements token.Source.
func (f *Federation) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	t, err := f.mint(ctx, req)
	if err != nil {
		return token.Token{}, About("federation through "+strings.TrimPrefix(f.Audience, "//iam.googleapis.com/"), err)
	}
	return t, nil
}

func (f *Federation) mint(ctx context.Context, req token.Request) (token.Token, error) {
	switch {
	case req.Audience != "":
		return token.Token{}, &token.Error{Kind: token.Unsupported, Err: errors.New("a federated principal has no ID tokens; impersonate a service account through it to get that one's")}
	case len(req.Scopes) == 0:
		return token.Token{}, &token.Error{Kind: token.InvalidRequest, Err: errors.New("an access token needs at least one scope")}
	}
	if f.Audience == "" || f.Subject == nil {
		return token.Token{}, &token.Error{Kind: token.Misconfigured, Err: errors.New("a Federation needs Audience and Subject")}
	}
	subject, err := f.Subject(ctx)
	if err == nil {
		err = f.check(subject)
	}
	if err != nil {
		return token.Token{}, fromOutside(f.holder(), err)
	}
	c := Call{
		What: "token exchange", Address: f.tokenURL(), Field: "token_url",
		Form: url.Values{
			"grant_type":           {grantExchange},
			"audience":             {f.Audience},
			"requested_token_type": {TypeAccessToken},
			"scope":                {strings.Join(req.Scopes, " ")},
			"subject_token":        {subject},
			"subject_token_type":   {f.tokenType()},
		},
	}
	switch {
	case f.ClientID != "":
		c.Header = map[string]string{"Authorization": Basic(f.ClientID, f.ClientSecret)}
	case f.UserProject != "":
		options, err := json.Marshal(map[string]string{"userProject": f.UserProject})
		if err != nil {
			return token.Token{}, err
		}
		c.Form.Set("options", string(options))
	}
	r, err := orOwn(f.Client).Post(ctx, c)
	if err != nil {
		return token.Token{}, err
	}
	t, err := r.AccessToken()
	if err != nil {
		return token.Token{}, About(r.From, err)
	}
	return t, nil
}

// check refuses a subject token that cannot be good: it is renewed by somebody
// else, and one that is not any more is the most common failure.
func (f *Federation) check(subject string) error {
	switch {
	case subject == "":
		return &token.Error{Kind: token.Unavailable, Err: errors.New("it is empty")}
	case len(subject) > MaxSubject:
		return &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("it is longer than %d bytes", MaxSubject)}
	case f.tokenType() != TypeJWT && f.tokenType() != TypeIDToken:
		return nil
	case strings.Count(subject, ".") != 2 || strings.ContainsAny(subject, " \t\r\n"):
		return &token.Error{Kind: token.Misconfigured, Err: errors.New("it is no JWT, but the subject_token_type says so")}
	}
	expiry, err := ExpiryOf(subject)
	if now := time.Now(); err == nil && !expiry.After(now) {
		return &token.Error{Kind: token.Unavailable, Err: fmt.Errorf("it has expired at %s, %v ago; does what renews it still run?",
			expiry.UTC().Format(time.RFC3339), now.Sub(expiry).Round(time.Second))}
	}
	return nil
}

// Basic is the value of the Authorization header for an OAuth client. RFC 6749
// section 2.3.1 wants the parts form-encoded first; Google's libraries do not
// do that, so neither do we.
func Basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}
