//go:build unix

package credential

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

// TestExecutableChildren: a program that does not finish ends with all that it
// has started.
func TestExecutableChildren(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	e := &executable{program: program{argv: []string{"/bin/sh", "-c", `sleep 300 & echo $! >"$0"; wait`, file}}, timeout: 500 * time.Millisecond}
	if _, err := e.subject(t.Context()); kindOf(t, err) != token.Unavailable {
		t.Errorf("a program that waits for its child = %v, want Unavailable", err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		stat, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if syscall.Kill(pid, 0) != nil || bytes.Contains(stat, []byte(") Z ")) { // nobody may have asked how it ended
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	syscall.Kill(pid, syscall.SIGKILL)
	t.Error("a child of the program is still there")
}
