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
	var errs []error
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		errs = append(errs, fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err))
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		errs = append(errs, fmt.Errorf("setrlimit RLIMIT_CORE: %w", err))
	}
	return errors.Join(errs...)
}
