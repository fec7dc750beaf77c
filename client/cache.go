package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A server hands out one token until shortly before its expiry, and asking
// earlier brings nothing. These times are before the expiry.
const (
	margin      = 5 * time.Minute   // Google documents that a server has a successor from now on
	overdue     = 225 * time.Second // Google's libraries count on one only from now on
	lastMoments = 30 * time.Second  // the token is of no use: it has to travel, and clocks differ
)

const (
	// shortWait is how long callers wait for the successor of a token that
	// would still do.
	shortWait = 5 * time.Second
	// pace is the pause after a request for a successor, of which up to half is
	// left out at random.
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
	began  time.Time
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
			f := c.renew(ctx, t)
			if remaining < overdue && f.within(ctx, shortWait) {
				return f.token, nil
			}
			return h.Token, nil
		}
	}
	return c.refresh(ctx, t)
}

// renew looks for a successor in the background, unless that happens already or
// has just happened; then there is no flight.
func (c *cache) renew(ctx context.Context, t *Tokens) *flight {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight == nil && !time.Now().Before(c.quiet) {
		return c.launch(ctx, t)
	}
	return c.flight
}

// within says whether the flight brings a token while it is that young.
func (f *flight) within(ctx context.Context, age time.Duration) bool {
	if f == nil {
		return false
	}
	ctx, cancel := context.WithDeadline(ctx, f.began.Add(age))
	defer cancel()
	select {
	case <-f.landed:
		return f.err == nil
	case <-ctx.Done():
		return false
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
		e := &Error{Elapsed: time.Since(f.began), Err: context.Cause(ctx), Hint: "No token came in time; the request for it goes on."}
		if last := t.client().trouble.Load(); last != nil {
			e.URL, e.Status, e.Attempts, e.Err = last.URL, last.Status, last.Attempts, fmt.Errorf("%w; before that: %w", e.Err, last.Err)
		}
		return Token{}, e
	}
}

// launch begins a request that no caller's context ends. The lock is held.
func (c *cache) launch(ctx context.Context, t *Tokens) *flight {
	f := &flight{began: time.Now(), landed: make(chan struct{})}
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
