package token

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A minter is a function as a Source.
type minter func(ctx context.Context, req Request) (Token, error)

func (m minter) Mint(ctx context.Context, req Request) (Token, error) { return m(ctx, req) }

// An upstream is a source that can be told how to behave. Its tokens are
// called t1, t2 and so on.
type upstream struct {
	mu    sync.Mutex
	life  time.Duration // of the tokens
	delay time.Duration // of each answer; it ends early with the context
	err   error         // instead of tokens
	calls []time.Time
}

func (u *upstream) set(change func(*upstream)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change(u)
}

func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.calls)
}

func (u *upstream) Mint(ctx context.Context, _ Request) (Token, error) {
	u.mu.Lock()
	u.calls = append(u.calls, time.Now())
	n, life, delay, err := len(u.calls), u.life, u.delay, u.err
	u.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
	if err != nil {
		return Token{}, err
	}
	return Token{Value: fmt.Sprint("t", n), Expiry: time.Now().Add(life)}, nil
}

var down = &Error{Kind: Unavailable, Err: errors.New("down")}

// bubble runs a test with its own time and a cache that is closed at the end:
// a goroutine that is left over fails it.
func bubble(t *testing.T, limits Limits, test func(t *testing.T, c *Cache)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := NewCache(limits)
		defer c.Close()
		test(t, c)
	})
}

// get mints an access token and expects its name, and how long it takes.
func get(t *testing.T, s Source, want string, wantTook time.Duration) {
	t.Helper()
	begin := time.Now()
	tok, err := s.Mint(t.Context(), Request{})
	took := time.Since(begin)
	switch {
	case err != nil:
		t.Fatalf("no token: %v; want %s", err, want)
	case tok.Value != want || took != wantTook:
		t.Fatalf("got token %s after %s, want %s after %s", tok.Value, took, want, wantTook)
	}
}

// TestLifeOfTokens: for three hours, callers never wait but for the first
// token, and never get one with less than 5 minutes left.
func TestLifeOfTokens(t *testing.T) {
	bubble(t, Limits{}, func(t *testing.T, c *Cache) {
		u := &upstream{life: time.Hour, delay: time.Second}
		v := c.Source("id", u)
		get(t, v, "t1", time.Second)
		for end := time.Now().Add(3 * time.Hour); time.Now().Before(end); {
			begin := time.Now()
			tok, err := v.Mint(t.Context(), Request{})
			if err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(begin); waited > 0 {
				t.Fatalf("a caller waited %s for a token", waited)
			}
			if left := time.Until(tok.Expiry); left < 10*time.Minute {
				t.Fatalf("a token with %s left, though a new one could be had", left)
			}
			time.Sleep(10 * time.Second)
		}
		if got := u.count(); got != 4 {
			t.Errorf("%d mints in three hours, want 4: one each 47 to 48 minutes", got)
		}
	})
}

// TestShortLives: a token that lives for less than the usual margins is not
// minted again for each call.
func TestShortLives(t *testing.T) {
	for _, life := range []time.Duration{time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute} {
		bubble(t, Limits{}, func(t *testing.T, c *Cache) {
			u := &upstream{life: life}
			v := c.Source("id", u)
			for range 1000 {
				tok, err := v.Mint(t.Context(), Request{})
				if err != nil {
					t.Fatal(err)
				}
				if left := time.Until(tok.Expiry); left < life/4 {
					t.Fatalf("%s of %s left, though a new token could be had", left, life)
				}
				time.Sleep(life / 100)
			}
			if got := u.count(); got < 18 || got > 23 {
				t.Errorf("a token of %s was minted %d times in 10 lives, want about 20", life, got)
			}
		})
	}
}

