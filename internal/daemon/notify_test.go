package daemon_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestNotify: systemd is told when gcemds serves and when it begins to end, as
// Type=notify in the service unit promises.
func TestNotify(t *testing.T) {
	dir, err := os.MkdirTemp("", "mds") // the name of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Skipf("this system has no datagram sockets with names, and so no systemd: %v", err)
	}
	defer l.Close()
	l.SetDeadline(time.Now().Add(time.Minute))
	told := func(want string) {
		t.Helper()
		message := make([]byte, 256)
		n, err := l.Read(message)
		if got := string(message[:n]); err != nil || got != want {
			t.Fatalf("systemd is told %q (%v), want %q", got, err, want)
		}
	}

	t.Setenv("NOTIFY_SOCKET", socket)
	w := start(t, "")
	told("READY=1")
	c, err := net.Dial("tcp", w.Addr("main").String())
	if err != nil {
		t.Fatalf("systemd was told that gcemds is ready, but nobody can connect: %v", err)
	}
	c.Close()
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	told("STOPPING=1")
}
