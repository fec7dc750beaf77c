//go:build unix

package cli

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestHangup: SIGHUP makes a server read its configuration again.
func TestHangup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mds.yaml")
	write := func(name string) {
		if err := os.WriteFile(file, []byte("instances: {vm-1: {set: {instance/name: "+name+"}}}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("before")
	client, stop := serving(t, "--config", file)
	write("after")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	var text string
	if err := await(func() error {
		v, err := client.Get(t.Context(), "", "instance/name", false)
		if text = v.Text; err == nil && text != "after" {
			err = os.ErrDeadlineExceeded
		}
		return err
	}); err != nil {
		t.Errorf("after SIGHUP the name is %q: %v", text, err)
	}
	if code := stop(); code != exitOK {
		t.Errorf("serve ends with %d when it is interrupted, want 0", code)
	}
}