func TestOneMintForAll(t *testing.T) {
	bubble(t, Limits{}, func(t *testing.T, c *Cache) {
		u := &upstream{life: time.Hour, delay: time.Second}
		v := c.Source("id", u)
		var all sync.WaitGroup
		for range 10_000 {
			all.Go(func() {
				if tok, err := v.Mint(t.Context(), Request{}); err != nil || tok.Value != "t1" {
					t.Errorf("got %v, %v; want the one token that was minted", tok, err)
				}
			})
		}
		all.Wait()
		if got := u.count(); got != 1 {
			t.Errorf("10000 callers made %d mints, want 1", got)
		}
	})
}

func TestMintOutlivesItsCallers(t *testing.T) {
	bubble(t, Limits{}, func(t *testing.T, c *Cache) {
		u := &upstream{life: time.Hour, delay: 3 * time.Second}
		v := c.Source("id", u)
		ctx, cancel := context.WithCancel(t.Context())
		var first sync.WaitGroup
		first.Go(func() {
			if _, err := v.Mint(ctx, Request{}); err != context.Canceled {
				t.Errorf("a caller that gave up got error %v, want its context's", err)
			}
		})
		time.Sleep(time.Second)
		cancel()
		first.Wait()
		hurried, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var late *Error
		if _, err := v.Mint(hurried, Request{}); !errors.As(err, &late) || late.Kind != Unavailable || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller whose time was up got error %v, want unavailable", err)
		}
		get(t, v, "t1", time.Second)
	})
}

// TestStaleWhileError: while upstream is down, callers get the old token at
// once until it is gone, upstream is asked less and less, and nobody needs to
// ask for it to recover.
func TestStaleWhileError(t *testing.T) {
	bubble(t, Limits{}, func(t *testing.T, c *Cache) {
		u := &upstream{life: time.Hour}
		v := c.Source("id", u)
		get(t, v, "t1", 0)
		u.set(func(u *upstream) { u.err = down })
		time.Sleep(48*time.Minute + time.Second)
		outage := time.Now()
		for range 11 * 60 {
			get(t, v, "t1", 0)
			time.Sleep(time.Second)
		}
		if got := u.count() - 1; got < 10 || got > 100 {
			t.Errorf("an outage of 11 minutes saw %d attempts, want 10 to 100", got)
		}
		u.set(func(u *upstream) {
			for i := 1; i < len(u.calls)-1; i++ {
				if gap := u.calls[i+1].Sub(u.calls[i]); gap > time.Minute {
					t.Errorf("attempt %d of the outage came %s after the one before, want 60 s at most", i+1, gap)
				}
			}
			for _, call := range u.calls[1:] {
				if call.Before(outage) {
					t.Errorf("a mint at %s, before it was due", call)
				}
			}
		})
		time.Sleep(30 * time.Second) // 29 s left
		if _, err := v.Mint(t.Context(), Request{}); !errors.Is(err, down) {
			t.Errorf("with 29 s left the error is %v, want that of upstream", err)
		}
		u.set(func(u *upstream) { u.err = nil })
		time.Sleep(5 * time.Second)
		tok, err := v.Mint(t.Context(), Request{})
		if err != nil || time.Until(tok.Expiry) != time.Hour {
			t.Errorf("after the outage: %v, %v; want a new token", tok, err)
		}
	})
}

func TestRecoveryNeedsNoCaller(t *testing.T) {
	bubble(t, Limits{}, func(t *testing.T, c *Cache) {
		u := &upstream{life: time.Hour}
		v := c.Source("id", u)
		get(t, v, "t1", 0)
		u.set(func(u *upstream) { u.err = down })
		time.Sleep(50 * time.Minute)
		get(t, v, "t1", 0) // begins to renew
		time.Sleep(3 * time.Minute)
		u.set(func(u *upstream) { u.err = nil })
		time.Sleep(time.Minute + time.Second)
		n := u.count()
		get(t, v, fmt.Sprint("t", n), 0)
		if u.count() != n {
			t.Error("the token was not renewed before somebody asked")
		}
	})
}

