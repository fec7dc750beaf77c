// Package issuer is an identity provider without a network: it mints access
// tokens and ID tokens that look like Google's, and serves the keys and the
// tokeninfo endpoint with which a verifier of ours can check them.
//
// Given a Directory it is a fake Google: it also answers as the token
// endpoint, the Security Token Service and the IAM credentials API do, in
// their wire format and with their errors, to programs that can be pointed at
// it. There it is strict: it verifies every signature, and gives nothing to
// whom the Directory does not name. Knobs make it slow, wrong or broken.
//
// It is for tests, demonstrations and closed systems. Google accepts none of
// its tokens, and whoever holds an Issuer in a program can be anybody. Facts
// are from sections 3, 4 and 8 of the credentials specification.
package issuer

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

// Defaults of Options.
const (
	DefaultURL    = "https://accounts.google.com"
	DefaultPrefix = "ya29.c.offline."
	DefaultLife   = time.Hour
)

const (
	idLife   = time.Hour       // of an ID token; verifiers expect exactly that
	backdate = 5 * time.Second // of iat: Python's verifier allows no clock skew

	// maxToken bounds a token, both ours and one to check. Google's longest
	// are 12288 bytes.
	maxToken = 16 << 10
	maxSize  = 16000
)

// Options say what an Issuer is. The zero value is a usable issuer with keys
// of its own that end with it.
type Options struct {
	// URL is the iss claim and the issuer of the discovery document. Plain
	// OIDC discovery works only if this is where Handler is served. Default
	// DefaultURL, which verifiers of Google's tokens expect.
	URL string

	// BaseURL is where Handler is reached, for the URLs in the discovery
	// document. Default: the Host of each request.
	BaseURL string

	// Keys sign (the first) and are published (all). With the same keys an
	// issuer knows the tokens of its previous life. Each has at least 2048
	// bits. Default: one is generated at the first need, which takes a
	// fraction of a second; access tokens do not need it.
	Keys []*rsa.PrivateKey

	// Eager begins to generate the missing key in New, in the background.
	Eager bool

	// Life of an access token, at least a second. Default DefaultLife. ID
	// tokens live an hour.
	Life time.Duration

	// Prefix of access tokens; default DefaultPrefix. It is what makes them
	// recognisable in logs.
	Prefix string

	// Size is the least length of an access token in characters, for trying
	// how programs do with long ones. At most 16000. Default: no padding.
	Size int

	// Directory makes the issuer a fake Google: Handler serves the token
	// endpoints to those who are in it. Nil: keys and tokeninfo only.
	Directory *Directory

	// Log gets a line for each request that Handler answers. Default: silent.
	Log *slog.Logger
}

// An Issuer mints and verifies tokens. Its methods may be used from many
// goroutines.
type Issuer struct {
	options Options
	secrets [][]byte // of access tokens: the first signs, all verify

	knobs     knobs
	directory atomic.Pointer[index] // nil: not a fake Google

	begin sync.Once     // guards the generation of keys
	made  chan struct{} // closed when there are keys, or err
	err   error

	mu      sync.Mutex
	keys    []*key                 // the first signs, all are published
	managed map[string]*accountKey // by e-mail: what Google keeps for an account
	making  sync.WaitGroup         // those of managed; Close waits
}

// New returns an issuer. It is fast: a key that is missing is generated later,
// by a goroutine that Close waits for.
func New(o Options) (*Issuer, error) {
	o.URL = cmp.Or(o.URL, DefaultURL)
	o.Prefix = cmp.Or(o.Prefix, DefaultPrefix)
	o.Life = cmp.Or(o.Life, DefaultLife)
	o.BaseURL = strings.TrimRight(o.BaseURL, "/")
	if err := o.validate(); err != nil {
		return nil, err
	}

	i := &Issuer{options: o, made: make(chan struct{}), managed: map[string]*accountKey{}}
	if o.Log == nil {
		i.options.Log = slog.New(slog.DiscardHandler)
	}
	if o.Directory != nil {
		if err := i.SetDirectory(*o.Directory); err != nil {
			return nil, err
		}
	}
	if len(o.Keys) == 0 {
		secret := make([]byte, 32)
		rand.Read(secret)
		i.secrets = [][]byte{secret}
		if o.Eager {
			i.begin.Do(i.generate)
		}
		return i, nil
	}
	for n, private := range o.Keys {
		k, err := newKey(private)
		if err != nil {
			return nil, fmt.Errorf("issuer key %d: %w", n+1, err)
		}
		secret, err := accessSecret(private)
		if err != nil {
			return nil, fmt.Errorf("issuer key %d: %w", n+1, err)
		}
		i.keys = append(i.keys, k)
		i.secrets = append(i.secrets, secret)
	}
	i.begin.Do(func() { close(i.made) })
	return i, nil
}

