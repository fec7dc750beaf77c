package credential

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
)

// A KeyFile is a service account key in the JSON form of the console and of
// "gcloud iam service-accounts keys create". In YAML it may be the file alone.
type KeyFile struct {
	File string `yaml:"file"`

	// TokenURI overrides the token endpoint that the file names. It is https,
	// or http to this machine.
	TokenURI string `yaml:"token_uri,omitempty"`

	// Permissions is "strict" (the default) or "relaxed", which accepts a
	// file that others can read, such as a mounted Kubernetes secret.
	Permissions string `yaml:"permissions,omitempty"`

	// SelfSigned makes access tokens without a call: JWTs signed by the key.
	// Cloud APIs accept them; tokeninfo, Workspace APIs and some gateways do
	// not (section 3.1). ID tokens are still exchanged.
	SelfSigned bool `yaml:"self_signed,omitempty"`
}

// UnmarshalText reads the short form.
func (c *KeyFile) UnmarshalText(text []byte) error {
	*c = KeyFile{File: string(text)}
	return nil
}

func (c *KeyFile) validate() error {
	var faults []error
	if c.File == "" {
		faults = append(faults, errors.New("file is missing: the JSON key of a service account"))
	}
	if c.TokenURI != "" {
		if err := checkEndpoint(c.TokenURI); err != nil {
			faults = append(faults, fmt.Errorf("token_uri: %w", err))
		}
	}
	switch c.Permissions {
	case "", "strict", "relaxed":
	default:
		faults = append(faults, fmt.Errorf("permissions %q is neither strict nor relaxed", c.Permissions))
	}
	return errors.Join(faults...)
}

func (c *KeyFile) files() []string { return []string{c.File} }

const (
	maxKeyFile      = 64 << 10
	defaultTokenURI = "https://oauth2.googleapis.com/token"
	googleUniverse  = "googleapis.com"
)

func (c *KeyFile) open(_ context.Context, env Env) (token.Source, Identity, error) {
	data, err := issuer.ReadSecretFile(c.File, c.Permissions == "relaxed", maxKeyFile)
	if err != nil {
		return nil, Identity{}, err
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, Identity{}, fmt.Errorf("%s: %w", c.File, err)
	}
	tokenURI := cmp.Or(c.TokenURI, key.tokenURI, defaultTokenURI)
	if err := checkEndpoint(tokenURI); err != nil {
		return nil, Identity{}, fmt.Errorf("%s: token_uri: %w", c.File, err)
	}
	if key.universe != googleUniverse && c.TokenURI == "" && !c.SelfSigned {
		return nil, Identity{}, fmt.Errorf("%s: a key of universe %s cannot be exchanged for tokens; set self_signed: true", c.File, key.universe)
	}
	env.log().Debug("service account key loaded", "file", c.File, "account", key.identity.Email, "key", key.id)
	return &keySource{
		key:        key,
		tokenURI:   tokenURI,
		selfSigned: c.SelfSigned,
		exchange:   key.universe == googleUniverse || c.TokenURI != "",
		client:     env.client(),
	}, key.identity, nil
}

// checkEndpoint refuses an address to which an assertion must not be sent.
func checkEndpoint(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%q is not of the form https://host/path", address)
	case u.User != nil:
		return fmt.Errorf("the address at %s has a user or a password in it; remove it", u.Host)
	case u.Fragment != "":
		return fmt.Errorf("%q has a fragment; remove it", address)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return fmt.Errorf("%q would send assertions unencrypted; use https (http is for this machine only)", address)
	}
	return nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback()
}

// A serviceKey is a service account key, parsed. Of the file only the signer
// is kept, not the text.
type serviceKey struct {
	identity Identity
	id       string // private_key_id
	tokenURI string // may be empty
	universe string
	signer   crypto.Signer
}

