//go:build unix

package gke

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestProjectedPipe: a pipe instead of a token, which a driver that lets the
// Pod write would allow, keeps nobody waiting.
func TestProjectedPipe(t *testing.T) {
	t.Parallel()
	dir, p := t.TempDir(), pod("uid-1", "robot", robot1)
	p.Volumes = []string{"gcemds"}
	at := filepath.Join(dir, p.UID, "volumes/kubernetes.io~csi/gcemds/mount")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(at, "token"), 0o644); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := projected{nil, Projected{Dir: dir, Volume: "gcemds", Path: "token"}}.CreateToken(t.Context(), ksa("robot"), p, "aud", time.Hour)
		read <- err
	}()
	select {
	case err := <-read:
		if err == nil || !strings.Contains(err.Error(), "not a file") {
			t.Errorf("a pipe is read: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a pipe keeps us waiting for who writes to it")
	}
}
