//go:build unix

package credential

import "golang.org/x/sys/unix"

// handedOver reports whether a file descriptor is one that we were started
// with. Those that we have opened, listeners and connections, are closed in
// programs that we start, and so are those of systemd, once they are in use.
func handedOver(fd uintptr) bool {
	flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}
