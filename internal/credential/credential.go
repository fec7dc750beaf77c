// Package credential is where tokens come from: one file for each kind of
// credential, and what they share – the calls upstream, JWTs, scopes.
//
// A source that it opens mints tokens and does nothing else; caching and
// limits are package token's. A kind is always chosen by name: nothing here
// looks for default credentials, since with GCE_METADATA_HOST pointing at us
// that search would end at ourselves.
package credential

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
)

// A Config is a credential in the configuration. Exactly one field is set:
// this is the table of contents of all kinds.
type Config struct {
	KeyFile     *KeyFile     `yaml:"key_file,omitempty"`
	External    *External    `yaml:"external,omitempty"`
	User        *User        `yaml:"user,omitempty"`
	GDCH        *GDCH        `yaml:"gdch,omitempty"`
	Static      *Static      `yaml:"static,omitempty"`
	Upstream    *Upstream    `yaml:"upstream,omitempty"`
	Impersonate *Impersonate `yaml:"impersonate,omitempty"`
	TPM         *TPM         `yaml:"tpm,omitempty"`
	Signer      *Signer      `yaml:"signer,omitempty"`
	SSHAgent    *SSHAgent    `yaml:"ssh_agent,omitempty"`
	PKCS11      *PKCS11      `yaml:"pkcs11,omitempty"`
	Issuer      *Issuer      `yaml:"issuer,omitempty"`
}

// A kind is what Config needs to know of each of its fields.
type kind interface {
	validate() error
	open(ctx context.Context, env Env) (token.Source, Identity, error)
	files() []string
}

// kinds returns the fields that are set, and the names of all.
func (c Config) kinds() (set []kind, names, all []string) {
	v := reflect.ValueOf(c)
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		all = append(all, name)
		if !v.Field(i).IsNil() {
			set, names = append(set, v.Field(i).Interface().(kind)), append(names, name)
		}
	}
	return set, names, all
}

// Validate reports what is wrong with the configuration itself; it opens no
// file.
func (c Config) Validate() error {
	set, names, all := c.kinds()
	switch len(set) {
	case 0:
		return fmt.Errorf("a source needs one of: %s", strings.Join(all, ", "))
	case 1:
		if err := set[0].validate(); err != nil {
			return fmt.Errorf("%s: %w", names[0], err)
		}
		return nil
	}
	return fmt.Errorf("a source is one kind of credential, this one has %d: %s", len(set), strings.Join(names, ", "))
}

// Open returns the source, and what the credential says about its account. It
// reads files and checks them, but asks nobody upstream: a key that was
// revoked is found out by the first Mint.
//
// A source that has something open, such as a process, or must remember that
// it was refused, is an io.Closer. It is to be kept for as long as the
// configuration and the content of Files stay as they are. After Close it still
// mints, for those who have it in use, but keeps nothing.
func (c Config) Open(ctx context.Context, env Env) (token.Source, Identity, error) {
	if err := c.Validate(); err != nil {
		return nil, Identity{}, err
	}
	set, names, _ := c.kinds()
	source, id, err := set[0].open(ctx, env)
	if err != nil {
		return nil, Identity{}, fmt.Errorf("%s: %w", names[0], err)
	}
	return source, id, nil
}

// OpenSigner returns the private key of a source that signs with one, for
// other uses than its own. It is for Env.Signer.
func (c Config) OpenSigner(ctx context.Context, env Env) (crypto.Signer, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	set, names, _ := c.kinds()
	k, ok := set[0].(interface {
		openSigner(ctx context.Context, env Env) (crypto.Signer, error)
	})
	if !ok {
		return nil, fmt.Errorf("a source of kind %s has no key that signs for others", names[0])
	}
	return k.openSigner(ctx, env)
}

// Files returns the files that Open reads, those with secrets included. When
// the content of one changes, the source should be opened again.
func (c Config) Files() []string {
	var files []string
	set, _, _ := c.kinds()
	for _, k := range set {
		files = append(files, k.files()...)
	}
	return files
}

// Needs returns the names of other sources that Open asks Env.Named for.
func (c Config) Needs() []string {
	var names []string
	set, _, _ := c.kinds()
	for _, k := range set {
		if k, ok := k.(interface{ needs() []string }); ok {
			names = append(names, k.needs()...)
		}
	}
	return names
}

