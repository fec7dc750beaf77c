package main

import (
	"fmt"
	"slices"
)

// A spread sums up what repeated measurements gave.
type spread struct{ median, min, max float64 }

// spreadOf returns the zero spread for no values.
func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	v := slices.Sorted(slices.Values(values))
	mid := len(v) / 2
	median := v[mid]
	if len(v)%2 == 0 {
		median = (v[mid-1] + v[mid]) / 2
	}
	return spread{median, v[0], v[len(v)-1]}
}

func (s spread) String() string {
	return fmt.Sprintf("%.3f (%.3f to %.3f)", s.median, s.min, s.max)
}

// quotients divides each value by the one of the same round.
func quotients(a, b []float64) []float64 {
	q := make([]float64, min(len(a), len(b)))
	for i := range q {
		q[i] = a[i] / b[i]
	}
	return q
}
