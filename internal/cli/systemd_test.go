//go:build unix

package cli

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gcemds/gcemds/internal/admin"
)

// TestSocketActivation passes sockets on as systemd does: a listener takes the
// one of its name, and one that nobody takes is named.
func TestSocketActivation(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("there is no sh on this machine, and only a shell knows the process id before gcemds begins")
	}
	dir, err := os.MkdirTemp("", "mds") // the name of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	serve := exec.Command("sh", "-c", "LISTEN_PID=$$ exec gcemds serve --listen fd:main --admin "+socket)
	serve.Env = append(os.Environ(), "LISTEN_FDS=2", "LISTEN_FDNAMES=spare:main", "GORACE=atexit_sleep_ms=0")
	var addresses []string
	for range 2 {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		file, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		addresses, serve.ExtraFiles = append(addresses, l.Addr().String()), append(serve.ExtraFiles, file)
	}
	var stderr bytes.Buffer
	serve.Stderr = &stderr
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	err = await(func() error {
		_, err := (&admin.Client{Socket: socket}).Status(context.Background())
		return err
	})
	if err == nil {
		var body string
		if _, body, err = ask("http://" + addresses[1] + "/computeMetadata/v1/instance/name"); body != "demo-instance" {
			t.Errorf("the socket that systemd passed on answers %q (%v), want demo-instance", body, err)
		}
	}
	serve.Process.Signal(os.Interrupt)
	if end := serve.Wait(); err != nil || end != nil {
		t.Fatalf("%v; serve ends with: %v\n%s", err, end, &stderr)
	}
	if log := stderr.String(); !strings.Contains(log, "name=spare address="+addresses[0]) || strings.Contains(log, "name=main") {
		t.Errorf("the log does not name the socket that no listener takes, and no other:\n%s", log)
	}
}
