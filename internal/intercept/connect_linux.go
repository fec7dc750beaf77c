package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Structures of linux/seccomp.h.
type (
	notification struct {
		id    uint64
		pid   uint32 // of the thread
		flags uint32
		nr    int32
		arch  uint32
		ip    uint64
		args  [6]uint64
	}
	response struct {
		id    uint64
		val   int64
		err   int32
		flags uint32
	}
)

// arches are the values of AUDIT_ARCH for what this is built for.
var arches = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// filter makes every connect of this thread, and of what it becomes and
// starts, wait for an answer from the file that it returns.
func filter() (listener int, err error) {
	arch, ok := arches[runtime.GOARCH]
	if !ok {
		return 0, fmt.Errorf("connections cannot be intercepted on %s", runtime.GOARCH)
	}
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{
		{Code: load, K: 4}, // of struct seccomp_data: the architecture
		{Code: equal, K: arch, Jf: 3},
		{Code: load, K: 0}, // the number of the call
		{Code: equal, K: unix.SYS_CONNECT, Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	var e unix.Errno
	// While we answer, only death may interrupt the call: Go programs get many
	// signals. Linux before 5.19 does not know that.
	for _, flags := range []uintptr{unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 0} {
		var fd uintptr
		fd, _, e = unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|flags, uintptr(unsafe.Pointer(&prog)))
		if e == 0 {
			return int(fd), nil
		}
		if e != unix.EINVAL {
			break
		}
	}
	switch e {
	case unix.EBUSY:
		return 0, errors.New("connections are intercepted here already, and that can be done once only")
	case unix.EINVAL, unix.ENOSYS:
		return 0, fmt.Errorf("this kernel cannot intercept connections (%w); that takes Linux 5.6 with CONFIG_SECCOMP_FILTER", e)
	}
	return 0, fmt.Errorf("connections cannot be intercepted: seccomp: %w", e)
}

// supervise answers for every connect until stop is called.
func supervise(listener int, server netip.AddrPort) (stop func(), err error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(listener)
		return nil, err
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			fds := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
				return
			}
			if fds[1].Revents != 0 || fds[0].Revents&unix.POLLHUP != 0 {
				return // asked to, or nobody is left
			}
			var n notification
			if fds[0].Revents == 0 || ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)) != nil {
				continue // it has been killed meanwhile
			}
			running.Go(func() { // a blocking socket may take its time
				r := response{id: n.id}
				switch err := connect(listener, &n, server); {
				case err == errContinue:
					r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
				case err != nil:
					e := unix.EACCES
					errors.As(err, &e)
					r.err = -int32(e)
				}
				ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)) // fails if the program is gone
			})
		}
	})
	return func() {
		unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		running.Wait()
		unix.Close(wake)
		unix.Close(listener)
	}, nil
}

func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

// errContinue means that the kernel shall go on with a call.
var errContinue = errors.New("not for us")

// connect does in the place of a program what it has asked for, if that is
// about the metadata server. The error is what the program gets. Where we may
// not look at it, it gets one too: it might reach the server of the machine
// that it runs on.
func connect(listener int, n *notification, server netip.AddrPort) error {
	raw := make([]byte, min(n.args[2], unix.SizeofSockaddrInet6))
	if len(raw) < unix.SizeofSockaddrInet4 {
		return errContinue
	}
	local := []unix.Iovec{{Base: &raw[0]}}
	local[0].SetLen(len(raw))
	got, err := unix.ProcessVMReadv(int(n.pid), local, []unix.RemoteIovec{{Base: uintptr(n.args[1]), Len: len(raw)}}, 0)
	if err != nil {
		return err
	}
	to, ok := parseSockaddr(raw[:got])
	if !ok || to.Addr().Unmap() != linkLocal && to.Addr() != linkLocal6 {
		return errContinue
	}
	fd, err := fileOf(int(n.pid), int(int32(n.args[0])))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&n.id)) != nil {
		return unix.EINTR // it is gone, and what we have looked at was another's
	}
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return err
	} else if kind != unix.SOCK_STREAM || to.Port() == 53 { // a resolver, as machines on Google Cloud have it at this address
		return errContinue
	}
	if to.Port() != 80 || to.Addr() == linkLocal6 {
		return unix.ECONNREFUSED
	}
	var address unix.Sockaddr = &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()}
	if to.Addr().Is4In6() {
		address = &unix.SockaddrInet6{Port: int(server.Port()), Addr: server.Addr().As16()}
	}
	err = unix.Connect(fd, address)
	if err == unix.EISCONN { // a signal has interrupted the program after the first time
		return nil
	}
	return err
}

// parseSockaddr reads the address of an IP socket.
func parseSockaddr(raw []byte) (netip.AddrPort, bool) {
	if len(raw) < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(raw[2:])
	switch family := binary.NativeEndian.Uint16(raw); {
	case family == unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[4:8])), port), true
	case family == unix.AF_INET6 && len(raw) >= 24:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(raw[8:24])), port), true
	}
	return netip.AddrPort{}, false
}

// fileOf returns a file of a program as one of ours: the same open socket.
func fileOf(thread, fd int) (int, error) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(thread) + "/status")
	if err != nil {
		return 0, unix.ESRCH
	}
	_, after, _ := strings.Cut(string(status), "\nTgid:")
	line, _, _ := strings.Cut(after, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return 0, unix.ESRCH
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(pidfd)
	return unix.PidfdGetfd(pidfd, fd, 0)
}
