// Package exchange is the calls that turn one proof of identity into another:
// an assertion, a subject token or somebody else's access token into a token
// of Google. It is one HTTP client with limits, tries and errors of its own,
// and the sources that need nothing else: Federation and Impersonation.
//
// It knows no files, no configuration and no keys; those are package
// credential's, which is the table of all kinds. Section numbers are those of
// the credentials specification.
package exchange

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

// The limits of a call upstream (section 2.2).
const (
	callTimeout   = 10 * time.Second // all tries together
	maxTries      = 4
	firstPause    = 100 * time.Millisecond // doubled with each try, full jitter
	maxReply      = 1 << 20
	maxRetryAfter = time.Hour // longer demands are taken for this
)

// A Client makes the calls to token endpoints. It follows no redirect, since
// that would carry an assertion elsewhere. The zero value works; a Client may
// be used from many goroutines and must not be copied.
type Client struct {
	Transport http.RoundTripper // nil: TLS 1.2 or later, proxy from the environment. Where a certificate is shown, one that is no *http.Transport is not used
	UserAgent string            // default "gcemds"
	Log       *slog.Logger      // tries that failed, at debug; clocks that differ, as a warning; nil: silent

	once sync.Once
	http *http.Client
	near *http.Client // for metadata servers: no proxy leads to them

	clocks *clocks // shared with those that WithTLS makes

	mu    sync.Mutex
	turns map[string]chan struct{} // of near hosts: who has the slot may call
}

var own Client

// orOwn is c, or one that all share who have none.
func orOwn(c *Client) *Client {
	if c == nil {
		return &own
	}
	return c
}

