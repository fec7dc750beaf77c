package credential

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// An impersonateFile is the JSON form of an Impersonate and the source below
// it (section 3.6).
type impersonateFile struct {
	URL       string          `json:"service_account_impersonation_url"`
	Delegates []string        `json:"delegates"`
	Source    json.RawMessage `json:"source_credentials"`
	Universe  string          `json:"universe_domain"`
}

func parseImpersonate(data []byte) (*impersonateFile, error) {
	var f impersonateFile
	if err := decodeFile(data, &f, "impersonated_service_account"); err != nil {
		return nil, err
	}
	if err := missingFields([2]string{"service_account_impersonation_url", f.URL}, [2]string{"source_credentials", string(f.Source)}); err != nil {
		return nil, err
	}
	for i, d := range f.Delegates {
		if f.Delegates[i] = strings.TrimPrefix(d, exchange.DelegatePrefix); !isAccount(f.Delegates[i]) {
			return nil, fmt.Errorf("delegates has %.100q, which is not the name of a service account", d)
		}
	}
	return &f, nil
}

// load opens the JSON form: the source in it, and the impersonation over that.
func (c *Impersonate) load(data []byte, env Env) (token.Source, Identity, error) {
	f, err := parseImpersonate(data)
	if err != nil {
		return nil, Identity{}, err
	}
	universe := cmp.Or(f.Universe, googleUniverse)
	if universe != googleUniverse && !c.AllowCustomEndpoints {
		return nil, Identity{}, fmt.Errorf("universe_domain is %.100q, not Google's; if that is meant, say allow_custom_endpoints: true", universe)
	}
	target, address, err := impersonationOf(f.URL, universe, c.AllowCustomEndpoints, env)
	if err != nil {
		return nil, Identity{}, err
	}
	target.Delegates, target.Lifetime, target.Subject = f.Delegates, c.Lifetime, c.Subject

	typ, err := typeOf(f.Source)
	if err != nil {
		return nil, Identity{}, fmt.Errorf("source_credentials: %w", err)
	}
	var below interface {
		load(data []byte, env Env) (token.Source, Identity, error)
	}
	switch typ {
	case "service_account":
		below = &KeyFile{File: c.File, AllowCustomEndpoints: c.AllowCustomEndpoints}
	case "authorized_user":
		below = &User{File: c.File, AllowCustomEndpoints: c.AllowCustomEndpoints}
	case "external_account":
		below = &External{File: c.File, Permissions: c.Permissions, AllowCustomEndpoints: c.AllowCustomEndpoints, AllowExecutable: c.AllowExecutable}
	case "external_account_authorized_user", "impersonated_service_account", "gdch_service_account":
		return nil, Identity{}, fmt.Errorf("source_credentials: type %s cannot be inside another file; give it a source of its own, of kind %s, and impersonate with target and via", typ, fileTypes[typ].kind)
	default:
		return nil, Identity{}, fmt.Errorf("source_credentials: type is %.40q, which is not known", typ)
	}
	s, id, err := below.load(f.Source, env)
	if err != nil {
		return nil, Identity{}, fmt.Errorf("source_credentials: %w", err)
	}
	s, id = target.overAt(address, s, id, env)
	return s, id, nil
}

// impersonationOf reads the address in a credential file at which a service
// account is impersonated. It returns who that is, and the address without the
// method: as it is written, unless the configuration says where IAM is.
func impersonationOf(address, universe string, allow bool, env Env) (target *Impersonate, base string, err error) {
	const field, method = "service_account_impersonation_url", ":generateAccessToken"
	if err := checkFileEndpoint(field, address, universe, allow); err != nil {
		return nil, "", err
	}
	u, _ := url.Parse(address) // checked
	base, ok := strings.CutSuffix(address, method)
	_, name, found := strings.Cut(strings.TrimSuffix(u.Path, method), "/serviceAccounts/")
	if !ok || !found || !isAccount(name) || u.RawQuery != "" {
		return nil, "", errors.New(field + " is not of the form https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/EMAIL:generateAccessToken")
	}
	if env.Endpoints.IAMCredentials != "" {
		base = env.Endpoints.iam() + strings.TrimSuffix(u.EscapedPath(), method)
	}
	return &Impersonate{Target: name}, base, nil
}

// hostOf returns the host of an address, for people.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}
