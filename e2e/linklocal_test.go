package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/compute/metadata"
)

// TestLinkLocal: with no variable set, libraries find the server where Google
// has it.
func TestLinkLocal(t *testing.T) {
	w := newWorld(t)
	s := w.serve(t)
	t.Run("Go", func(t *testing.T) {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := s.client(t, []string{"GCEMDS_E2E_PROBE=go"}, self), document.Instance.ID.String(); strings.TrimSpace(got) != want {
			t.Errorf("a Go program finds instance %s, want %s", got, want)
		}
	})
	for _, library := range libraries {
		t.Run("Node "+library, func(t *testing.T) { runNode(t, s, library) })
	}
	for _, library := range append(pythonLibraries, "libcloud") {
		t.Run("Python "+library, func(t *testing.T) { runPython(t, s, library) })
	}
	t.Run("names", func(t *testing.T) {
		for _, host := range []string{"metadata.google.internal", "metadata", "169.254.169.254", "169.254.169.254:80"} {
			url := "http://" + host + "/computeMetadata/v1/instance/id"
			if got, want := s.client(t, nil, "curl", "-sSf", "-H", "Metadata-Flavor: Google", url), document.Instance.ID.String(); got != want {
				t.Errorf("curl %s = %q, want %s", url, got, want)
			}
		}
	})
}

// linkLocal is this test binary as a program of a world: it has no variable that
// names a metadata server.
func linkLocal() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if !metadata.OnGCEWithContext(ctx) {
		return fmt.Errorf("OnGCE() = false with a server at 169.254.169.254")
	}
	id, err := metadata.InstanceIDWithContext(ctx)
	if err != nil {
		return err
	}
	c, err := credentials.DetectDefault(&credentials.DetectOptions{Scopes: []string{cloudPlatform}})
	if err != nil {
		return err
	}
	if _, err := c.Token(ctx); err != nil {
		return err
	}
	fmt.Println(id)
	return nil
}
