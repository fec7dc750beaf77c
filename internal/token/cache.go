package token

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// Limits bound what a cache holds and does. A field that is not positive has
// its default.
type Limits struct {
	AccessTokens int           // kept per id; default 100. The least recently used one goes first
	IDTokens     int           // kept per id; default 1000, since clients choose the audiences
	Concurrent   int           // mints at a time per id; default 4. Others queue
	MintTimeout  time.Duration // for one mint, and again for its place in the queue; default 15 s
	Patience     time.Duration // for a new token while the old one would still do; default 5 s, when clients give up
}

func (l Limits) withDefaults() Limits {
	return Limits{
		AccessTokens: or(l.AccessTokens, 100),
		IDTokens:     or(l.IDTokens, 1000),
		Concurrent:   or(l.Concurrent, 4),
		MintTimeout:  or(l.MintTimeout, 15*time.Second),
		Patience:     or(l.Patience, 5*time.Second),
	}
}

func or[T int | time.Duration](n, otherwise T) T {
	if n > 0 {
		return n
	}
	return otherwise
}

const (
	maxKey   = 16 << 10 // bytes of scopes, or of audience and claims
	maxValue = 32 << 10 // bytes of a token
)

// A Cache keeps tokens in memory, and mints them ahead of need. Its methods
// and those of its views may be called concurrently.
//
// A token is fresh until less than 10 minutes or 20 % of its life remain, and
// up to a tenth of that earlier, so that a fleet does not renew in step. Then
// callers still get it at once while one mint runs in the background. With
// less than 5 minutes left, callers wait for a new one, for 5 seconds at most,
// and get the old one if that fails; with 30 seconds left it is gone. Tokens
// that live for less than 20 minutes have shorter margins in proportion. A
// jump of the wall clock makes every token stale.
//
// All callers for one token share one mint. It does not end with any of them,
// but one that still queues ends with the last. A mint that fails is repeated
// in the background, after pauses that grow to a minute, for as long as the
// old token is good. Without one, callers get the same error until it is time
// to ask again: after what upstream says, between 1 s and 5 min, if throttled;
// after 30 s if denied, misconfigured or unsupported; after 1 s for an invalid
// request; else after 1 s, then 2 s, up to 5 s.
type Cache struct {
	limits Limits
	clock  func() moment

	ctx  context.Context // of all background work
	stop context.CancelFunc
	work sync.WaitGroup // mints, and pauses between them

	mu      sync.Mutex // guards shelves, and that no work begins after stop
	shelves map[string]weak.Pointer[shelf]
}

// NewCache returns an empty cache. Close it to end its background work.
func NewCache(l Limits) *Cache {
	start := time.Now()
	c := &Cache{
		limits:  l.withDefaults(),
		shelves: map[string]weak.Pointer[shelf]{},
		clock: func() moment {
			now := time.Now()
			return moment{wall: time.Duration(now.UnixNano()), mono: now.Sub(start)}
		},
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// Close ends all background work, mints included, and waits for it. After
// that, views hand out the tokens they hold until those expire; what would need
// a mint is an error of kind Unavailable. Closing again does nothing.
func (c *Cache) Close() {
	c.mu.Lock()
	c.stop()
	c.mu.Unlock()
	c.work.Wait()
}

var errClosed = &Error{Err: errors.New("the token cache is closed")}

// do runs f in the background, unless the cache is closed.
func (c *Cache) do(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.work.Go(f)
	return true
}

// after runs f in the background after a pause, unless the cache is closed
// before.
func (c *Cache) after(pause time.Duration, f func()) {
	c.do(func() {
		select {
		case <-time.After(pause):
			f()
		case <-c.ctx.Done():
		}
	})
}

// Source returns a view of s that caches. Views with the same id share tokens,
// limits and failures, so an id names the identity and everything that makes
// its tokens different; each view mints from its own source, but for what is
// repeated in the background, which the newest view does. Tokens are
// forgotten some time after the last view of their id is.
//
// A view returns an *Error, or what cancelled the caller's context. It mints
// with a context of its own and canonical scopes.
func (c *Cache) Source(id string, s Source) Source {
	c.mu.Lock()
	defer c.mu.Unlock()
	sh := c.shelves[id].Value()
	if sh == nil {
		sh = &shelf{cache: c, slots: make(chan struct{}, c.limits.Concurrent)}
		sh.access.limit = c.limits.AccessTokens
		sh.identity.limit = c.limits.IDTokens
		c.shelves[id] = weak.Make(sh)
		runtime.AddCleanup(sh, c.forget, id)
	}
	v := &view{shelf: sh, source: s}
	sh.newest.Store(v)
	return v
}

// forget removes an id that nobody uses any more, unless it has a new shelf.
func (c *Cache) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shelves[id].Value() == nil {
		delete(c.shelves, id)
	}
}

// A shelf is what the views of one id share. Only they hold it.
type shelf struct {
	cache            *Cache
	access, identity table
	slots            chan struct{} // one taken by each mint
	newest           atomic.Pointer[view]
}

// A view is a source that caches.
type view struct {
	*shelf
	source Source
	usual  atomic.Pointer[scoped]
}

// A scoped entry is that of the access token for a list of scopes. Callers ask
// for one of them most of the time, such as that of all scopes of the account.
type scoped struct {
	scopes []string
	*entry
}

// Mint returns a token from the cache. The path of a fresh one takes no lock.
func (v *view) Mint(ctx context.Context, req Request) (Token, error) {
	usual := v.usual.Load()
	if usual != nil && req.Audience == "" && !usual.evicted.Load() && slices.Equal(usual.scopes, req.Scopes) {
		now := v.cache.clock()
		usual.touch(now)
		return v.get(ctx, usual.entry, req, now)
	}
	var buf [256]byte
	var key []byte
	t := &v.access
	if req.Audience != "" {
		t, req.Scopes = &v.identity, nil
		key = appendIdentityKey(buf[:0], req.Audience, req.Claims)
	} else {
		key = appendAccessKey(buf[:0], Scopes(req.Scopes...))
	}
	if len(key) > maxKey {
		return Token{}, &Error{Kind: InvalidRequest, Err: fmt.Errorf("a request of %d bytes; the longest allowed has %d", len(key), maxKey)}
	}
	now := v.cache.clock()
	e := t.entry(key, now)
	if req.Audience == "" && (usual == nil || usual.evicted.Load()) {
		v.usual.Store(&scoped{slices.Clone(req.Scopes), e})
	}
	return v.get(ctx, e, req, now)
}

// get returns the token of an entry, with a mint if need be.
func (v *view) get(ctx context.Context, e *entry, req Request, now moment) (Token, error) {
	h := e.held.Load()
	switch h.age(now) {
	case fresh:
		return h.Token, nil
	case stale:
		e.refresh(v.order(req))
		return h.Token, nil
	}
	return e.wait(ctx, v.order(req))
}

// order returns an order for a token, which outlives the caller.
func (v *view) order(req Request) order {
	if req.Audience == "" {
		req.Scopes, req.Claims = slices.Clone(Scopes(req.Scopes...)), ""
	}
	return order{v, req}
}
