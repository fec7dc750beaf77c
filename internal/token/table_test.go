package token

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTableEvictsTheLeastRecentlyUsed(t *testing.T) {
	table := table{limit: 3}
	now := moment{}
	use := func(key string) *entry {
		now.mono += time.Second
		return table.entry([]byte(key), now)
	}
	a, b := use("a"), use("b")
	use("c")
	use("a")
	use("d")
	if !b.evicted.Load() || table.find([]byte("b")) != nil {
		t.Error("b is the least recently used entry, but it was not evicted")
	}
	if a.evicted.Load() || table.find([]byte("a")) != a {
		t.Error("a was used lately, but it was evicted")
	}
	if got := len(*table.entries.Load()); got != 3 {
		t.Errorf("a table of at most 3 entries has %d", got)
	}
}

// FuzzKeys: different requests have different keys, whatever separators
// clients put into them.
func FuzzKeys(f *testing.F) {
	f.Add("a,b", "a b", "aud", "{}")
	f.Add("a,ab", "aa,b", "\x01a", "")
	f.Fuzz(func(t *testing.T, one, two, audience, claims string) {
		a, b := Scopes(strings.Split(one, ",")...), Scopes(strings.Split(two, ",")...)
		same := string(appendAccessKey(nil, a)) == string(appendAccessKey(nil, b))
		if same != slices.Equal(a, b) {
			t.Errorf("scopes %q and %q: same key %v", a, b, same)
		}
		for cut := range audience {
			shifted := appendIdentityKey(nil, audience[:cut], audience[cut:]+claims)
			if string(shifted) == string(appendIdentityKey(nil, audience, claims)) {
				t.Errorf("audience %q with claims %q has the key of another request, cut at %d", audience, claims, cut)
			}
		}
	})
}

func BenchmarkTableAdd(b *testing.B) {
	table := table{limit: 1000}
	b.ReportAllocs()
	for i := range b.N {
		table.entry(fmt.Append(nil, "https://audience.example/", i), moment{mono: time.Duration(i) * time.Millisecond})
	}
}
