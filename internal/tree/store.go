package tree

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// A Store holds the document of a running instance: a base, from the
// configuration, and the edits made since, which survive a new base. Reading
// takes no lock. All methods may be called concurrently.
type Store struct {
	current atomic.Pointer[version]

	mu    sync.Mutex // of writers
	base  *Tree
	edits []Edit // from base to current, in order
}

// A version is one state of the store. Whoever sleeps on one that is
// superseded goes on with next, so nobody misses a version.
type version struct {
	tree       *Tree
	superseded chan struct{} // closed once next is set
	next       *version
}

// NewStore returns a store of that document.
func NewStore(base *Tree) *Store {
	s := &Store{base: base}
	s.current.Store(&version{tree: base, superseded: make(chan struct{})})
	return s
}

// Tree returns the current document.
func (s *Store) Tree() *Tree { return s.current.Load().tree }

// Edit makes one new version of all the edits or, with an error that names
// the path, none. Whoever waits for a change of what they touch wakes.
func (s *Store) Edit(edits ...Edit) error {
	return s.Update(func(*Tree) ([]Edit, error) { return edits, nil })
}

// Update is Edit for a change that depends on the current document: change is
// called once, under the lock of writers.
func (s *Store) Update(change func(*Tree) ([]Edit, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	edits, err := change(s.Tree())
	if err != nil {
		return err
	}
	t, err := s.Tree().With(edits...)
	if err != nil {
		return err
	}
	for _, e := range edits {
		s.remember(e, t)
	}
	s.publish(t)
	return nil
}

// SetBase makes base the document below the edits. Edits that no longer fit
// (below a key that is a leaf now) are dropped and returned.
func (s *Store) SetBase(base *Tree) (dropped []Edit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, kept := base, s.edits[:0:0]
	for _, e := range s.edits {
		next, err := t.With(e)
		if err != nil {
			dropped = append(dropped, e)
			continue
		}
		t, kept = next, append(kept, e)
	}
	s.base, s.edits = base, kept
	s.publish(t)
	return dropped
}

// Revert drops the edits: the document is its base again.
func (s *Store) Revert() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.edits) > 0 {
		s.edits = nil
		s.publish(s.base)
	}
}

// Edits returns what separates the current document from its base, in order.
func (s *Store) Edits() []Edit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Edit(nil), s.edits...)
}

// remember adds an edit, of which t is the result, to those that survive a new
// base. It replaces earlier ones of the same path and below; a deletion is kept
// only while there is something to delete, so that a guest that writes and
// deletes for ever does not make the store grow. What an index means changes
// with each edit of a list, so the list is kept as a whole.
func (s *Store) remember(e Edit, t *Tree) {
	e.Path = strings.TrimSuffix(e.Path, "/")
	if list, n := t.listAbove(e.Path); n != nil {
		e = Edit{Path: list, Value: json.RawMessage(n.JSON().Body)}
	}
	kept := s.edits[:0:0]
	for _, old := range s.edits {
		if old.Path != e.Path && !strings.HasPrefix(old.Path, e.Path+"/") && e.Path != "" {
			kept = append(kept, old)
		}
	}
	if e.Value != nil || s.base.has(e.Path) || s.made(kept, e.Path) {
		kept = append(kept, e)
	}
	s.edits = kept
}

// made reports whether one of the edits, of something above, makes the path.
func (s *Store) made(edits []Edit, path string) bool {
	above := func(e Edit) bool { return strings.HasPrefix(path, e.Path+"/") }
	if !slices.ContainsFunc(edits, above) {
		return false
	}
	t, err := s.base.With(edits...)
	return err == nil && t.has(path)
}

// listAbove returns the list that the path leads into, and where it is.
func (t *Tree) listAbove(path string) (string, *Node) {
	n := t.root
	for rest, done := path, 0; rest != "" && n != nil; {
		if n.kind == Indexed {
			return path[:done-1], n
		}
		name, below, _ := strings.Cut(rest, "/")
		n, rest, done = n.Child(name), below, done+len(name)+1
	}
	return "", nil
}

func (t *Tree) has(path string) bool {
	_, err := t.find(path)
	return err == nil
}

func (s *Store) publish(t *Tree) {
	old, next := s.current.Load(), &version{tree: t, superseded: make(chan struct{})}
	old.next = next
	s.current.Store(next)
	close(old.superseded)
}

// Wait returns the node at path as soon as its ETag is not last. A value that
// changes and changes back is seen. When the context ends first, Wait returns
// the current node and the context's cause.
//
// Errors: those of Lookup, at once or when the node disappears, and the cause.
func (s *Store) Wait(ctx context.Context, path string, recursive bool, last string) (*Node, error) {
	for v := s.current.Load(); ; v = v.next {
		n, err := v.tree.Lookup(path)
		if err != nil || n.ETag(recursive) != last {
			return n, err
		}
		select {
		case <-v.superseded:
		case <-ctx.Done():
			return n, context.Cause(ctx)
		}
	}
}
