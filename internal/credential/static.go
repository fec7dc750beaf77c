package credential

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// A Static hands out tokens that somebody else made (section 3.7). It asks
// nobody, so it cannot renew them: who made them puts new ones in their place.
// In YAML "env" alone is {env: true}.
type Static struct {
	AccessToken Secret   `yaml:"access_token,omitempty" is:"secret"`
	IDTokens    []Secret `yaml:"id_tokens,omitempty" is:"secret"` // one per audience

	// Expires says when the access token ends: a time such as
	// 2026-01-31T12:00:00Z, a duration from when we first saw the token, or
	// never. Default: what the token says, if it is a JWT, or 1h. ID tokens
	// say it themselves.
	Expires string `yaml:"expires,omitempty"`

	// AnyAudience hands out the first ID token for audiences that none of
	// them is for. Who checks the audience will refuse it.
	AnyAudience bool `yaml:"any_audience,omitempty"`

	// Env takes tokens and names from the environment, where there are any:
	// GOOGLE_ACCESS_TOKEN, GOOGLE_ID_TOKEN, GOOGLE_PROJECT_ID,
	// GOOGLE_NUMERIC_PROJECT_ID and GOOGLE_ACCOUNT_EMAIL or
	// GOOGLE_SERVICE_ACCOUNT.
	Env bool `yaml:"env,omitempty"`

	Email         string `yaml:"email,omitempty"` // whose tokens they are; default: what the ID token says
	Project       string `yaml:"project,omitempty"`
	ProjectNumber string `yaml:"project_number,omitempty"`
}

const assumedLife = time.Hour // of an access token that does not say it

// UnmarshalText reads the short form.
func (c *Static) UnmarshalText(text []byte) error {
	if string(text) != "env" {
		return errors.New("must be a mapping, or the word env")
	}
	*c = Static{Env: true}
	return nil
}

func (c *Static) validate() error {
	var faults []error
	if c.AccessToken == "" && len(c.IDTokens) == 0 && !c.Env {
		faults = append(faults, errors.New("needs access_token, id_tokens or env: true"))
	}
	for _, s := range append([]Secret{c.AccessToken}, c.IDTokens...) {
		if err := s.check(); err != nil {
			faults = append(faults, err)
		}
	}
	if slices.Contains(c.IDTokens, "") {
		faults = append(faults, errors.New("id_tokens has an empty entry"))
	}
	if _, _, err := c.expires(); err != nil {
		faults = append(faults, err)
	}
	if c.Email != "" && !isEmail(c.Email) {
		faults = append(faults, fmt.Errorf("email %q is not the e-mail of an account", c.Email))
	}
	if strings.Trim(c.ProjectNumber, "0123456789") != "" {
		faults = append(faults, fmt.Errorf("project_number %q is not a number", c.ProjectNumber))
	}
	return errors.Join(faults...)
}

// expires reads the field: a time, or a life; both zero if the token is to say
// it, and a negative life for never.
func (c *Static) expires() (at time.Time, life time.Duration, err error) {
	switch c.Expires {
	case "":
		return at, 0, nil
	case "never":
		return at, -1, nil
	}
	if life, err = time.ParseDuration(c.Expires); err == nil && life > 0 {
		return at, life, nil
	}
	if at, err = time.Parse(time.RFC3339, c.Expires); err == nil {
		return at, 0, nil
	}
	return at, 0, fmt.Errorf("expires %q is neither a time such as 2026-01-31T12:00:00Z, nor a duration such as 30m, nor never", c.Expires)
}

func (c *Static) files() []string {
	files := c.AccessToken.files()
	for _, s := range c.IDTokens {
		files = append(files, s.files()...)
	}
	return files
}

func (c *Static) open(_ context.Context, env Env) (token.Source, Identity, error) {
	s := &staticSource{*c, map[Secret]string{}}
	var steps []string
	if c.Env {
		s.fromEnvironment()
		if s.AccessToken == "" && len(s.IDTokens) == 0 {
			return nil, Identity{}, errors.New("neither GOOGLE_ACCESS_TOKEN nor GOOGLE_ID_TOKEN is set in the environment of gcemds")
		}
	}
	if s.AccessToken != "" {
		value, err := s.read(s.AccessToken)
		if err != nil {
			return nil, Identity{}, fmt.Errorf("access_token: %w", err)
		}
		s.lives(value, time.Now()) // from now on its life is counted
		steps = append(steps, "access token in "+string(s.AccessToken))
	}
	id := Identity{Email: s.Email, ProjectID: s.Project, ProjectNumber: s.ProjectNumber}
	for _, ref := range s.IDTokens {
		_, claims, err := s.readID(ref)
		if err != nil {
			return nil, Identity{}, fmt.Errorf("id_tokens: %w", err)
		}
		s.emails[ref] = claims.Email
		if id.Email == "" && isEmail(claims.Email) {
			id.Email = claims.Email
		}
		steps = append(steps, "ID token in "+string(ref))
	}
	id.ProjectID = cmp.Or(id.ProjectID, projectOf(id.Email))
	id.Steps = steps
	return s, id, nil
}

// fromEnvironment puts what is in the environment before what is configured.
func (s *staticSource) fromEnvironment() {
	first := func(names ...string) string {
		for _, name := range names {
			if value := os.Getenv(name); value != "" {
				return value
			}
		}
		return ""
	}
	if first("GOOGLE_ACCESS_TOKEN") != "" {
		s.AccessToken = "env:GOOGLE_ACCESS_TOKEN"
	}
	if first("GOOGLE_ID_TOKEN") != "" {
		s.IDTokens = append([]Secret{"env:GOOGLE_ID_TOKEN"}, s.IDTokens...)
	}
	if email := first("GOOGLE_ACCOUNT_EMAIL", "GOOGLE_SERVICE_ACCOUNT"); isEmail(email) {
		s.Email = email
	}
	s.Project = cmp.Or(first("GOOGLE_PROJECT_ID"), s.Project)
	s.ProjectNumber = cmp.Or(first("GOOGLE_NUMERIC_PROJECT_ID"), s.ProjectNumber)
}

