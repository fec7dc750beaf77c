package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// libraries of Node; each has a test in the directory node.
var libraries = []string{
	"gcp-metadata",
	"google-auth-library",
	"jose",
	"jsonwebtoken",
	"@opentelemetry/resource-detector-gcp",
	"@google-cloud/storage",
}

func TestNode(t *testing.T) {
	s := serve(t)
	for _, library := range libraries {
		t.Run(library, func(t *testing.T) { runNode(t, s, library) })
	}
}

func runNode(t *testing.T, s *server, library string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("node/node_modules", library, "package.json"))
	if err != nil {
		t.Fatalf("%s is not installed; run e2e/run (%v)", library, err)
	}
	var installed struct{ Version string }
	if err := json.Unmarshal(data, &installed); err != nil {
		t.Fatal(err)
	}
	node, err := exec.LookPath("node") // the same in a world, where PATH is another
	if err != nil {
		t.Fatal(err)
	}
	s.client(t, nil, node, filepath.Join(here, "node", filepath.Base(library)+".test.js"))
	t.Log(library, installed.Version)
}
