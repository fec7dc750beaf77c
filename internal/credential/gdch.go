package credential

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// A GDCH is a service account key of an air-gapped Google Distributed Cloud
// (section 3.6).
type GDCH struct {
	File string `yaml:"file"`

	// Audience is the API that takes the tokens, an address.
	Audience string `yaml:"audience"`

	// Permissions is "strict" (the default) or "relaxed"; see KeyFile.
	Permissions string `yaml:"permissions,omitempty"`
}

func (c *GDCH) validate() error {
	faults := []error{checkPermissions(c.Permissions)}
	if c.File == "" {
		faults = append(faults, errors.New("file is missing: the JSON key of a service account of the GDC"))
	}
	if c.Audience == "" {
		faults = append(faults, errors.New("audience is missing: the address of the API that takes the tokens"))
	}
	return errors.Join(faults...)
}

func (c *GDCH) files() []string { return []string{c.File} }

func (c *GDCH) open(_ context.Context, env Env) (token.Source, Identity, error) {
	data, err := readKeyFile(c.File, c.Permissions)
	if err != nil {
		return nil, Identity{}, err
	}
	f, key, err := parseGDCH(data)
	if err != nil {
		return nil, Identity{}, fmt.Errorf("%s: %w", c.File, err)
	}
	s := &gdchSource{file: *f, key: key, audience: c.Audience, client: env.client()}
	s.file.PrivateKey = ""
	if f.CA != "" {
		certs, err := readCertificates(f.CA)
		if err != nil {
			return nil, Identity{}, fmt.Errorf("%s: ca_cert_path: %w", c.File, err)
		}
		pool := x509.NewCertPool()
		for _, cert := range certs {
			pool.AddCert(cert)
		}
		s.client = env.client().WithTLS(func(config *tls.Config) { config.RootCAs = pool })
	}
	return s, Identity{ProjectID: f.Project, Steps: []string{"key in " + c.File, "token endpoint " + hostOf(f.TokenURI)}}, nil
}

// A gdchFile is the JSON form of the key.
type gdchFile struct {
	Version    string `json:"format_version"`
	Project    string `json:"project"`
	Name       string `json:"name"`
	KeyID      string `json:"private_key_id"`
	PrivateKey string `json:"private_key"`
	CA         string `json:"ca_cert_path"`
	TokenURI   string `json:"token_uri"`
}

func parseGDCH(data []byte) (*gdchFile, *ecdsa.PrivateKey, error) {
	var f gdchFile
	if err := decodeFile(data, &f, "gdch_service_account"); err != nil {
		return nil, nil, err
	}
	if err := missingFields([2]string{"project", f.Project}, [2]string{"name", f.Name}, [2]string{"private_key", f.PrivateKey}, [2]string{"token_uri", f.TokenURI}); err != nil {
		return nil, nil, err
	}
	if f.Version != "" && f.Version != "1" {
		return nil, nil, fmt.Errorf("format_version is %.20q, only 1 is known", f.Version)
	}
	if err := exchange.CheckEndpoint(f.TokenURI); err != nil {
		return nil, nil, fmt.Errorf("token_uri: %w", err)
	}
	block, _ := pem.Decode([]byte(f.PrivateKey))
	if block == nil {
		return nil, nil, errors.New("private_key: it is not PEM")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		parsed, _ := x509.ParsePKCS8PrivateKey(block.Bytes)
		key, _ = parsed.(*ecdsa.PrivateKey)
	}
	if key == nil || key.Curve != elliptic.P256() {
		return nil, nil, errors.New("private_key: it is not an EC key of the curve P-256")
	}
	return &f, key, nil
}

// A gdchSource exchanges assertions for the tokens of a GDC.
type gdchSource struct {
	file     gdchFile // without the key
	key      *ecdsa.PrivateKey
	audience string
	client   *exchange.Client
}

// Mint implements token.Source. Tokens of a GDC have no scopes.
func (s *gdchSource) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	t, err := s.mint(ctx, req)
	if err != nil {
		return token.Token{}, exchange.About("key of "+s.account(), err)
	}
	return t, nil
}

func (s *gdchSource) account() string {
	return "system:serviceaccount:" + s.file.Project + ":" + s.file.Name
}

func (s *gdchSource) mint(ctx context.Context, req token.Request) (token.Token, error) {
	if req.Audience != "" {
		return token.Token{}, &token.Error{Kind: token.Unsupported, Err: errors.New("a Google Distributed Cloud has no ID tokens")}
	}
	a := exchange.NewAssertion(s.account(), s.file.TokenURI, time.Now())
	a.Subject = a.Issuer
	jwt, err := s.sign(a)
	if err != nil {
		return token.Token{}, err
	}
	r, err := s.client.Post(ctx, exchange.Call{
		What: "token endpoint", Address: s.file.TokenURI, Field: "token_uri",
		Body: map[string]string{
			"grant_type":           "urn:ietf:params:oauth:token-type:token-exchange", // sic
			"audience":             s.audience,
			"requested_token_type": exchange.TypeAccessToken,
			"subject_token":        jwt,
			"subject_token_type":   "urn:k8s:params:oauth:token-type:serviceaccount",
		},
	})
	if err != nil {
		return token.Token{}, err
	}
	t, err := r.AccessToken()
	if err != nil {
		return token.Token{}, exchange.About(r.From, err)
	}
	return t, nil
}

// sign returns the assertion as a JWT with ES256 (RFC 7518 section 3.4), which
// no other endpoint of Google's takes.
func (s *gdchSource) sign(a exchange.Assertion) (string, error) {
	head, err := json.Marshal(map[string]string{"alg": "ES256", "typ": "JWT", "kid": s.file.KeyID})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(a)
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	r, v, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		return "", err
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	v.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature[:]), nil
}
