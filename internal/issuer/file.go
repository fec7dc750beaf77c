package issuer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
)

// ErrExposed is in the error for a file that others could read or change.
var ErrExposed = errors.New("can be used by others than its owner")

// ReadSecretFile reads a file that holds a key, or says who we are, of at most
// limit bytes. It refuses a file that the group or others have any access to; relaxed
// allows all but writing by others, since Kubernetes mounts secrets as 0644.
// Windows has no such bits, there nothing is refused.
func ReadSecretFile(path string, relaxed bool, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of what was opened, not of what is there now
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a directory", path)
	}
	mode := info.Mode().Perm()
	switch {
	case runtime.GOOS == "windows":
	case relaxed && mode&0o002 != 0:
		return nil, fmt.Errorf("%s can be written by everyone (mode %04o); run: chmod o-w %s", path, mode, path)
	case !relaxed && mode&0o077 != 0:
		return nil, fmt.Errorf("%s %w (mode %04o); run: chmod 600 %s", path, ErrExposed, mode, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return data, nil
}