// start completes c.
func (c *Client) start() {
	c.once.Do(func() {
		if c.Transport == nil {
			c.Transport = newTransport()
		}
		c.http = &http.Client{
			Transport:     c.Transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		near := *c.http
		if t, ok := c.Transport.(*http.Transport); ok {
			t = t.Clone()
			t.Proxy = nil
			near.Transport = t
		}
		c.near, c.turns = &near, map[string]chan struct{}{}
		if c.clocks == nil {
			c.clocks = &clocks{}
		}
		if c.Log == nil {
			c.Log = slog.New(slog.DiscardHandler)
		}
	})
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           16,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// WithTLS returns a client like c whose connections are made with that change
// of their configuration. It makes one for each call, so that no connection
// outlives a certificate.
func (c *Client) WithTLS(change func(*tls.Config)) *Client {
	c.start()
	t := newTransport()
	if own, ok := c.Transport.(*http.Transport); ok {
		t = own.Clone()
	}
	t.DisableKeepAlives = true
	change(t.TLSClientConfig)
	return &Client{Transport: t, UserAgent: c.UserAgent, Log: c.Log, clocks: c.clocks}
}

// Near makes requests to metadata servers: without a proxy, since none leads to
// them.
func (c *Client) Near() http.RoundTripper {
	c.start()
	return c.near.Transport
}

// turn waits until nobody else calls that host; done ends the turn. A large
// client of metadata servers does the same: they are slow with many at once.
func (c *Client) turn(ctx context.Context, host string) (done func(), err error) {
	c.mu.Lock()
	slot := c.turns[host]
	if slot == nil {
		slot = make(chan struct{}, 1)
		c.turns[host] = slot
	}
	c.mu.Unlock()
	select {
	case slot <- struct{}{}:
		return func() { <-slot }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A Call is one request upstream. It may have a form or a body.
type Call struct {
	What    string // is asked, for errors: "token endpoint"
	Address string
	Field   string // of our configuration that has the address, for errors
	Method  string // default GET
	Form    url.Values
	Body    any               // JSON
	Header  map[string]string // Authorization, for example
	Near    bool              // a metadata server is asked: without a proxy, one call at a time
}

// A Reply is an answer with status 2xx.
type Reply struct {
	From   string    // what and host, for errors
	field  string    // that of the call
	sent   time.Time // before the request left; a life counts from here
	status int
	Header http.Header
	Body   []byte
	hide   *strings.Replacer // takes out the secrets that were sent: some servers repeat them
}

// secretFields are those of forms and objects that have a secret.
var secretFields = []string{"assertion", "client_secret", "refresh_token", "subject_token"}

// openHeaders are those that have no secret, and what servers say of them tells
// what is wrong.
var openHeaders = []string{"Accept", "Content-Type", "Metadata-Flavor", "X-Goog-User-Project"}

// minSecret is the length from which on a value is taken for a secret: shorter
// ones, such as "true", are words of any answer.
const minSecret = 5

// hide returns what takes the secrets of a call out of a text, in each form in
// which they are sent. What merely looks like a secret is redacted anyway.
func (c *Call) hide() *strings.Replacer {
	var secrets []string
	object, _ := c.Body.(map[string]string)
	for _, name := range secretFields {
		secrets = append(secrets, c.Form.Get(name), object[name])
	}
	for name, value := range c.Header {
		if slices.Contains(openHeaders, http.CanonicalHeaderKey(name)) {
			continue
		}
		scheme, credential, _ := strings.Cut(value, " ")
		secrets = append(secrets, value, credential)
		if strings.EqualFold(scheme, "Basic") {
			pair, _ := base64.StdEncoding.DecodeString(credential)
			_, password, _ := strings.Cut(string(pair), ":")
			secrets = append(secrets, password)
		}
	}
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) }) // what is part of another comes after it
	var pairs []string
	for _, s := range secrets {
		if len(s) >= minSecret {
			pairs = append(pairs, s, "[redacted]", url.QueryEscape(s), "[redacted]")
		}
	}
	return strings.NewReplacer(pairs...)
}

// Post is do, with POST.
func (c *Client) Post(ctx context.Context, call Call) (*Reply, error) {
	call.Method = http.MethodPost
	return c.Do(ctx, call)
}

// Do makes a call and tries again what may succeed later. Every error is a
// *token.Error that shows nothing of what was sent.
func (c *Client) Do(ctx context.Context, call Call) (*Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c.start()
	client := c.http
	if call.Near {
		client = c.near
		u, err := url.Parse(call.Address)
		if err != nil {
			return nil, &token.Error{Kind: token.Misconfigured, Err: err}
		}
		done, err := c.turn(ctx, u.Host)
		if err != nil {
			return nil, &token.Error{Kind: token.Unavailable, Err: fmt.Errorf("no answer from %s %s to earlier calls: %w", call.What, u.Host, err)}
		}
		defer done()
	}
	var content string
	var body []byte
	switch {
	case call.Form != nil:
		content, body = "application/x-www-form-urlencoded", []byte(call.Form.Encode())
	case call.Body != nil:
		var err error
		content = "application/json"
		if body, err = json.Marshal(call.Body); err != nil {
			return nil, &token.Error{Kind: token.Misconfigured, Err: err}
		}
	}
	call.Method = cmp.Or(call.Method, http.MethodGet)
	for try := 1; ; try++ {
		r, err := call.roundTrip(ctx, client, cmp.Or(c.UserAgent, "gcemds"), content, body)
		var failure *token.Error
		again := false
		if err != nil {
			failure = &token.Error{Kind: token.Unavailable, Err: err}
			again = lostConnection(ctx, err)
		} else if failure = r.failure(); failure == nil {
			c.compareClocks(r)
			return r, nil
		} else {
			again = retryable(r.status)
		}
		pause := max(failure.RetryAfter, rand.N(firstPause<<(try-1)))
		if !again || try == maxTries || !Sleep(ctx, pause) {
			return nil, failure
		}
		c.Log.Debug("upstream call failed, trying again", "try", try, "pause", pause, "error", failure.Err)
	}
}

// compareClocks warns when our clock begins to differ from that of a server:
// assertions and the expiry of tokens depend on it.
func (c *Client) compareClocks(r *Reply) {
	theirs, err := http.ParseTime(r.Header.Get("Date"))
	if err != nil {
		return
	}
	now := time.Now()
	if c.clocks.news(r.From, now.Sub(theirs).Abs() > maxSkew) {
		c.Log.Warn("the clocks do not agree", "server", r.From, "trouble", clockHint(r.Header, now))
	}
}

// clocks has the servers whose clock is not ours.
type clocks struct {
	mu  sync.Mutex
	off map[string]bool
}

const maxClocks = 256 // with more nobody remembers any

// news reports whether the clock of a server has begun to differ.
func (c *clocks) news(server string, off bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.off[server]
	switch {
	case !off:
		delete(c.off, server)
	case c.off == nil || len(c.off) >= maxClocks:
		c.off = map[string]bool{server: true}
	default:
		c.off[server] = true
	}
	return off && !was
}

// roundTrip is one try.
func (c Call) roundTrip(ctx context.Context, client *http.Client, agent, content string, body []byte) (*Reply, error) {
	req, err := http.NewRequestWithContext(ctx, c.Method, c.Address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if content != "" {
		req.Header.Set("Content-Type", content)
		req.Header.Set("Accept", "application/json")
	}
	req.Header.Set("User-Agent", agent)
	for name, value := range c.Header {
		req.Header.Set(name, value)
	}
	r := &Reply{hide: c.hide(), From: c.What + " " + req.URL.Host, field: c.Field, sent: time.Now()}
	resp, err := client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // its text repeats the address with its query
			err = u.Err
		}
		return nil, fmt.Errorf("no answer from %s: %w", r.From, Redacted(err))
	}
	defer resp.Body.Close()
	r.status, r.Header = resp.StatusCode, resp.Header
	r.Body, err = io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return nil, fmt.Errorf("answer of %s broke off: %w", r.From, Redacted(err))
	}
	if len(r.Body) > maxReply {
		return nil, fmt.Errorf("%s: %w", r.From, errLong)
	}
	return r, nil
}

