package attest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/gcemds/gcemds/internal/fleet"
	"golang.org/x/sys/unix"
)

// The test binary is also the caller in another control group: it connects,
// says so, and waits. It hands its socket to who has the other end of its file 3,
// if there is one.
func TestMain(m *testing.M) {
	if to := os.Getenv("ATTEST_TEST_DIAL"); to != "" {
		c, err := net.Dial("tcp", to)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if handed, err := net.FileConn(os.NewFile(3, "")); err == nil {
			f, _ := c.(*net.TCPConn).File()
			handed.(*net.UnixConn).WriteMsgUnix([]byte{0}, unix.UnixRights(int(f.Fd())), nil)
			f.Close()
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

func TestProbe(t *testing.T) {
	if err := new(Attestor).Probe(); err != nil {
		t.Errorf("Probe = %v, where our own connections are known", err)
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
	root, err := groups()
	if err != nil {
		t.Skipf("%v; mount -t cgroup2 none /sys/fs/cgroup", err)
	}
	own := fmt.Sprintf("%s/gcemds-attest-%d-%s", root, os.Getpid(), strings.ReplaceAll(t.Name(), "/", "_"))
	dir := filepath.Join(own, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Skipf("cannot make a control group: %v", err)
	}
	t.Cleanup(func() {
		for dir := dir; strings.HasPrefix(dir, own); dir = filepath.Dir(dir) {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
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

// caller runs a process in a control group that connects, until the test or
// end does. It hands its socket to the other end of one that it is given.
func caller(t *testing.T, dir, to string, handed ...*os.File) (end func()) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(os.Args[0])
	cmd.ExtraFiles = handed
	cmd.Env = append(os.Environ(), "ATTEST_TEST_DIAL="+to, "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		in.Close()
		cmd.Wait()
	})
	t.Cleanup(end)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "connected\n" {
		t.Fatalf("the caller says %q, %v", line, err)
	}
	return end
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
			root, _ := groups()
			if path, err := byInode(root, idOf(t, dir)); err != nil || path != dir {
				t.Errorf("by its inode the group is %q, %v; want %q", path, err, dir)
			}
			h, err := holder(inodeOf(t, remote, local))
			if h.PodUID != c.want || !errors.Is(err, c.err) || !strings.HasSuffix(h.Cgroup, c.path) {
				t.Errorf("by its process it is %+v, %v; want Pod %q, %v, in %s", h, err, c.want, c.err, c.path)
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

// Who listens at the port that a caller of another network has is not the
// caller. A Pod whose connections get the address of the node can choose its
// port, and would be any server there.
func TestListener(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6", "tcp"} {
		l := listen(t, network, ":0")
		for _, c := range []struct{ remote, local string }{{"127.0.0.1", "127.0.0.1:1"}, {"127.0.0.1", "192.0.2.7:988"}, {"::1", "[::1]:1"}} {
			remote := netip.AddrPortFrom(netip.MustParseAddr(c.remote), uint16(l.Addr().(*net.TCPAddr).Port))
			a := &Attestor{Dialled: []netip.AddrPort{netip.MustParseAddrPort("169.254.169.254:80")}}
			if p, err := a.Attest(t.Context(), remote, netip.MustParseAddrPort(c.local)); !errors.Is(err, ErrElsewhere) {
				t.Errorf("%s: the caller %s, who is not here, is said to be the listener: %+v, %v; want ErrElsewhere", network, remote, p, err)
			}
		}
	}
}

// A socket stays that of the Pod that opened it, whoever it is handed to; and
// nobody's when that Pod is gone.
func TestHanded(t *testing.T) {
	dir := group(t, "kubepods/pod"+uid)
	l := listen(t, "tcp4", "127.0.0.1:0")
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), ""), os.NewFile(uintptr(ends[1]), "")
	defer ours.Close()
	defer theirs.Close()
	end := caller(t, dir, l.Addr().String(), theirs)
	remote, local := accept(t, l)

	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(ends[0], make([]byte, 1), rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("the caller handed over %d sockets, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fds[0]), "")
	defer socket.Close()

	check := func(when string) {
		t.Helper()
		if p, err := new(Attestor).Attest(t.Context(), remote, local); err != nil || p.PodUID != uid {
			t.Errorf("%s: Attest = %+v, %v; want Pod %s, which opened the socket", when, p, err, uid)
		}
	}
	check("the opener and another have the socket")
	if h, err := holder(inodeOf(t, remote, local)); !errors.Is(err, errShared) {
		t.Errorf("by its processes, of which one is in a Pod, it is %+v, %v; want %v", h, err, errShared)
	}
	end()
	check("the opener has ended")
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if p, err := new(Attestor).Attest(t.Context(), remote, local); !errors.Is(err, errGone) || p.PodUID != "" {
		t.Errorf("the Pod that opened the socket is gone: Attest = %+v, %v; want %v", p, err, errGone)
	}
}

// A caller that has closed its end, or has ended, is nobody: the kernel tells
// of such a socket that it is root's.
func TestClosed(t *testing.T) {
	l := listen(t, "tcp4", "127.0.0.1:0")
	conn, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	remote, local := accept(t, l)
	conn.(*net.TCPConn).CloseWrite()
	if p, err := new(Attestor).Attest(t.Context(), remote, local); err != nil {
		t.Errorf("a caller that waits for the answer only: Attest = %+v, %v", p, err)
	}
	conn.Close()
	if p, err := new(Attestor).Attest(t.Context(), remote, local); !errors.Is(err, ErrClosed) {
		t.Errorf("a caller that has closed its end: Attest = %+v, %v; want ErrClosed", p, err)
	}
}

// A group outside of those that are mounted is not one that is of no Pod.
func TestOutside(t *testing.T) {
	dir := group(t, "kubepods/pod"+uid)
	below := t.TempDir()
	if err := unix.Mount(filepath.Dir(filepath.Dir(dir)), below, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	defer unix.Unmount(below, 0)
	if path, err := pathOf(below, idOf(t, dir)); err != nil || path != "/kubepods/pod"+uid {
		t.Errorf("a group that is mounted is at %q, %v; want /kubepods/pod%s", path, err, uid)
	}
	if path, err := pathOf(below, idOf(t, filepath.Join(dir, "../../.."))); !errors.Is(err, errOutside) {
		t.Errorf("a group that is not mounted is at %q, %v; want %v", path, err, errOutside)
	}
}

func TestMember(t *testing.T) {
	for _, c := range []struct {
		file, pod, group string
		err              error
	}{
		{"12:cpu,cpuacct:/kubepods/pod" + uid + "/77\n1:name=systemd:/x\n0::/system.slice/containerd.service\n", uid, "/kubepods/pod" + uid + "/77", nil},
		{"12:cpu:/\n0::/system.slice/a:b.service\n", "", "/system.slice/a:b.service", nil},
		{"0::/../../pod" + uid + "/77\n", "", "/../../pod" + uid + "/77", errOutside},
		{"0::/kubepods/pod0123456789abcdef0123456789abcdef/77\n", "", "/kubepods/pod0123456789abcdef0123456789abcdef/77", errStatic},
		{"", "", "", nil},
		{"\n\nx\n", "", "", nil},
	} {
		if p, err := member([]byte(c.file)); p.PodUID != c.pod || p.Cgroup != c.group || !errors.Is(err, c.err) {
			t.Errorf("member(%q) = %+v, %v; want Pod %q in %q, %v", c.file, p, err, c.pod, c.group, c.err)
		}
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
	a := new(Attestor)
	remote, local := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	s, err := a.find(remote, local)
	if err != nil {
		b.Fatal(err)
	}
	root, err := groups()
	if err != nil {
		b.Skip(err)
	}
	for _, c := range []struct {
		name string
		ask  func() error
	}{
		{"socket", func() error { _, err := a.find(remote, local); return err }},
		{"group by handle", func() error { _, err := byHandle(root, s.cgroup); return err }},
		{"process", func() error { _, err := holder(s.inode); return err }},
		{"all", func() error { _, err := a.Attest(b.Context(), remote, local); return err }},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if err := c.ask(); errors.Is(err, unix.EPERM) {
					b.Skip("takes CAP_DAC_READ_SEARCH: run it as root")
				} else if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