// TestNewestViewRetries: what failed is asked of the source that a reload has put
// in the place of the one that failed.
func TestNewestViewRetries(t *testing.T) {
	bubble(t, Limits{}, func(t *testing.T, c *Cache) {
		old, mended := &upstream{life: time.Hour}, &upstream{life: time.Hour}
		v := c.Source("id", old)
		get(t, v, "t1", 0)
		old.set(func(u *upstream) { u.err = down })
		time.Sleep(50 * time.Minute)
		get(t, v, "t1", 0) // begins to renew, and fails
		synctest.Wait()
		c.Source("id", mended)
		failed := old.count()
		time.Sleep(2 * time.Minute)
		if mended.count() != 1 || old.count() > failed {
			t.Errorf("after a reload the new source was asked %d times and the old one %d more, want once and never", mended.count(), old.count()-failed)
		}
	})
}

// TestRetriesEnd: nobody asks upstream for ever on behalf of a token that has
// expired.
func TestRetriesEnd(t *testing.T) {
	bubble(t, Limits{}, func(t *testing.T, c *Cache) {
		u := &upstream{life: time.Hour}
		v := c.Source("id", u)
		get(t, v, "t1", 0)
		u.set(func(u *upstream) { u.err = down })
		time.Sleep(55 * time.Minute)
		get(t, v, "t1", 0)
		time.Sleep(10 * time.Minute)
		n := u.count()
		time.Sleep(24 * time.Hour)
		if got := u.count(); got != n {
			t.Errorf("%d mints for an expired token that nobody asks for", got-n)
		}
	})
}

// TestHardFloor: with less than 5 minutes left a caller waits for a new token,
// but not for long.
func TestHardFloor(t *testing.T) {
	for name, c := range map[string]struct {
		left    time.Duration // when the caller comes
		delay   time.Duration // of upstream
		err     error         // of upstream
		timeout time.Duration // of the caller
		want    string        // token, "" for an error
		took    time.Duration
	}{
		"soon":                 {left: 5 * time.Minute, delay: 2 * time.Second, want: "t1"},
		"new token":            {left: 299 * time.Second, delay: 2 * time.Second, want: "t2", took: 2 * time.Second},
		"slow":                 {left: 299 * time.Second, delay: 8 * time.Second, want: "t1", took: 5 * time.Second},
		"failing":              {left: 299 * time.Second, delay: time.Second, err: down, want: "t1", took: time.Second},
		"hurried":              {left: 299 * time.Second, delay: 3 * time.Second, timeout: time.Second, want: "t1", took: time.Second},
		"almost gone":          {left: 31 * time.Second, delay: time.Second, err: down},
		"gone, new token":      {left: 30 * time.Second, delay: 8 * time.Second, want: "t2", took: 8 * time.Second},
		"gone, failing":        {left: 30 * time.Second, delay: 8 * time.Second, err: down, took: 8 * time.Second},
		"expired, new token":   {left: -time.Hour, delay: 8 * time.Second, want: "t2", took: 8 * time.Second},
		"expired, and hurried": {left: -time.Hour, delay: 3 * time.Second, timeout: time.Second, took: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Limits{}, func(t *testing.T, cache *Cache) {
				u := &upstream{life: time.Hour}
				v := cache.Source("id", u)
				get(t, v, "t1", 0)
				time.Sleep(time.Hour - c.left)
				u.set(func(u *upstream) { u.delay, u.err = c.delay, c.err })
				ctx := t.Context()
				if c.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.timeout)
					defer cancel()
				}
				begin := time.Now()
				tok, err := v.Mint(ctx, Request{})
				if tok.Value != c.want || (err != nil) != (c.want == "") {
					t.Errorf("got %q, %v; want %q", tok.Value, err, c.want)
				}
				if took := time.Since(begin); c.took > 0 && took != c.took {
					t.Errorf("it took %s, want %s", took, c.took)
				}
			})
		})
	}
}

