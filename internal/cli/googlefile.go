package cli

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/gcemds/gcemds/internal/issuer"
)

// A googleFile is what files say about a fake Google.
type googleFile struct {
	directory   issuer.Directory
	knobs       issuer.Knobs
	rotateEvery time.Duration
	files       []string // all that were read
}

// googleYAML is the file of gcemds google --config. It names files and has no
// secret in it; they are relative to it.
type googleYAML struct {
	Accounts map[string]struct {
		Keys       []string            `yaml:"keys"`   // JSON keys, public keys or certificates in PEM, JWK sets
		Grants     map[string][]string `yaml:"grants"` // members by role
		LongLived  bool                `yaml:"long_lived"`
		DomainWide *struct {
			Subjects []string `yaml:"subjects"`
			Scopes   []string `yaml:"scopes"`
		} `yaml:"domain_wide"`
	} `yaml:"accounts"`
	Users []struct {
		File      string   `yaml:"file"` // authorized_user or external_account_authorized_user
		Email     string   `yaml:"email"`
		Principal string   `yaml:"principal"`
		Scopes    []string `yaml:"scopes"`
		Rotate    bool     `yaml:"rotate"`
	} `yaml:"users"`
	Providers map[string]struct { // by audience
		Issuer    string   `yaml:"issuer"`
		Keys      []string `yaml:"keys"`
		Audiences []string `yaml:"audiences"`
		Subjects  []string `yaml:"subjects"`
		Roots     string   `yaml:"roots"` // PEM
		AWS       []struct {
			File string `yaml:"file"` // what the metadata server of AWS answers
			ARN  string `yaml:"arn"`
		} `yaml:"aws"`
		SAML []struct {
			File    string `yaml:"file"` // base64
			Subject string `yaml:"subject"`
		} `yaml:"saml"`
	} `yaml:"providers"`

	ClockOffset time.Duration `yaml:"clock_offset"`
	ExpiresIn   *int          `yaml:"expires_in"` // seconds
	RotateEvery time.Duration `yaml:"rotate_every"`
	Faults      []struct {
		Path   string            `yaml:"path"`
		Times  int               `yaml:"times"`
		Quota  int               `yaml:"quota"`
		Per    time.Duration     `yaml:"per"`
		Delay  time.Duration     `yaml:"delay"`
		Status int               `yaml:"status"`
		Body   string            `yaml:"body"`
		Header map[string]string `yaml:"header"`
	} `yaml:"faults"`
}

const maxGoogleFile = 1 << 20

// loadGoogleFile reads a configuration, which may be missing (""), and keys.
// It reports all that is wrong with them.
func loadGoogleFile(config string, keys []string) (googleFile, error) {
	r := &googleReader{dir: filepath.Dir(config)}
	if config != "" {
		r.config(config)
	}
	for _, name := range keys {
		r.keyFiles(name)
	}
	if err := errors.Join(r.faults...); err != nil {
		return googleFile{}, err
	}
	return r.googleFile, nil
}

type googleReader struct {
	googleFile
	dir    string
	faults []error
}

func (r *googleReader) fault(format string, args ...any) {
	r.faults = append(r.faults, fmt.Errorf(format, args...))
}

// read returns the content of a file, or nil after a fault.
func (r *googleReader) read(name string) []byte {
	if !filepath.IsAbs(name) {
		name = filepath.Join(r.dir, name)
	}
	r.files = append(r.files, name)
	data, err := issuer.ReadSecretFile(name, true, maxGoogleFile)
	if err != nil {
		r.fault("%w", err)
	}
	return data
}

