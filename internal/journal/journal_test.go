package journal_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcemds/gcemds/internal/journal"
)

func add(j *journal.Journal, n int) {
	for range n {
		j.Add(journal.Entry{Kind: journal.Request})
	}
}

func seqs(entries []journal.Entry) []uint64 {
	var s []uint64
	for _, e := range entries {
		s = append(s, e.Seq)
	}
	return s
}

func TestEntries(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		size, added int
		after       uint64
		want        []uint64
	}{
		{4, 0, 0, nil},
		{4, 1, 0, []uint64{1}},
		{4, 3, 0, []uint64{1, 2, 3}},
		{4, 3, 2, []uint64{3}},
		{4, 3, 3, nil},
		{4, 3, 99, nil},
		{4, 4, 0, []uint64{1, 2, 3, 4}},
		{4, 5, 0, []uint64{2, 3, 4, 5}},
		{4, 103, 0, []uint64{100, 101, 102, 103}},
		{4, 103, 101, []uint64{102, 103}},
		{4, 103, 98, []uint64{100, 101, 102, 103}},
		{1, 3, 0, []uint64{3}},
		{1, 3, 3, nil},
		{0, 2, 0, []uint64{2}},
		{-5, 2, 0, []uint64{2}},
	} {
		j := journal.New(test.size)
		add(j, test.added)
		if got := seqs(j.Entries(test.after)); !slices.Equal(got, test.want) {
			t.Errorf("of %d entries, %d kept, after %d: %v, want %v", test.added, test.size, test.after, got, test.want)
		}
	}
}

// Add sets what the adder cannot know, and keeps the rest.
func TestAdd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := journal.New(4)
		cause, then := errors.New("cause"), time.Now().Add(-time.Hour)
		full := journal.Entry{Seq: 77, Time: then, Kind: journal.Edit, Listener: "l", Instance: "i", Method: "GET", Path: "/p", Class: "leaf", Status: 200, Took: time.Second, Err: cause, Detail: "d"}
		j.Add(journal.Entry{})
		j.Add(full)
		got := j.Entries(0)
		if len(got) != 2 || !got[0].Time.Equal(time.Now()) || got[0].Seq != 1 {
			t.Fatalf("entries %+v, want the first with a number and the time", got)
		}
		full.Seq = 2
		if got[1] != full {
			t.Errorf("entry %+v, want %+v", got[1], full)
		}
		// What is for the log must not get out through JSON.
		if text, err := json.Marshal(got[1]); err != nil || strings.Contains(string(text), "cause") || !strings.Contains(string(text), `"took":1000000000`) {
			t.Errorf("JSON %s, %v", text, err)
		}
	})
}

// A follower gets what was kept, then what comes, in order.
func TestFollow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := journal.New(100)
		add(j, 5)
		ctx, cancel := context.WithCancel(t.Context())
		var got []uint64
		done := make(chan bool)
		go func() {
			for e := range j.Follow(ctx, 2) {
				got = append(got, e.Seq)
			}
			close(done)
		}()
		synctest.Wait()
		if want := []uint64{3, 4, 5}; !slices.Equal(got, want) {
			t.Errorf("at first %v, want %v", got, want)
		}
		for k := range 50 {
			add(j, 1)
			if k%7 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		cancel()
		<-done
		if len(got) != 53 || got[52] != 55 || !slices.IsSorted(got) {
			t.Errorf("followed %v, want 3 to 55", got)
		}
	})
}

// A follower that is slower than the journal loses the oldest entries and
// nothing else: numbers grow, and the last one comes.
func TestFollowLapped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := journal.New(4)
		add(j, 1)
		var got []uint64
		for e := range j.Follow(t.Context(), 0) {
			got = append(got, e.Seq)
			if e.Seq == 1 {
				add(j, 20) // while the follower is busy with the first
			}
			if e.Seq == 21 {
				break
			}
		}
		if want := []uint64{1, 18, 19, 20, 21}; !slices.Equal(got, want) {
			t.Errorf("followed %v, want %v", got, want)
		}
	})
}

// Followers that stop cost nothing and block nobody.
func TestFollowEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := journal.New(10)
		add(j, 3)
		for range j.Follow(t.Context(), 0) {
			break
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		n := 0
		for range j.Follow(ended, 0) {
			n++
		}
		if n != 3 {
			t.Errorf("%d entries with a context that has ended, want the 3 there are", n)
		}
		add(j, 3)
		if got := len(j.Entries(0)); got != 6 {
			t.Errorf("%d entries, want 6", got)
		}
	})
}

// One sequence can be followed again, from its start.
func TestFollowTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := journal.New(10)
		add(j, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		all := j.Follow(ctx, 0)
		for range 2 {
			var got []uint64
			for e := range all {
				if got = append(got, e.Seq); e.Seq == 2 {
					break
				}
			}
			if want := []uint64{1, 2}; !slices.Equal(got, want) {
				t.Errorf("followed %v, want %v", got, want)
			}
		}
	})
}

// Each sink gets each entry once, complete, before Add returns.
func TestSinks(t *testing.T) {
	t.Parallel()
	var first, second []journal.Entry
	j := journal.New(1,
		func(e journal.Entry) { first = append(first, e) },
		func(e journal.Entry) { second = append(second, e) },
	)
	for k := range 10 {
		j.Add(journal.Entry{Path: fmt.Sprint(k)})
		if len(first) != k+1 || len(second) != k+1 || first[k] != second[k] || first[k].Path != fmt.Sprint(k) || first[k].Seq != uint64(k+1) || first[k].Time.IsZero() {
			t.Fatalf("after entry %d the sinks have %+v and %+v", k, first, second)
		}
	}
}

// Many add at once while some follow: no number twice, none missing where the
// journal is large enough, and everyone sees the last.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	const writers, each = 8, 500
	for _, size := range []int{writers * each, 16} {
		var sunk atomic.Int64
		j := journal.New(size, func(e journal.Entry) { sunk.Add(1) })
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				var last uint64
				n := 0
				for e := range j.Follow(t.Context(), 0) {
					if e.Seq <= last {
						t.Errorf("size %d: %d comes after %d", size, e.Seq, last)
					}
					if last = e.Seq; e.Kind != journal.Write {
						t.Errorf("size %d: half an entry: %+v", size, e)
					}
					if n++; e.Seq == writers*each {
						break
					}
				}
				if size >= writers*each && n != writers*each {
					t.Errorf("size %d: a follower saw %d of %d entries", size, n, writers*each)
				}
			})
		}
		for range writers {
			all.Go(func() {
				for range each {
					j.Add(journal.Entry{Kind: journal.Write})
				}
			})
		}
		all.Wait()
		if sunk.Load() != writers*each {
			t.Errorf("size %d: the sink got %d of %d entries", size, sunk.Load(), writers*each)
		}
		if got := j.Entries(0); len(got) != size || got[len(got)-1].Seq != writers*each {
			t.Errorf("size %d: the journal has %d entries", size, len(got))
		}
	}
}

// A nil journal is valid and keeps nothing.
func TestNil(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(*journal.Journal){
		"Add": func(j *journal.Journal) { j.Add(journal.Entry{}) },
		"Entries": func(j *journal.Journal) {
			if got := j.Entries(0); len(got) != 0 {
				t.Errorf("entries %v", got)
			}
		},
		"Follow": func(j *journal.Journal) {
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			for e := range j.Follow(ended, 0) {
				t.Errorf("entry %v", e)
			}
		},
	} {
		func() {
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("%s of a nil journal panics: %v", name, p)
				}
			}()
			use(nil)
		}()
	}
}
