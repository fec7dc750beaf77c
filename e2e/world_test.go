package e2e

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A world is a machine that believes to be on Google Cloud (see the script of
// that name). It is gone with its test, and so are all programs in it.
type world struct {
	pid string
	end func() // waits until all programs are gone; may be called again
}

// needWorld skips the test without root. As root it never does.
func needWorld(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("this client insists on 169.254.169.254 and needs namespaces of its own: run it as root (sudo make e2e)")
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	needWorld(t)
	share, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", slices.Concat([]string{"--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child",
		filepath.Join(here, "world"), t.TempDir(), layer(t)}, share)...)
	cmd.Env = []string{"PATH=" + worldPath}
	cmd.WaitDelay = 10 * time.Second
	says := &buffer{}
	cmd.Stderr = says
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		stdin.Close() // the world's first process reads it; with that one all others end
		cmd.Wait()
	})
	t.Cleanup(end)
	stop := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer stop.Stop()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("cannot make a world (network, mount, process namespaces and an overlay): %v\n%s", err, says)
	}
	return &world{strings.TrimSpace(line), end}
}

// shared are the directories of this machine that a world has too: those of
// the binary under test, of this test and of the repository.
func shared() ([]string, error) {
	self, err := os.Executable()
	return []string{filepath.Dir(gcemds), filepath.Dir(self), filepath.Dir(here)}, err
}

const worldPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// command runs as root of the world, which may do everything but what would
// reach the machine: its clock, its modules, its devices.
func (w *world) command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	const forbidden = "-sys_time,-sys_boot,-sys_module,-sys_rawio,-mknod,-syslog,-wake_alarm,-mac_admin,-bpf,-perfmon"
	cmd := exec.CommandContext(ctx, "nsenter", slices.Concat([]string{"--target", w.pid,
		"--mount", "--net", "--uts", "--ipc", "--pid", "--root", "--wd", "--",
		"setpriv", "--bounding-set", forbidden, "--inh-caps", "-all", "--", name}, args)...)
	cmd.Env = append(slices.Clone(env), "PATH="+worldPath, "HOME=/tmp")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// serve starts gcemds at the address of Google's server.
func (w *world) serve(t *testing.T) *server {
	t.Helper()
	s, _, exited := start(t, w, "/run/gcemds.sock", "--listen", "169.254.169.254:80", "--allow-remote")
	t.Cleanup(func() { w.end(); <-exited })
	if want := "169.254.169.254"; s.host != want && s.host != want+":80" {
		t.Errorf("gcemds in the world prints GCE_METADATA_HOST=%s, want %s", s.host, want)
	}
	return s
}

// background starts a program that runs until the world ends, and returns what
// it writes.
func (w *world) background(t *testing.T, name string, args ...string) *buffer {
	t.Helper()
	cmd := w.command(context.Background(), nil, name, args...)
	says := &buffer{}
	cmd.Stdout, cmd.Stderr = says, says
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.end()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, says)
		}
	})
	return says
}
