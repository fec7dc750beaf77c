package main

import (
	"context"
	"fmt"
	"time"
)

// rate returns the measurement of one GET: the CPU time that a request costs
// gcemds next to what it costs the floor. The ratio of the requests per CPU
// second must be at least the bound.
func rate(what, path string, fresh bool, bound float64) func(*bench, context.Context) ([]row, error) {
	return func(b *bench, ctx context.Context) ([]row, error) {
		r, err := b.rate(ctx, path, fresh)
		if err != nil {
			return nil, err
		}
		ratio := spreadOf(r.ratios)
		return []row{{
			what:   what + ", requests per CPU second",
			gcemds: r.gcemds.String(),
			floor:  r.floor.String(),
			ratio:  ratio.String(),
			bound:  fmt.Sprintf("at least %.2f", bound),
			pass:   ratio.median >= bound,
		}}, nil
	}
}

type rates struct {
	gcemds, floor samples
	ratios        []float64 // of each pair of rounds
}

func (b *bench) rate(ctx context.Context, path string, fresh bool) (rates, error) {
	var r rates
	gcemds, err := b.startGCEMDS(ctx)
	if err != nil {
		return r, err
	}
	defer gcemds.stop()
	reply, err := gcemds.firstReply(ctx, path)
	if err != nil {
		return r, err
	}
	floor, err := b.startFloor(ctx, reply, false)
	if err != nil {
		return r, err
	}
	defer floor.stop()
	if same, err := floor.get(path); err != nil || len(same) != len(reply) {
		return r, fmt.Errorf("the floor answers %d bytes (%v), gcemds %d: they cannot be compared", len(same), err, len(reply))
	}

	ours := newLoad(gcemds, path, b.conns, fresh)
	defer ours.close()
	bare := newLoad(floor, path, b.conns, fresh)
	defer bare.close()
	if _, _, err := pair(ctx, ours, bare, b.length/2); err != nil { // grows heaps and stacks
		return r, err
	}
	for range b.rounds {
		a, f, err := pair(ctx, ours, bare, b.length)
		if err != nil {
			return r, err
		}
		r.gcemds = append(r.gcemds, a)
		r.floor = append(r.floor, f)
		r.ratios = append(r.ratios, f.cost()/a.cost())
	}
	return r, nil
}

// slice is how long one server is measured before it is the other's turn.
// What else the machine does changes more slowly, so it hits both.
const slice = 100 * time.Millisecond

// pair measures two servers, each for that long, in the order ABBA.
func pair(ctx context.Context, a, b *load, length time.Duration) (ofA, ofB sample, err error) {
	for ofA.took < length || ofB.took < length {
		for _, turn := range []*load{a, b, b, a} {
			s, err := turn.run(ctx, slice)
			if err != nil {
				return ofA, ofB, err
			}
			if turn == a {
				ofA = ofA.plus(s)
			} else {
				ofB = ofB.plus(s)
			}
		}
	}
	if ofA.answers == 0 || ofB.answers == 0 {
		return ofA, ofB, fmt.Errorf("no answer in %v", length)
	}
	return ofA, ofB, nil
}

type samples []sample

// String gives the medians.
func (s samples) String() string {
	var cost, speed []float64
	for _, one := range s {
		cost = append(cost, one.cost()/1e3)
		speed = append(speed, one.speed())
	}
	return fmt.Sprintf("%.2f µs CPU, %.0f/s", spreadOf(cost).median, spreadOf(speed).median)
}
