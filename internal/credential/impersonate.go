package credential

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
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

	// Lifetime of access tokens, at most 12 h; default that of the service,
	// 1 h, and more only for accounts that an organisation policy lists
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
	if c.Lifetime != 0 && (c.Lifetime < time.Second || c.Lifetime > exchange.MaxLifetime) {
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
	s := &exchange.Impersonation{
		Via: via, Target: c.Target, Delegates: c.Delegates, Subject: c.Subject, Lifetime: c.Lifetime,
		Address: address, TokenURL: env.Endpoints.token(), Client: env.client(),
	}
	steps := who.Steps
	for _, d := range c.Delegates {
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
