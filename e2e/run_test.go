package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// underRun is a place where programs get their server from gcemds run, with
// these flags, and from no variable.
type underRun []string

func (r underRun) command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	return machine{}.command(ctx, env, gcemds, slices.Concat([]string{"run", "--daemon"}, r, []string{"--", name}, args)...)
}

// TestRun: what gcemds run says to a program is enough for the libraries.
func TestRun(t *testing.T) { tryUnderRun(t, nil) }

// TestRunLinkLocal: with --link-local they find the server where Google has it.
func TestRunLinkLocal(t *testing.T) {
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
			t.Skipf("there is a network (%s), and a mistake would ask the server of this machine: run e2e/run as root, which is without one", i.Name)
		}
	}
	tryUnderRun(t, underRun{"--link-local"})
}

func tryUnderRun(t *testing.T, flags underRun) {
	s := serve(t)
	s.place = &flags
	t.Run("Go", func(t *testing.T) {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := s.client(t, []string{"GCEMDS_E2E_PROBE=go"}, self), document.Instance.ID.String(); strings.TrimSpace(got) != want {
			t.Errorf("a Go program finds instance %s, want %s", got, want)
		}
	})
	for _, library := range []string{"gcp-metadata", "google-auth-library"} {
		t.Run("Node "+library, func(t *testing.T) { runNode(t, s, library) })
	}
	t.Run("Python google-auth", func(t *testing.T) {
		runPython(t, s, "google-auth", "PYTHONPATH="+filepath.Join(layer(t), "usr/lib/python3/dist-packages"))
	})
	t.Run("curl", func(t *testing.T) {
		host := "169.254.169.254"
		if len(flags) == 0 {
			host = "$GCE_METADATA_HOST"
		}
		script := "curl -sSf -H 'Metadata-Flavor: Google' http://" + host + "/computeMetadata/v1/instance/id"
		if got, want := s.client(t, nil, "sh", "-c", script), document.Instance.ID.String(); got != want {
			t.Errorf("%s = %q, want %s", script, got, want)
		}
	})
}
