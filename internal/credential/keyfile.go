package credential

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"

	"github.com/gcemds/gcemds/internal/exchange"
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

	// AllowCustomEndpoints accepts a file whose token endpoint is not Google's.
	AllowCustomEndpoints bool `yaml:"allow_custom_endpoints,omitempty"`

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
		if err := exchange.CheckEndpoint(c.TokenURI); err != nil {
			faults = append(faults, fmt.Errorf("token_uri: %w", err))
		}
	}
	return errors.Join(append(faults, checkPermissions(c.Permissions))...)
}

// readKeyFile reads the file of a source that has Permissions.
func readKeyFile(path, permissions string) ([]byte, error) {
	data, err := issuer.ReadSecretFile(path, permissions == "relaxed", maxKeyFile)
	if errors.Is(err, issuer.ErrExposed) {
		err = fmt.Errorf("%w (or set permissions: relaxed)", err)
	}
	return data, err
}

func checkPermissions(s string) error {
	switch s {
	case "", "strict", "relaxed":
		return nil
	}
	return fmt.Errorf("permissions %q is neither strict nor relaxed", s)
}

func (c *KeyFile) files() []string { return []string{c.File} }

const (
	maxKeyFile     = 64 << 10
	googleUniverse = "googleapis.com"
)

func (c *KeyFile) open(_ context.Context, env Env) (token.Source, Identity, error) {
	data, err := readKeyFile(c.File, c.Permissions)
	if err != nil {
		return nil, Identity{}, err
	}
	s, id, err := c.load(data, env)
	if err != nil {
		return nil, Identity{}, fmt.Errorf("%s: %w", c.File, err)
	}
	return s, id, nil
}

// load opens the JSON form.
func (c *KeyFile) load(data []byte, env Env) (token.Source, Identity, error) {
	key, err := parseKey(data)
	if err != nil {
		return nil, Identity{}, err
	}
	tokenURI := cmp.Or(c.TokenURI, env.Endpoints.Token, key.tokenURI, env.Endpoints.token())
	if err := exchange.CheckEndpoint(tokenURI); err != nil {
		return nil, Identity{}, fmt.Errorf("token_uri: %w", err)
	}
	if c.TokenURI == "" && env.Endpoints.Token == "" && key.tokenURI != "" {
		if err := checkFileEndpoint("token_uri", key.tokenURI, key.universe, c.AllowCustomEndpoints); err != nil {
			return nil, Identity{}, err
		}
	}
	if key.universe != googleUniverse && c.TokenURI == "" && !c.SelfSigned {
		return nil, Identity{}, fmt.Errorf("a key of universe %s cannot be exchanged for tokens; set self_signed: true", key.universe)
	}
	env.log().Debug("service account key loaded", "file", c.File, "account", key.identity.Email, "key", key.id)
	source := &signingSource{
		email:      key.identity.Email,
		key:        key.id,
		signer:     key.signer,
		tokenURI:   tokenURI,
		selfSigned: c.SelfSigned,
		client:     env.client(),
	}
	if key.universe != googleUniverse && c.TokenURI == "" {
		source.universe = key.universe
	}
	key.identity.Steps = append([]string{"key in " + c.File}, source.steps()...)
	return source, key.identity, nil
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
		ProjectID    string `json:"project_id"`
		PrivateKeyID string `json:"private_key_id"`
		PrivateKey   string `json:"private_key"`
		ClientEmail  string `json:"client_email"`
		ClientID     string `json:"client_id"`
		TokenURI     string `json:"token_uri"`
		Universe     string `json:"universe_domain"`
	}
	if err := decodeFile(data, &f, "service_account"); err != nil {
		return nil, err
	}
	if err := missingFields([2]string{"client_email", f.ClientEmail}, [2]string{"private_key", f.PrivateKey}); err != nil {
		return nil, fmt.Errorf("%w; download the key again or create a new one", err)
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
