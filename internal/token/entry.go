package token

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// An entry is all that is known about one key: the token, the mint under way
// and the last failure.
type entry struct {
	held    atomic.Pointer[held] // nil until the first mint succeeds
	used    atomic.Int64         // when somebody last asked, on the monotonic clock
	evicted atomic.Bool
	jitter  float64 // see hold

	mu      sync.Mutex // guards the rest, and writes of held
	flight  *flight    // nil if none is under way
	failure *failure   // nil after a success
}

func newEntry(now moment) *entry {
	e := &entry{jitter: rand.Float64() / 10}
	e.used.Store(int64(now.mono))
	return e
}

// touch notes that somebody has asked. It does so to the millisecond, so that a
// busy entry's cache line stays put.
func (e *entry) touch(now moment) {
	if used := e.used.Load(); int64(now.mono)-used > int64(time.Millisecond) {
		e.used.Store(int64(now.mono))
	}
}

// refresh renews the token in the background, if that is due.
func (e *entry) refresh(o order) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := o.now()
	age := e.held.Load().age(now)
	due := age == stale || age == low
	if due && e.flight == nil && !e.failure.holds(now) && !e.evicted.Load() {
		e.launch(o).waiters = 1
	}
}

// wait returns a new token, or the old one if that is not gone when the mint
// fails or takes too long.
func (e *entry) wait(ctx context.Context, o order) (Token, error) {
	e.mu.Lock()
	now := o.now()
	h := e.held.Load()
	age := h.age(now)
	if age <= stale { // renewed since the caller looked
		e.mu.Unlock()
		return h.Token, nil
	}
	f := e.flight
	if f == nil && e.failure.holds(now) {
		defer e.mu.Unlock()
		if age == low {
			return h.Token, nil
		}
		return Token{}, e.failure.err
	}
	if f == nil {
		f = e.launch(o)
	}
	f.waiters++
	e.mu.Unlock()
	defer e.leave(f)

	var patience <-chan time.Time
	if age == low {
		patience = time.After(o.limits().Patience)
	}
	var err error
	select {
	case <-f.landed:
		err = f.err
	case <-patience:
		err = errLate
	case <-ctx.Done():
		err = interruption(ctx)
	}
	if h := e.held.Load(); err == nil || h.age(o.now()) != gone {
		return h.Token, nil
	}
	return Token{}, err
}

var errLate = &Error{Err: errors.New("the old token expired while a new one was being minted")}

// interruption is the error for a caller whose context ended: the cause, or
// that of upstream being slow if the time was up.
func interruption(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) {
		return &Error{Err: fmt.Errorf("no token came before the request timed out: %w", cause)}
	}
	return cause
}
