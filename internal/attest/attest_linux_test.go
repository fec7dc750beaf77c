package attest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gcemds/gcemds/internal/fleet"
	"golang.org/x/sys/unix"
)

// The test binary is also the caller in another control group: it connects,
// says so, and waits.
func TestMain(m *testing.M) {
	if to := os.Getenv("ATTEST_TEST_DIAL"); to != "" {
		c, err := net.Dial("tcp", to)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("connected")
		bufio.NewReader(os.Stdin).ReadByte()
		c.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// accept returns both ends of a connection as the server sees them.
func accept(t *testing.T, l net.Listener) (remote, local netip.AddrPort) {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.RemoteAddr().(*net.TCPAddr).AddrPort(), c.LocalAddr().(*net.TCPAddr).AddrPort()
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Skipf("no %s here: %v", network, err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// Our own connections are ours, in each family.
func TestOwn(t *testing.T) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, network, address, dial string }{
		{"IPv4", "tcp4", "127.0.0.1:0", "127.0.0.1"},
		{"IPv6", "tcp6", "[::1]:0", "[::1]"},
		{"IPv4 to a socket of both families", "tcp", ":0", "127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := listen(t, c.network, c.address)
			_, port, _ := net.SplitHostPort(l.Addr().String())
			conn, err := net.Dial("tcp", c.dial+":"+port)
			if err != nil {
				t.Skipf("cannot dial %s: %v", c.dial, err)
			}
			defer conn.Close()
			remote, local := accept(t, l)
			p, err := new(Attestor).Attest(t.Context(), remote, local)
			if err != nil {
				t.Fatal(err)
			}
			if p.UID != uint32(os.Getuid()) || p.PodUID != "" || !strings.Contains(string(own), p.Cgroup) {
				t.Errorf("Attest = %+v, want user %d and a group of\n%s", p, os.Getuid(), own)
			}
		})
	}
}

// A socket of IPv6 that dials IPv4, as Java's and .NET's do.
func TestMapped(t *testing.T) {
	l := listen(t, "tcp4", "127.0.0.1:0")
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrInet6{Port: l.Addr().(*net.TCPAddr).Port, Addr: netip.MustParseAddr("::ffff:127.0.0.1").As16()}
	if err := unix.Connect(fd, to); err != nil {
		t.Fatal(err)
	}
	remote, local := accept(t, l)
	if p, err := new(Attestor).Attest(t.Context(), remote, local); err != nil || p.UID != uint32(os.Getuid()) {
		t.Errorf("Attest = %+v, %v; want our own user", p, err)
	}
}

// A connection that is not of this network is no one's, unless something else
// knows it.
func TestElsewhere(t *testing.T) {
	remote, local := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:80")
	if p, err := new(Attestor).Attest(t.Context(), remote, local); !errors.Is(err, ErrElsewhere) {
		t.Errorf("Attest = %+v, %v; want ErrElsewhere", p, err)
	}
	dir := group(t, "kubepods/besteffort/pod"+uid)
	a := &Attestor{Callers: callers{remote: idOf(t, dir)}}
	if p, err := a.Attest(t.Context(), remote, local); err != nil || p.PodUID != uid || p.PID != 42 {
		t.Errorf("Attest with a connection that was recorded = %+v, %v; want Pod %s", p, err, uid)
	}
}

type callers map[netip.AddrPort]uint64

func (c callers) Lookup(a netip.AddrPort) (uint64, uint32, bool) {
	id, ok := c[a]
	return id, 42, ok
}

// group makes a control group below one of the test's own, and takes it away.
func group(t *testing.T, path string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making control groups takes root: sudo make e2e")
	}
	root, err := new(Attestor).root()
	if err != nil {
		t.Skipf("%v; mount -t cgroup2 none /sys/fs/cgroup", err)
	}
	own := fmt.Sprintf("%s/gcemds-attest-%d-%s", root, os.Getpid(), strings.ReplaceAll(t.Name(), "/", "_"))
	dir := filepath.Join(own, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Skipf("cannot make a control group: %v", err)
	}
	t.Cleanup(func() {
		for ; strings.HasPrefix(dir, own); dir = filepath.Dir(dir) {
			if err := os.Remove(dir); err != nil {
				t.Errorf("the test leaves a control group: %v", err)
			}
		}
	})
	return dir
}

