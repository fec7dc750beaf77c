package kube

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestChart: a real API server takes everything that the chart can install, and
// holds its server to what it is for. The tests are those of deploy/helm, which
// have Helm.
func TestChart(t *testing.T) {
	needCluster(t)
	c, err := startCluster(t)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-run", "Accepted|Foreign|Held", ".")
	cmd.Dir = "../../deploy/helm"
	cmd.Env = append(os.Environ(), "GCEMDS_E2E_KUBECONFIG="+c.file("admin.kubeconfig"), "PATH="+bin+":"+os.Getenv("PATH"))
	switch out, err := output(cmd); {
	case err != nil:
		t.Error(err)
	case strings.Contains(out, "no tests to run"):
		t.Error("deploy/helm has no tests of these names any more")
	}
}