// parseKey reads the JSON form. Its errors never show a value that could be
// secret.
func parseKey(data []byte) (*serviceKey, error) {
	var f struct {
		Type         string `json:"type"`
		ProjectID    string `json:"project_id"`
		PrivateKeyID string `json:"private_key_id"`
		PrivateKey   string `json:"private_key"`
		ClientEmail  string `json:"client_email"`
		ClientID     string `json:"client_id"`
		TokenURI     string `json:"token_uri"`
		Universe     string `json:"universe_domain"`
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // editors on Windows
	if err := json.Unmarshal(data, &f); err != nil {
		var typ *json.UnmarshalTypeError
		switch {
		case len(bytes.TrimSpace(data)) == 0:
			return nil, errors.New("the file is empty")
		case errors.As(err, &typ) && typ.Field != "":
			return nil, fmt.Errorf("field %s is not a string", typ.Field)
		case errors.As(err, &typ):
			return nil, errors.New("not a service account key: it is JSON, but no object")
		}
		if b := bytes.TrimSpace(data); bytes.HasPrefix(b, []byte("-----BEGIN")) {
			return nil, errors.New("not a service account key: it is a bare PEM file; the JSON file that Google gives out is needed, for its client_email")
		}
		return nil, fmt.Errorf("not a service account key: not JSON: %w", err)
	}
	if f.Type != "service_account" {
		return nil, wrongType(f.Type)
	}
	var missing []string
	if f.ClientEmail == "" {
		missing = append(missing, "client_email")
	}
	if f.PrivateKey == "" {
		missing = append(missing, "private_key")
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("field %s is missing; download the key again or create a new one", strings.Join(missing, " and "))
	}
	if !isEmail(f.ClientEmail) {
		return nil, fmt.Errorf("client_email %q is not an e-mail", f.ClientEmail)
	}
	signer, err := parsePEM(f.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("private_key: %w", err)
	}
	return &serviceKey{
		identity: Identity{Email: f.ClientEmail, ProjectID: f.ProjectID, UniqueID: f.ClientID},
		id:       f.PrivateKeyID,
		tokenURI: f.TokenURI,
		universe: cmp.Or(f.Universe, googleUniverse),
		signer:   signer,
	}, nil
}

// wrongType tells what the file is instead.
func wrongType(typ string) error {
	what := map[string]string{
		"authorized_user":                  "the credentials of a person, from gcloud auth application-default login",
		"external_account":                 "a configuration of workload identity federation",
		"external_account_authorized_user": "the credentials of a workforce user",
		"impersonated_service_account":     "an impersonation, from gcloud auth application-default login --impersonate-service-account",
		"gdch_service_account":             "a key of Google Distributed Cloud",
	}[typ]
	switch {
	case typ == "":
		return errors.New(`field type is missing; a service account key has "type": "service_account"`)
	case what == "":
		return fmt.Errorf("type is %.40q, a service account key has \"service_account\"", typ)
	}
	return fmt.Errorf("type is %q, which is %s; a service account key has \"service_account\"", typ, what)
}

// A keySource exchanges assertions that it signs for tokens.
type keySource struct {
	key        *serviceKey
	tokenURI   string
	selfSigned bool
	exchange   bool // the token endpoint knows this key
	client     *Client
}

func (s *keySource) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	t, err := s.mint(ctx, req)
	if err != nil {
		return token.Token{}, about("key of "+s.key.identity.Email, err)
	}
	return t, nil
}

func (s *keySource) mint(ctx context.Context, req token.Request) (token.Token, error) {
	email, now := s.key.identity.Email, time.Now()
	if req.Audience != "" {
		if !s.exchange {
			return token.Token{}, &token.Error{Kind: token.Unsupported, Err: fmt.Errorf("no ID tokens in universe %s", s.key.universe)}
		}
		c := newAssertion(email, s.tokenURI, now)
		c.TargetAudience = req.Audience
		return exchangeAssertion(ctx, s.client, s.tokenURI, s.key.signer, s.key.id, c)
	}
	if len(req.Scopes) == 0 {
		return token.Token{}, &token.Error{Kind: token.InvalidRequest, Err: errors.New("an access token needs at least one scope")}
	}
	if s.selfSigned {
		c := newAssertion(email, "", now)
		c.Subject = email
		c.Scope = strings.Join(req.Scopes, " ")
		jwt, err := issuer.SignJWT(s.key.signer, s.key.id, c)
		return token.Token{Value: jwt, Expiry: time.Unix(c.Expiry, 0)}, err
	}
	c := newAssertion(email, s.tokenURI, now)
	c.Scope = strings.Join(req.Scopes, " ")
	return exchangeAssertion(ctx, s.client, s.tokenURI, s.key.signer, s.key.id, c)
}
