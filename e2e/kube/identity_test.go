package kube

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

const tokenPath = "instance/service-accounts/default/token"

// do runs a command in a Pod, for half a minute at most.
func (h *house) do(t *testing.T, namespace, pod string, command ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return h.try(ctx, "", append([]string{"--namespace=" + namespace, "exec", pod, "--"}, command...)...)
}

// python runs a script in a Pod; the test ends if it fails.
func (h *house) python(t *testing.T, namespace, pod, script string, args ...string) string {
	t.Helper()
	out, err := h.do(t, namespace, pod, append([]string{"/usr/bin/python3", "-c", script}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// is fails the test unless a Pod is given a token of an owner.
func (h *house) is(t *testing.T, namespace, pod, want string) {
	t.Helper()
	status, body := h.ask(t, namespace, pod, tokenPath, "--max-time", "10")
	if status != "200" {
		t.Errorf("the Pod %s gets %s %s, want a token of %s", pod, status, body, want)
	} else if got := h.owner(t, body); got != want {
		t.Errorf("the Pod %s gets a token of %s, want %s", pod, got, want)
	}
}

// TestPodIdentity: with the chart installed and the kernel asked who callers of
// the host's network are, each Pod is who its service account is, and nobody
// else.
func TestPodIdentity(t *testing.T) {
	w := sharedWorld(t)
	namespace := w.namespace(t)
	cloud := w.cloud(t)
	h := w.house(t, map[string][]string{actsAs: {namespace + "/robot"}}, chart(t, `{gke: {`+whichCluster+`, attest: host}, intercept: {mode: nftables, hostNetwork: true}, config: {passthrough: {cloud: aws, to: "`+cloudURL+`", pods: true}}}`))
	h.accounts(t, namespace)
	email := strconv.Quote("http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/email")
	const node1 = "nodeName: node-1"
	h.apply(t, namespace, pod{name: "again", account: "robot", args: "get, " + email, spec: node1}.manifest()) // and again, and again
	shell := fmt.Sprintf("image: %q, imagePullPolicy: Never", podImageName)
	pods := []pod{
		{name: "app", machine: true, spec: node1},
		{name: "robot", account: "robot", machine: true, spec: node1},
		{name: "host-app", machine: true, spec: node1 + ", hostNetwork: true"},
		{name: "host-robot", account: "robot", machine: true, spec: node1 + ", hostNetwork: true"},
		{name: "init", account: "robot", spec: node1 + fmt.Sprintf(", initContainers: [{name: init, %s, args: [get, %s]}]", shell, email)},
		{name: "last", account: "robot", machine: true, spec: node1 + ", terminationGracePeriodSeconds: 60", container: `command: [/bin/sh, -c, "trap '' TERM; while :; do sleep 0.2; done"]`},
	}
	two := pod{name: "two", account: "robot", spec: node1, machine: true}.manifest()
	two = strings.Replace(two, "}],\n  volumes:", fmt.Sprintf("}, {name: second, %s}],\n  volumes:", shell), 1)
	var manifests strings.Builder
	for _, p := range pods {
		manifests.WriteString(p.manifest())
	}
	h.apply(t, namespace, manifests.String()+two)
	for _, p := range append(pods, pod{name: "two"}) {
		h.ready(t, namespace, "pod/"+p.name)
	}
	app := principal(namespace + "/app")

	t.Run("own network", func(t *testing.T) {
		h.is(t, namespace, "app", app)
		h.is(t, namespace, "robot", actsAs)
	})
	t.Run("host network", func(t *testing.T) {
		for range 3 { // in turn, from one address
			h.is(t, namespace, "host-app", app)
			h.is(t, namespace, "host-robot", actsAs)
		}
	})
	t.Run("no Pod", func(t *testing.T) {
		out := h.nodes[0].run(t, "curl", "-sS", "--max-time", "10", "-w", "\n%{http_code}", "-H", "Metadata-Flavor: Google", tokenURL)
		if !strings.HasSuffix(out, "\n403") || strings.Contains(out, "access_token") {
			t.Errorf("a process of the node that is in no Pod: %s, want 403", out)
		}
	})
	t.Run("init container", func(t *testing.T) {
		if got := strings.TrimSpace(h.kubectl(t, "--namespace="+namespace, "logs", "init", "--container=init")); got != "200 "+actsAs {
			t.Errorf("it is told that it is %q, want %s", got, actsAs)
		}
	})
	t.Run("several containers", func(t *testing.T) {
		h.is(t, namespace, "two", actsAs)
		if got := strings.TrimSpace(h.kubectl(t, "--namespace="+namespace, "exec", "two", "--container=second", "--", "/pod", "get", strings.Trim(email, `"`))); got != "200 "+actsAs {
			t.Errorf("the second container is told that it is %q, want %s", got, actsAs)
		}
	})
	t.Run("terminating", func(t *testing.T) {
		h.kubectl(t, "--namespace="+namespace, "delete", "pod/last", "--wait=false")
		time.Sleep(time.Second) // for the news to get around
		h.is(t, namespace, "last", actsAs)
		h.kubectl(t, "--namespace="+namespace, "delete", "pod/last", "--grace-period=0", "--force", "--wait=false")
	})
	t.Run("address used again", func(t *testing.T) {
		var addresses []string
		for _, p := range []struct{ pod, account, want string }{{"before", "robot", actsAs}, {"after", "app", app}} {
			h.nodes[0].reuseAddresses(t)
			h.apply(t, namespace, pod{name: p.pod, account: p.account, machine: true, spec: node1}.manifest())
			h.ready(t, namespace, "pod/"+p.pod)
			h.is(t, namespace, p.pod, p.want)
			addresses = append(addresses, h.field(t, namespace, "pod/"+p.pod, ".status.podIP"))
			h.kubectl(t, "--namespace="+namespace, "delete", "pod/"+p.pod, "--timeout=20s")
		}
		if addresses[0] != addresses[1] {
			t.Errorf("the addresses are %q, want one", addresses)
		}
	})
	t.Run("passed connection", func(t *testing.T) { h.passed(t, namespace, cloud) })
	t.Run("5000 scopes", func(t *testing.T) {
		h.distinct(t, namespace, "app", "token?scopes=https://www.googleapis.com/auth/s%d")
	})
	t.Run("5000 audiences", func(t *testing.T) {
		h.distinct(t, namespace, "two", "identity?audience=https://a%d.example.com")
	})
	t.Run("restarted", func(t *testing.T) { // here, because Kubernetes starts it for the third time after ten seconds
		restarts, got := "", ""
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Second) {
			// For a moment after each start there is no log of the one before.
			restarts = h.field(t, namespace, "pod/again", ".status.containerStatuses[0].restartCount")
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			got, _ = h.try(ctx, "", "--namespace="+namespace, "logs", "again", "--previous")
			cancel()
			if got = strings.TrimSpace(got); restarts > "1" && got == "200 "+actsAs {
				return
			}
		}
		t.Errorf("after %s restarts the container before is told that it is %q, want two at least and %s", restarts, got, actsAs)
	})
	t.Run("connections", func(t *testing.T) { h.flood(t, namespace, "") })
	t.Run("slow headers", func(t *testing.T) { h.flood(t, namespace, "GET / HT") })
	t.Run("daemon killed", func(t *testing.T) { h.killed(t, namespace) })
	t.Run("Kubernetes and Google away", func(t *testing.T) { h.outage(t, namespace) })
}