func idOf(t *testing.T, dir string) uint64 {
	t.Helper()
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// caller runs a process in a control group that connects, until the test ends.
func caller(t *testing.T, dir, to string) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ATTEST_TEST_DIAL="+to, "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "connected\n" {
		t.Fatalf("the caller says %q, %v", line, err)
	}
}

// The Pod of a caller, by both names of control groups, is that of its
// outermost one; and found without any capability as well.
func TestPods(t *testing.T) {
	for _, c := range []struct {
		name, path, want string
		err              error
	}{
		{"cgroupfs", "kubepods/burstable/pod" + uid + "/77", uid, nil},
		{"systemd", "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + underscored + ".slice/cri-containerd-77.scope", uid, nil},
		{"forged inside", "kubepods/pod" + uid + "/77/pod11111111-9c1e-4b6a-8f57-3a2b1c0d9e8f", uid, nil},
		{"static", "kubepods/pod0123456789abcdef0123456789abcdef/77", "", errStatic},
		{"no Pod", "system.slice/some.service", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := group(t, c.path)
			l := listen(t, "tcp4", "127.0.0.1:0")
			caller(t, dir, l.Addr().String())
			remote, local := accept(t, l)
			p, err := new(Attestor).Attest(t.Context(), remote, local)
			if p.PodUID != c.want || !errors.Is(err, c.err) || !strings.HasSuffix(p.Cgroup, c.path) {
				t.Errorf("Attest = %+v, %v; want Pod %q, %v, in %s", p, err, c.want, c.err, c.path)
			}
			root, _ := new(Attestor).root()
			if path, err := byInode(root, idOf(t, dir)); err != nil || path != dir {
				t.Errorf("by its inode the group is %q, %v; want %q", path, err, dir)
			}
			_, groups, err := holder(inodeOf(t, remote, local))
			if err != nil || !strings.Contains(strings.Join(groups, "\n"), c.path) {
				t.Errorf("by its process the groups are %q, %v; want one at %s", groups, err, c.path)
			}
		})
	}
}

func inodeOf(t *testing.T, remote, local netip.AddrPort) uint32 {
	t.Helper()
	s, err := new(Attestor).find(remote, local)
	if err != nil {
		t.Fatal(err)
	}
	return s.inode
}

// The address that was dialled is not the one where the connection arrived
// when it was translated: both are tried, nothing else.
func TestDialled(t *testing.T) {
	l := listen(t, "tcp4", "127.0.0.1:0")
	conn, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	remote, local := accept(t, l)
	arrived := netip.MustParseAddrPort("192.0.2.7:988")
	if p, err := new(Attestor).Attest(t.Context(), remote, arrived); !errors.Is(err, ErrElsewhere) {
		t.Errorf("Attest with another address = %+v, %v; want ErrElsewhere", p, err)
	}
	a := &Attestor{Dialled: []netip.AddrPort{local}}
	if p, err := a.Attest(t.Context(), remote, arrived); err != nil || p.UID != uint32(os.Getuid()) {
		t.Errorf("Attest with the address that was dialled = %+v, %v", p, err)
	}
}

// The kernel is asked once for each connection, whatever it says.
func TestPeerOnce(t *testing.T) {
	remote, local := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:80")
	known := callers{}
	peer := (&Attestor{Callers: known}).Peer(&fleet.Caller{Remote: remote, Local: local})
	_, first := peer(context.Background())
	known[remote] = 1
	if _, second := peer(context.Background()); first == nil || second != first {
		t.Errorf("asked again, the kernel's answer is %v, was %v", second, first)
	}
}

func BenchmarkAttest(b *testing.B) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	remote, local := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	for b.Loop() {
		if _, err := new(Attestor).find(remote, local); err != nil {
			b.Fatal(err)
		}
	}
}
