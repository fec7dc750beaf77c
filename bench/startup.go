package main

import (
	"context"
	"fmt"
	"time"
)

const (
	starts    = 10
	idleAfter = time.Second
	idles     = 3
	maxStart  = 50 * time.Millisecond
	maxIdle   = 25.0 // MB
)

// startup measures how soon a new server answers, and what it holds when it
// has nothing to do.
func (b *bench) startup(ctx context.Context) ([]row, error) {
	var first, idle []float64
	for i := range starts {
		took, resident, err := b.startOnce(ctx, i < idles)
		if err != nil {
			return nil, err
		}
		first = append(first, float64(took.Microseconds())/1000)
		if i < idles {
			idle = append(idle, float64(resident)/1e6)
		}
	}
	f, m := spreadOf(first), spreadOf(idle)
	return []row{{
		what:   "start to the first 200",
		gcemds: fmt.Sprintf("%.1f ms (%.1f to %.1f)", f.median, f.min, f.max),
		bound:  fmt.Sprintf("under %v", maxStart),
		pass:   f.median < float64(maxStart.Milliseconds()),
	}, {
		what:   fmt.Sprintf("resident memory %v after the start", idleAfter),
		gcemds: fmt.Sprintf("%.1f MB", m.median),
		bound:  fmt.Sprintf("under %.0f MB", maxIdle),
		pass:   m.median < maxIdle,
	}}, nil
}

// startOnce returns the time from the start of the process to its first 200
// and, if wanted, its resident memory when idle.
func (b *bench) startOnce(ctx context.Context, wantIdle bool) (took time.Duration, resident int64, err error) {
	start := time.Now()
	p, err := b.startGCEMDS(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer p.stop()
	if _, err := p.firstReply(ctx, "instance/name"); err != nil {
		return 0, 0, err
	}
	took = time.Since(start)
	if wantIdle {
		if err := p.pause(ctx, idleAfter, start.Add(patience)); err != nil {
			return 0, 0, err
		}
		resident, err = p.memory()
	}
	return took, resident, err
}
