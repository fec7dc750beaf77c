package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// A cluster is a real API server, asked through kubectl.
type cluster struct {
	t          *testing.T
	kubeconfig string
}

// realCluster skips the test where there is no cluster that may be changed.
// That of e2e/kube is one; it says where in GCEMDS_E2E_KUBECONFIG.
func realCluster(t *testing.T) *cluster {
	t.Helper()
	kubeconfig := os.Getenv("GCEMDS_E2E_KUBECONFIG")
	if kubeconfig == "" {
		t.Skip("GCEMDS_E2E_KUBECONFIG names no cluster; e2e/kube starts one for this test, and one of your own will do if it may be changed")
	}
	if _, err := exec.LookPath("kubectl"); err != nil {
		t.Fatal("kubectl is missing; e2e/kube builds it")
	}
	return &cluster{t, kubeconfig}
}

// try runs kubectl and returns what it prints, or what is wrong.
func (c *cluster) try(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kubectl", append([]string{"--kubeconfig=" + c.kubeconfig, "--cache-dir=" + c.t.TempDir()}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *cluster) must(stdin string, args ...string) string {
	c.t.Helper()
	out, err := c.try(stdin, args...)
	if err != nil {
		c.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// finally runs kubectl when the test has ended, whatever comes of it.
func (c *cluster) finally(stdin string, args ...string) {
	c.t.Cleanup(func() {
		cmd := exec.Command("kubectl", append([]string{"--kubeconfig=" + c.kubeconfig}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		cmd.Run()
	})
}

// namespace makes a namespace, and takes it away in the end.
func (c *cluster) namespace(name string) {
	c.t.Helper()
	c.must("", "create", "namespace", name)
	c.finally("", "delete", "namespace", name, "--wait=false")
}

// TestAccepted: a real API server knows every field of everything that the
// chart can install, and accepts it.
func TestAccepted(t *testing.T) {
	c := realCluster(t)
	for _, name := range []string{"gcemds-system", "team-a", "team-b"} {
		c.namespace(name)
	}
	accepts := func(t *testing.T, text string) {
		c := &cluster{t, c.kubeconfig}
		out, err := c.try(text, "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	for _, v := range cases {
		t.Run(v.name, func(t *testing.T) {
			text, err := rendered(t, v.values).render()
			if err != nil {
				t.Fatal(err)
			}
			var known []string
			for part := range strings.SplitSeq(text, "---\n") {
				if !strings.Contains(part, "kind: PodMonitor\n") { // of the Prometheus operator, which is not there
					known = append(known, part)
				}
			}
			accepts(t, strings.Join(known, "---\n"))
		})
	}
	for _, file := range []string{"pod-identity.yaml", "coredns-custom.yaml"} {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("../kubernetes", file))
			if err != nil {
				t.Fatal(err)
			}
			accepts(t, string(text))
		})
	}
}

// TestForeign: what others have said to the DNS of the cluster stays.
func TestForeign(t *testing.T) {
	c := realCluster(t)
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	r := rendered(t, "dns: {provider: CoreDNSCustom}")
	r.cluster = config
	if _, err := r.render(); err != nil {
		t.Errorf("where there is no ConfigMap coredns-custom: %v", err)
	}

	c.must("", "create", "configmap", "coredns-custom", "-n", "kube-system", "--from-literal=other.server=theirs")
	c.finally("", "delete", "configmap", "coredns-custom", "-n", "kube-system")
	if _, err := r.render(); err == nil || !strings.Contains(err.Error(), "kube-system has a ConfigMap coredns-custom of somebody else, and the chart does not touch it") {
		t.Errorf("where somebody else has made the ConfigMap, the chart says %v, want that it does not touch it", err)
	}
	data := func() string {
		return c.must("", "get", "configmap", "coredns-custom", "-n", "kube-system", "-o", "jsonpath={.data}")
	}
	c.must("", "apply", "--server-side", "--field-manager=gcemds", "-f", "../kubernetes/coredns-custom.yaml")
	if got := data(); !strings.Contains(got, `"other.server":"theirs"`) || !strings.Contains(got, "169.254.169.254") {
		t.Errorf("with the plain manifest the ConfigMap has %s, want both keys", got)
	}
	c.must("", "patch", "configmap", "coredns-custom", "-n", "kube-system", "--type=json", "-p", `[{"op":"remove","path":"/data/gcemds.server"}]`)
	if got := data(); got != `{"other.server":"theirs"}` {
		t.Errorf("when our key is removed the ConfigMap has %s, want theirs", got)
	}

	c.must("", "annotate", "configmap", "coredns-custom", "-n", "kube-system", "meta.helm.sh/release-name=gcemds", "meta.helm.sh/release-namespace=gcemds-system")
	if _, err := r.render(); err != nil {
		t.Errorf("where this release has made the ConfigMap: %v", err)
	}
}

// TestHeld: the API server holds the server's account to what it is for.
func TestHeld(t *testing.T) {
	c := realCluster(t)
	const system, team = "gcemds-held", "gcemds-held-team"
	c.namespace(system)
	c.namespace(team)
	r := rendered(t, "gke: {start_taint: gcemds.dev/not-ready}")
	r.namespace = system
	for _, r.only = range []string{"serviceaccount.yaml", "rbac.yaml", "admission.yaml"} {
		text, err := r.render()
		if err != nil {
			t.Fatal(err)
		}
		c.must(text, "apply", "-f", "-")
		c.finally(text, "delete", "--ignore-not-found", "-f", "-")
	}
	c.must(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: app, namespace: `+team+`}
---
apiVersion: v1
kind: Pod
metadata: {name: app, namespace: `+team+`}
spec: {serviceAccountName: app, nodeName: held-a, containers: [{name: c, image: none.example/x}]}
---
apiVersion: v1
kind: Secret
metadata: {name: app, namespace: `+team+`}
---
apiVersion: v1
kind: Pod
metadata: {name: gcemds, namespace: `+system+`}
spec: {serviceAccountName: gcemds, nodeName: held-a, containers: [{name: c, image: none.example/x}]}
---
apiVersion: v1
kind: Node
metadata: {name: held-a}
spec: {taints: [{key: gcemds.dev/not-ready, effect: NoSchedule}, {key: other, effect: NoSchedule}]}
---
apiVersion: v1
kind: Node
metadata: {name: held-b}
spec: {taints: [{key: gcemds.dev/not-ready, effect: NoSchedule}]}
`, "apply", "-f", "-")
	c.finally("", "delete", "node", "held-a", "held-b")
	c.finally("", "delete", "pod", "--force", "--grace-period=0", "-n", team, "app")
	c.finally("", "delete", "pod", "--force", "--grace-period=0", "-n", system, "gcemds")
	uid := func(namespace, kind, name string) string {
		return c.must("", "get", "-n", namespace, kind, name, "-o", "jsonpath={.metadata.uid}")
	}
	self := c.as(c.must("", "create", "token", "gcemds", "-n", system, "--bound-object-kind=Pod", "--bound-object-name=gcemds", "--bound-object-uid="+uid(system, "pod", "gcemds")))

	const audience = "--audience=//iam.googleapis.com/" + provider
	toPod := []string{"--bound-object-kind=Pod", "--bound-object-name=app", "--bound-object-uid=" + uid(team, "pod", "app")}
	ask := func(more ...string) []string { return append([]string{"create", "token", "app", "-n", team}, more...) }
	bound := func(more ...string) []string { return append(ask(toPod...), more...) }

	// A policy holds from a moment after it was made.
	deadline := time.Now().Add(time.Minute)
	for {
		if _, err := self.try("", ask(audience)...); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the policy does not hold after a minute: a token is made that is bound to nothing")
		}
		time.Sleep(100 * time.Millisecond)
	}

	const onlyPods = "gcemds makes tokens that are bound to a Pod and its uid, and no others"
	const onlyUs = "gcemds makes tokens with the audience of its provider, and no others"
	const onlySelf = "gcemds changes the Node that it runs on, and no other"
	const nothingElse = "gcemds takes its own taint off a Node, and changes nothing else"
	const noOther = "gcemds takes its own taint off a Node, and changes no other"
	patch := func(node, patch string) []string { return []string{"patch", "node", node, "--type=json", "-p", patch} }
	for _, v := range []struct {
		name string
		args []string
		want string // words of the refusal; "": it is done
	}{
		{"ours", bound(audience, "--duration=10m"), ""},
		{"ours, for an hour", bound(audience, "--duration=1h"), ""},
		{"ours, without a time", bound(audience), ""},
		{"bound to nothing", ask(audience), onlyPods},
		{"bound to a Secret", ask(audience, "--bound-object-kind=Secret", "--bound-object-name=app", "--bound-object-uid="+uid(team, "secret", "app")), onlyPods},
		{"without a uid", ask(audience, "--bound-object-kind=Pod", "--bound-object-name=app"), onlyPods},
		{"for the API server", bound(), onlyUs},
		{"for somebody else", bound("--audience=vault"), onlyUs},
		{"for us and somebody else", bound(audience, "--audience=vault"), onlyUs},
		{"of another pool", bound(audience + "-2"), onlyUs},
		{"for too long", bound(audience, "--duration=61m"), "gcemds makes tokens of an hour at most"},
		{"of its own account", []string{"create", "token", "gcemds", "-n", system, audience}, onlyPods},
		{"a Secret", []string{"get", "secrets", "-n", team}, "secrets is forbidden"},

		{"the Node of another", patch("held-b", `[{"op":"remove","path":"/spec/taints/0"}]`), onlySelf},
		{"a label", patch("held-a", `[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]`), nothingElse},
		{"no Pods any more", patch("held-a", `[{"op":"add","path":"/spec/unschedulable","value":true}]`), nothingElse},
		{"another taint", patch("held-a", `[{"op":"remove","path":"/spec/taints/1"}]`), noOther},
		{"one taint more", patch("held-a", `[{"op":"add","path":"/spec/taints/-","value":{"key":"more","effect":"NoExecute"}}]`), noOther},
		{"its own taint", patch("held-a", `[{"op":"test","path":"/spec/taints/0/key","value":"gcemds.dev/not-ready"},{"op":"remove","path":"/spec/taints/0"}]`), ""},
		{"the last one", []string{"delete", "node", "held-a"}, "nodes \"held-a\" is forbidden"},
	} {
		t.Run(v.name, func(t *testing.T) {
			out, err := self.try("", v.args...)
			switch {
			case v.want == "" && err != nil:
				t.Errorf("it is refused: %s", out)
			case v.want != "" && err == nil:
				t.Errorf("it is done, want it refused: %s", v.want)
			case v.want != "" && !strings.Contains(out, v.want):
				t.Errorf("it is refused: %s\nwant: %s", out, v.want)
			}
		})
	}

	// Others are not held.
	c.must("", ask("--audience=vault", "--duration=2h")...)
}

// as is the cluster as whoever has a token sees it.
func (c *cluster) as(token string) *cluster {
	c.t.Helper()
	var config struct {
		Clusters []json.RawMessage `json:"clusters"`
	}
	if err := json.Unmarshal([]byte(c.must("", "config", "view", "--raw", "--flatten", "--minify", "-o", "json")), &config); err != nil || len(config.Clusters) != 1 {
		c.t.Fatalf("the kubeconfig has %d clusters: %v", len(config.Clusters), err)
	}
	var name struct{ Name string }
	if err := json.Unmarshal(config.Clusters[0], &name); err != nil {
		c.t.Fatal(err)
	}
	data, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "self", "clusters": config.Clusters,
		"contexts": []any{map[string]any{"name": "self", "context": map[string]any{"cluster": name.Name, "user": "self"}}},
		"users":    []any{map[string]any{"name": "self", "user": map[string]any{"token": strings.TrimSpace(token)}}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	file := filepath.Join(c.t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		c.t.Fatal(err)
	}
	return &cluster{c.t, file}
}
