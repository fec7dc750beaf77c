package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
)

// An Impersonate is a service account whose tokens another source may have
// made (section 3.2).
//
// Instead of target, via and delegates it may have the file that "gcloud auth
// application-default login --impersonate-service-account" writes.
type Impersonate struct {
	Target string `yaml:"target,omitempty"` // e-mail, or the unique id
	Via    string `yaml:"via,omitempty"`    // the source that has the right to

	// Delegates are the accounts between via and target, in order: each has
	// the right on the next.
	Delegates []string `yaml:"delegates,omitempty"`

	// Lifetime of access tokens, at most 12 h; default 1 h, and more only for
	// accounts that an organisation policy lists
	// (constraints/iam.allowServiceAccountCredentialLifetimeExtension).
	Lifetime time.Duration `yaml:"lifetime,omitempty"`

	// Subject is the user of a Workspace domain for whom access tokens are
	// made, where the domain has delegated that to the target.
	Subject string `yaml:"subject,omitempty"`

	File string `yaml:"file,omitempty"`

	// Permissions of the file, see KeyFile; and what the file may name, see
	// External.
	Permissions          string `yaml:"permissions,omitempty"`
	AllowCustomEndpoints bool   `yaml:"allow_custom_endpoints,omitempty"`
	AllowExecutable      bool   `yaml:"allow_executable,omitempty"`
}

const (
	cloudPlatform = "https://www.googleapis.com/auth/cloud-platform"
	maxLifetime   = 12 * time.Hour
)

func (c *Impersonate) validate() error {
	var faults []error
	switch {
	case c.File != "" && (c.Target != "" || c.Via != "" || len(c.Delegates) > 0):
		faults = append(faults, errors.New("the file says target, via and delegates; remove either it or them"))
	case c.File != "":
		faults = append(faults, checkPermissions(c.Permissions))
	case c.Permissions != "" || c.AllowCustomEndpoints || c.AllowExecutable:
		faults = append(faults, errors.New("permissions, allow_custom_endpoints and allow_executable are for a file"))
		fallthrough
	default:
		if !isAccount(c.Target) {
			faults = append(faults, errors.New("target is missing: the e-mail of the service account to impersonate"))
		}
		if c.Via == "" {
			faults = append(faults, errors.New("via is missing: the name of the source that may impersonate it"))
		}
	}
	for _, d := range c.Delegates {
		if !isAccount(d) {
			faults = append(faults, fmt.Errorf("delegate %q is not the e-mail of a service account", d))
		}
	}
	if c.Lifetime != 0 && (c.Lifetime < time.Second || c.Lifetime > maxLifetime) {
		faults = append(faults, fmt.Errorf("lifetime %v is not between 1s and 12h", c.Lifetime))
	}
	if c.Subject != "" && !isEmail(c.Subject) {
		faults = append(faults, fmt.Errorf("subject %q is not the e-mail of a user", c.Subject))
	}
	return errors.Join(faults...)
}

// isAccount accepts what may stand for a service account in a path.
func isAccount(s string) bool {
	_, err := strconv.ParseUint(s, 10, 64)
	return isEmail(s) || err == nil || len(s) == 21 && strings.Trim(s, "0123456789") == ""
}

func (c *Impersonate) files() []string {
	if c.File == "" {
		return nil
	}
	return []string{c.File}
}

func (c *Impersonate) needs() []string {
	if c.File != "" {
		return nil
	}
	return []string{c.Via}
}

func (c *Impersonate) open(_ context.Context, env Env) (token.Source, Identity, error) {
	if c.File != "" {
		data, err := issuer.ReadSecretFile(c.File, c.Permissions == "relaxed", maxKeyFile)
		if err != nil {
			return nil, Identity{}, err
		}
		s, id, err := c.load(data, env)
		if err != nil {
			return nil, Identity{}, fmt.Errorf("%s: %w", c.File, err)
		}
		return s, id, nil
	}
	if env.Named == nil {
		return nil, Identity{}, errors.New("there are no other sources here that could impersonate")
	}
	via, who, err := env.Named(c.Via)
	if err != nil {
		return nil, Identity{}, fmt.Errorf("via %q: %w", c.Via, err)
	}
	s, id := c.over(via, who, env)
	return s, id, nil
}

// over returns the source of the target's tokens, made by via.
func (c *Impersonate) over(via token.Source, who Identity, env Env) (token.Source, Identity) {
	return c.overAt(env.Endpoints.iam()+"/v1/projects/-/serviceAccounts/"+url.PathEscape(c.Target), via, who, env)
}

// overAt is over, with the address of the target, without a method.
func (c *Impersonate) overAt(address string, via token.Source, who Identity, env Env) (token.Source, Identity) {
	life := c.Lifetime
	if life == 0 {
		life = time.Hour
	}
	s := &impersonation{
		via: via, target: c.Target, subject: c.Subject, life: life,
		address:  address,
		tokenURI: env.Endpoints.token(),
		client:   env.client(),
	}
	steps := who.Steps
	for _, d := range c.Delegates {
		s.delegates = append(s.delegates, delegatePrefix+d)
		steps = append(steps[:len(steps):len(steps)], "delegate "+d)
	}
	steps = append(steps[:len(steps):len(steps)], "impersonate "+c.Target)
	if c.Subject != "" {
		steps = append(steps, "for "+c.Subject)
	}
	id := Identity{Email: c.Target, ProjectID: projectOf(c.Target), Steps: steps}
	if !isEmail(c.Target) {
		id.Email, id.UniqueID = "", c.Target
	}
	return s, id
}

