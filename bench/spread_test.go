package main

import (
	"slices"
	"testing"
)

func TestSpreadOf(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{0.97}, spread{0.97, 0.97, 0.97}},
		{[]float64{3, 1, 2}, spread{2, 1, 3}},
		{[]float64{4, 1, 3, 2}, spread{2.5, 1, 4}},
		{[]float64{1, 1, 1, 100, 1}, spread{1, 1, 100}}, // one disturbed round does not count
	} {
		before := slices.Clone(c.values)
		if got := spreadOf(c.values); got != c.want {
			t.Errorf("spreadOf(%v) = %v, want %v", c.values, got, c.want)
		}
		if !slices.Equal(c.values, before) {
			t.Errorf("spreadOf changed its argument to %v", c.values)
		}
	}
}

func TestQuotients(t *testing.T) {
	if got, want := quotients([]float64{3, 10}, []float64{2, 5}), []float64{1.5, 2}; !slices.Equal(got, want) {
		t.Errorf("quotients of the rounds = %v, want %v", got, want)
	}
}

func TestSample(t *testing.T) {
	s := sample{answers: 30, cpu: 300, took: 2e9}.plus(sample{answers: 10, cpu: 500, took: 2e9})
	if s.cost() != 20 || s.speed() != 10 {
		t.Errorf("40 answers in 4 s and 800 ns of CPU: %v ns each and %v/s, want 20 and 10", s.cost(), s.speed())
	}
}
