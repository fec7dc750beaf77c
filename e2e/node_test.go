package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// libraries of Node; each has a test in the directory node. They need a newer
// Node than Debian has, so that comes from npm too.
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
	nodes, err := filepath.Glob(filepath.Join(here, "node/node_modules/node-linux-*/bin/node"))
	if err != nil || len(nodes) != 1 {
		t.Fatalf("there are %d programs called node under node_modules, want the one of this processor; run e2e/run", len(nodes))
	}
	s.client(t, nil, nodes[0], filepath.Join(here, "node", filepath.Base(library)+".test.js"))
	t.Log(library, installed.Version)
}
