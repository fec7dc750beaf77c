package tree

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// next waits and returns what it saw.
func wait(ctx context.Context, s *Store, path string, recursive bool, last string) <-chan string {
	seen := make(chan string, 1)
	go func() {
		n, err := s.Wait(ctx, path, recursive, last)
		if err != nil {
			seen <- err.Error()
			return
		}
		seen <- string(n.Text(recursive).Body)
	}()
	return seen
}

func edit(t *testing.T, s *Store, path string, value any) {
	t.Helper()
	if err := s.Edit(Edit{path, value}); err != nil {
		t.Fatal(err)
	}
}

const event = "instance/maintenance-event"

func TestWaitSeesAChangeThatChangesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(builtin(t))
		seen := wait(t.Context(), s, event, false, lookup(t, s.Tree(), event).ETag(false))
		synctest.Wait()
		edit(t, s, event, "MIGRATE_ON_HOST_MAINTENANCE")
		edit(t, s, event, "NONE")
		if got := <-seen; got != "MIGRATE_ON_HOST_MAINTENANCE" {
			t.Errorf("saw %q, want the value in between", got)
		}
	})
}

func TestWait(t *testing.T) {
	quiet := errors.New("time is over")
	for _, test := range []struct {
		name, path string
		recursive  bool
		edit       Edit
		want       string // "": still waiting after an hour
	}{
		{"the leaf", event, false, Edit{event, "X"}, "X"},
		{"another leaf", event, false, Edit{"instance/name", "X"}, ""},
		{"the same value", event, false, Edit{event, "NONE"}, ""},
		{"deleted", event, false, Edit{event, nil}, ErrNotFound.Error()},
		{"a directory above deleted", "instance/scheduling/preemptible", false, Edit{"instance/scheduling", nil}, ErrNotFound.Error()},
		{"below a recursive directory", "instance/virtual-clock", true, Edit{"instance/virtual-clock/drift-token", "7"}, "drift-token 7\n"},
		{"the whole tree, a guest writes", "", true, Edit{"instance/guest-attributes/a/b", "c"}, ""},
		{"guest attributes, a guest writes", "instance/guest-attributes", true, Edit{"instance/guest-attributes/a/b", "c"}, "a/b c\n"},
		{"project, the instance changes", "project", true, Edit{"instance/name", "X"}, ""},
		{"guest attributes shut", "instance/guest-attributes/a/b", false, Edit{"instance/attributes/enable-guest-attributes", "FALSE"}, ErrClosed.Error()},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewStore(builtin(t))
				if test.path == "instance/guest-attributes/a/b" {
					edit(t, s, test.path, "v")
				}
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, quiet)
				defer cancel()
				seen := wait(ctx, s, test.path, test.recursive, lookup(t, s.Tree(), test.path).ETag(test.recursive))
				synctest.Wait()
				edit(t, s, test.edit.Path, test.edit.Value)
				want := test.want
				if want == "" {
					want = quiet.Error()
				}
				if got := <-seen; got != want {
					t.Errorf("a waiter on %q saw %q, want %q", test.path, got, want)
				}
			})
		})
	}
}

// A hundred edits, a hundred readers that go on from what they saw: each sees
// every value.
func TestWaitMissesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(with(t, builtin(t), Edit{"instance/attributes/n", "0"}))
		const path, edits = "instance/attributes/n", 100
		done := make(chan int)
		for range 100 {
			go func() {
				seen, last := 0, lookup(t, s.Tree(), path).ETag(false)
				for {
					n, err := s.Wait(t.Context(), path, false, last)
					if err != nil {
						t.Error(err)
						break
					}
					seen++
					last = n.ETag(false)
					if n.Value() == fmt.Sprint(edits) {
						break
					}
				}
				done <- seen
			}()
		}
		for i := range edits {
			synctest.Wait()
			edit(t, s, path, fmt.Sprint(i+1))
		}
		for range 100 {
			if seen := <-done; seen != edits {
				t.Errorf("a reader saw %d of %d values", seen, edits)
			}
		}
	})
}