// TestFailuresAreRemembered: the pauses between mints without a usable token.
func TestFailuresAreRemembered(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		err  error
		want []time.Duration
	}{
		{errors.New("something else"), []time.Duration{s, 2 * s, 3 * s, 4 * s, 5 * s, 5 * s}},
		{&Error{Kind: Unavailable}, []time.Duration{s, 2 * s, 3 * s, 4 * s, 5 * s, 5 * s}},
		{&Error{Kind: Clock}, []time.Duration{s, 2 * s, 3 * s, 4 * s, 5 * s, 5 * s}},
		{&Error{Kind: Throttled}, []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s}},
		{&Error{Kind: Throttled, RetryAfter: 7 * s}, []time.Duration{7 * s, 7 * s}},
		{&Error{Kind: Throttled, RetryAfter: 1}, []time.Duration{s, s}},
		{&Error{Kind: Throttled, RetryAfter: time.Hour}, []time.Duration{300 * s, 300 * s}},
		{&Error{Kind: Denied}, []time.Duration{30 * s, 30 * s}},
		{&Error{Kind: Misconfigured}, []time.Duration{30 * s, 30 * s}},
		{&Error{Kind: Unsupported}, []time.Duration{30 * s, 30 * s}},
		{&Error{Kind: InvalidRequest}, []time.Duration{s, s}},
	} {
		bubble(t, Limits{}, func(t *testing.T, cache *Cache) {
			u := &upstream{err: c.err}
			v := cache.Source("id", u)
			for u.count() <= len(c.want) {
				begin := time.Now()
				_, err := v.Mint(t.Context(), Request{})
				if !errors.Is(err, c.err) || time.Since(begin) > 0 {
					t.Fatalf("%v was remembered as %v", c.err, err)
				}
				time.Sleep(time.Second / 4)
			}
			var gaps []time.Duration
			for i, call := range u.calls[1:] {
				gaps = append(gaps, call.Sub(u.calls[i]))
			}
			if !slices.Equal(gaps, c.want) {
				t.Errorf("after %v upstream is asked again after %s, want %s", c.err, gaps, c.want)
			}
		})
	}
}

// TestManyAudiences: 10,000 audiences that clients make up fill neither the
// memory nor the quota.
func TestManyAudiences(t *testing.T) {
	bubble(t, Limits{}, func(t *testing.T, c *Cache) {
		var now, most atomic.Int64
		v := c.Source("id", minter(func(ctx context.Context, req Request) (Token, error) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer now.Add(-1)
			time.Sleep(time.Millisecond)
			return Token{Value: req.Audience, Expiry: time.Now().Add(time.Hour)}, nil
		}))
		if _, err := v.Mint(t.Context(), Request{}); err == nil {
			t.Fatal("a token without a value was minted")
		}
		var all sync.WaitGroup
		for client := range 100 {
			all.Go(func() {
				for i := range 100 {
					aud := fmt.Sprintf("https://a.example/%d/%d", client, i)
					if tok, err := v.Mint(t.Context(), Request{Audience: aud}); err != nil || tok.Value != aud {
						t.Errorf("audience %s: got %v, %v", aud, tok, err)
					}
				}
			})
		}
		all.Wait()
		sh := v.(*view).shelf
		if got := len(*sh.identity.entries.Load()); got != 1000 {
			t.Errorf("%d ID tokens are kept, want 1000", got)
		}
		if got := len(*sh.access.entries.Load()); got != 1 {
			t.Errorf("%d access tokens are kept, want the 1 that was there", got)
		}
		if got := most.Load(); got != 4 {
			t.Errorf("%d mints at a time, want 4", got)
		}
	})
}

func TestAccessTokensAreBounded(t *testing.T) {
	bubble(t, Limits{}, func(t *testing.T, c *Cache) {
		v := c.Source("id", &upstream{life: time.Hour})
		for i := range 1000 {
			if _, err := v.Mint(t.Context(), Request{Scopes: []string{fmt.Sprint(i)}}); err != nil {
				t.Fatal(err)
			}
		}
		if got := len(*v.(*view).access.entries.Load()); got != 100 {
			t.Errorf("%d access tokens are kept, want 100", got)
		}
	})
}

