package e2e

import (
	"path/filepath"
	"testing"
)

// python is Debian's: the unpacked packages are made for that one.
const python = "/usr/bin/python3"

func TestPython(t *testing.T) {
	s := serve(t)
	t.Run("google-auth", func(t *testing.T) {
		runPython(t, s, "PYTHONPATH="+filepath.Join(layer(t), "usr/lib/python3/dist-packages"))
	})
}

func runPython(t *testing.T, s *server, env ...string) {
	t.Helper()
	s.client(t, append(env, "PYTHONDONTWRITEBYTECODE=1"), python, "-W", "ignore::ResourceWarning", filepath.Join(here, "python/test_google_auth.py"))
	t.Log("google-auth", packageVersion(t, "python3-google-auth"))
}
