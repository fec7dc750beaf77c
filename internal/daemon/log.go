package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/token"
)

// logTo is the sink of the journal that writes log lines: one a request at
// debug, and what a person should know at higher levels. Entries hold no
// secrets; what a source says about a failed mint is in Err.
func logTo(log *slog.Logger) func(journal.Entry) {
	ctx := context.Background()
	debug := log.Enabled(ctx, slog.LevelDebug)
	again := repeats{}
	return func(e journal.Entry) {
		if e.Kind == journal.Request && e.Err == nil && !debug { // nearly all of them
			return
		}
		level, untold := slog.LevelInfo, 0
		switch {
		case e.Kind == journal.Request && serious(e):
			level = slog.LevelDebug
			if n, tell := again.count(e.Instance+" "+e.Class+" "+e.Err.Error(), time.Now()); tell {
				level, untold = slog.LevelWarn, n
			}
		case e.Kind == journal.Request:
			level = slog.LevelDebug
		case e.Kind == journal.Write:
			level = slog.LevelDebug
		case e.Kind == journal.Token && e.Err != nil:
			level = slog.LevelWarn
		case e.Err != nil:
			level = slog.LevelError
		}
		if !log.Enabled(ctx, level) {
			return
		}
		attrs := make([]slog.Attr, 0, 8)
		text := func(name, value string) {
			if value != "" {
				attrs = append(attrs, slog.String(name, value))
			}
		}
		text("listener", e.Listener)
		text("instance", e.Instance)
		text("method", e.Method)
		text("path", e.Path[:min(len(e.Path), maxPath)])
		if e.Status != 0 {
			attrs = append(attrs, slog.Int("status", e.Status), slog.Duration("took", e.Took))
		}
		text("detail", e.Detail)
		if g := e.Grant; g != nil {
			text("account", g.Account)
			text("email", g.Email)
			text("token", g.Token)
			text("for", g.For)
			if !g.Expiry.IsZero() {
				attrs = append(attrs, slog.Time("expiry", g.Expiry))
			}
		}
		if untold > 0 {
			attrs = append(attrs, slog.Int("before", untold))
		}
		if e.Err != nil {
			attrs = append(attrs, slog.String("error", e.Err.Error()))
		}
		log.LogAttrs(ctx, level, string(e.Kind), attrs...)
	}
}

// repeats keeps what fails again and again, as fast as a program can ask, from
// filling the log.
type repeats struct {
	mu   sync.Mutex
	told map[[sha256.Size]byte]*repeat
	rate *rate.Limiter // of all that is told
}

type repeat struct {
	at     time.Time
	untold int // since then
}

const (
	maxPath      = 1024 // bytes of a path in a line
	repeatAfter  = time.Minute
	maxRepeats   = 1024  // with more nobody remembers any
	tells, burst = 1, 60 // a second
)

// count reports whether to tell something, and how often it was not told since
// it was.
func (r *repeats) count(what string, now time.Time) (untold int, tell bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rate == nil {
		r.rate = rate.NewLimiter(tells, burst)
	}
	key := sha256.Sum256([]byte(what))
	last := r.told[key]
	if last != nil && now.Sub(last.at) < repeatAfter {
		last.untold++
		return 0, false
	}
	if !r.rate.AllowN(now, 1) {
		return 0, false
	}
	if last != nil {
		untold = last.untold
	}
	if r.told == nil || len(r.told) >= maxRepeats {
		r.told = map[[sha256.Size]byte]*repeat{}
	}
	r.told[key] = &repeat{at: now}
	return untold, true
}

// serious reports whether a person should know why a request failed: it is the
// server's fault, or a credential was refused, of which the workload is told
// no more than that.
func serious(e journal.Entry) bool {
	var minting *token.Error
	return e.Err != nil && (e.Status >= 500 && e.Class != "wait" || errors.As(e.Err, &minting) && minting.Kind != token.InvalidRequest)
}
