package credential

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
)

// An External is a federated identity, as the JSON file of "gcloud iam
// workload-identity-pools create-cred-config" (or workforce-pools) describes
// it: whose tokens prove who we are, and where to exchange them. In YAML it
// may be the file alone.
type External struct {
	File string `yaml:"file"`

	// AllowCustomEndpoints lets the file name addresses that are not
	// Google's. Whoever answers there gets the subject token.
	AllowCustomEndpoints bool `yaml:"allow_custom_endpoints,omitempty"`

	// AllowExecutable lets the file name a command that prints the subject
	// token. GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES must be 1, too.
	AllowExecutable bool `yaml:"allow_executable,omitempty"`

	// Executable is run instead of the command in the file: a program and
	// its arguments. Naming it here allows it here.
	Executable []string `yaml:"executable,omitempty"`

	// Env names variables of ours that the command gets besides the few that
	// every program needs.
	Env []string `yaml:"env,omitempty"`

	// Permissions of the file of the certificate's key: "strict" (the
	// default) or "relaxed"; see KeyFile.
	Permissions string `yaml:"permissions,omitempty"`

	// Key is a source whose private key is that of the certificate, for a
	// key that is not in a file.
	Key string `yaml:"key,omitempty"`
}

// UnmarshalText reads the short form.
func (c *External) UnmarshalText(text []byte) error {
	*c = External{File: string(text)}
	return nil
}

func (c *External) validate() error {
	var faults []error
	if c.File == "" {
		faults = append(faults, errors.New("file is missing: the JSON file of gcloud iam workload-identity-pools create-cred-config"))
	}
	faults = append(faults, checkPermissions(c.Permissions))
	if len(c.Executable) > 0 {
		faults = append(faults, program{argv: c.Executable, env: c.Env}.faults("the first word of executable")...)
	} else {
		faults = append(faults, checkEnv(c.Env))
	}
	return errors.Join(faults...)
}

func (c *External) files() []string { return []string{c.File} }

func (c *External) needs() []string {
	if c.Key == "" {
		return nil
	}
	return []string{c.Key}
}

func (c *External) open(_ context.Context, env Env) (token.Source, Identity, error) {
	// It rarely holds a secret, and gcloud writes it as 0644.
	data, err := issuer.ReadSecretFile(c.File, true, maxKeyFile)
	if err != nil {
		return nil, Identity{}, err
	}
	s, id, err := c.load(data, env)
	if err != nil {
		return nil, Identity{}, fmt.Errorf("%s: %w", c.File, err)
	}
	return s, id, nil
}

