package cli

import (
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestConceal: a process that holds keys can neither be dumped nor looked into,
// and its metrics still know of its memory and its files.
func TestConceal(t *testing.T) {
	if err := conceal(); err != nil {
		t.Fatal(err)
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
		t.Errorf("PR_GET_DUMPABLE is %d (%v), want 0", dumpable, err)
	}
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || core.Cur != 0 || core.Max != 0 {
		t.Errorf("a core dump may have %d bytes (%v), want 0", core.Max, err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	health := free.Addr().String()
	free.Close()
	serving(t, "--admin-http", health)
	status, body, err := ask("http://" + health + "/metrics")
	if err != nil || status != 200 || !strings.Contains(body, "process_open_fds") || !strings.Contains(body, "process_resident_memory_bytes") {
		t.Errorf("the metrics of such a process are %d (%v), without its files and memory", status, err)
	}
}
