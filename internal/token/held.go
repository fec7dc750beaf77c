package token

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A moment is now on two clocks, because neither is right alone: the wall
// clock jumps when somebody sets it, the monotonic clock stands still while
// the machine sleeps.
type moment struct {
	wall time.Duration // since 1970
	mono time.Duration // since the cache was made
}

// A held token is in the cache. It is never changed.
type held struct {
	Token
	expires moment
	margins
}

// margins are what may be left of a token's life when something must happen.
type margins struct {
	soft  time.Duration // less: renew it in the background
	floor time.Duration // less: a caller would rather wait for a new one
	last  time.Duration // less: it is of no use to anybody
}

// marginsFor returns the margins of a token that lives for life. They shrink
// in proportion for tokens of less than 20 minutes, which at that age are
// renewed when half their life is over.
//
// Half, and not the 20 % of long tokens, since a short token is often the rest
// of a long one, passed on by another cache, and the next one is long again.
func marginsFor(life time.Duration) margins {
	return margins{
		soft:  min(max(10*time.Minute, life/5), life/2),
		floor: min(5*time.Minute, life/4),
		last:  min(30*time.Second, life/40),
	}
}

// Jumps of the wall clock beyond drift make a token stale. Two clocks cannot
// be told apart much closer: NTP slews one of them.
const drift = 30 * time.Second

// longest bounds the life that is reckoned with, so that sums of times fit.
const longest = 365 * 24 * time.Hour

// hold checks a token that was minted just now. Jitter is the share of the
// soft margin, from 0 to 0.1, by which it is renewed early.
func hold(t Token, now moment, jitter float64) (*held, error) {
	life := min(t.Expiry.Sub(time.Unix(0, int64(now.wall))), longest)
	switch {
	case t.Value == "":
		return nil, errors.New("the token source returned an empty token")
	case len(t.Value) > maxValue:
		return nil, fmt.Errorf("the token source returned a token of %d characters; the longest allowed has %d", len(t.Value), maxValue)
	case strings.ContainsFunc(t.Value, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }):
		return nil, errors.New("the token source returned a token with characters that no token has")
	case t.Expiry.IsZero():
		return nil, errors.New("the token source returned a token without an expiry")
	case life <= 0:
		return nil, fmt.Errorf("the token source returned a token that expired %s ago", -life)
	}
	h := &held{t, moment{now.wall + life, now.mono + life}, marginsFor(life)}
	h.soft += time.Duration(jitter * float64(h.soft))
	return h, nil
}

// left returns how long the token is good for on both clocks, and whether one
// of them has jumped since it was minted.
func (h *held) left(now moment) (left time.Duration, jumped bool) {
	wall, mono := h.expires.wall-now.wall, h.expires.mono-now.mono
	return min(wall, mono), (wall - mono).Abs() > drift
}

// An age is a state in the life of a token.
type age uint8

const (
	fresh age = iota // hand it out
	stale            // hand it out, and renew it in the background
	low              // try to get a new one first
	gone             // never hand it out
)

// age returns the state of the token; gone if there is none.
func (h *held) age(now moment) age {
	if h == nil {
		return gone
	}
	left, jumped := h.left(now)
	switch {
	case left >= h.soft && !jumped:
		return fresh
	case left >= h.floor:
		return stale
	case left > h.last:
		return low
	}
	return gone
}

// usable returns how long it will be before the token is gone; 0 if it is.
func (h *held) usable(now moment) time.Duration {
	if h.age(now) == gone {
		return 0
	}
	left, _ := h.left(now)
	return left - h.last
}