var errLong = fmt.Errorf("the answer is longer than %d bytes", maxReply)

func retryable(status int) bool {
	switch status {
	case 408, 429, 500, 502, 503, 504:
		return true
	}
	return false
}

// lostConnection says whether another connection may do better.
func lostConnection(ctx context.Context, err error) bool {
	var cert *tls.CertificateVerificationError
	return ctx.Err() == nil && !errors.Is(err, errLong) && !errors.As(err, &cert)
}

// Sleep pauses, unless there would be no time left after it.
func Sleep(ctx context.Context, pause time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= pause {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// retryAfter reads the header of that name: seconds or a date.
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	var wait time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		wait = time.Until(date)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// secrets are patterns of what must not get into an error or a log: tokens,
// assertions, keys, the password of a proxy, and long strings without a
// space, whatever they are (section 7).
var secrets = regexp.MustCompile(`ya29\.\S+|1//\S+|eyJ[\w-]+\.\S*|GOCSPX-\S+|-----BEGIN[^-]*-----[^-]*(-----END[^-]*-----)?|//[^/@\s]+@|[\w+/=.~-]{100,}`)

// Redact makes text that came from outside fit for a log: on one line, short,
// and without secrets.
func Redact(text string) string {
	const longest = 300
	text = text[:min(len(text), 16*longest)] // what is cut off need not be searched
	text = secrets.ReplaceAllString(text, "[redacted]")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	text = strings.TrimSpace(text)
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return text
}

// Redacted is err with its text redacted; errors.Is and As still see err.
func Redacted(err error) error { return redactedError{err} }

type redactedError struct{ err error }

func (e redactedError) Error() string { return Redact(e.err.Error()) }
func (e redactedError) Unwrap() error { return e.err }

// CheckEndpoint refuses an address to which an assertion must not be sent.
func CheckEndpoint(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%q is not of the form https://host/path", address)
	case u.User != nil:
		return fmt.Errorf("the address at %s has a user or a password in it; remove it", u.Host)
	case u.Fragment != "":
		return fmt.Errorf("%q has a fragment; remove it", address)
	case u.Scheme == "http" && !Loopback(u.Hostname()):
		return fmt.Errorf("%q would send assertions unencrypted; use https (http is for this machine only)", address)
	}
	return nil
}

func Loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback()
}