// TestQueueEndsWithItsWaiters: upstream is not asked for what nobody wants any
// more, nor does the queue make anybody wait for ever.
func TestQueueEndsWithItsWaiters(t *testing.T) {
	bubble(t, Limits{Concurrent: 1, MintTimeout: time.Minute}, func(t *testing.T, c *Cache) {
		var asked []string
		v := c.Source("id", minter(func(ctx context.Context, req Request) (Token, error) {
			asked = append(asked, req.Audience)
			time.Sleep(10 * time.Second)
			return Token{Value: "t", Expiry: time.Now().Add(time.Hour)}, nil
		}))
		var all sync.WaitGroup
		mint := func(aud string, patience time.Duration, want error) {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if _, err := v.Mint(ctx, Request{Audience: aud}); !errors.Is(err, want) {
					t.Errorf("%s: error %v, want %v", aud, err, want)
				}
			})
			synctest.Wait()
		}
		mint("first", 15*time.Second, nil)
		mint("given up", 5*time.Second, context.DeadlineExceeded)
		mint("kept by another", 5*time.Second, context.DeadlineExceeded)
		mint("kept by another", 25*time.Second, nil)
		all.Wait()
		mint("given up", 15*time.Second, nil) // and nothing remembers that it was
		all.Wait()
		if want := []string{"first", "kept by another", "given up"}; !slices.Equal(asked, want) {
			t.Errorf("upstream was asked for %q, want %q", asked, want)
		}
	})
	bubble(t, Limits{Concurrent: 1, MintTimeout: 5 * time.Second}, func(t *testing.T, c *Cache) {
		v := c.Source("id", minter(func(context.Context, Request) (Token, error) {
			time.Sleep(time.Minute) // it does not heed its context
			return Token{Value: "t", Expiry: time.Now().Add(time.Hour)}, nil
		}))
		go v.Mint(t.Context(), Request{Audience: "first"})
		synctest.Wait()
		begin := time.Now()
		_, err := v.Mint(context.Background(), Request{Audience: "second"})
		if took := time.Since(begin); err == nil || took != 5*time.Second {
			t.Errorf("a caller without a deadline queued for %s and got error %v, want 5 s and an error", took, err)
		}
	})
}

func TestMintIsBounded(t *testing.T) {
	bubble(t, Limits{}, func(t *testing.T, c *Cache) {
		v := c.Source("id", &upstream{delay: time.Hour})
		begin := time.Now()
		var e *Error
		if _, err := v.Mint(context.Background(), Request{}); !errors.As(err, &e) || e.Kind != Unavailable {
			t.Errorf("a mint that hangs: error %v, want unavailable", err)
		}
		if took := time.Since(begin); took != 15*time.Second {
			t.Errorf("a mint that hangs took %s, want 15 s", took)
		}
	})
}

func TestEvictedMintAnswers(t *testing.T) {
	bubble(t, Limits{IDTokens: 1}, func(t *testing.T, c *Cache) {
		u := &upstream{life: time.Hour, delay: time.Second}
		v := c.Source("id", u)
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				if _, err := v.Mint(t.Context(), Request{Audience: fmt.Sprint(i)}); err != nil {
					t.Errorf("audience %d: %v", i, err)
				}
			})
		}
		all.Wait()
		if got := len(*v.(*view).identity.entries.Load()); got != 1 {
			t.Errorf("%d tokens are kept, want 1", got)
		}
	})
}

