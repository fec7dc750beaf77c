package credential

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
)

// A ServiceAccount says whose key it is that a signer holds: what the JSON
// file of a key would say. The kinds of credential whose key cannot be read
// embed it.
type ServiceAccount struct {
	Email string `yaml:"email"`

	// KeyID is the id that Google gave the key, for the header of assertions.
	// Empty: none is sent, and Google tries the keys of the account.
	KeyID string `yaml:"key_id,omitempty"`

	// TokenURI is the token endpoint; default Google's. It is https, or http
	// to this machine.
	TokenURI string `yaml:"token_uri,omitempty"`

	// SelfSigned makes access tokens without a call; see KeyFile.
	SelfSigned bool `yaml:"self_signed,omitempty"`
}

// faults are what is wrong with the fields.
func (c *ServiceAccount) faults() []error {
	var faults []error
	if !isEmail(c.Email) {
		faults = append(faults, errors.New("email is missing: of the service account that has this key, for example robot@my-project.iam.gserviceaccount.com"))
	}
	if c.TokenURI != "" {
		if err := exchange.CheckEndpoint(c.TokenURI); err != nil {
			faults = append(faults, fmt.Errorf("token_uri: %w", err))
		}
	}
	return faults
}

// source returns the source of the account's tokens, signed by signer. Holder
// says where the key is, for people.
func (c *ServiceAccount) source(holder string, signer crypto.Signer, env Env) (token.Source, Identity, error) {
	s := &signingSource{
		email:      c.Email,
		key:        c.KeyID,
		signer:     signer,
		tokenURI:   cmp.Or(c.TokenURI, env.Endpoints.token()),
		selfSigned: c.SelfSigned,
		client:     env.client(),
	}
	return s, Identity{Email: c.Email, ProjectID: projectOf(c.Email), Steps: append([]string{holder}, s.steps()...)}, nil
}

// A signingSource exchanges assertions for tokens. Who signs them, a key in a
// file or in a chip, makes no difference to it.
type signingSource struct {
	email      string
	key        string // id, may be empty
	signer     crypto.Signer
	tokenURI   string
	selfSigned bool
	universe   string // set: the token endpoint of this universe knows no keys
	client     *exchange.Client
}

func (s *signingSource) steps() []string {
	if s.selfSigned {
		return []string{"self-signed tokens"}
	}
	u, err := url.Parse(s.tokenURI)
	if err != nil {
		return nil
	}
	return []string{"token endpoint " + u.Host}
}

// Mint implements token.Source.
func (s *signingSource) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	t, err := s.mint(ctx, req)
	if err != nil {
		return token.Token{}, exchange.About("key of "+s.email, err)
	}
	return t, nil
}

// Close ends what the signer holds open.
func (s *signingSource) Close() error {
	if c, ok := s.signer.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// within returns the signer for one call, which ends with ctx if the signer
// has a way to: crypto.Signer knows no contexts.
func within(ctx context.Context, signer crypto.Signer) crypto.Signer {
	if s, ok := signer.(interface {
		within(context.Context) crypto.Signer
	}); ok {
		return s.within(ctx)
	}
	return signer
}

func (s *signingSource) mint(ctx context.Context, req token.Request) (token.Token, error) {
	now := time.Now()
	if req.Audience != "" {
		if s.universe != "" {
			return token.Token{}, &token.Error{Kind: token.Unsupported, Err: fmt.Errorf("no ID tokens in universe %s", s.universe)}
		}
		c := exchange.NewAssertion(s.email, s.tokenURI, now)
		c.TargetAudience = req.Audience
		return exchangeAssertion(ctx, s.client, s.tokenURI, s.signer, s.key, c)
	}
	if len(req.Scopes) == 0 {
		return token.Token{}, &token.Error{Kind: token.InvalidRequest, Err: errors.New("an access token needs at least one scope")}
	}
	if s.selfSigned {
		c := exchange.NewAssertion(s.email, "", now)
		c.Subject = s.email
		c.Scope = strings.Join(req.Scopes, " ")
		jwt, err := issuer.SignJWT(within(ctx, s.signer), s.key, c)
		return token.Token{Value: jwt, Expiry: time.Unix(c.Expiry, 0)}, err
	}
	c := exchange.NewAssertion(s.email, s.tokenURI, now)
	c.Scope = strings.Join(req.Scopes, " ")
	return exchangeAssertion(ctx, s.client, s.tokenURI, s.signer, s.key, c)
}

// exchangeAssertion signs the assertion and sends it to the token endpoint,
// which answers with an ID token if it has a target audience and with an
// access token if not.
func exchangeAssertion(ctx context.Context, c *exchange.Client, tokenURI string, signer crypto.Signer, kid string, a exchange.Assertion) (token.Token, error) {
	jwt, err := issuer.SignJWT(within(ctx, signer), kid, a)
	if err != nil {
		return token.Token{}, exchange.About("sign the assertion", err)
	}
	return exchange.SendAssertion(ctx, c, tokenURI, jwt, a.TargetAudience != "")
}