// An externalFile is the JSON form (section 3.3).
type externalFile struct {
	Audience         string           `json:"audience"`
	SubjectTokenType string           `json:"subject_token_type"`
	TokenURL         string           `json:"token_url"`
	Source           credentialSource `json:"credential_source"`
	ImpersonationURL string           `json:"service_account_impersonation_url"`
	Impersonation    struct {
		Lifetime float64 `json:"token_lifetime_seconds"`
	} `json:"service_account_impersonation"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	UserProject  string `json:"workforce_pool_user_project"`
	Universe     string `json:"universe_domain"`
}

type credentialSource struct {
	File   string        `json:"file"`
	Format subjectFormat `json:"format"`

	URL     string            `json:"url"`
	Headers map[string]string `json:"headers"`

	Executable *executableSource `json:"executable"`

	EnvironmentID   string `json:"environment_id"`
	RegionURL       string `json:"region_url"`
	VerificationURL string `json:"regional_cred_verification_url"`
	SessionTokenURL string `json:"imdsv2_session_token_url"`

	Certificate *certificateSource `json:"certificate"`
}

// kind returns which of the kinds it is; the names are those of the fields.
func (s credentialSource) kind() (string, error) {
	var kinds []string
	if s.EnvironmentID != "" {
		kinds = append(kinds, "environment_id")
	} else if s.URL != "" { // AWS has one, too
		kinds = append(kinds, "url")
	}
	if s.File != "" {
		kinds = append(kinds, "file")
	}
	if s.Executable != nil {
		kinds = append(kinds, "executable")
	}
	if s.Certificate != nil {
		kinds = append(kinds, "certificate")
	}
	switch len(kinds) {
	case 0:
		return "", errors.New("credential_source has none of file, url, executable, environment_id and certificate; create the file again with gcloud iam workload-identity-pools create-cred-config")
	case 1:
		return kinds[0], nil
	}
	return "", fmt.Errorf("credential_source has %s, but can have only one", strings.Join(kinds, " and "))
}

// parseExternal reads the JSON form, and checks what does not depend on our
// configuration.
func parseExternal(data []byte) (*externalFile, error) {
	var f externalFile
	if err := decodeFile(data, &f, "external_account"); err != nil {
		return nil, err
	}
	if err := missingFields([2]string{"audience", f.Audience}, [2]string{"subject_token_type", f.SubjectTokenType}); err != nil {
		return nil, err
	}
	_, workforce := f.pool()
	_, err := f.Source.kind()
	switch life := f.Impersonation.Lifetime; {
	case err != nil:
		return nil, err
	case !strings.HasPrefix(f.Audience, "//iam.googleapis.com/") && cmp.Or(f.Universe, googleUniverse) == googleUniverse:
		return nil, fmt.Errorf("audience is %.200q, not the full name of a provider: //iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER", f.Audience)
	case f.UserProject != "" && !workforce:
		return nil, errors.New("workforce_pool_user_project is for workforce pools, but the audience is not one of them")
	case life != 0 && (life < 1 || life > exchange.MaxLifetime.Seconds()):
		return nil, fmt.Errorf("service_account_impersonation.token_lifetime_seconds is %v, not between 1 and 43200", life)
	case f.ClientSecret != "" && f.ClientID == "":
		return nil, errors.New("field client_id is missing, but there is a client_secret")
	}
	return &f, f.Source.Format.validate()
}

// pool returns the pool of the audience, and whether it is one of people.
func (f *externalFile) pool() (name string, workforce bool) {
	_, rest, workforce := strings.Cut(f.Audience, "/workforcePools/")
	if !workforce {
		_, rest, _ = strings.Cut(f.Audience, "/workloadIdentityPools/")
	}
	name, _, _ = strings.Cut(rest, "/")
	return name, workforce
}

// load opens the JSON form.
func (c *External) load(data []byte, env Env) (token.Source, Identity, error) {
	f, err := parseExternal(data)
	if err != nil {
		return nil, Identity{}, err
	}
	universe := cmp.Or(f.Universe, googleUniverse)
	if universe != googleUniverse && !c.AllowCustomEndpoints {
		return nil, Identity{}, fmt.Errorf("universe_domain is %.100q, not Google's; if that is meant, say allow_custom_endpoints: true", universe)
	}
	fed := exchange.Federation{
		Audience:         f.Audience,
		SubjectTokenType: f.SubjectTokenType,
		TokenURL:         cmp.Or(env.Endpoints.STS, f.TokenURL),
		UserProject:      f.UserProject,
		ClientID:         f.ClientID,
		ClientSecret:     f.ClientSecret,
	}
	if fed.TokenURL == "" {
		fed.TokenURL = "https://sts." + universe + "/v1/token"
	}
	if env.Endpoints.STS == "" {
		if err := checkFileEndpoint("token_url", fed.TokenURL, universe, c.AllowCustomEndpoints); err != nil {
			return nil, Identity{}, err
		}
	}
	var target *Impersonate
	var address string // of it
	if f.ImpersonationURL != "" {
		if target, address, err = impersonationOf(f.ImpersonationURL, universe, c.AllowCustomEndpoints, env); err != nil {
			return nil, Identity{}, err
		}
		target.Lifetime = time.Duration(f.Impersonation.Lifetime) * time.Second
	}
	if err := c.subject(f, target, &fed, &env); err != nil {
		return nil, Identity{}, fmt.Errorf("credential_source: %w", err)
	}
	fed.Client = env.client()
	var s token.Source = &fed
	id := Identity{Steps: fed.Steps()}
	if target != nil {
		s, id = target.overAt(address, s, id, env)
	}
	return s, id, nil
}

// subject sets the subject of fed, and the client of env where the subject is
// a certificate.
func (c *External) subject(f *externalFile, target *Impersonate, fed *exchange.Federation, env *Env) (err error) {
	kind, err := f.Source.kind()
	if err != nil {
		return err
	}
	if c.Key != "" && kind != "certificate" {
		return errors.New("the configuration names a key, but there is no certificate for it")
	}
	if len(c.Executable) > 0 && kind != "executable" {
		return errors.New("the configuration names an executable, but the file does not want one")
	}
	switch s := f.Source; kind {
	case "file":
		fed.Subject, fed.Holder = subjectFile(s.File, s.Format), "subject token in "+s.File
	case "url":
		if err := checkSubjectURL("url", s.URL, c.AllowCustomEndpoints); err != nil {
			return err
		}
		fed.Subject, fed.Holder = subjectURL(s.URL, s.Headers, s.Format, *env), "subject token from "+hostOf(s.URL)
	case "executable":
		email := ""
		if target != nil {
			email = target.Target
		}
		run, err := c.executable(s.Executable, f, email)
		if err != nil {
			return err
		}
		fed.Subject, fed.Holder = run.subject, "subject token of "+run.argv[0]
	case "environment_id":
		a, err := newAWS(s, f.Audience, c.AllowCustomEndpoints, env.client())
		if err != nil {
			return err
		}
		fed.Subject, fed.Holder = a.subject, "AWS credentials"
	case "certificate":
		cert, err := c.certificate(s.Certificate, *env)
		if err != nil {
			return err
		}
		env.Client = env.client().WithTLS(cert.configure)
		fed.Subject, fed.Holder = cert.subject, "certificate in "+cert.certFile
	}
	return nil
}
