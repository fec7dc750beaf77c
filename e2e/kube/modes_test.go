package kube

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// These tests are of gcemds as the chart installs it with values that the plain
// manifests do not have.

// chart returns what the chart installs with these values, in YAML.
func chart(t *testing.T, values string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "run", ".", "-values", file, "-header", "testdata/plain.header")
	cmd.Dir = "../../deploy/helm"
	manifest, err := output(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return manifest
}

// whichCluster is what the section gke of the values says of the cluster.
const whichCluster = `project_id: my-project, provider: {workload_identity: projects/123456789012/locations/global/workloadIdentityPools/my-pool/providers/my-cluster}`

// TestHardened: the kubelet makes the tokens and the server reads them, with no
// right to make any.
func TestHardened(t *testing.T) {
	w := sharedWorld(t)
	namespace := w.namespace(t)
	h := w.house(t, map[string][]string{actsAs: {namespace + "/robot"}}, chart(t, `{gke: {`+whichCluster+`, projected: {}}, intercept: {mode: nftables}}`))
	h.accounts(t, namespace)
	volume := func(audience string) string {
		return `{name: gcemds, projected: {sources: [{serviceAccountToken: {path: token, audience: "` + audience + `", expirationSeconds: 3600}}]}}`
	}
	const mount = "{name: gcemds, mountPath: /tmp/gcemds, readOnly: true}"
	w.run(t, namespace,
		pod{name: "app", machine: true, volumes: volume(provider), mounts: mount, spec: "nodeName: node-1"},
		pod{name: "robot", account: "robot", machine: true, volumes: volume(provider), mounts: mount, spec: "nodeName: node-2"},
		pod{name: "without", machine: true, spec: "nodeName: node-1"},
		pod{name: "unused", machine: true, volumes: volume(provider), spec: "nodeName: node-1"},
		pod{name: "other", machine: true, volumes: volume("https://kubernetes.default.svc"), mounts: mount, spec: "nodeName: node-1"},
		pod{name: "own", machine: true, volumes: "{name: gcemds, emptyDir: {}}", mounts: mount, spec: "nodeName: node-1"},
	)
	token := "instance/service-accounts/default/token"

	t.Run("no right", func(t *testing.T) {
		for _, n := range []string{namespace, "gcemds-system"} {
			if said := w.refused(t, "--namespace="+n, "--as=system:serviceaccount:gcemds-system:gcemds", "create", "token", "--audience="+provider, "default"); !strings.Contains(said, `cannot create resource "serviceaccounts/token"`) {
				t.Errorf("the server asks for a token: %s, want that it has no right to", said)
			}
		}
	})
	t.Run("of its own", func(t *testing.T) {
		status, body := h.ask(t, namespace, "app", token)
		if status != "200" {
			t.Fatalf("token: %s %s", status, body)
		}
		if got, want := h.owner(t, body), principal(namespace+"/app"); got != want {
			t.Errorf("the token is of %s, want %s", got, want)
		}
	})
	t.Run("of Google's", func(t *testing.T) {
		status, body := h.ask(t, namespace, "robot", token+"?scopes=https://www.googleapis.com/auth/userinfo.email")
		if status != "200" {
			t.Fatalf("token: %s %s", status, body)
		}
		if got := h.owner(t, body); got != actsAs {
			t.Errorf("the token is of %s, want %s", got, actsAs)
		}
		if status, body := h.ask(t, namespace, "robot", "instance/service-accounts/default/identity?audience=a"); status != "200" || strings.Count(body, ".") != 2 {
			t.Errorf("ID token: %s %s", status, body)
		}
	})
	for _, bad := range []struct{ name, pod, says string }{
		{"without the volume", "without", `has no volume "gcemds" with a token for Google. Add a projected volume of that name with a serviceAccountToken of the audience ` + provider + ` and the path token, and mount it in a container.`},
		{"of another audience", "other", "its audience is not " + provider},
		{"that nothing mounts", "unused", "the kubelet has not mounted it"},
		{"of a volume that the Pod writes", "own", `has no volume "gcemds"`},
	} {
		t.Run(bad.name, func(t *testing.T) {
			if status, body := h.ask(t, namespace, bad.pod, token); status != "403" || !strings.Contains(body, bad.says) {
				t.Errorf("token: %s %s, want 403 and %q", status, body, bad.says)
			}
			if status, body := h.ask(t, namespace, bad.pod, "project/project-id"); status != "200" {
				t.Errorf("what is the same for all: %s %s", status, body)
			}
		})
	}
}
