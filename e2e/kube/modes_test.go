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
	without := w.nodes[1] // IPv6, where one needs it
	without.run(t, "sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1")
	ctx := context.WithoutCancel(t.Context())
	t.Cleanup(func() { output(without.place(ctx, "sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=0")) })
	h := w.house(t, map[string][]string{actsAs: {namespace + "/robot"}}, chart(t, `{gke: {`+whichCluster+`, projected: {}}, intercept: {mode: nftables, ipv6: true}}`))
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
	h.reached(t, namespace, "app", principal(namespace+"/app"), metadata6)
	h.reached(t, namespace, "robot", actsAs)
	if has := without.run(t, "ip", "-6", "address", "show", "dev", "lo"); strings.Contains(has, "fd20") {
		t.Errorf("the node has IPv6 on lo, and shows nothing of one that has not: %s", has)
	}
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

// reached checks that a Pod gets its token at the address, by a socket of IPv4
// and by one of IPv6, and at more addresses, each by a connection of its own.
func (h *house) reached(t *testing.T, namespace, pod, who string, more ...string) {
	for _, address := range append([]string{"169.254.169.254", "[::ffff:169.254.169.254]"}, more...) {
		t.Run(pod+" at "+address, func(t *testing.T) {
			status, body := h.ask(t, namespace, pod, "instance/service-accounts/default/token?scopes=https://www.googleapis.com/auth/userinfo.email", "--connect-to", "::"+address+":80")
			if status != "200" {
				t.Fatalf("token: %s %s", status, body)
			}
			if got := h.owner(t, body); got != who {
				t.Errorf("the token is of %s, want %s", got, who)
			}
		})
	}
}

// metadata6 is Google's address for machines without IPv4.
const metadata6 = "[fd20:ce::254]"

// TestEBPF: the kernel leads the connections of Pods to the server, whatever
// their network, and notes whose they are; the server believes nothing else.
func TestEBPF(t *testing.T) {
	w := sharedWorld(t)
	namespace := w.namespace(t)
	users := map[string][]string{actsAs: {namespace + "/robot"}}
	h := w.house(t, users, chart(t, `{gke: {`+whichCluster+`, attest: all}, intercept: {mode: ebpf, ipv6: true}}`))
	h.accounts(t, namespace)
	w.run(t, namespace,
		pod{name: "app", machine: true, spec: "nodeName: node-1"},
		pod{name: "far", account: "robot", machine: true, spec: "nodeName: node-2"},
		pod{name: "host", account: "robot", machine: true, spec: "nodeName: node-1, hostNetwork: true"},
		pod{name: "victim", account: "robot", machine: true, spec: "nodeName: node-1"},
		pod{name: "forger", machine: true, spec: "nodeName: node-1", container: "securityContext: {capabilities: {add: [NET_ADMIN, NET_RAW]}}"},
	)
	all := func(t *testing.T) {
		h.reached(t, namespace, "app", principal(namespace+"/app"), metadata6)
		h.reached(t, namespace, "far", actsAs, metadata6)
		h.reached(t, namespace, "host", actsAs, metadata6)
	}
	all(t)
	t.Run("known by the kernel", func(t *testing.T) {
		for _, n := range w.nodes {
			metrics := n.run(t, "curl", "-sS", "--max-time", "5", "http://127.0.0.1:16989/metrics")
			const by = `gcemds_gke_connections_identified_total{by=`
			if strings.Contains(metrics, by+`"kernel"} 0`) || !strings.Contains(metrics, by+`"kernel"} `) || !strings.Contains(metrics, by+`"address"} 0`) {
				_, metrics, _ = strings.Cut(metrics, by)
				t.Errorf("on %s callers are known otherwise than by the kernel: %.200s", n.name, metrics)
			}
		}
	})
	t.Run("a forged address", func(t *testing.T) { h.forged(t, namespace, "forger", "victim") })
	t.Run("of no Pod", func(t *testing.T) {
		n := w.nodes[0]
		if out, err := output(n.place(context.WithoutCancel(t.Context()), "curl", "-sS", "--max-time", "5", tokenURL)); err == nil {
			t.Errorf("a program of the node is led to the server: %s", out)
		}
		out := n.run(t, "curl", "-sS", "--max-time", "5", "-w", "\n%{http_code}", "-H", "Metadata-Flavor: Google", strings.Replace(tokenURL, "169.254.169.254", "169.254.169.252:16988", 1))
		if !strings.HasSuffix(out, "\n403") {
			t.Errorf("a program of the node asks the server itself: %s, want 403", out)
		}
	})
	t.Run("at the address of the node", func(t *testing.T) {
		h = w.house(t, users, chart(t, `{gke: {`+whichCluster+`, attest: all}, hostPID: true, intercept: {mode: ebpf, ipv6: true, nodeAddress: true}}`))
		all(t)
		t.Run("in cgroups of version 1 alone", func(t *testing.T) {
			n, group := w.nodes[0], "/sys/fs/cgroup/memory/"+w.group+"/node-1/kubepods/besteffort/pod"+h.field(t, namespace, "pod/host", ".metadata.uid")
			if _, err := os.Stat(group); err != nil {
				t.Skip("this machine has cgroups of version 2 only")
			}
			body := n.run(t, "sh", "-c", `echo 0 >"$1"/cgroup.procs && shift && exec "$@"`, "sh", group,
				"curl", "-sS", "--max-time", "20", "-H", "Metadata-Flavor: Google", "--connect-to", "::"+n.address+":16988", tokenURL+"?scopes=https://www.googleapis.com/auth/userinfo.email")
			if got := h.owner(t, body); got != actsAs {
				t.Errorf("a process with the cgroup of a Pod gets %.100s of %s, want %s", body, got, actsAs)
			}
		})
		w.kubectl(t, "--namespace=gcemds-system", "delete", "daemonset", "gcemds", "--wait=true", "--timeout=60s", "--cascade=foreground")
		for _, pod := range []string{"app", "far", "host"} {
			out, err := w.try(context.WithoutCancel(t.Context()), "", "--namespace="+namespace, "exec", pod, "--", "curl", "-sS", "--max-time", "5", tokenURL)
			if err == nil || !strings.Contains(err.Error()+out, "Failed to connect") {
				t.Errorf("without the server the Pod %s gets %q, %v; want that its connection is refused", pod, out, err)
			}
		}
	})
}
