package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSystemd: what systemd says of the units, and gcemds started by the first
// connection to the socket that systemd holds.
func TestSystemd(t *testing.T) {
	w := newWorld(t)
	s := &server{place: w}
	t.Log("systemd", packageVersion(t, "systemd"))
	units := filepath.Join(here, "../deploy/systemd")
	s.run(t, nil, "install", "-m", "755", gcemds, "/usr/bin/gcemds") // as the service says
	s.run(t, nil, "install", "-D", "-m", "644", filepath.Join(units, "gcemds.yaml"), "/etc/gcemds/gcemds.yaml")
	s.run(t, nil, "cp", filepath.Join(units, "gcemds.service"), filepath.Join(units, "gcemds.socket"), "/etc/systemd/system/")

	says := s.run(t, nil, "sh", "-c", "systemd-analyze verify --man=no gcemds.service gcemds.socket 2>&1")
	if strings.Contains(says, "gcemds") {
		t.Errorf("systemd-analyze verify says:\n%s\nwant nothing about our units", says)
	}
	says = s.run(t, nil, "sh", "-c", "systemd-analyze security --offline=true --threshold=20 --no-pager gcemds.service 2>&1")
	if !strings.Contains(says, "OK") {
		t.Errorf("systemd-analyze security says:\n%s\nwant an exposure of at most 2.0", says)
	}

	address, name := directive(t, "gcemds.socket", "ListenStream"), directive(t, "gcemds.socket", "FileDescriptorName")
	start := strings.Fields(directive(t, "gcemds.service", "ExecStart"))
	activate := w.background(t, "systemd-socket-activate", append([]string{"--listen=" + address, "--fdname=" + name}, start...)...)
	activate.wait(t, "Listening on")
	if got := curl(t, w, "-H", flavor, "http://"+address+"/computeMetadata/v1/instance/service-accounts/default/email"); got != "robot@my-project.iam.gserviceaccount.com 200" {
		t.Errorf("the first request on the socket of systemd gets %q, want the e-mail of the configuration", got)
	}
	if got := s.run(t, []string{"GCEMDS_ADMIN=/run/gcemds/admin.sock"}, "gcemds", "get", "instance/name"); strings.TrimSpace(got) == "" {
		t.Error("the admin socket of the configuration does not answer")
	}
}

// directive is the value that a unit gives to a directive, which it has once.
func directive(t *testing.T, unit, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../deploy/systemd", unit))
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			values = append(values, strings.TrimSpace(value))
		}
	}
	if len(values) != 1 {
		t.Fatalf("%s has %s %d times, want once", unit, name, len(values))
	}
	return values[0]
}
