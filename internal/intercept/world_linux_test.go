package intercept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A world is a node with two Pods on a bridge, and a cloud behind its uplink
// that has a metadata server of its own. All of it is in namespaces without
// names, which end with the test.
type world struct {
	t                       *testing.T
	node, pod1, pod2, cloud namespace
}

// A namespace is one of the network, and for the node one of mounts too.
type namespace struct{ net, mnt *os.File }

// in runs f on a thread of its own in the namespace. Sockets that it makes
// stay there.
func (n namespace) in(f func()) {
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		check(unix.Setns(int(n.net.Fd()), unix.CLONE_NEWNET))
		if n.mnt != nil {
			check(unix.Unshare(unix.CLONE_FS))
			check(unix.Setns(int(n.mnt.Fd()), unix.CLONE_NEWNS))
		}
		f()
	})
	done.Wait()
}

// check panics: it is for what works once the world could be made.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

func newNamespace(t *testing.T, mounts bool) (n namespace) {
	t.Helper()
	var err error
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread()
		self := fmt.Sprintf("/proc/self/task/%d/ns/", unix.Gettid())
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		if n.net, err = os.Open(self + "net"); err != nil {
			return
		}
		lo, e := netlink.LinkByName("lo")
		if err = e; err != nil {
			return
		}
		if err = netlink.LinkSetUp(lo); err != nil || !mounts {
			return
		}
		if err = unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return
		}
		if err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return
		}
		// That of the machine is not for us.
		if _, missing := os.Stat(bpffs); missing == nil {
			if err = unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
				return
			}
		}
		n.mnt, err = os.Open(self + "mnt")
	})
	done.Wait()
	if err != nil {
		t.Skipf("there is no network to try it in: %v (run as root, in a container with --privileged)", err)
	}
	t.Cleanup(func() {
		n.net.Close()
		if n.mnt != nil {
			n.mnt.Close()
		}
	})
	return n
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel() // most of the time they wait for answers that must not come
	return newWorldAlone(t)
}

// newWorldAlone is for a test that changes the environment.
func newWorldAlone(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, node: newNamespace(t, true), pod1: newNamespace(t, false), pod2: newNamespace(t, false), cloud: newNamespace(t, false)}
	w.node.in(func() {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}
		check(netlink.LinkAdd(bridge))
		check(netlink.LinkSetUp(bridge))
		for n, peer := range []namespace{w.pod1, w.pod2, w.cloud} {
			veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("veth%d", n+1)}, PeerName: "eth0", PeerNamespace: netlink.NsFd(peer.net.Fd())}
			if peer == w.cloud {
				veth.Name = "eth0"
			} else {
				veth.MasterIndex = bridge.Index
			}
			check(netlink.LinkAdd(veth))
			check(netlink.LinkSetUp(veth))
		}
		address("cni0", "10.244.1.1/24", "fd00:1::1/64")
		address("eth0", "192.0.2.1/24")
		route("192.0.2.2", "0.0.0.0/0")
		check(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	})
	for n, pod := range []namespace{w.pod1, w.pod2} {
		pod.in(func() {
			address("eth0", fmt.Sprintf("10.244.1.%d/24", 11+n), fmt.Sprintf("fd00:1::%d/64", 11+n))
			route("10.244.1.1", "0.0.0.0/0")
			route("fd00:1::1", "::/0")
		})
	}
	w.cloud.in(func() {
		address("eth0", "192.0.2.2/24")
		address("lo", "169.254.169.254/32")
		route("192.0.2.1", "10.244.1.0/24")
		route("192.0.2.1", "169.254.169.252/32")
	})
	w.serve(w.cloud, "cloud", "169.254.169.254:80")
	w.want("a Pod, in the beginning,", w.pod1, "169.254.169.254:80", "cloud: 10.244.1.11")
	return w
}

func address(name string, addrs ...string) {
	l, err := netlink.LinkByName(name)
	check(err)
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		check(err)
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		check(netlink.AddrAdd(l, a))
	}
	check(netlink.LinkSetUp(l))
}

func route(via, to string) {
	_, dst, err := net.ParseCIDR(to)
	check(err)
	check(netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(via), Dst: dst}))
}

// serve answers connections with who it is and who it thinks has called, once
// for each line that it is sent, and the first time unasked.
func (w *world) serve(n namespace, who, at string) (stop func()) {
	w.t.Helper()
	var l net.Listener
	var err error
	n.in(func() { l, err = net.Listen("tcp", at) })
	if err != nil {
		w.t.Fatalf("cannot listen on %s: %v", at, err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				for line := make([]byte, 1); ; {
					if _, err := fmt.Fprintf(c, "%s: %s\n", who, host); err != nil {
						return
					}
					if _, err := c.Read(line); err != nil {
						return
					}
				}
			}()
		}
	}()
	stop = func() { l.Close() }
	w.t.Cleanup(stop)
	return stop
}

// noAnswer is what a caller has that waits for a second in vain.
const noAnswer = "no answer"

// ask connects and returns what the server says; why it cannot, if it cannot.
func ask(n namespace, to string) (answer string) {
	n.in(func() { answer = dial(to) })
	return answer
}

