package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// python is Debian's: the unpacked packages are made for that one.
const python = "/usr/bin/python3"

// pythonLibraries have a test each in the directory python.
var pythonLibraries = []string{"google-auth", "google-auth-httplib2", "jwt"}

func TestPython(t *testing.T) {
	s := serve(t)
	for _, library := range pythonLibraries {
		t.Run(library, func(t *testing.T) {
			runPython(t, s, library, "PYTHONPATH="+filepath.Join(layer(t), "usr/lib/python3/dist-packages"))
		})
	}
}

func runPython(t *testing.T, s *server, library string, env ...string) {
	t.Helper()
	test := filepath.Join(here, "python", "test_"+strings.ReplaceAll(library, "-", "_")+".py")
	s.client(t, append(env, "PYTHONDONTWRITEBYTECODE=1"), python, "-W", "ignore::ResourceWarning", test)
	t.Log("python3-"+library, packageVersion(t, "python3-"+library))
}
