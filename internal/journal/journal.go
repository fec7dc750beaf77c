// Package journal records what happened: one entry per event. Logs, metrics,
// gcemds log and tests are its readers, so they cannot disagree.
//
// It keeps the latest entries in memory only. It knows no secrets, since
// nobody gives it any: paths come without their query, errors without tokens.
package journal

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"time"
)

// Kind says what an entry is about.
type Kind string

const (
	Request Kind = "request" // a workload asked for something
	Write   Kind = "write"   // a guest wrote an attribute
	Edit    Kind = "edit"    // somebody edited a document through the admin API
	Reload  Kind = "reload"  // the configuration was read again
	Token   Kind = "token"   // a Pod was given a token, or refused one
)

// An Entry is one event. Fields that mean nothing for its kind are zero.
type Entry struct {
	Seq      uint64        `json:"seq"` // from 1, without gaps
	Time     time.Time     `json:"time"`
	Kind     Kind          `json:"kind"`
	Listener string        `json:"listener,omitempty"`
	Instance string        `json:"instance,omitempty"`
	Method   string        `json:"method,omitempty"`
	Path     string        `json:"path,omitempty"`  // never with its query
	Class    string        `json:"class,omitempty"` // small set: leaf, directory, wait, token, identity …
	Status   int           `json:"status,omitempty"`
	Took     time.Duration `json:"took,omitempty"` // nanoseconds
	Err      error         `json:"-"`              // for the log; never for a workload
	Detail   string        `json:"detail,omitempty"`
	Grant    *Grant        `json:"grant,omitempty"` // of Token
}

// A Grant says which token, and whose. It does not change.
type Grant struct {
	Account string    `json:"account"`         // Kubernetes service account, NAMESPACE/NAME
	Email   string    `json:"email,omitempty"` // of the service account of Google that it acts as
	Token   string    `json:"token"`           // access token, ID token
	For     string    `json:"for"`             // 8 hexadecimal digits that are the same for the same scopes or audience
	Expiry  time.Time `json:"expiry,omitzero"` // zero: it was refused
}

// A Journal keeps the latest entries. Adding allocates nothing, and takes no
// lock that others want, unless somebody follows. A nil Journal is valid and
// keeps nothing.
type Journal struct {
	sinks []func(Entry)
	last  atomic.Uint64
	ring  []slot

	followers atomic.Int32
	mu        sync.Mutex
	added     chan struct{} // closed and replaced at each entry while somebody follows
}

// A slot is the place of one entry, and of its successors one round later. Its
// lock is for those who read just that entry.
type slot struct {
	mu    sync.Mutex
	entry Entry
}

func (s *slot) load() Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entry
}

func (s *slot) store(e Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Seq > s.entry.Seq { // else who was overtaken by a whole round comes too late
		s.entry = e
	}
}

// New returns a journal that keeps the last size entries (at least 1) and
// hands each one to the sinks as it is added, in the goroutine that adds it:
// sinks must be quick and safe for concurrent use.
func New(size int, sinks ...func(Entry)) *Journal {
	return &Journal{
		sinks: sinks,
		ring:  make([]slot, max(size, 1)),
		added: make(chan struct{}),
	}
}

// Add records an entry. Seq is set here, and Time where it is zero.
func (j *Journal) Add(e Entry) {
	if j == nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Seq = j.last.Add(1)
	j.ring[e.Seq%uint64(len(j.ring))].store(e)
	for _, sink := range j.sinks {
		sink(e)
	}
	if j.followers.Load() > 0 {
		j.mu.Lock()
		close(j.added)
		j.added = make(chan struct{})
		j.mu.Unlock()
	}
}

// Follow yields the entries after seq, oldest first, and then new ones as they
// come, until the context ends. Entries that the journal no longer keeps are
// skipped; Seq shows the gap.
func (j *Journal) Follow(ctx context.Context, seq uint64) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		if j == nil {
			<-ctx.Done()
			return
		}
		j.followers.Add(1)
		defer j.followers.Add(-1)
		for last := seq; ; {
			j.mu.Lock()
			added := j.added
			j.mu.Unlock()
			for e := range j.after(last) {
				last = e.Seq
				if !yield(e) {
					return
				}
			}
			select {
			case <-added:
			case <-ctx.Done():
				return
			}
		}
	}
}

// Entries returns the entries after seq that the journal still has.
func (j *Journal) Entries(seq uint64) []Entry {
	if j == nil {
		return nil
	}
	var entries []Entry
	for e := range j.after(seq) {
		entries = append(entries, e)
	}
	return entries
}

func (j *Journal) after(seq uint64) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		size := uint64(len(j.ring))
		if last := j.last.Load(); last > size && seq < last-size {
			seq = last - size
		}
		for {
			e := j.ring[(seq+1)%size].load()
			// None or an older one: not added yet. A newer one: overtaken, go on with it.
			if e.Seq <= seq || !yield(e) {
				return
			}
			seq = e.Seq
		}
	}
}
