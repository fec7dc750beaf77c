//go:build unix

package admin

import (
	"os"
	"syscall"
)

// owned reports whether a folder belongs to this user.
func owned(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Getuid()
}
