package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// gcemds is the binary under test.
var gcemds string

// here is this directory, also inside a world.
var here string

// nowhere is an address of this machine at which nobody listens (the discard
// port). Every test starts with it, so a library that is asked too early, or
// caches what it finds, cannot look at 169.254.169.254 instead.
const nowhere = "127.0.0.1:9"

func TestMain(m *testing.M) {
	status, err := 0, error(nil)
	switch os.Getenv("GCEMDS_E2E_PROBE") {
	case "go":
		err = linkLocal()
	case "google":
		err = googleProbe()
	default:
		status, err = run(m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "gcemds-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if here, err = os.Getwd(); err != nil {
		return 0, err
	}
	if data, err := os.ReadFile(documentFile); err != nil {
		return 0, err
	} else if err := json.Unmarshal(data, &document); err != nil {
		return 0, fmt.Errorf("%s: %w", documentFile, err)
	}

	// GCEMDS_E2E_BINARY tries a binary that is there already, such as a release.
	if gcemds = os.Getenv("GCEMDS_E2E_BINARY"); gcemds == "" {
		gcemds = filepath.Join(dir, "gcemds")
		build := exec.Command("go", "build", "-trimpath", "-o", gcemds, "./cmd/gcemds")
		build.Dir = ".."
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("cannot build gcemds: %w\n%s", err, out)
		}
	}

	for _, v := range metadataVariables {
		os.Setenv(v, nowhere)
	}
	os.Setenv("HOME", dir) // no credentials of the person who runs this
	os.Setenv("CLOUDSDK_CONFIG", dir)
	os.Unsetenv("GOOGLE_APPLICATION_CREDENTIALS")
	os.Unsetenv("GOOGLE_CLOUD_PROJECT")
	return m.Run(), nil
}

// metadataVariables are all names under which libraries look for the host.
var metadataVariables = []string{"GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"}

const documentFile = "../testdata/corpus/default-instance.json"

// document is what the servers of these tests serve, and so what clients must
// find.
var document struct {
	Instance struct {
		Attributes        map[string]string
		Hostname          string
		ID                json.Number
		Licenses          []struct{ ID json.Number }
		MachineType       string
		Name              string
		NetworkInterfaces []struct {
			IP            string
			AccessConfigs []struct{ ExternalIP string }
		}
		ServiceAccounts map[string]struct {
			Email  string
			Scopes []string
		}
		Tags []string
		Zone string
	}
	Project struct {
		Attributes       map[string]string
		NumericProjectID json.Number
		ProjectID        string
	}
}
