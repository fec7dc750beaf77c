package token

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// An order is a mint that somebody wants.
type order struct {
	*view
	req Request
}

func (o order) now() moment     { return o.cache.clock() }
func (o order) limits() *Limits { return &o.cache.limits }

// A flight is one mint, and all who wait for it. The lock of its entry guards
// waiters and queued; err is written before landed is closed.
type flight struct {
	waiters int  // callers, and one more for a renewal in the background
	queued  bool // for a slot; upstream has not been asked yet
	queue   context.Context
	abandon context.CancelFunc // leave the queue
	landed  chan struct{}
	err     error
}

// launch begins a flight. Its caller holds the lock of the entry.
func (e *entry) launch(o order) *flight {
	f := &flight{queued: true, landed: make(chan struct{})}
	f.queue, f.abandon = context.WithTimeout(o.cache.ctx, o.limits().MintTimeout)
	if o.cache.do(func() { e.fly(f, o) }) {
		e.flight = f
	} else {
		f.abandon()
		f.err = errClosed
		close(f.landed)
	}
	return f
}

// fly waits for a slot, mints and lands. It does so even if the source ends
// the goroutine, as testing.T.FailNow does.
func (e *entry) fly(f *flight, o order) {
	var h *held
	err := errors.New("the token source did not return")
	defer func() { e.land(f, o, h, err) }()
	defer f.abandon()
	select {
	case o.slots <- struct{}{}:
		defer func() { <-o.slots }()
	case <-f.queue.Done():
		err = errors.New("too many mints at a time; this one never had its turn")
		return
	}
	if e.depart(f) {
		h, err = o.mint(e.jitter)
	}
}

// depart says whether a flight that has left the queue is still wanted.
func (e *entry) depart(f *flight) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	f.queued = false
	return e.flight == f
}

// leave is called by a waiter that is done. A flight that nobody waits for any
// more goes on, unless it is still in the queue.
func (e *entry) leave(f *flight) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f.waiters--
	if f.waiters == 0 && f.queued && e.flight == f {
		e.flight = nil
		f.abandon()
	}
}

// mint asks the source. A panic is an error like any other.
func (o order) mint(jitter float64) (h *held, err error) {
	ctx, cancel := context.WithTimeout(o.cache.ctx, o.limits().MintTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			h, err = nil, fmt.Errorf("the token source panicked: %v\n%s", p, debug.Stack())
		}
	}()
	t, err := o.source.Mint(ctx, o.req)
	if err != nil {
		return nil, err
	}
	return hold(t, o.now(), jitter)
}

// land records the outcome and wakes those who wait. After a failure, a token
// that is still usable is renewed later.
func (e *entry) land(f *flight, o order, h *held, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer close(f.landed)
	if e.flight != f { // abandoned
		f.err = errLate
		return
	}
	e.flight = nil
	if err == nil {
		e.held.Store(h)
		e.failure = nil
		return
	}
	now := o.now()
	usable := e.held.Load().usable(now)
	e.failure = e.failure.next(classify(err), now, usable)
	f.err = e.failure.err
	if usable > 0 {
		o.cache.after(e.failure.until-now.mono, func() {
			e.refresh(order{o.newest.Load(), o.req}) // the source that failed may have been replaced by a reload
		})
	}
}

// A failure is the last one of a row.
type failure struct {
	err   *Error
	row   int           // how many in a row
	until time.Duration // nobody asks upstream before; on the monotonic clock
}

// holds says whether it is too early to ask again.
func (f *failure) holds(now moment) bool { return f != nil && now.mono < f.until }

// next returns the failure that follows f, which is nil for the first, while
// the old token is usable for that long.
func (f *failure) next(err *Error, now moment, usable time.Duration) *failure {
	row := 1
	if f != nil {
		row += f.row
	}
	return &failure{err, row, now.mono + pause(err, row, usable)}
}

// pause returns how long nobody asks upstream after the last of a row of
// failures. The type Cache documents the numbers.
func pause(err *Error, row int, usable time.Duration) time.Duration {
	backoff := min(time.Second<<min(row-1, 6), time.Minute)
	switch err.Kind {
	case Throttled:
		if err.RetryAfter <= 0 {
			return backoff
		}
		return min(max(err.RetryAfter, time.Second), 5*time.Minute)
	case Denied, Misconfigured, Unsupported:
		return 30 * time.Second
	case InvalidRequest:
		return time.Second
	}
	if usable > 0 {
		return min(rand.N(backoff), usable) // full jitter: callers have a token, upstream has many of us
	}
	return min(time.Duration(row)*time.Second, 5*time.Second)
}
