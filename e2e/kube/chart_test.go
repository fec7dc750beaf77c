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
	elsewhere(t, "../../deploy/helm", "Accepted|Foreign|Held", "GCEMDS_E2E_KUBECONFIG")
}

// TestAPI: what internal/gke asks of Kubernetes a real API server answers, and
// the way from a Pod to its token ends well there.
func TestAPI(t *testing.T) {
	elsewhere(t, "../../internal/gke", "^(TestKubernetes|TestChain)$", "GCEMDS_TEST_KUBECONFIG")
}

// elsewhere runs tests of another folder with a cluster of their own, whose
// kubeconfig file the variable names.
func elsewhere(t *testing.T, dir, tests, variable string) {
	needCluster(t)
	c, err := startCluster(t)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-run", tests, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), variable+"="+c.file("admin.kubeconfig"), "PATH="+bin+":"+os.Getenv("PATH"))
	switch out, err := output(cmd); {
	case err != nil:
		t.Error(err)
	case strings.Contains(out, "no tests to run"):
		t.Errorf("%s has no tests of these names any more", dir)
	}
}
