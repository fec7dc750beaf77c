// Package passthrough lets callers reach the metadata service of the cloud that
// a machine is really in, where ours has taken its address: software for AWS
// or Azure still has to find it (section 4.4 of the specification of GKE's
// workload identity).
//
// It judges every request by itself and passes what is certainly meant for
// that cloud, written in the plainest way. It never passes what any server
// could take for a request to Google's. It does not know who a caller is.
package passthrough

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Config is the section passthrough of the configuration.
type Config struct {
	Cloud string `yaml:"cloud"` // whose service it is: a key of Clouds
	To    string `yaml:"to"`    // address of the service; "": http://169.254.169.254

	// Pods may reach it, too. They get what the machine gets, such as its
	// credentials; without it only callers in the host's network may.
	Pods bool `yaml:"pods"`
}

// Clouds are the clouds that are known, with the first part of their paths.
var Clouds = map[string][]string{
	"aws":       {"/latest/"},
	"azure":     {"/metadata/"},
	"openstack": {"/openstack/", "/latest/"},
	"oracle":    {"/opc/"},
}

// awsToken is where AWS gives out session tokens, with PUT.
const awsToken = "/latest/api/token"

// Validate reports what is wrong with the configuration.
func (c Config) Validate() error {
	u, err := url.Parse(c.To)
	switch {
	case Clouds[c.Cloud] == nil:
		return fmt.Errorf("cloud is %q, but has to be one of aws, azure, openstack and oracle", c.Cloud)
	case c.To != "" && (err != nil || u.Scheme != "http" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil):
		return fmt.Errorf("to is %q, but has to be of the form http://169.254.169.254", c.To)
	}
	return nil
}

// A Passthrough passes requests on.
type Passthrough struct {
	prefixes []string
	put      string // the path that may be PUT; "": none
	proxy    *httputil.ReverseProxy
}

const (
	dialTimeout = time.Second     // as long as clients of these services wait themselves
	patience    = 3 * time.Minute // for all of an answer; Azure takes up to two for its first one about scheduled events
	maxHeader   = 64 << 10        // bytes of the answer's header
	maxBody     = 1 << 20         // bytes of the answer
)

var errLong = fmt.Errorf("the answer of the cloud's metadata service is longer than %d bytes", maxBody)

// New returns what passes requests as configured. The log gets what fails.
func New(c Config, log *slog.Logger) (*Passthrough, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	to := &url.URL{Scheme: "http", Host: "169.254.169.254"}
	if c.To != "" {
		to, _ = url.Parse(c.To) // checked
	}
	p := &Passthrough{prefixes: Clouds[c.Cloud]}
	if c.Cloud == "aws" {
		p.put = awsToken
	}
	p.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = to.Scheme, to.Host, to.Host
			r.Out.Body, r.Out.ContentLength = nil, 0
			r.Out.Header.Set(passed, "yes")
		},
		Transport: &http.Transport{ // without a proxy, whatever the environment says
			DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
			MaxResponseHeaderBytes: maxHeader,
			MaxConnsPerHost:        64,
			MaxIdleConns:           8,
			IdleConnTimeout:        30 * time.Second,
			DisableCompression:     true,
		},
		ModifyResponse: bound,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			log.Warn("a request is not passed to the cloud's metadata service", "error", err)
			http.Error(w, "The metadata service of this cloud does not answer.", http.StatusBadGateway)
		},
	}
	return p, nil
}

// bound refuses an answer that is too long, and breaks off one that turns out
// to be.
func bound(r *http.Response) error {
	switch {
	case r.StatusCode == http.StatusSwitchingProtocols:
		return errors.New("the cloud's metadata service wants to speak another protocol")
	case r.ContentLength > maxBody:
		return errLong
	}
	r.Body = &bounded{r.Body, maxBody}
	return nil
}

type bounded struct {
	io.ReadCloser
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if b.left -= n; b.left < 0 {
		return 0, errLong
	}
	return n, err
}

// Handler returns a handler that passes requests of callers who may, and gives
// all others to next.
func (p *Passthrough) Handler(next http.Handler, may func(*http.Request) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.passes(r) && may(r) {
			ctx, cancel := context.WithTimeout(r.Context(), patience)
			defer cancel()
			p.proxy.ServeHTTP(w, r.WithContext(ctx))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// passed is in every request that is passed on. Where our own requests are
// captured too, they come back here, and would without end.
const passed = "Gcemds-Passed"

// google are headers of requests for Google's server, and such as say that
// somebody has passed the request on already: whose it is, nobody knows then.
var google = []string{"Metadata-Flavor", "X-Google-Metadata-Request", passed,
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip"}

// passes judges a request by what was sent, not by what net/http made of it.
// The next server may read that in its own way, so what could be read in two
// ways is not passed.
func (p *Passthrough) passes(r *http.Request) bool {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	switch {
	case r.ProtoMajor != 1 || r.ContentLength != 0 || len(r.TransferEncoding) > 0 || r.Header.Get("Upgrade") != "":
		return false
	case r.Method != http.MethodGet && r.Method != http.MethodHead && (r.Method != http.MethodPut || p.put == "" || path != p.put):
		return false
	case slices.ContainsFunc(r.Header["Connection"], func(v string) bool { return !strings.EqualFold(v, "close") && !strings.EqualFold(v, "keep-alive") }):
		return false // it names headers that would be left out, such as a session token
	case slices.ContainsFunc(google, func(name string) bool { return len(r.Header[name]) > 0 }):
		return false
	case !plain(path) || strings.ContainsFunc(query, func(c rune) bool { return c <= ' ' || c > '~' || c == '\\' || c == '#' }):
		return false
	}
	return slices.ContainsFunc(p.prefixes, func(prefix string) bool { return strings.HasPrefix(path, prefix) })
}

// plain reports whether a path is written in the only way that it can be:
// absolute, without escapes, empty parts and dots.
func plain(path string) bool {
	if path == "" || path[0] != '/' || strings.ContainsFunc(path, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("/-_.:,@+=~", c)
	}) {
		return false
	}
	parts := strings.Split(path[1:], "/")
	for i, part := range parts {
		if part == "." || part == ".." || part == "" && i < len(parts)-1 || strings.EqualFold(part, "computeMetadata") {
			return false
		}
	}
	return true
}
