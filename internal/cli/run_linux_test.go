package cli

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRunTerminal: Ctrl-C in a terminal reaches the program, and once only.
func TestRunTerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there is no terminal to be had: %v (mount devpts at /dev/pts)", err)
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skipf("there is no terminal to be had: %v", err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there is no terminal to be had: %v", err)
	}
	// It counts, and ends some time after the first signal: a second one would
	// have come by then.
	cmd := ourself(t, "run", "--", "sh", "-c", `n=0; trap 'n=$((n+1))' INT; echo ready; while [ $n = 0 ]; do sleep 0.01; done; sleep 0.3; exit $((40+n))`)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	said := bufio.NewReader(master)
	if line, err := said.ReadString('\n'); strings.TrimSpace(line) != "ready" {
		t.Fatalf("the program says %q: %v", line, err)
	}
	if _, err := master.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 41 {
		t.Errorf("after Ctrl-C gcemds run ends with %v, want 41: the program gets one SIGINT", cmd.ProcessState)
	}
}
