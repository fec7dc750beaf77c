//go:build unix

package daemon

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// restrict keeps a socket from ever having wider permissions than its owner's,
// between bind and chmod. Where the kernel does not do that, the umask does.
func restrict(fd uintptr) { syscall.Fchmod(int(fd), 0o600) }

// reusePort lets others of this user listen on the port of a socket.
func reusePort(fd uintptr) error {
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}
