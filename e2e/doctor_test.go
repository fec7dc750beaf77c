package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDoctor: where gcemds has the address of Google's server, doctor finds no
// problem, all cases that only read pass, and what is captured is the document.
// It asks that address, so it runs in a world.
func TestDoctor(t *testing.T) {
	s := newWorld(t).serve(t)
	if got := s.cli(t, "doctor"); !strings.Contains(got, "link-local-captured: 169.254.169.254 is an address of this machine") ||
		!strings.Contains(got, "identity-token: there are identity tokens") || strings.Contains(got, "  problem ") {
		t.Errorf("gcemds doctor prints\n%s", got)
	}
	var report struct {
		Total struct{ Passed, Failed int }
	}
	if err := json.Unmarshal([]byte(s.cli(t, "conformance", "--host", "169.254.169.254", "--json")), &report); err != nil || report.Total.Passed < 500 || report.Total.Failed != 0 {
		t.Errorf("gcemds conformance: %+v, %v; want more than 500 passed, none failed", report.Total, err)
	}
	var captured, want map[string]any
	data, err := os.ReadFile(filepath.Join(here, documentFile))
	if err == nil {
		err = json.Unmarshal(data, &want)
	}
	if err == nil {
		err = json.Unmarshal([]byte(s.cli(t, "capture", "--host", "169.254.169.254")), &captured)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"project", "oslogin"} {
		got, _ := json.Marshal(captured[key])
		if want, _ := json.Marshal(want[key]); string(got) != string(want) {
			t.Errorf("gcemds capture has as %s %s, want %s", key, got, want)
		}
	}
}
