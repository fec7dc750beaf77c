package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// The limits of an attempt. Some servers are slow when they are new or busy: the
// usual 2 s for the header have been seen to be too short on GKE.
const (
	dialLimit   = 10 * time.Second
	headerLimit = 15 * time.Second
	bodyLimit   = 15 * time.Second
)

// maxBody bounds an answer, in bytes. All custom metadata of a machine and its
// project has less than a quarter of that.
const maxBody = 4 << 20

const flavor = "Metadata-Flavor"

// A request is one question. The same question has the same answer, so it may
// be asked again.
type request struct {
	path  string        // below /computeMetadata/v1/, may have a query of its own
	query string        // more of it
	hang  time.Duration // how long the server may wait before it answers
	final string        // a refusal that contains this will not pass; it counts as the answer
}

func (r request) url(host string) (*url.URL, error) {
	base, err := url.Parse("http://" + host + "/")
	if err != nil || base.Host != host || base.Path != "/" || strings.HasPrefix(host, ":") {
		return nil, &Error{Kind: NoServer, Err: fmt.Errorf("%q is not the address of a metadata server", host),
			Hint: "It has the form host or host:port, without http://, and an IPv6 address is in brackets."}
	}
	u, err := url.Parse(base.String() + "computeMetadata/v1/" + strings.TrimPrefix(r.path, "/"))
	if err != nil || u.Fragment != "" {
		return nil, &Error{Kind: NotFound, Err: fmt.Errorf("%q is not a path of a metadata server", r.path),
			Hint: "Paths look like instance/attributes/my-key; a query must be encoded."}
	}
	if u.RawQuery != "" && r.query != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += r.query
	return u, nil
}

// An answer is what came back, whatever it is worth.
type answer struct {
	body    string
	etag    string // "" if it has none
	genuine bool   // it says that it comes from a metadata server

	url      string
	status   int
	attempts int
	elapsed  time.Duration
}

// attempt makes one request.
func (c *Client) attempt(ctx context.Context, r request) (answer, *failure) {
	host, _ := c.address()
	u, err := r.url(host)
	if err != nil {
		return answer{}, &failure{Error: err.(*Error)}
	}
	ctx, headed, stop := withPace(ctx, r.hang)
	defer stop()
	req := (&http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{
		flavor:       {"Google"},
		"User-Agent": {"gcemds-client (+https://github.com/gcemds/gcemds)"},
	}}).WithContext(ctx)
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, &failure{Error: &Error{URL: u.String(), Err: cause(ctx, err),
			Hint: "Check that a metadata server listens at " + host + "."}}
	}
	defer resp.Body.Close()
	headed()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	a := answer{
		body: string(body), url: resp.Request.URL.String(), status: resp.StatusCode,
		etag: resp.Header.Get("ETag"), genuine: resp.Header.Get(flavor) == "Google",
	}
	if a.genuine {
		c.met.Store(true)
	}
	if r.final != "" && a.genuine && strings.Contains(a.body, r.final) {
		return a, nil
	}
	f := a.failure(cause(ctx, err))
	if f != nil && f.Kind == Transient {
		f.retryAfter = retryAfter(resp.Header.Get("Retry-After"), time.Now())
		if f.retryAfter > 0 {
			f.Hint = fmt.Sprintf("The server asks to come back in %v.", f.retryAfter)
		}
	}
	return a, f
}