// Edits made by hand survive a reload, and waiters see it as one change.
func TestSetBase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(builtin(t))
		edit(t, s, "instance/attributes/by-hand", "1")
		edit(t, s, "instance/attributes/by-hand", "2")
		edit(t, s, "instance/attributes/demo-key", nil)
		edit(t, s, "instance/image/below", nil)
		edit(t, s, "instance/scheduling/extra", "x")
		seen := wait(t.Context(), s, event, false, lookup(t, s.Tree(), event).ETag(false))
		synctest.Wait()

		base := with(t, builtin(t), Edit{event, "TERMINATE_ON_HOST_MAINTENANCE"}, Edit{"instance/scheduling", nil}, Edit{"instance/scheduling", "now a leaf"})
		dropped := s.SetBase(base)
		if got := <-seen; got != "TERMINATE_ON_HOST_MAINTENANCE" {
			t.Errorf("a waiter saw %q of the new base", got)
		}
		if len(dropped) != 1 || dropped[0].Path != "instance/scheduling/extra" {
			t.Errorf("dropped %v, want the edit below what is a leaf now", dropped)
		}
		if got := lookup(t, s.Tree(), "instance/attributes/by-hand").Value(); got != "2" {
			t.Errorf("by-hand = %q after a reload", got)
		}
		if _, err := s.Tree().Lookup("instance/attributes/demo-key"); !errors.Is(err, ErrNotFound) {
			t.Error("a key deleted by hand is back after a reload")
		}
	})
}

// Edits mean the same over a new base: what was deleted below something made by
// hand stays deleted, and what an index meant when it was edited.
func TestSetBaseKeepsMeaning(t *testing.T) {
	s := NewStore(builtin(t))
	edit(t, s, "instance/attributes", json.RawMessage(`{"a":"1","b":"2"}`))
	edit(t, s, "instance/attributes/b", nil)
	edit(t, s, "instance/disks", json.RawMessage(`[{"deviceName":"x"},{"deviceName":"y"},{"deviceName":"z"}]`))
	edit(t, s, "instance/disks/0", nil)
	edit(t, s, "instance/disks/0", nil)
	edit(t, s, "instance/disks/0/mode", "READ_ONLY")
	before := string(lookup(t, s.Tree(), "instance").JSON().Body)
	if dropped := s.SetBase(builtin(t)); len(dropped) > 0 {
		t.Errorf("dropped %v", dropped)
	}
	if after := string(lookup(t, s.Tree(), "instance").JSON().Body); after != before {
		t.Errorf("after a reload the document is\n%s\nwant\n%s", after, before)
	}
	if got := lookup(t, s.Tree(), "instance/disks/0/device-name").Value(); got != "z" || strings.Contains(before, `"b":"2"`) {
		t.Errorf("disk 0 is %q, want z; %s", got, before)
	}
}

// A guest that writes and deletes for ever must not make the store grow.
func TestEditsAreBounded(t *testing.T) {
	s := NewStore(builtin(t))
	for i := range 1000 {
		path := fmt.Sprintf("instance/guest-attributes/ns/key-%d", i)
		edit(t, s, path, "v")
		edit(t, s, path, nil)
		edit(t, s, event, fmt.Sprint(i))
	}
	if got := s.Edits(); len(got) > 1 {
		t.Errorf("the store remembers %d edits, want the one of %s", len(got), event)
	}
}

// TestRevert: without its edits the document is the base again, and waiters see it.
func TestRevert(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := builtin(t)
		s := NewStore(base)
		edit(t, s, event, "MIGRATE_ON_HOST_MAINTENANCE")
		seen := wait(t.Context(), s, event, false, lookup(t, s.Tree(), event).ETag(false))
		synctest.Wait()
		s.Revert()
		if got := <-seen; got != "NONE" || len(s.Edits()) != 0 || s.Tree() != base {
			t.Errorf("after Revert a waiter sees %q, and %v separates the document from its base", got, s.Edits())
		}
	})
}
