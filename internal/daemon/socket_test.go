package daemon

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// shortDir is a folder whose sockets have names that every system accepts.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mds")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestUnixListener: closing twice does not remove the socket of whoever came
// next, which happens when one daemon drains while its successor starts.
func TestUnixListener(t *testing.T) {
	path := filepath.Join(shortDir(t), "new", "s")
	first, err := listenUnix(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if got := first.Addr().String(); got != path {
		t.Errorf("the socket says that it is at %s, want %s", got, path)
	}
	first.Close()
	second, err := listenUnix(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	first.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("closing the first listener again took the socket of the second: %v", err)
	}
	c.Close()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder of the socket has %v (%v), want the socket alone", entries, err)
	}
}

// TestLongSocket: a name that the configuration accepts can be listened on.
func TestLongSocket(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, strings.Repeat("d", maxSocketName-len(dir)-len("//s")), "s")
	if len(path) != maxSocketName {
		t.Skipf("the temporary directory is too long for this: %s", dir)
	}
	l, err := listenUnix(path, 0o600)
	if err != nil {
		t.Fatalf("a socket with %d bytes in its name: %v", maxSocketName, err)
	}
	l.Close()
}

// TestWatchLooks: what counts is content, and files that come and go.
func TestWatchLooks(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	write := func(content string) {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var w watch
	looks := func(what string, want bool) {
		t.Helper()
		if got := w.changed([]string{name}); got != want {
			t.Errorf("%s: changed = %v, want %v", what, got, want)
		}
	}
	looks("the first look", false)
	looks("a file that is not there", false)
	write("one")
	looks("it is made", true)
	looks("nothing happens", false)
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	write("two")
	if err := os.Chtimes(name, time.Time{}, info.ModTime()); err != nil {
		t.Fatal(err)
	}
	looks("other content of the same size and time", true)
	write("two")
	looks("the same content again", false)
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(name, old, old); err != nil {
		t.Fatal(err)
	}
	looks("another time", false)
	looks("an old file", false)
	write("three")
	looks("an old file is changed", true)
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	looks("it is removed", true)
	if w.changed([]string{name, name + "2"}) {
		t.Error("a file that is watched from now on counts as a change")
	}
}

func TestEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10500*time.Millisecond)
		defer cancel()
		n := 0
		every(ctx, time.Second, func() { n++ })
		if n != 10 {
			t.Errorf("every second, in ten and a half seconds, is %d times", n)
		}
	})
}