// TestClockJump: when somebody sets the clock, tokens are renewed, and served
// meanwhile.
func TestClockJump(t *testing.T) {
	for name, c := range map[string]struct {
		jump  time.Duration
		took  time.Duration // the first call after it
		mints int
	}{
		"slewed":         {-20 * time.Second, 0, 1},
		"back":           {-2 * time.Minute, 0, 2},
		"back a day":     {-24 * time.Hour, 0, 2},
		"forward":        {45 * time.Second, 0, 2},
		"beyond expiry":  {2 * time.Hour, time.Second, 2},
		"no jump at all": {0, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Limits{}, func(t *testing.T, cache *Cache) {
				var jump atomic.Int64
				clock := cache.clock
				cache.clock = func() moment {
					now := clock()
					now.wall += time.Duration(jump.Load())
					return now
				}
				calls := 0
				v := cache.Source("id", minter(func(context.Context, Request) (Token, error) {
					calls++
					time.Sleep(time.Second)
					return Token{Value: fmt.Sprint("t", calls), Expiry: time.Now().Add(time.Duration(jump.Load()) + time.Hour)}, nil
				}))
				get(t, v, "t1", time.Second)
				time.Sleep(10 * time.Minute)
				jump.Store(int64(c.jump))
				if c.took > 0 {
					get(t, v, "t2", c.took)
				} else {
					get(t, v, "t1", 0)
				}
				for range 10 { // once is enough
					time.Sleep(10 * time.Second)
					get(t, v, fmt.Sprint("t", c.mints), 0)
				}
			})
		})
	}
}

func TestSourceThatPanics(t *testing.T) {
	bubble(t, Limits{}, func(t *testing.T, c *Cache) {
		for name, s := range map[string]minter{
			"panicked: ouch": func(context.Context, Request) (Token, error) { panic("ouch") },
			"did not return": func(context.Context, Request) (Token, error) { runtime.Goexit(); panic("not here") },
		} {
			_, err := c.Source(name, s).Mint(t.Context(), Request{})
			var e *Error
			if !errors.As(err, &e) || e.Kind != Unavailable || !strings.Contains(err.Error(), name) {
				t.Errorf("error %v, want unavailable, since the source %s", err, name)
			}
		}
	})
}

