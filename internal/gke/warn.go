package gke

import (
	"context"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// warnings says what was said of late.
type warnings struct {
	mu   sync.Mutex
	said map[string]time.Time
	rate *rate.Limiter
}

const (
	maxWarnings            = 4096
	warningRate, warnBurst = 0.2, 25 // a second
)

// first reports whether something should be said: it was not for 10 minutes,
// and not too much is said altogether.
func (w *warnings) first(what string, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rate == nil {
		w.rate, w.said = rate.NewLimiter(warningRate, warnBurst), map[string]time.Time{}
	}
	if last, ok := w.said[what]; ok && now.Sub(last) < againAfter || !w.rate.AllowN(now, 1) {
		return false
	}
	if len(w.said) >= maxWarnings {
		clear(w.said)
	}
	w.said[what] = now
	return true
}

// warn puts an Event on a Pod, in the background.
func (c *Cluster) warn(t *tenant, reason, text string) {
	pod := *t.pod()
	if !c.config.Events || !c.warned.first(pod.UID+" "+reason, time.Now()) {
		return
	}
	c.work.Go(func() {
		ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
		defer cancel()
		if err := c.api.Warn(ctx, pod, reason, strings.ReplaceAll(text, "\n", " ")); err != nil {
			c.log.Debug("an Event cannot be put on a Pod", "pod", pod.String(), "error", err)
			return
		}
		c.counts.events.Add(1)
	})
}
