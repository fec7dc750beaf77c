package credential

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
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
	Transport http.RoundTripper // nil: TLS 1.2 or later, proxy from the environment
	UserAgent string            // default "gcemds"
	Log       *slog.Logger      // tries that failed, at debug; nil: silent

	once sync.Once
	http *http.Client
}

func (c *Client) client() *http.Client {
	c.once.Do(func() {
		transport := c.Transport
		if transport == nil {
			transport = &http.Transport{
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
		c.http = &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		if c.Log == nil {
			c.Log = slog.New(slog.DiscardHandler)
		}
	})
	return c.http
}

// A reply is an answer with status 2xx.
type reply struct {
	host   string
	sent   time.Time // before the request left; a life counts from here
	status int
	header http.Header
	body   []byte
}

// post sends a form and tries again what may succeed later. Every error is a
// *token.Error that shows nothing of the form.
func (c *Client) post(ctx context.Context, address string, form url.Values) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, body := c.client(), form.Encode()
	for try := 1; ; try++ {
		r, err := roundTrip(ctx, client, cmp.Or(c.UserAgent, "gcemds"), address, body)
		var failure *token.Error
		again := false
		if err != nil {
			failure = &token.Error{Kind: token.Unavailable, Err: err}
			again = lostConnection(ctx, err)
		} else if failure = r.failure(); failure == nil {
			return r, nil
		} else {
			again = retryable(r.status)
		}
		pause := max(failure.RetryAfter, rand.N(firstPause<<(try-1)))
		if !again || try == maxTries || !sleep(ctx, pause) {
			return nil, failure
		}
		c.Log.Debug("upstream call failed, trying again", "try", try, "pause", pause, "error", failure.Err)
	}
}

// roundTrip is one try.
func roundTrip(ctx context.Context, client *http.Client, agent, address, body string) (*reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", agent)
	r := &reply{host: req.URL.Host, sent: time.Now()}
	resp, err := client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // its text repeats the address with its query
			err = u.Err
		}
		return nil, fmt.Errorf("no answer from token endpoint %s: %w", r.host, redacted(err))
	}
	defer resp.Body.Close()
	r.status, r.header = resp.StatusCode, resp.Header
	r.body, err = io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return nil, fmt.Errorf("answer of token endpoint %s broke off: %w", r.host, redacted(err))
	}
	if len(r.body) > maxReply {
		return nil, fmt.Errorf("token endpoint %s: %w", r.host, errLong)
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

// sleep pauses, unless there would be no time left after it.
func sleep(ctx context.Context, pause time.Duration) bool {
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

// redact makes text that came from outside fit for a log: on one line, short,
// and without secrets.
func redact(text string) string {
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

// redacted is err with its text redacted; errors.Is and As still see err.
func redacted(err error) error { return redactedError{err} }

type redactedError struct{ err error }

func (e redactedError) Error() string { return redact(e.err.Error()) }
func (e redactedError) Unwrap() error { return e.err }
