package credential

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

const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	typeIDToken     = "urn:ietf:params:oauth:token-type:id_token"
	typeSAML        = "urn:ietf:params:oauth:token-type:saml2"
	typeCertificate = "urn:ietf:params:oauth:token-type:mtls"
	typeAWS         = "urn:ietf:params:aws:token-type:aws4_request"

	maxSubject = 64 << 10
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
	// It is called for each exchange. Holder says what it is, for people:
	// "subject token in /run/token".
	Subject func(ctx context.Context) (string, error)
	Holder  string

	// TokenURL is the address of the service; default that of Env.
	TokenURL string

	// UserProject is the project that pays for a workforce user.
	UserProject string

	// ClientID and clientSecret are those of an OAuth client of ours; then
	// UserProject has no meaning.
	ClientID     string
	clientSecret string
}

// Source returns the source of the principal's access tokens, and what is
// known of it: how they are made.
func (f Federation) Source(env Env) (token.Source, Identity) {
	f.SubjectTokenType = cmp.Or(f.SubjectTokenType, typeJWT)
	f.TokenURL = cmp.Or(f.TokenURL, env.Endpoints.sts())
	steps := []string{f.Holder}
	if u, err := url.Parse(f.TokenURL); err == nil {
		steps = append(steps, "token exchange at "+u.Host)
	}
	return &federated{Federation: f, client: env.client()}, Identity{Steps: steps}
}

// federated is the source of a Federation.
type federated struct {
	Federation
	client *Client
}

// Mint implements token.Source.
func (s *federated) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	t, err := s.mint(ctx, req)
	if err != nil {
		return token.Token{}, about("federation through "+strings.TrimPrefix(s.Audience, "//iam.googleapis.com/"), err)
	}
	return t, nil
}

func (s *federated) mint(ctx context.Context, req token.Request) (token.Token, error) {
	switch {
	case req.Audience != "":
		return token.Token{}, &token.Error{Kind: token.Unsupported, Err: errors.New("a federated principal has no ID tokens; impersonate a service account through it to get that one's")}
	case len(req.Scopes) == 0:
		return token.Token{}, &token.Error{Kind: token.InvalidRequest, Err: errors.New("an access token needs at least one scope")}
	}
	subject, err := s.Subject(ctx)
	if err == nil {
		err = s.check(subject)
	}
	if err != nil {
		return token.Token{}, about(s.Holder, err)
	}
	c := call{
		what: "token exchange", address: s.TokenURL, field: "token_url",
		form: url.Values{
			"grant_type":           {grantExchange},
			"audience":             {s.Audience},
			"requested_token_type": {typeAccessToken},
			"scope":                {strings.Join(req.Scopes, " ")},
			"subject_token":        {subject},
			"subject_token_type":   {s.SubjectTokenType},
		},
	}
	switch {
	case s.ClientID != "":
		c.header = map[string]string{"Authorization": basic(s.ClientID, s.clientSecret)}
	case s.UserProject != "":
		options, err := json.Marshal(map[string]string{"userProject": s.UserProject})
		if err != nil {
			return token.Token{}, err
		}
		c.form.Set("options", string(options))
	}
	r, err := s.client.post(ctx, c)
	if err != nil {
		return token.Token{}, err
	}
	t, err := r.accessToken()
	if err != nil {
		return token.Token{}, about(r.from, err)
	}
	return t, nil
}

// check refuses a subject token that cannot be good: it is renewed by somebody
// else, and one that is not any more is the most common failure.
func (s *federated) check(subject string) error {
	switch {
	case subject == "":
		return &token.Error{Kind: token.Unavailable, Err: errors.New("it is empty")}
	case len(subject) > maxSubject:
		return &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("it is longer than %d bytes", maxSubject)}
	case s.SubjectTokenType != typeJWT && s.SubjectTokenType != typeIDToken:
		return nil
	case strings.Count(subject, ".") != 2 || strings.ContainsAny(subject, " \t\r\n"):
		return &token.Error{Kind: token.Misconfigured, Err: errors.New("it is no JWT, but the subject_token_type says so")}
	}
	expiry, err := expiryOf(subject)
	if now := time.Now(); err == nil && !expiry.After(now) {
		return &token.Error{Kind: token.Unavailable, Err: fmt.Errorf("it has expired at %s, %v ago; does what renews it still run?",
			expiry.UTC().Format(time.RFC3339), now.Sub(expiry).Round(time.Second))}
	}
	return nil
}

// basic is the value of the Authorization header for an OAuth client. RFC 6749
// section 2.3.1 wants the parts form-encoded first; Google's libraries do not
// do that, so neither do we.
func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}