func (o Options) validate() error {
	var faults []error
	for _, u := range []struct{ name, value string }{{"issuer URL", o.URL}, {"issuer base URL", o.BaseURL}} {
		if u.value == "" {
			continue
		}
		p, err := url.Parse(u.value)
		if err != nil || p.Host == "" || p.Scheme != "https" && p.Scheme != "http" || p.User != nil || p.RawQuery != "" || p.Fragment != "" {
			faults = append(faults, fmt.Errorf("%s %q is not of the form https://host or http://host", u.name, u.value))
		}
	}
	if o.Life < time.Second {
		faults = append(faults, fmt.Errorf("issuer life %v is under one second", o.Life))
	}
	if o.Size < 0 || o.Size > maxSize {
		faults = append(faults, fmt.Errorf("issuer token size %d is not between 0 and %d", o.Size, maxSize))
	}
	const maxPrefix = 64
	if len(o.Prefix) > maxPrefix || strings.ContainsFunc(o.Prefix, func(r rune) bool { return !tokenChar(r) }) {
		faults = append(faults, fmt.Errorf("issuer token prefix %q has more than %d characters or others than letters, digits and -._~+/ (RFC 6750)", o.Prefix, maxPrefix))
	}
	return errors.Join(faults...)
}

func tokenChar(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-._~+/", r)
}

// Close waits until no key is being generated. The issuer still mints access
// tokens afterwards, and ID tokens if it had a key. Nothing of it may be
// served any more when it is called.
func (i *Issuer) Close() {
	i.begin.Do(func() {
		i.err = errors.New("the issuer was closed before it needed a key")
		close(i.made)
	})
	<-i.made
	i.making.Wait()
}

// Source returns the source of tokens for an account. It mints both kinds,
// with any scopes and for any audience.
func (i *Issuer) Source(email string) token.Source {
	return source{i, email, UniqueID(email)}
}

type source struct {
	issuer    *Issuer
	email, id string
}

func (s source) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	var t token.Token
	var err error
	if req.Audience != "" {
		t, err = s.identity(ctx, req)
	} else {
		t, err = s.access(req.Scopes)
	}
	if err == nil && len(t.Value) > maxToken {
		err = &token.Error{Kind: token.InvalidRequest, Err: fmt.Errorf("the token would be longer than %d characters; ask for fewer scopes or claims", maxToken)}
	}
	if err != nil {
		return token.Token{}, err
	}
	return t, nil
}

// access mints an access token of an account.
func (s source) access(scopes []string) (token.Token, error) {
	return s.issuer.access(s.issuer.options.Prefix, accessClaims{Email: s.email, Scope: strings.Join(scopes, " ")}, s.issuer.options.Life)
}

// access completes the claims and seals them. Life is rounded up to whole
// seconds.
func (i *Issuer) access(prefix string, c accessClaims, life time.Duration) (token.Token, error) {
	now := i.now()
	c.Issued = now.Unix()
	c.Expiry = now.Add(life + time.Second - 1).Unix()
	c.TokenID = rand.Text() // two tokens of one second differ, as Google's do
	value, err := i.signAccess(prefix, c)
	if err != nil {
		return token.Token{}, err
	}
	return token.Token{Value: value, Expiry: time.Unix(c.Expiry, 0)}, nil
}

// registered are the claims that an issuer sets itself.
var registered = []string{"iss", "aud", "azp", "sub", "iat", "exp"}

// identity mints an ID token. Claims of the request are added, but never
// instead of a registered one, not even in capitals: Go's decoder would take
// "AUD" for "aud".
func (s source) identity(ctx context.Context, req token.Request) (token.Token, error) {
	var extra map[string]json.RawMessage
	if req.Claims != "" {
		if err := json.Unmarshal([]byte(req.Claims), &extra); err != nil {
			return token.Token{}, &token.Error{Kind: token.InvalidRequest, Err: fmt.Errorf("extra claims of an ID token must be a JSON object: %w", err)}
		}
	}
	claims := map[string]any{}
	for name, value := range extra {
		if !slices.ContainsFunc(registered, func(r string) bool { return strings.EqualFold(r, name) }) {
			claims[name] = value
		}
	}
	keys, err := s.issuer.ready(ctx)
	if err != nil {
		return token.Token{}, &token.Error{Kind: token.Unavailable, Err: fmt.Errorf("sign an ID token for %s: %w", s.email, err)}
	}
	issued := s.issuer.now().Add(-backdate).Truncate(time.Second)
	expiry := issued.Add(idLife)
	claims["iss"] = s.issuer.options.URL
	claims["aud"] = req.Audience
	claims["azp"] = s.id
	claims["sub"] = s.id
	claims["iat"] = issued.Unix()
	claims["exp"] = expiry.Unix()
	value, err := SignJWT(keys[0].private, keys[0].id, claims)
	if err != nil {
		return token.Token{}, &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("sign an ID token for %s: %w", s.email, err)}
	}
	return token.Token{Value: value, Expiry: expiry}, nil
}

// hasEmail says whether a token of these scopes tells the e-mail.
func hasEmail(scope string) bool {
	return slices.ContainsFunc(strings.Fields(scope), func(s string) bool {
		return s == "email" || s == "https://www.googleapis.com/auth/userinfo.email"
	})
}
