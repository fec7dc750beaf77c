package credential

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// An Upstream has another metadata server mint: that of the Google machine
// that we run on, or one of ours elsewhere (section 3.8). In YAML it may be
// the address alone.
//
// Variables such as GCE_METADATA_HOST do not count here: they lead to us.
type Upstream struct {
	// Address is HOST, HOST:PORT or an http or https address without a path;
	// 169.254.169.254 is that of Google.
	Address string `yaml:"address"`

	// Account is the e-mail or alias of the service account there; default
	// "default".
	Account string `yaml:"account,omitempty"`
}

// UnmarshalText reads the short form.
func (c *Upstream) UnmarshalText(text []byte) error {
	*c = Upstream{Address: string(text)}
	return nil
}

func (c *Upstream) validate() error {
	var faults []error
	if c.Address == "" {
		faults = append(faults, errors.New("address is missing: of a metadata server, such as 169.254.169.254"))
	} else if _, err := c.base(); err != nil {
		faults = append(faults, err)
	}
	if a := c.Account; a != "" && (len(a) > 320 || strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/?#%", r) }) || strings.Trim(a, ".") == "") {
		faults = append(faults, fmt.Errorf("account %q is neither an e-mail nor an alias", c.Account))
	}
	return errors.Join(faults...)
}

// base is the address without a path.
func (c *Upstream) base() (string, error) { return MetadataServer(c.Address) }

// MetadataServer returns scheme and host of a metadata server, whose address is
// given as that of an Upstream is.
func MetadataServer(given string) (string, error) {
	address := given
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Hostname() == "" || strings.HasSuffix(u.Host, ":") || u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("address %q is not of the form HOST:PORT or https://HOST:PORT", given)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return "", fmt.Errorf("address of %s has more than a host and a port; remove the rest", u.Host)
	}
	return u.Scheme + "://" + u.Host, nil
}

func (c *Upstream) files() []string { return nil }

func (c *Upstream) open(_ context.Context, env Env) (token.Source, Identity, error) {
	base, err := c.base()
	if err != nil {
		return nil, Identity{}, err
	}
	account := cmp.Or(c.Account, "default")
	s := &upstreamSource{
		address: base + "/computeMetadata/v1/instance/service-accounts/" + url.PathEscape(account) + "/",
		header:  map[string]string{"Metadata-Flavor": "Google"},
		client:  env.client(),
	}
	maps.Copy(s.header, env.Header)
	id := Identity{Steps: []string{"metadata server " + hostOf(base) + ", account " + account}}
	if isEmail(account) {
		id.Email, id.ProjectID = account, projectOf(account)
	}
	return s, id, nil
}

// An upstreamSource asks a metadata server.
type upstreamSource struct {
	address string // of the account
	header  map[string]string
	client  *exchange.Client
}

// Mint implements token.Source.
func (s *upstreamSource) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	if req.Audience != "" {
		return s.identity(ctx, req)
	}
	address := s.address + "token"
	if len(req.Scopes) > 0 {
		address += "?scopes=" + url.QueryEscape(strings.Join(req.Scopes, ","))
	}
	r, err := s.get(ctx, address)
	if err != nil {
		return token.Token{}, err
	}
	t, err := r.AccessToken()
	if err != nil {
		return token.Token{}, exchange.About(r.From, err)
	}
	return t, nil
}

// identity asks for an ID token. Where the claims of our machine are wanted, it
// has those of the machine there.
func (s *upstreamSource) identity(ctx context.Context, req token.Request) (token.Token, error) {
	query := url.Values{"audience": {req.Audience}}
	var claims struct {
		Google *struct {
			Compute struct {
				Licenses json.RawMessage `json:"license_id"`
			} `json:"compute_engine"`
		} `json:"google"`
	}
	if json.Unmarshal([]byte(cmp.Or(req.Claims, "{}")), &claims) == nil && claims.Google != nil {
		query.Set("format", "full")
		if claims.Google.Compute.Licenses != nil {
			query.Set("licenses", "TRUE")
		}
	}
	r, err := s.get(ctx, s.address+"identity?"+query.Encode())
	if err != nil {
		return token.Token{}, err
	}
	value := strings.TrimSpace(string(r.Body))
	if strings.HasPrefix(value, "<") { // the type of ID tokens is text/html, too (protocol, section 5.5)
		err = exchange.Malformed("the answer is a web page, not an ID token")
	} else {
		err = exchange.CheckValue("ID token", value)
	}
	if err != nil {
		return token.Token{}, exchange.About(r.From, err)
	}
	expiry, err := exchange.ExpiryOf(value)
	if err != nil {
		return token.Token{}, exchange.About(r.From, exchange.Malformed("the ID token is no JWT: %w", err))
	}
	t, err := r.Until(value, expiry, "ID token") // Google's clock; Date is that of the machine in between
	if err != nil {
		return token.Token{}, exchange.About(r.From, err)
	}
	return t, nil
}

func (s *upstreamSource) get(ctx context.Context, address string) (*exchange.Reply, error) {
	r, err := s.client.Do(ctx, exchange.Call{What: "metadata server", Address: address, Field: "address", Header: s.header, Near: true})
	if err != nil {
		return nil, err
	}
	if r.Header.Get("Metadata-Flavor") != "Google" {
		return nil, exchange.About(r.From, &token.Error{Kind: token.Misconfigured, Err: errors.New("the answer has no Metadata-Flavor: Google; is this a metadata server?")})
	}
	return r, nil
}