// An Env is what sources share. Its zero value opens what needs nobody else.
type Env struct {
	Client    *exchange.Client // for calls upstream; nil: one of its own
	Endpoints Endpoints        // where Google is
	Issuer    *issuer.Issuer   // for the kind of that name
	Email     string           // of the account, for a credential that can be any
	Log       *slog.Logger     // nil: silent

	// Check says that this process mints to see whether it can, and ends. What
	// it would have to remember it must not cause.
	Check bool

	// Header marks the calls to other metadata servers, so that our own
	// refuses them; nil: there is none.
	Header map[string]string

	// Named opens another source of the configuration, for a kind that needs
	// one; nil: there are none.
	Named func(name string) (token.Source, Identity, error)

	// Signer returns the key of another source of the configuration, for a
	// TLS client certificate whose key is not in a file; nil: there are none.
	Signer func(name string) (crypto.Signer, error)
}

// Endpoints are the addresses of Google's services. They go before what a
// credential file says; empty ones are those of the file, or Google's own.
type Endpoints struct {
	Token          string `yaml:"token,omitempty" is:"url"`          // of the OAuth token endpoint
	STS            string `yaml:"sts,omitempty" is:"url"`            // of the token exchange
	IAMCredentials string `yaml:"iamcredentials,omitempty" is:"url"` // without /v1 and what follows
}

func (e Endpoints) token() string { return cmp.Or(e.Token, exchange.GoogleToken) }
func (e Endpoints) iam() string {
	return strings.TrimSuffix(cmp.Or(e.IAMCredentials, exchange.GoogleIAM), "/")
}

func (e Env) client() *exchange.Client {
	if e.Client != nil {
		return e.Client
	}
	return &exchange.Client{Log: e.Log}
}

func (e Env) log() *slog.Logger {
	if e.Log != nil {
		return e.Log
	}
	return slog.New(slog.DiscardHandler)
}

// An Identity is what a credential says about its account; what it does not
// know is empty.
type Identity struct {
	Email         string
	ProjectID     string
	ProjectNumber string
	UniqueID      string   // numeric
	Steps         []string // how a token is made, in order: who signs, the exchange, each hop
}

// An Issuer is the offline issuer as a credential: anybody's tokens, accepted
// by nobody but verifiers of our own. In YAML it may be the e-mail alone.
type Issuer struct {
	Email string `yaml:"email,omitempty"` // default: Env.Email
}

// UnmarshalText reads the short form.
func (c *Issuer) UnmarshalText(text []byte) error {
	*c = Issuer{Email: string(text)}
	return nil
}

func (c *Issuer) validate() error {
	if c.Email != "" && !isEmail(c.Email) {
		return fmt.Errorf("email %q is not the e-mail of an account, for example robot@my-project.iam.gserviceaccount.com", c.Email)
	}
	return nil
}

func (c *Issuer) files() []string { return nil }

func (c *Issuer) open(_ context.Context, env Env) (token.Source, Identity, error) {
	if env.Issuer == nil {
		return nil, Identity{}, errors.New("no offline issuer is running here")
	}
	email := cmp.Or(c.Email, env.Email)
	if email == "" {
		return nil, Identity{}, errors.New("field email is missing: whose tokens are to be minted")
	}
	return env.Issuer.Source(email), Identity{
		Email:     email,
		ProjectID: projectOf(email),
		UniqueID:  issuer.UniqueID(email),
		Steps:     []string{"offline issuer"},
	}, nil
}

// isEmail tells an e-mail from what was put in its place by mistake. It also
// keeps out what would be special in a path or a listing.
func isEmail(s string) bool {
	name, domain, ok := strings.Cut(s, "@")
	return ok && name != "" && domain != "" && len(s) <= 320 &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/?#%,;:<>"'\`, r) }) &&
		!strings.Contains(domain, "@")
}

// projectOf returns the project in the e-mail of a service account, or "".
func projectOf(email string) string {
	_, domain, _ := strings.Cut(email, "@")
	project, ok := strings.CutSuffix(domain, ".iam.gserviceaccount.com")
	if !ok || strings.Contains(project, ".") { // example.com:project is project.example.com
		return ""
	}
	return project
}