// TestMalformedTokens: what cannot be a token is an error, and is not kept.
func TestMalformedTokens(t *testing.T) {
	bubble(t, Limits{}, func(t *testing.T, c *Cache) {
		expiry := time.Now().Add(time.Hour)
		for name, tok := range map[string]Token{
			"empty":       {"", expiry},
			"no expiry":   {Value: "t"},
			"expired":     {"t", time.Now().Add(-time.Second)},
			"expires now": {"t", time.Now()},
			"quote":       {`t"`, expiry},
			"backslash":   {`t\`, expiry},
			"line":        {"t\n", expiry},
			"not ASCII":   {"té", expiry},
			"too long":    {strings.Repeat("t", maxValue+1), expiry},
		} {
			v := c.Source(name, minter(func(context.Context, Request) (Token, error) { return tok, nil }))
			got, err := v.Mint(t.Context(), Request{})
			var e *Error
			if got != (Token{}) || !errors.As(err, &e) || e.Kind != Unavailable {
				t.Errorf("%s: got %v, %v; want unavailable", name, got, err)
			}
			if e := v.(*view).access.find(nil); e.held.Load() != nil {
				t.Errorf("%s: the token is kept", name)
			}
		}
		forever := Token{"t", time.Unix(math.MaxInt32*1000, 0)}
		v := c.Source("forever", minter(func(context.Context, Request) (Token, error) { return forever, nil }))
		if got, err := v.Mint(t.Context(), Request{}); err != nil || got != forever {
			t.Errorf("a token that expires in a far future: got %v, %v", got, err)
		}
	})
}

// TestClose: it ends mints, pauses and queues at once; what is held is still
// handed out.
func TestClose(t *testing.T) {
	bubble(t, Limits{Concurrent: 1}, func(t *testing.T, c *Cache) {
		u := &upstream{life: time.Hour}
		good, retrying := c.Source("good", u), c.Source("retrying", u)
		get(t, retrying, "t1", 0)
		time.Sleep(50 * time.Minute)
		get(t, good, "t2", 0)
		u.set(func(u *upstream) { u.err = &Error{Kind: Denied} })
		get(t, retrying, "t1", 0)
		synctest.Wait()

		slow := c.Source("slow", &upstream{delay: 10 * time.Second})
		var waiting sync.WaitGroup
		for _, aud := range []string{"minting", "queueing", "queueing too"} {
			waiting.Go(func() {
				var e *Error
				if _, err := slow.Mint(t.Context(), Request{Audience: aud}); !errors.As(err, &e) || e.Kind != Unavailable {
					t.Errorf("%s while the cache closes: error %v, want unavailable", aud, err)
				}
			})
		}
		synctest.Wait()
		begin := time.Now()
		c.Close()
		waiting.Wait()
		c.Close()
		if took := time.Since(begin); took > 0 {
			t.Errorf("closing took %s", took)
		}
		get(t, good, "t2", 0)
		get(t, retrying, "t1", 0)
		calls := u.count()
		if _, err := good.Mint(t.Context(), Request{Audience: "new"}); !errors.Is(err, errClosed) {
			t.Errorf("a mint after Close: error %v, want %v", err, errClosed)
		}
		time.Sleep(time.Hour)
		if _, err := good.Mint(t.Context(), Request{}); !errors.Is(err, errClosed) {
			t.Errorf("an expired token after Close: error %v, want %v", err, errClosed)
		}
		if u.count() != calls {
			t.Error("upstream was asked after Close")
		}
	})
}

func TestViews(t *testing.T) {
	bubble(t, Limits{}, func(t *testing.T, c *Cache) {
		a, b := &upstream{life: time.Hour}, &upstream{life: time.Hour}
		get(t, c.Source("shared", a), "t1", 0)
		get(t, c.Source("shared", b), "t1", 0)
		if b.count() != 0 {
			t.Error("views with one id do not share tokens")
		}
		get(t, c.Source("other", b), "t1", 0)
		if b.count() != 1 {
			t.Error("views with different ids share tokens")
		}
	})
}

func TestRequestsAreCanonical(t *testing.T) {
	bubble(t, Limits{}, func(t *testing.T, c *Cache) {
		var got []Request
		v := c.Source("id", minter(func(_ context.Context, req Request) (Token, error) {
			time.Sleep(time.Second)
			got = append(got, req)
			return Token{Value: "t", Expiry: time.Now().Add(time.Hour)}, nil
		}))
		mine := []string{"a", "b"}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		v.Mint(ctx, Request{Scopes: mine})
		mine[0] = "changed by the caller, whose slice it is"
		for _, req := range []Request{
			{Scopes: []string{"b", " a", "b"}, Claims: "{}"},
			{Audience: "aud", Claims: "{}", Scopes: mine},
			{Audience: "aud", Claims: "{}"},
			{Audience: "aud"},
		} {
			if _, err := v.Mint(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
		want := "[{[a b]  } {[] aud {}} {[] aud }]"
		if text := fmt.Sprint(got); text != want {
			t.Errorf("upstream was asked for %s, want %s", text, want)
		}
		var e *Error
		if _, err := v.Mint(t.Context(), Request{Audience: strings.Repeat("a", maxKey)}); !errors.As(err, &e) || e.Kind != InvalidRequest {
			t.Errorf("an endless audience: error %v, want an invalid request", err)
		}
	})
}

// TestForgottenIDs: an id that has no views any more takes no memory. This is
// up to the garbage collector, so it has no bubble.
func TestForgottenIDs(t *testing.T) {
	c := NewCache(Limits{})
	defer c.Close()
	kept := c.Source("kept", &upstream{})
	for i := range 100 {
		c.Source(fmt.Sprint(i), &upstream{})
	}
	ids := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.shelves)
	}
	for tries := 0; ids() > 1 && tries < 10_000; tries++ {
		runtime.GC()
		runtime.Gosched()
	}
	if got := ids(); got != 1 {
		t.Errorf("%d ids are remembered, want the 1 that has a view", got)
	}
	runtime.KeepAlive(kept)
}
