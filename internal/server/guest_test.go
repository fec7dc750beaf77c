package server_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/server"
	"github.com/gcemds/gcemds/internal/tree"
)

const guest = "instance/guest-attributes/"

// The API allows 256 KiB for a value; one byte more changes nothing.
func TestGuestValueSize(t *testing.T) {
	t.Parallel()
	s := serverOf(plain(t), nil, server.Limits{})
	most := strings.Repeat("x", 256<<10)
	want(t, "the largest value", do(s, request("PUT", guest+"a/b", most)), 200, "")
	want(t, "a larger one", do(s, request("PUT", guest+"a/b", most+"y")), 400, "262144 bytes")
	if got := get(s, guest+"a/b").Body.String(); got != most {
		t.Errorf("the value has %d bytes after a refused one, want %d", len(got), len(most))
	}
}

// All values together have a limit, names included; replacing and deleting
// make room.
func TestGuestAttributesAreBounded(t *testing.T) {
	t.Parallel()
	s := serverOf(plain(t), nil, server.Limits{GuestAttributes: 1000})
	put := func(key string, size int) (status int, body string) {
		w := do(s, request("PUT", guest+key, strings.Repeat("x", size)))
		return w.Code, w.Body.String()
	}
	for _, step := range []struct {
		key          string
		size, status int
	}{
		{"a/1", 400, 200},
		{"a/2", 400, 200},
		{"a/3", 400, 400},
		{"a/2", 401, 200},
		{"a/2", 700, 400},
		{"a/1", 10, 200},
		{"a/2", 700, 200},
		{strings.Repeat("n", 500) + "/k", 0, 400},
	} {
		status, body := put(step.key, step.size)
		if status != step.status || status == 400 && !strings.Contains(body, "full") {
			t.Errorf("PUT %.20s of %d bytes = %d %q, want %d", step.key, step.size, status, body, step.status)
		}
	}
	do(s, request("DELETE", guest+"a/2", ""))
	if status, body := put("a/3", 700); status != 200 {
		t.Errorf("after a deletion: %d %q", status, body)
	}
}

// Writers that race stay within the limit.
func TestGuestWritersRace(t *testing.T) {
	t.Parallel()
	i := plain(t)
	s := serverOf(i, nil, server.Limits{GuestAttributes: 2000})
	var all sync.WaitGroup
	for k := range 20 {
		all.Go(func() {
			path := fmt.Sprintf("%sns/%d", guest, k)
			do(s, request("PUT", path, strings.Repeat("x", 200)))
			get(s, path)
			if k%2 == 0 {
				do(s, request("DELETE", path, ""))
			}
		})
	}
	all.Wait()
	dir, err := i.Metadata.Tree().Lookup(guest + "ns")
	if err != nil {
		t.Fatal(err)
	}
	if size := dir.Len() * 200; size == 0 || size > 2000 {
		t.Errorf("the guest attributes have %d bytes, 2000 are allowed", size)
	}
}

// A name that no listing could show is the writer's fault, and does not come
// back as markup.
func TestGuestNames(t *testing.T) {
	t.Parallel()
	i := plain(t)
	s := serverOf(i, nil, server.Limits{})
	for _, name := range []string{"..", ".", "%0A", "a%00b", "%7F", strings.Repeat("k", 1025)} {
		for _, path := range []string{"ns/" + name, name + "/key", "%3Cb%3E/" + name} {
			w := do(s, request("PUT", guest+path, "v"))
			want(t, "PUT "+path, w, 400, "")
			if strings.Contains(w.Body.String(), "<b>") {
				t.Errorf("PUT %s: markup of the path in an answer of type %s: %q", path, w.Header().Get("Content-Type"), w.Body)
			}
		}
	}
	for _, name := range []string{"ssh-rsa", "OS_Version", "camelCase", "1", "%20", "gr%C3%BC%C3%9Fe", "@", "$x", strings.Repeat("k", 1024)} {
		want(t, "PUT "+name, do(s, request("PUT", guest+"ns/"+name, "v")), 200, "")
		want(t, "GET "+name, get(s, guest+"ns/"+name), 200, "v")
		want(t, "DELETE "+name, do(s, request("DELETE", guest+"ns/"+name, "")), 200, "")
	}
	if w := get(s, guest); w.Body.Len() != 0 {
		t.Errorf("namespaces %q after their last key", w.Body)
	}
}

// A namespace exists through its keys; the store does not grow with the past.
func TestGuestNamespaceGoes(t *testing.T) {
	t.Parallel()
	i := plain(t)
	s := serverOf(i, nil, server.Limits{})
	for range 100 {
		do(s, request("PUT", guest+"ns/k", "v"))
		do(s, request("DELETE", guest+"ns/k", ""))
	}
	want(t, "the namespace", get(s, guest+"ns/"), 404, "was not found")
	if n := len(i.Metadata.Edits()); n > 1 {
		t.Errorf("the store remembers %d edits of attributes that are gone", n)
	}
}

// A document may come without the directory.
func TestGuestDirectoryAbsent(t *testing.T) {
	t.Parallel()
	s := serverOf(plain(t, tree.Edit{Path: "instance/guest-attributes"}), nil, server.Limits{})
	want(t, "the first write", do(s, request("PUT", guest+"a/b", "v")), 200, "")
	want(t, "what it wrote", get(s, guest+"a/b"), 200, "v")
}

func TestGuestWritesAreRecorded(t *testing.T) {
	t.Parallel()
	j := journal.New(10)
	s := serverOf(plain(t), j, server.Limits{})
	do(s, request("PUT", guest+"a/b", "secret"))
	do(s, request("PUT", guest+"a", "secret"))
	do(s, request("DELETE", guest+"a/b", ""))
	var writes []string
	for _, e := range j.Entries(0) {
		if e.Kind == journal.Write {
			writes = append(writes, e.Method+" "+e.Path)
		}
		if strings.Contains(fmt.Sprintf("%+v", e), "secret") {
			t.Errorf("a value is in the journal: %+v", e)
		}
	}
	if got, want := strings.Join(writes, ", "), "PUT instance/guest-attributes/a/b, DELETE instance/guest-attributes/a/b"; got != want {
		t.Errorf("the journal has the writes %s, want %s", got, want)
	}
}