// An impersonation asks IAM for the tokens of its target.
type impersonation struct {
	via             token.Source
	target, subject string
	delegates       []string
	life            time.Duration
	address         string // of the target, without the method
	tokenURI        string // for assertions of a subject
	client          *Client
}

// Mint implements token.Source.
func (s *impersonation) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	t, err := s.mint(ctx, req)
	if err != nil {
		return token.Token{}, about("impersonate "+s.target, err)
	}
	return t, nil
}

func (s *impersonation) mint(ctx context.Context, req token.Request) (token.Token, error) {
	switch {
	case req.Audience != "" && s.subject != "":
		return token.Token{}, &token.Error{Kind: token.Unsupported, Err: errors.New("there are no ID tokens for a subject")}
	case req.Audience == "" && len(req.Scopes) == 0:
		return token.Token{}, &token.Error{Kind: token.InvalidRequest, Err: errors.New("an access token needs at least one scope")}
	}
	// Whatever is asked for, the caller of IAM needs cloud-platform.
	caller, err := s.via.Mint(ctx, token.Request{Scopes: []string{cloudPlatform}})
	switch {
	case err != nil:
		return token.Token{}, about("token of the caller", err)
	case req.Audience != "":
		return s.identity(ctx, caller, req.Audience)
	case s.subject != "":
		return s.delegated(ctx, caller, req.Scopes)
	}
	return s.access(ctx, caller, req.Scopes)
}

// iam calls a method on the target.
func (s *impersonation) iam(ctx context.Context, caller token.Token, method string, body, answer any) (*reply, error) {
	r, err := s.client.post(ctx, call{
		what: "IAM credentials", address: s.address + ":" + method, field: "endpoints.iamcredentials",
		body: body, header: map[string]string{"Authorization": "Bearer " + caller.Value},
	})
	if err != nil {
		return nil, err
	}
	if err := r.decode(answer); err != nil {
		return nil, about(r.from, err)
	}
	return r, nil
}

func (s *impersonation) access(ctx context.Context, caller token.Token, scopes []string) (token.Token, error) {
	var answer struct {
		Value  string    `json:"accessToken"`
		Expiry time.Time `json:"expireTime"`
	}
	body := map[string]any{"scope": scopes, "lifetime": fmt.Sprintf("%ds", int(s.life/time.Second))}
	if len(s.delegates) > 0 {
		body["delegates"] = s.delegates
	}
	r, err := s.iam(ctx, caller, "generateAccessToken", body, &answer)
	if err != nil {
		return token.Token{}, err
	}
	if err := checkValue("accessToken", answer.Value); err != nil {
		return token.Token{}, about(r.from, err)
	}
	if answer.Expiry.IsZero() {
		return token.Token{}, about(r.from, malformed("the answer does not say when the token expires (expireTime)"))
	}
	return r.dated(answer.Value, answer.Expiry, "access token")
}

func (s *impersonation) identity(ctx context.Context, caller token.Token, audience string) (token.Token, error) {
	var answer struct {
		Value string `json:"token"`
	}
	body := map[string]any{"audience": audience, "includeEmail": true}
	if len(s.delegates) > 0 {
		body["delegates"] = s.delegates
	}
	r, err := s.iam(ctx, caller, "generateIdToken", body, &answer)
	if err != nil {
		return token.Token{}, err
	}
	if err := checkValue("token", answer.Value); err != nil {
		return token.Token{}, about(r.from, err)
	}
	expiry, err := expiryOf(answer.Value)
	if err != nil {
		return token.Token{}, about(r.from, malformed("the token is no JWT: %w", err))
	}
	return r.dated(answer.Value, expiry, "ID token")
}

// delegated has IAM sign an assertion for the subject, and exchanges it.
func (s *impersonation) delegated(ctx context.Context, caller token.Token, scopes []string) (token.Token, error) {
	a := newAssertion(s.target, s.tokenURI, time.Now())
	a.Subject, a.Scope = s.subject, strings.Join(scopes, " ")
	payload, err := json.Marshal(a)
	if err != nil {
		return token.Token{}, err
	}
	var answer struct {
		JWT string `json:"signedJwt"`
	}
	body := map[string]any{"payload": string(payload)}
	if len(s.delegates) > 0 {
		body["delegates"] = s.delegates
	}
	r, err := s.iam(ctx, caller, "signJwt", body, &answer)
	if err != nil {
		return token.Token{}, err
	}
	if err := checkValue("signedJwt", answer.JWT); err != nil {
		return token.Token{}, about(r.from, err)
	}
	return sendAssertion(ctx, s.client, s.tokenURI, answer.JWT, false)
}