// dial is ask of the namespace it is in. Go would take a socket of IPv4 for a
// mapped address; Java does not. With mptcp: before the address, the socket is
// one of Multipath TCP.
func dial(address string) string {
	address, mptcp := strings.CutPrefix(address, "mptcp:")
	to, protocol := netip.MustParseAddrPort(address), 0
	if mptcp {
		protocol = unix.IPPROTO_MPTCP
	}
	family, peer := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, peer = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err.Error()
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	second := unix.NsecToTimeval(time.Second.Nanoseconds())
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &second) // of connect, too
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &second)
	if err := unix.Connect(fd, peer); err != nil {
		if errors.Is(err, unix.EINPROGRESS) {
			return noAnswer
		}
		return err.Error()
	}
	line := make([]byte, 100)
	n, err := f.Read(line)
	if errors.Is(err, unix.EAGAIN) {
		return noAnswer
	}
	if err != nil {
		return err.Error()
	}
	got, err := unix.Getpeername(fd)
	if err != nil {
		return err.Error()
	}
	if shown := sockaddrPort(got); shown != to {
		return fmt.Sprintf("%s (the caller sees %v)", strings.TrimSpace(string(line[:n])), shown)
	}
	return strings.TrimSpace(string(line[:n]))
}

func sockaddrPort(s unix.Sockaddr) netip.AddrPort {
	switch a := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// want fails the test unless the server that is asked answers so. A busy
// machine is asked again, and so are new neighbours, who may need a second.
func (w *world) want(who string, n namespace, to, want string) {
	w.t.Helper()
	got := ask(n, to)
	for try := 0; try < 5 && got == noAnswer && want != noAnswer; try++ {
		got = ask(n, to)
	}
	if got != want {
		w.t.Errorf("%s asks %s and gets %q, want %q", who, to, got, want)
	}
}

// install installs in the node and returns the status.
func (w *world) install(p Plan) Status {
	w.t.Helper()
	var s Status
	var err error
	w.node.in(func() { s, err = Install(context.Background(), p) })
	if err != nil {
		w.t.Fatalf("Install(%+v): %v", p, err)
	}
	return s
}

func (w *world) read() Status {
	w.t.Helper()
	var s Status
	var err error
	w.node.in(func() { s, err = Read() })
	if err != nil {
		w.t.Fatalf("Read: %v", err)
	}
	return s
}

func (w *world) remove() Status {
	w.t.Helper()
	var s Status
	var err error
	w.node.in(func() { s, err = Remove() })
	if err != nil {
		w.t.Fatalf("Remove: %v", err)
	}
	return s
}

// needs skips the test if the machine cannot have the mode.
func (w *world) needs(m Mode) {
	w.t.Helper()
	var err, place error
	w.node.in(func() {
		if err = m.Probe(); m == EBPF {
			_, noRoot := cgroupRoot()
			_, noPins := os.Stat(bpffs)
			place = errors.Join(noRoot, noPins)
		}
	})
	switch {
	case err == nil:
	case place != nil, errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.EOPNOTSUPP):
		w.t.Skipf("%s: %v", m, err)
	default: // it can be our own fault
		w.t.Fatalf("%s: %v", m, err)
	}
}

// cgroups makes directories below one of this test, which is returned.
func (w *world) cgroups(names ...string) string {
	w.t.Helper()
	root, err := cgroupRoot()
	if err != nil {
		w.t.Skip(err)
	}
	top := filepath.Join(root, fmt.Sprintf("gcemds-test-%d-%s", os.Getpid(), strings.ReplaceAll(w.t.Name(), "/", "-")))
	var made []string
	for _, name := range append([]string{""}, names...) {
		at := top
		for _, element := range append([]string{""}, strings.Split(name, "/")...) {
			at = filepath.Join(at, element)
			if err := os.Mkdir(at, 0o755); err == nil {
				made = append(made, at)
			} else if !os.IsExist(err) {
				w.t.Skipf("cannot make a cgroup: %v (run as root, with cgroup2 writable)", err)
			}
		}
	}
	w.t.Cleanup(func() {
		for i := len(made) - 1; i >= 0; i-- {
			if err := os.Remove(made[i]); err != nil {
				w.t.Errorf("a cgroup stays behind: %v", err)
			}
		}
	})
	return top
}

// askIn asks from a process in a cgroup; it returns that process, too.
func askIn(n namespace, cgroup, to string) (answer string, pid int) {
	n.in(func() {
		dir, err := os.Open(cgroup)
		check(err)
		defer dir.Close()
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "GCEMDS_TEST_ASK="+to, "GORACE=atexit_sleep_ms=0")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
		out, err := cmd.Output()
		if err != nil {
			answer = err.Error()
			return
		}
		answer, pid = string(out), cmd.Process.Pid
	})
	return answer, pid
}

// TestMain is, in a process that askIn has started, the caller.
func TestMain(m *testing.M) {
	if to := os.Getenv("GCEMDS_TEST_ASK"); to != "" {
		io.WriteString(os.Stdout, dial(to))
		return
	}
	os.Exit(m.Run())
}
