package gke

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Reader reads from the API server: *Kubernetes is one.
type Reader interface {
	Get(ctx context.Context, path string) ([]byte, error)
}

// An Issuer is who signs the tokens of a cluster.
type Issuer struct {
	URL    string          `json:"issuer"`
	Keys   json.RawMessage `json:"jwks"`    // as Google takes them, if they are uploaded; in the order of KeyIDs
	KeyIDs []string        `json:"key_ids"` // sorted
}

const (
	discoveryPath = "/.well-known/openid-configuration"
	keysPath      = "/openid/v1/jwks"
)

// ReadIssuer asks the API server. Everybody with an account in the cluster may
// (section 1.3).
func ReadIssuer(ctx context.Context, r Reader) (Issuer, error) {
	var i Issuer
	data, err := r.Get(ctx, discoveryPath)
	if err != nil {
		return i, notRead(discoveryPath, err)
	}
	if json.Unmarshal(data, &i) != nil || i.URL == "" {
		return i, fmt.Errorf("%s has no issuer", discoveryPath)
	}
	if !isWord(i.URL) { // it becomes part of commands and comments
		return i, fmt.Errorf("%s has an issuer with characters that none has: %.200q", discoveryPath, i.URL)
	}
	if data, err = r.Get(ctx, keysPath); err != nil {
		return i, notRead(keysPath, err)
	}
	if err := i.setKeys(data); err != nil {
		return i, fmt.Errorf("%s: %w", keysPath, err)
	}
	return i, nil
}

func notRead(path string, err error) error {
	var refused *APIError
	if errors.As(err, &refused) && (refused.Status == http.StatusForbidden || refused.Status == http.StatusUnauthorized) {
		return fmt.Errorf("%s: %w (it takes the ClusterRole system:service-account-issuer-discovery)", path, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// setKeys keeps keys without their certificates, with which Google refuses
// them (section 1.3), and in an order that stays the same.
func (i *Issuer) setKeys(data []byte) error {
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil || len(set.Keys) == 0 {
		return errors.New("it has no keys")
	}
	kid := func(key map[string]any) string { id, _ := key["kid"].(string); return id }
	slices.SortStableFunc(set.Keys, func(a, b map[string]any) int { return cmp.Compare(kid(a), kid(b)) })
	i.KeyIDs = nil
	for _, key := range set.Keys {
		if id := kid(key); !isWord(id) {
			return fmt.Errorf("the id of a key has characters that none has: %.200q", id)
		}
		for name := range key {
			if strings.HasPrefix(name, "x5") {
				delete(key, name)
			}
		}
		i.KeyIDs = append(i.KeyIDs, kid(key))
	}
	var err error
	i.Keys, err = json.MarshalIndent(set, "", "  ")
	return err
}

// isWord reports whether s is printable ASCII without spaces.
func isWord(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// Hidden returns why Google cannot fetch the keys of the issuer, as far as its
// address tells; "" if nothing speaks against it.
func (i Issuer) Hidden() string {
	u, err := url.Parse(i.URL)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "":
		return "it is no address that begins with https://"
	case u.Port() != "" && u.Port() != "443":
		return "its port is not 443"
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		if !public(ip) {
			return "its address is one of a private network"
		}
		return ""
	}
	if !strings.Contains(host, ".") {
		return "its host is a name of a private network"
	}
	for _, end := range []string{"local", "svc", "internal", "localhost", "test", "invalid", "example", "lan", "home.arpa"} {
		if strings.HasSuffix(host, "."+end) {
			return "its host is a name of a private network"
		}
	}
	return ""
}

// carrier is of networks behind the NAT of a provider (RFC 6598).
var carrier = netip.MustParsePrefix("100.64.0.0/10")

func public(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !carrier.Contains(ip)
}

// Probe fetches the keys as Google does, and returns why that does not work;
// "" if it does. It reaches public addresses only, and Google may see what it
// does not, such as a firewall.
func (i Issuer) Probe(ctx context.Context) string {
	if why := i.Hidden(); why != "" {
		return why
	}
	return i.fetch(ctx, outward())
}

// outward is a way to public addresses only, and without a proxy, as Google
// has none.
func outward() *http.Transport {
	dialer := &net.Dialer{Timeout: probeTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		if at, err := netip.ParseAddrPort(address); err != nil || !public(at.Addr()) {
			return errPrivate
		}
		return nil
	}}
	return &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}
}

const (
	probeTimeout = 10 * time.Second
	maxKeys      = 1 << 20
)

var errPrivate = errors.New("its address is one of a private network")

// fetch is Probe by a transport.
func (i Issuer) fetch(ctx context.Context, transport http.RoundTripper) string {
	get := func(address string, into any) error {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil || req.URL.Scheme != "https" {
			return errors.New("it is no address that begins with https://")
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %d to whoever has no account", resp.StatusCode)
		}
		data, err := io.ReadAll(io.LimitReader(resp.Body, maxKeys))
		if err == nil && json.Unmarshal(data, into) != nil {
			err = errors.New("its answer is not JSON")
		}
		return err
	}
	var found struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	discovery := strings.TrimSuffix(i.URL, "/") + discoveryPath
	if err := get(discovery, &found); err != nil {
		return fmt.Sprintf("%s: %v", discovery, err)
	}
	if found.Issuer != i.URL {
		return fmt.Sprintf("%s is of another issuer: %.200q", discovery, found.Issuer)
	}
	var set json.RawMessage
	if err := get(found.Keys, &set); err != nil {
		return fmt.Sprintf("%.200q, where it says that its keys are: %v", found.Keys, err)
	}
	var there Issuer
	if err := there.setKeys(set); err != nil {
		return fmt.Sprintf("%.200q: %v", found.Keys, err)
	}
	for _, id := range i.KeyIDs {
		if !slices.Contains(there.KeyIDs, id) {
			return fmt.Sprintf("%.200q does not have the key %s", found.Keys, id)
		}
	}
	return ""
}
