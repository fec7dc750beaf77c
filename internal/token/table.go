package token

import (
	"encoding/binary"
	"maps"
	"math"
	"sync"
	"sync/atomic"
)

// A table finds the entry of a key. Looking one up takes no lock. Adding one
// copies the map: with the sizes we allow that is tens of microseconds, next to
// the milliseconds of the mint that follows.
type table struct {
	limit   int
	entries atomic.Pointer[map[string]*entry]
	mu      sync.Mutex // of those who add
}

// entry returns the entry of the key, new if need be. The table then has at
// most limit entries: the one that nobody asked for the longest is evicted.
func (t *table) entry(key []byte, now moment) *entry {
	e := t.find(key)
	if e == nil {
		e = t.add(key, now)
	}
	e.touch(now)
	return e
}

func (t *table) find(key []byte) *entry {
	if m := t.entries.Load(); m != nil {
		return (*m)[string(key)]
	}
	return nil
}

func (t *table) add(key []byte, now moment) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.find(key); e != nil {
		return e
	}
	m := map[string]*entry{}
	if old := t.entries.Load(); old != nil {
		m = maps.Clone(*old)
	}
	for len(m) >= t.limit {
		evict(m)
	}
	e := newEntry(now)
	m[string(key)] = e
	t.entries.Store(&m)
	return e
}

// evict removes the least recently used entry. A mint that is under way for it
// still answers those who wait.
func evict(m map[string]*entry) {
	oldest, used := "", int64(math.MaxInt64)
	for key, e := range m {
		if u := e.used.Load(); u < used {
			oldest, used = key, u
		}
	}
	m[oldest].evicted.Store(true)
	delete(m, oldest)
}

// appendAccessKey appends the key of an access token: each scope of the
// canonical set after its length, so that no two sets have one key.
func appendAccessKey(key []byte, scopes []string) []byte {
	for _, s := range scopes {
		key = append(binary.AppendUvarint(key, uint64(len(s))), s...)
	}
	return key
}

// appendIdentityKey appends the key of an ID token: the audience after its
// length, then the claims.
func appendIdentityKey(key []byte, audience, claims string) []byte {
	key = append(binary.AppendUvarint(key, uint64(len(audience))), audience...)
	return append(key, claims...)
}
