package token

import (
	"context"
	"testing"
	"time"
)

func warmView(b *testing.B, req Request) Source {
	c := NewCache(Limits{})
	b.Cleanup(c.Close)
	v := c.Source("id", minter(func(context.Context, Request) (Token, error) {
		return Token{Value: "ya29.token", Expiry: time.Now().Add(time.Hour)}, nil
	}))
	if _, err := v.Mint(b.Context(), req); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	return v
}

var benchRequest = Request{Scopes: Scopes(
	"https://www.googleapis.com/auth/cloud-platform",
	"https://www.googleapis.com/auth/userinfo.email",
)}

func BenchmarkCacheHit(b *testing.B) {
	v := warmView(b, benchRequest)
	for b.Loop() {
		if _, err := v.Mint(context.Background(), benchRequest); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCacheHitParallel(b *testing.B) {
	v := warmView(b, benchRequest)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := v.Mint(context.Background(), benchRequest); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkCacheHitIDToken(b *testing.B) {
	req := Request{Audience: "https://service.example", Claims: `{"email":"robot@example.com"}`}
	v := warmView(b, req)
	for b.Loop() {
		if _, err := v.Mint(context.Background(), req); err != nil {
			b.Fatal(err)
		}
	}
}

// TestHitDoesNotAllocate guards what the benchmarks measure.
func TestHitDoesNotAllocate(t *testing.T) {
	c := NewCache(Limits{})
	defer c.Close()
	v := c.Source("id", minter(func(context.Context, Request) (Token, error) {
		return Token{Value: "t", Expiry: time.Now().Add(time.Hour)}, nil
	}))
	n := testing.AllocsPerRun(100, func() {
		if _, err := v.Mint(context.Background(), benchRequest); err != nil {
			t.Fatal(err)
		}
	})
	if n > 0 {
		t.Errorf("a hit makes %v allocations, want none", n)
	}
}
