package client

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// margin is the time before its expiry from which servers have a successor
	// of a token. Google documents 5 minutes, its own libraries count on 4.
	margin = 5 * time.Minute
	// lastMoments is when a token is too old to be of use: it still has to
	// travel, and clocks differ.
	lastMoments = 30 * time.Second
	// pace is the pause between requests in the background, of which a random
	// half is left out.
	pace = 30 * time.Second
)

// A cache keeps one token. The zero value is empty.
type cache struct {
	held atomic.Pointer[held]

	mu     sync.Mutex
	flight *flight   // nil if no request is under way
	quiet  time.Time // no request in the background before
}

// A held token knows when to look for its successor.
type held struct {
	Token
	expiry time.Time // of the token, on the monotonic clock
	wall   int64     // the same on the wall clock, in nanoseconds since 1970
	margin time.Duration
}

// A flight is one request for a token, and the outcome once it has landed.
type flight struct {
	landed chan struct{}
	token  Token
	err    error
}

// remaining returns how long the token is good by the clock that says less: the
// monotonic one stands still while a machine sleeps, the other one can be set
// back.
func (h *held) remaining() time.Duration {
	now := time.Now()
	return min(h.expiry.Sub(now), time.Duration(h.wall-now.UnixNano()))
}

func (c *cache) token(ctx context.Context, t *Tokens) (Token, error) {
	if h := c.held.Load(); h != nil {
		remaining := h.remaining()
		if remaining > h.margin {
			return h.Token, nil
		}
		if remaining > lastMoments {
			c.renew(ctx, t)
			return h.Token, nil
		}
	}
	return c.refresh(ctx, t)
}

// renew looks for a successor in the background, unless that happens or has
// just happened.
func (c *cache) renew(ctx context.Context, t *Tokens) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight == nil && !time.Now().Before(c.quiet) {
		c.launch(ctx, t)
	}
}

// refresh waits for a new token as long as its own context allows.
func (c *cache) refresh(ctx context.Context, t *Tokens) (Token, error) {
	c.mu.Lock()
	f := c.flight
	if f == nil {
		f = c.launch(ctx, t)
	}
	c.mu.Unlock()
	select {
	case <-f.landed:
		return f.token, f.err
	case <-ctx.Done():
		return Token{}, &Error{Err: context.Cause(ctx), Hint: "No token came in time; the request for it goes on."}
	}
}

// launch begins a request that no caller's context ends. The lock is held.
func (c *cache) launch(ctx context.Context, t *Tokens) *flight {
	f := &flight{landed: make(chan struct{})}
	c.flight = f
	ctx = context.WithoutCancel(ctx)
	go func() {
		defer close(f.landed)
		f.token, f.err = t.Mint(ctx)
		c.land(ctx, t, f)
	}()
	return f
}

// land keeps what a flight has brought. A failure never replaces a token.
func (c *cache) land(ctx context.Context, t *Tokens, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flight = nil
	c.quiet = time.Now().Add(pace - rand.N(pace/2))
	if f.err != nil {
		if c.held.Load() != nil {
			t.client().log().WarnContext(ctx, "the token could not be renewed", "error", f.err)
		}
		return
	}
	c.held.Store(hold(f.token))
}

func hold(t Token) *held {
	now := time.Now()
	return &held{
		Token:  t,
		expiry: now.Add(t.Expiry.Sub(now)),
		wall:   t.Expiry.UnixNano(),
		margin: margin - rand.N(margin/10),
	}
}