// A staticSource reads its tokens anew each time: files change.
type staticSource struct {
	Static
	emails map[Secret]string // in the ID tokens when it was opened
}

func (s *staticSource) read(ref Secret) (string, error) {
	data, err := ref.read()
	if err != nil {
		return "", err
	}
	value := strings.TrimSpace(string(data))
	if exchange.CheckValue("", value) != nil {
		return "", fmt.Errorf("the secret %s is no token: it has characters that a token cannot have, or more than %d of them", ref, exchange.MaxValue)
	}
	return value, nil
}

func (s *staticSource) readID(ref Secret) (string, idClaims, error) {
	value, err := s.read(ref)
	if err != nil {
		return "", idClaims{}, err
	}
	claims, err := claimsOf(value)
	if err == nil {
		claims.expiry, err = exchange.ExpiryOf(value)
	}
	if err != nil {
		return "", idClaims{}, fmt.Errorf("the secret %s is no ID token: %w", ref, err)
	}
	return value, claims, nil
}

// Mint implements token.Source. What scopes an access token has, it has.
func (s *staticSource) Mint(_ context.Context, req token.Request) (token.Token, error) {
	if req.Audience != "" {
		return s.identity(req.Audience)
	}
	if s.AccessToken == "" {
		return token.Token{}, &token.Error{Kind: token.Unsupported, Err: errors.New("static: there is no access token, only ID tokens")}
	}
	value, err := s.read(s.AccessToken)
	if err != nil {
		return token.Token{}, exchange.About("static", err)
	}
	now := time.Now()
	return s.alive("access token", s.AccessToken, token.Token{Value: value, Expiry: s.lives(value, now)}, now)
}

// alive refuses a token that has ended.
func (s *staticSource) alive(what string, ref Secret, t token.Token, now time.Time) (token.Token, error) {
	if t.Expiry.After(now) {
		return t, nil
	}
	return token.Token{}, &token.Error{Kind: token.Unavailable, Err: fmt.Errorf("static: the %s in %s has ended at %s; put a new one in its place", what, ref, t.Expiry.UTC().Format(time.RFC3339))}
}

func (s *staticSource) identity(audience string) (token.Token, error) {
	if len(s.IDTokens) == 0 {
		return token.Token{}, &token.Error{Kind: token.Unsupported, Err: errors.New("static: there is no ID token, only an access token")}
	}
	now := time.Now()
	for _, any := range []bool{false, s.AnyAudience} {
		for _, ref := range s.IDTokens {
			value, claims, err := s.readID(ref)
			if err != nil {
				return token.Token{}, exchange.About("static", err)
			}
			if any || slices.Contains(claims.Audience, audience) {
				if was := s.emails[ref]; claims.Email != was {
					return token.Token{}, &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("static: the ID token in %s is of %.100q by now, not of %.100q; if that is meant, gcemds reload",
						ref, exchange.Redact(claims.Email), exchange.Redact(was))}
				}
				return s.alive("ID token", ref, token.Token{Value: value, Expiry: claims.expiry}, now)
			}
		}
	}
	return token.Token{}, &token.Error{Kind: token.Unsupported, Err: fmt.Errorf("static: no ID token is for the audience %.200q (any_audience: true hands out another)", exchange.Redact(audience))}
}

// lives returns when an access token ends.
func (s *staticSource) lives(value string, now time.Time) time.Time {
	at, life, _ := s.expires() // checked
	exp, err := exchange.ExpiryOf(value)
	switch {
	case life < 0:
		return now.Add(assumedLife)
	case !at.IsZero():
		return at
	case life == 0 && err == nil:
		return exp
	}
	return firstSeen.of(value, now).Add(cmp.Or(life, assumedLife)).Round(0)
}

// idClaims are what matters of an ID token.
type idClaims struct {
	Audience audiences `json:"aud"`
	Email    string    `json:"email"`
	expiry   time.Time
}

// audiences is the claim aud, which may be a list.
type audiences []string

func (a *audiences) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audiences{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// claimsOf reads the claims of a JWT that was not verified.
func claimsOf(jwt string) (c idClaims, err error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return c, errors.New("it has not three parts")
	}
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil || json.Unmarshal(data, &c) != nil {
		return c, errors.New("its claims are not a JSON object")
	}
	return c, nil
}

// firstSeen remembers since when we have an access token that does not say
// how long it lives: sources are opened again at each reload.
var firstSeen = sightings{at: map[[sha256.Size]byte]time.Time{}}

type sightings struct {
	mu sync.Mutex
	at map[[sha256.Size]byte]time.Time
}

func (s *sightings) of(value string, now time.Time) time.Time {
	const most = 256
	s.mu.Lock()
	defer s.mu.Unlock()
	key := sha256.Sum256([]byte(value))
	seen, ok := s.at[key]
	if ok {
		return seen
	}
	if len(s.at) >= most { // the oldest has ended long ago
		oldest := key
		for k, t := range s.at {
			if at, ok := s.at[oldest]; !ok || t.Before(at) {
				oldest = k
			}
		}
		delete(s.at, oldest)
	}
	s.at[key] = now
	return now
}