func (r *googleReader) config(name string) {
	r.files = append(r.files, name)
	data, err := issuer.ReadSecretFile(name, true, maxGoogleFile)
	if err != nil {
		r.fault("%w", err)
		return
	}
	var y googleYAML
	if len(bytes.TrimSpace(data)) > 0 {
		if err := yaml.Load(data, &y, yaml.WithKnownFields()); err != nil {
			r.fault("%s: %w", name, err)
			return
		}
	}
	for _, email := range slices.Sorted(maps.Keys(y.Accounts)) {
		from := y.Accounts[email]
		a := issuer.Account{Email: email, Keys: r.publicKeys(from.Keys), Grants: from.Grants, LongLived: from.LongLived}
		if d := from.DomainWide; d != nil {
			a.DomainWide = &issuer.DomainWide{Subjects: d.Subjects, Scopes: d.Scopes}
		}
		r.directory.Accounts = append(r.directory.Accounts, a)
	}
	for _, from := range y.Users {
		u := issuer.User{Email: from.Email, Principal: from.Principal, Scopes: from.Scopes, Rotate: from.Rotate}
		var login struct {
			ClientID     string `json:"client_id"`
			ClientSecret string `json:"client_secret"`
			RefreshToken string `json:"refresh_token"`
		}
		r.json(from.File, &login)
		u.ClientID, u.ClientSecret, u.RefreshToken = login.ClientID, login.ClientSecret, login.RefreshToken
		r.directory.Users = append(r.directory.Users, u)
	}
	for _, audience := range slices.Sorted(maps.Keys(y.Providers)) {
		from := y.Providers[audience]
		p := issuer.Provider{Audience: audience, Issuer: from.Issuer, Keys: r.publicKeys(from.Keys), Audiences: from.Audiences, Subjects: from.Subjects}
		if from.Roots != "" {
			p.Roots = x509.NewCertPool()
			if data := r.read(from.Roots); data != nil && !p.Roots.AppendCertsFromPEM(data) {
				r.fault("%s: there is no certificate in it", from.Roots)
			}
		}
		for _, k := range from.AWS {
			var key struct {
				AccessKeyID     string `json:"AccessKeyId"`
				SecretAccessKey string
				Token           string
			}
			r.json(k.File, &key)
			p.AWS = append(p.AWS, issuer.AWSKey{ID: key.AccessKeyID, Secret: key.SecretAccessKey, Token: key.Token, ARN: k.ARN})
		}
		for _, s := range from.SAML {
			if p.SAML == nil {
				p.SAML = map[string]string{}
			}
			if data := r.read(s.File); data != nil {
				p.SAML[string(bytes.TrimSpace(data))] = s.Subject
			}
		}
		r.directory.Providers = append(r.directory.Providers, p)
	}
	r.rotateEvery = y.RotateEvery
	r.knobs = issuer.Knobs{ClockOffset: y.ClockOffset, ExpiresIn: y.ExpiresIn}
	for _, f := range y.Faults {
		r.knobs.Faults = append(r.knobs.Faults, issuer.Fault{Path: f.Path, Times: f.Times, Quota: f.Quota, Per: f.Per, Delay: f.Delay, Status: f.Status, Body: f.Body, Header: f.Header})
	}
}

// json reads a file of JSON. The error shows nothing of it.
func (r *googleReader) json(name string, v any) {
	if data := r.read(name); data != nil && json.Unmarshal(data, v) != nil {
		r.fault("%s: it is not a JSON object, or its fields have the wrong types", name)
	}
}

func (r *googleReader) publicKeys(names []string) []issuer.PublicKey {
	var all []issuer.PublicKey
	for _, name := range names {
		if data := r.read(name); data != nil {
			_, keys, err := issuer.ParsePublicKeys(data)
			if err != nil {
				r.fault("%s: %w", name, err)
			}
			all = append(all, keys...)
		}
	}
	return all
}

// keyFiles adds the accounts of a JSON key, or of all in a directory.
func (r *googleReader) keyFiles(name string) {
	names := []string{name}
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		if names, err = filepath.Glob(filepath.Join(name, "*.json")); err != nil || len(names) == 0 {
			r.fault("%s: there is no *.json in it", name)
		}
	}
	for _, name := range names {
		r.files = append(r.files, name)
		data, err := issuer.ReadSecretFile(name, true, maxGoogleFile)
		if err != nil {
			r.fault("%w", err)
			continue
		}
		owner, keys, err := issuer.ParsePublicKeys(data)
		if err == nil && owner == "" {
			err = errors.New("it does not say whose it is; name it under accounts in the file of --config")
		}
		if err != nil {
			r.fault("%s: %w", name, err)
			continue
		}
		r.directory.Accounts = addAccount(r.directory.Accounts, issuer.Account{Email: owner, Keys: keys})
	}
}

// addAccount adds an account, or its keys and grants to what is known of it.
func addAccount(accounts []issuer.Account, a issuer.Account) []issuer.Account {
	n := slices.IndexFunc(accounts, func(b issuer.Account) bool { return b.Email == a.Email })
	if n < 0 {
		return append(accounts, a)
	}
	accounts[n].Keys = slices.Concat(accounts[n].Keys, a.Keys)
	grants := maps.Clone(accounts[n].Grants)
	for role, members := range a.Grants {
		if grants == nil {
			grants = map[string][]string{}
		}
		grants[role] = slices.Concat(grants[role], members)
	}
	accounts[n].Grants = grants
	return accounts
}
