//go:build unix

package credential

import (
	"os"
	"syscall"
)

// giveTo gives a file of ours to the owner of another, which root can do.
func giveTo(f *os.File, other os.FileInfo) error {
	owner, ok := other.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Uid) == os.Geteuid() {
		return nil
	}
	return f.Chown(int(owner.Uid), int(owner.Gid))
}
