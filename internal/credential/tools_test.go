package credential

import (
	"os"
	"os/exec"
	"testing"
)

// tool returns the path of a program that a test cannot do without. If it is
// missing the test is skipped, or fails where all must be there (make e2e).
func tool(t testing.TB, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, "%s is missing; install it with: apt-get install %s", name, debian)
	}
	return path
}

func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("GCEMDS_E2E") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
