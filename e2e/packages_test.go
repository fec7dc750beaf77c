package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// debian is where e2e/run unpacks the Debian packages.
const debian = "../dist/e2e/debian"

// layer is the directory of the unpacked packages.
func layer(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(debian)
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "packages"))
	}
	if err != nil {
		t.Fatalf("the Debian packages are not unpacked; run e2e/run (%v)", err)
	}
	return dir
}

// packageVersion is the version of an unpacked package.
func packageVersion(t *testing.T, name string) string {
	t.Helper()
	list, err := os.ReadFile(filepath.Join(layer(t), "packages"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		if pkg, version, _ := strings.Cut(strings.TrimSpace(line), "\t"); pkg == name {
			return version
		}
	}
	t.Fatalf("the Debian package %s is not unpacked; remove dist/e2e and run e2e/run", name)
	return ""
}

// logModule notes which version of a Go module is tried.
func logModule(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(here, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^\t` + regexp.QuoteMeta(path) + ` (\S+)`).FindSubmatch(data)
	if version == nil {
		t.Fatalf("go.mod does not require %s", path)
	}
	t.Log(path, string(version[1]))
}
