package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// TestConcealed: servers hide their memory, gcemds run from the program that it
// starts. The kernel shows that by giving their files in /proc to root.
func TestConcealed(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "mds") // the name of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for name, args := range map[string][]string{
		"run":   {"run", "--", "sleep", "60"},
		"serve": {"serve", "--listen", "127.0.0.1:0", "--issuer-listen", "127.0.0.1:0", "--admin", filepath.Join(dir, "s")},
	} {
		cmd := ourself(t, args...)
		cmd.Env = append(cmd.Env, "TMPDIR="+dir)
		if os.Getuid() == 0 { // somebody else must own the process
			program, err := filepath.EvalSymlinks(cmd.Path)
			cmd.Path = filepath.Join(dir, name)
			if err := errors.Join(err, os.Link(program, cmd.Path), os.Chmod(dir, 0o777)); err != nil {
				t.Fatal(err)
			}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := await(func() error {
			info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid))
			if err == nil && info.Sys().(*syscall.Stat_t).Uid != 0 {
				err = errors.New("programs of the same user can see it")
			}
			return err
		}); err != nil {
			t.Errorf("gcemds %s does not hide its memory: %v", name, err)
		}
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	}
}
