package token

import (
	"math"
	"testing"
	"time"
)

func TestMargins(t *testing.T) {
	const s, m, h = time.Second, time.Minute, time.Hour
	for life, want := range map[time.Duration]margins{
		12 * h: {soft: 144 * m, floor: 5 * m, last: 30 * s},
		h:      {soft: 12 * m, floor: 5 * m, last: 30 * s},
		30 * m: {soft: 10 * m, floor: 5 * m, last: 30 * s},
		20 * m: {soft: 10 * m, floor: 5 * m, last: 30 * s},
		10 * m: {soft: 5 * m, floor: 150 * s, last: 15 * s},
		5 * m:  {soft: 150 * s, floor: 75 * s, last: 7500 * time.Millisecond},
	} {
		if got := marginsFor(life); got != want {
			t.Errorf("margins for a life of %s are %v, want %v", life, got, want)
		}
	}
}

func TestAges(t *testing.T) {
	const m = time.Minute
	minted := moment{wall: time.Duration(1e18)}
	tok := Token{Value: "t", Expiry: time.Unix(1e9, 0).Add(time.Hour)}
	h, err := hold(tok, minted, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		wall, mono time.Duration // since the mint
		want       age
	}{
		{0, 0, fresh},
		{48 * m, 48 * m, fresh},
		{48*m + 1, 48*m + 1, stale},
		{55*m + 1, 55*m + 1, low},
		{59*m + 30*time.Second, 59*m + 30*time.Second, gone},
		{10*m - 30*time.Second, 10 * m, fresh}, // slewed by NTP
		{8 * m, 10 * m, stale},                 // set back
		{-8 * time.Hour, 10 * m, stale},        // set back far
		{10*m + 31*time.Second, 10 * m, stale}, // set forward, or the machine slept
		{57 * m, 1 * m, low},                   // slept for long
		{9 * time.Hour, 10 * m, gone},          // slept all night
		{-9 * time.Hour, 61 * m, gone},         // expired, whatever the wall clock says
		{math.MaxInt64 / 4, 0, gone},
	} {
		now := moment{minted.wall + c.wall, minted.mono + c.mono}
		if got := h.age(now); got != c.want {
			t.Errorf("after %s on the wall and %s: age %d, want %d", c.wall, c.mono, got, c.want)
		}
	}
	if (*held)(nil).age(minted) != gone {
		t.Error("no token should be gone")
	}
}

// TestJitter: renewal comes up to a tenth of the margin early, never late, and
// not at the same time for all.
func TestJitter(t *testing.T) {
	now := moment{wall: time.Duration(1e18)}
	seen := map[time.Duration]bool{}
	for range 1000 {
		h, err := hold(Token{Value: "t", Expiry: time.Unix(1e9, 0).Add(time.Hour)}, now, newEntry(now).jitter)
		if err != nil {
			t.Fatal(err)
		}
		if early := h.soft - 12*time.Minute; early < 0 || early > 72*time.Second {
			t.Fatalf("renewal is %s early, want 0 to 72 s", early)
		}
		seen[h.soft] = true
	}
	if len(seen) < 900 {
		t.Errorf("1000 entries renew at %d different times; that is in step", len(seen))
	}
}
