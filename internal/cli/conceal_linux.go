package cli

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// conceal keeps the memory of this process from other processes of the same
// user, and out of core dumps: keys and tokens are in it. Programs that we
// start leave no core dumps either.
func conceal() error {
	err := concealMemory()
	if e := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); e != nil {
		err = errors.Join(err, fmt.Errorf("setrlimit RLIMIT_CORE: %w", e))
	}
	return err
}

// concealMemory is conceal that changes nothing for programs that we start.
func concealMemory() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err)
	}
	return nil
}
