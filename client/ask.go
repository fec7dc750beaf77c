package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

const (
	defaultPatience = 5 * time.Minute
	firstPause      = 100 * time.Millisecond
	longestPause    = 10 * time.Second
)

// A failure is an attempt without an answer that can be used.
type failure struct {
	*Error
	retryAfter time.Duration
}

// ask asks until there is an answer, a failure that will not pass, or no
// patience left.
func (c *Client) ask(ctx context.Context, r request) (answer, error) {
	c.init()
	began := time.Now()
	patience := c.patience()
	limited := ctx
	if patience > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeoutCause(ctx, patience, fmt.Errorf("nothing better came in %v", patience))
		defer cancel()
	}
	var last *failure
	for n := 1; ; n++ {
		a, f := c.queue(limited, r)
		if f == nil {
			c.trouble.Store(nil)
			a.attempts, a.elapsed = n, time.Since(began)
			return a, nil
		}
		if last != nil && limited.Err() != nil { // what went wrong before is more interesting than the end of our time
			f = last
		}
		last = f
		pause := f.retryAfter + pauseAfter(n)
		switch {
		case f.Kind != Transient:
			return answer{}, f.give(n, began)
		case ctx.Err() != nil:
			return answer{}, f.interrupted(ctx).give(n, began)
		case n == 1 && f.Status == 0 && !c.expected(limited, f):
			return answer{}, f.give(n, began)
		case patience < 0 || time.Since(began)+pause > patience:
			return answer{}, f.give(n, began)
		}
		c.trouble.Store(&Error{URL: f.URL, Status: f.Status, Attempts: n, Err: f.Err})
		c.log().InfoContext(ctx, "asking the metadata server again", "url", f.URL, "attempt", n, "pause", pause, "error", f.Err)
		if !sleep(ctx, pause) {
			return answer{}, f.interrupted(ctx).give(n, began)
		}
	}
}

func (c *Client) patience() time.Duration {
	if c.Patience == 0 {
		return defaultPatience
	}
	return c.Patience
}

// give completes the error that a caller gets.
func (f *failure) give(attempts int, began time.Time) error {
	f.Attempts, f.Elapsed = attempts, time.Since(began)
	return f.Error
}

// interrupted is the failure of a call that its caller has ended.
func (f *failure) interrupted(ctx context.Context) *failure {
	if cause := context.Cause(ctx); !errors.Is(f.Err, cause) {
		f.Err = fmt.Errorf("%w; before that: %w", cause, f.Err)
	}
	return f
}

// expected says whether there is any reason to think that a server which has
// not answered exists; else it turns f into the final failure.
func (c *Client) expected(ctx context.Context, f *failure) bool {
	if _, named := c.address(); named || c.met.Load() {
		return true
	}
	evidence := c.look(ctx, true)
	if positive(evidence) || ctx.Err() != nil {
		return true
	}
	var looked []string
	for _, e := range evidence {
		looked = append(looked, e.String())
	}
	f.Kind = NoServer
	f.Err = fmt.Errorf("%w, and nothing speaks for Google Cloud (%s)", f.Err, strings.Join(looked, "; "))
	f.Hint = "Elsewhere than on Google Cloud, start a metadata server and set " + hostEnv + " to its address."
	return false
}

// pauseAfter returns how long to wait after the nth failure in a row.
func pauseAfter(n int) time.Duration {
	return rand.N(min(firstPause<<min(n-1, 10), longestPause))
}

// sleep returns false if the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// queue makes an attempt when it is its turn.
func (c *Client) queue(ctx context.Context, r request) (answer, *failure) {
	if !c.Parallel {
		select {
		case c.turn <- struct{}{}:
			defer func() { <-c.turn }()
		case <-ctx.Done():
			return answer{}, &failure{Error: &Error{Err: fmt.Errorf("other requests were still running: %w", context.Cause(ctx))}}
		}
	}
	return c.attempt(ctx, r)
}
