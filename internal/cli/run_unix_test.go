//go:build unix

package cli

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// ourself is this test binary as gcemds.
func ourself(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := exec.LookPath("gcemds") // testscript has put it there
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	return cmd
}

// TestRunInterruptedEarly: a signal that comes before there is a program ends
// gcemds run, whatever its server waits for.
func TestRunInterruptedEarly(t *testing.T) {
	t.Parallel()
	document := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(document, 0o600); err != nil {
		t.Skipf("there is no pipe to be had: %v", err)
	}
	cmd := ourself(t, "run", "--metadata", document, "--", "true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(document, os.O_WRONLY, 0) // when somebody reads
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 128+int(syscall.SIGINT) {
		t.Errorf("gcemds run ends with %v, want 130", cmd.ProcessState)
	}
}

// TestRunSignals: a signal to gcemds reaches the program, and gcemds ends as
// the program does; it leaves nothing behind.
func TestRunSignals(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1} {
		for _, c := range []struct {
			promise, script string
			code            int
		}{
			{"a signal ends the program", `echo ready; while :; do sleep 0.01; done`, 128 + int(s)},
			{"the program may do what it likes with it", fmt.Sprintf(`trap 'exit 9' %d; echo ready; while :; do sleep 0.01; done`, int(s)), 9},
		} {
			t.Run(fmt.Sprintf("%v %s", s, c.promise), func(t *testing.T) {
				t.Parallel()
				tmp, err := os.MkdirTemp("", "mds") // the name of a socket must be short
				if err != nil {
					t.Fatal(err)
				}
				defer os.RemoveAll(tmp)
				cmd := ourself(t, "run", "--", "sh", "-c", c.script)
				cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
				cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // without the terminal of who runs the test
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
					t.Fatalf("the program says %q: %v", line, err)
				}
				cmd.Process.Signal(s)
				cmd.Wait()
				if got := cmd.ProcessState.ExitCode(); got != c.code {
					t.Errorf("gcemds run ends with %v (%d) after %v, want %d", cmd.ProcessState, got, s, c.code)
				}
				if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
					t.Errorf("gcemds run leaves %q behind", left)
				}
			})
		}
	}
}

// TestInterrupt: a command that is interrupted ends with the code that shells
// know, and without a complaint.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var said strings.Builder
	cmd := ourself(t, "wait", "--host", l.Addr().String())
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept() // it asks, and gets no answer
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != exitInterrupted || said.Len() > 0 {
		t.Errorf("an interrupted gcemds wait ends with %v and says %q, want %d and nothing", cmd.ProcessState, said.String(), exitInterrupted)
	}
}
