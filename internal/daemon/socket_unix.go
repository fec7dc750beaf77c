//go:build unix

package daemon

import "syscall"

// restrict keeps a socket from ever having wider permissions than its owner's,
// between bind and chmod. Where the kernel does not do that, the umask does.
func restrict(fd uintptr) { syscall.Fchmod(int(fd), 0o600) }