// failure says what is wrong with an answer whose body may have broken off;
// nil if nothing is.
func (a answer) failure(broken error) *failure {
	fail := func(kind Kind, err error, hint string) *failure {
		return &failure{Error: &Error{Kind: kind, URL: a.url, Status: a.status, Err: err, Hint: hint}}
	}
	switch {
	case transient(a.status): // even from a proxy in front of a server that is not there yet
		return fail(Transient, a.refusal(), "The server is overloaded or not ready.")
	case !a.genuine:
		return fail(NoServer, fmt.Errorf("answered %d without the header Metadata-Flavor: Google", a.status),
			"Something else has this address, such as a proxy or the login page of a network.")
	case broken != nil:
		return fail(Transient, fmt.Errorf("the answer breaks off: %w", broken), "")
	case len(a.body) > maxBody:
		return &failure{Error: a.malformed(fmt.Errorf("it has more than %d bytes", maxBody))}
	case a.status == http.StatusOK:
		return nil
	case a.status == http.StatusNotFound:
		return fail(NotFound, a.refusal(), "")
	case a.status/100 == 4:
		return fail(Denied, a.refusal(), "")
	}
	return &failure{Error: a.malformed(a.refusal())} // a redirect that we do not follow, for example
}

// refusal puts the status, and the reason in the body, into words.
func (a answer) refusal() error {
	s := strings.TrimSpace(fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)))
	if why := reason(a.body); why != "" {
		s += ": " + why
	}
	return errors.New(s)
}

// malformed is the error for an answer that is not what it should be.
func (a answer) malformed(err error) *Error {
	return &Error{Kind: Malformed, URL: a.url, Status: a.status, Attempts: a.attempts, Elapsed: a.elapsed, Err: err,
		Hint: "Report this to whoever runs the metadata server."}
}

// withPace returns a context for one attempt. It ends when there is no
// connection, no header or no body in time; the second result begins the time
// for the body.
func withPace(ctx context.Context, hang time.Duration) (_ context.Context, body, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var late atomic.Pointer[error]
	expect := func(err error) { late.Store(&err) }
	expect(fmt.Errorf("no connection in %v", dialLimit))
	timer := time.AfterFunc(dialLimit, func() { cancel(*late.Load()) })
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		expect(fmt.Errorf("no answer in %v", hang+headerLimit))
		timer.Reset(hang + headerLimit)
	}})
	body = func() {
		expect(fmt.Errorf("no end of the answer in %v", bodyLimit))
		timer.Reset(bodyLimit)
	}
	return ctx, body, func() { timer.Stop(); cancel(nil) }
}

// cause says why a request failed, without what we know already.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// transient says whether the same request may get another status later.
func transient(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return status >= 500
}

// maxRetryAfter bounds what a server can ask for. It is longer than anybody's
// patience.
const maxRetryAfter = 24 * time.Hour

// retryAfter reads the header Retry-After: seconds, or a date (RFC 9110
// section 10.2.3). What is neither counts as zero.
func retryAfter(header string, now time.Time) time.Duration {
	d := time.Duration(0)
	if seconds, err := strconv.ParseUint(header, 10, 64); err == nil {
		d = time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if date, err := http.ParseTime(header); err == nil {
		d = date.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// checkRedirect follows the only redirect that a metadata server makes: to the
// same path with a slash at its end.
func checkRedirect(req *http.Request, via []*http.Request) error {
	from := via[len(via)-1].URL
	if len(via) == 1 && req.URL.Scheme == from.Scheme && req.URL.Host == from.Host && req.URL.Path == from.Path+"/" {
		return nil
	}
	return http.ErrUseLastResponse
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // a proxy would answer for its own machine
		DialContext:            orIPv6((&net.Dialer{Timeout: dialLimit, KeepAlive: 30 * time.Second}).DialContext),
		DisableCompression:     true,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

// orIPv6 finds Google's server on a machine without IPv4, where it has another
// address.
func orIPv6(dial dialer) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if host, port, _ := net.SplitHostPort(address); host == linkLocal && noWay(err) {
			if conn, err := dial(ctx, network, net.JoinHostPort(linkLocal6, port)); err == nil {
				return conn, nil
			}
		}
		return conn, err
	}
}

// noWay says whether an error means that there is no route to an address.
// Windows has numbers of its own for that: WSAENETUNREACH and WSAEHOSTUNREACH.
func noWay(err error) bool {
	var e syscall.Errno
	return errors.As(err, &e) && (e == syscall.ENETUNREACH || e == syscall.EHOSTUNREACH || e == 10051 || e == 10065)
}
