package kube

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// traces are what a world could leave on this machine.
func traces(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/gcemds-kube-*", "/sys/fs/cgroup/*/gcemds-kube-*", filepath.Join(os.TempDir(), "gcemds-kube-*"),
		"/run/*", "/run/netns/*", "/run/containerd/*", "/var/lib/*", "/var/lib/cni/*", "/var/lib/kubelet/*", "/var/log/*", "/sys/class/net/*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, names...)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	found = append(found, strings.Split(string(mounts), "\n")...)
	for _, setting := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "net/ipv4/ip_forward"} {
		value, err := os.ReadFile("/proc/sys/" + setting)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, setting+" = "+strings.TrimSpace(string(value)))
	}
	return found
}

// TestNothingIsLeft: of a world that a test has made, whether the test ends
// well or is killed.
func TestNothingIsLeft(t *testing.T) {
	needWorld(t)
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(end.String(), func(t *testing.T) {
			before := traces(t)
			child := exec.Command(os.Args[0], "-hold")
			child.Env = append(os.Environ(), "GCEMDS_E2E_BINARY="+gcemds)
			child.Stderr = os.Stderr
			stdout, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			first, err := bufio.NewReader(stdout).ReadString('\n')
			child.Process.Signal(end)
			child.Wait()
			if err != nil {
				t.Fatalf("the child makes no world: %v", err)
			}
			pid := strings.TrimPrefix(strings.TrimSpace(first), "world ")

			var left []string
			for range int(patience / (100 * time.Millisecond)) {
				left = slices.DeleteFunc(traces(t), func(s string) bool { return slices.Contains(before, s) })
				if _, err := os.Stat("/proc/" + pid); err == nil {
					left = append(left, "process "+pid)
				}
				if len(left) == 0 {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
			t.Errorf("after %v the world leaves:\n%s", end, strings.Join(left, "\n"))
		})
	}
}
