package kube

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// gcemds is the binary under test.
var gcemds string

// everything owns what tests share.
var everything shared

func TestMain(m *testing.M) {
	flag.Parse()
	if err := find(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e/kube:", err)
		os.Exit(1)
	}
	var status int
	if *hold {
		if err := holdWorld(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e/kube:", err)
			status = 1
		}
	} else {
		status = m.Run()
	}
	everything.end(status != 0)
	os.Exit(status)
}

// find finds the programs, or finds out that they are missing.
func find() error {
	where, err := exec.Command("programs/build", "where").Output()
	if err != nil {
		return fmt.Errorf("programs/build where: %w", err)
	}
	bin = strings.TrimSpace(string(where))
	if gcemds = os.Getenv("GCEMDS_E2E_BINARY"); gcemds != "" {
		return nil
	}
	dir, err := os.MkdirTemp("", "gcemds-kube-")
	if err != nil {
		return err
	}
	everything.Cleanup(func() { os.RemoveAll(dir) })
	gcemds = filepath.Join(dir, "gcemds")
	build := exec.Command("go", "build", "-trimpath", "-o", gcemds, "./cmd/gcemds")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if _, err := output(build); err != nil {
		return fmt.Errorf("cannot build gcemds: %w", err)
	}
	return nil
}

// lacks skips a test for a reason. Under e2e/run nothing may be missing.
func lacks(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("GCEMDS_E2E") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// needCluster skips the test where the programs of a cluster are not built.
func needCluster(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range append(programs, "etcd", "kube-apiserver", "kubectl") {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			lacks(t, fmt.Sprintf("%s is not built; run e2e/kube/programs/build (ten minutes the first time)", program))
		}
	}
}

// needWorld skips the test where no world can be made.
func needWorld(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a world of nodes needs namespaces: run the test as root (sudo make e2e)")
	}
	needCluster(t, "kubelet", "kube-controller-manager", "kube-scheduler")
	for program, pkg := range map[string]string{"containerd": "containerd", "runc": "runc", "nft": "nftables", "ip": "iproute2", "/usr/lib/cni/bridge": "containernetworking-plugins"} {
		if _, err := exec.LookPath(program); err != nil {
			lacks(t, fmt.Sprintf("%s is missing; install the Debian package %s", program, pkg))
		}
	}
}

var (
	oneCluster = sync.OnceValues(func() (*cluster, error) { return startCluster(&everything) })
	oneWorld   = sync.OnceValues(func() (*world, error) { return startWorld(&everything, 2) })
)

// sharedCluster is the cluster of all tests that leave it as it is, each in a
// namespace of its own.
func sharedCluster(t *testing.T) *cluster {
	t.Helper()
	needCluster(t)
	c, err := oneCluster()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sharedWorld is the world of two nodes of all tests that leave it as it is.
// A test that breaks something makes its own with startWorld.
func sharedWorld(t *testing.T) *world {
	t.Helper()
	needWorld(t)
	w, err := oneWorld()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// shared is an owner that lives as long as the tests.
type shared struct {
	mu     sync.Mutex
	ends   []func()
	failed bool
}

func (s *shared) Failed() bool { return s.failed }

func (s *shared) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends = append(s.ends, f)
}

func (s *shared) end(failed bool) {
	s.failed = failed
	for i := len(s.ends) - 1; i >= 0; i-- {
		s.ends[i]()
	}
}
