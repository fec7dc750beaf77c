package daemon

import (
	"net"

	"golang.org/x/sys/unix"
)

// steer has the kernel give new connections to one of those who share a port:
// oldest, or next, who came after it. If there is no next, or the kernel cannot
// do this, each connection goes to any of them.
//
// The number that the program of SO_ATTACH_REUSEPORT_CBPF (socket(7)) returns is
// the place of a socket among those of the port. They come at the end; when one
// leaves, the last takes its place.
func steer(l *net.TCPListener, to uint32) {
	c, err := l.SyscallConn()
	if err != nil {
		return
	}
	program := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: to}}
	c.Control(func(fd uintptr) {
		unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &program)
	})
}
