package kube

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNodes: Pods are real. They have addresses of both families that others
// see, tokens that the API server takes, a Google, and no metadata server.
func TestNodes(t *testing.T) {
	w := sharedWorld(t)
	namespace := w.namespace(t)
	w.run(t, namespace, pod{name: "server", args: `serve, ":8080"`, spec: "nodeName: node-1"},
		pod{name: "near", spec: "nodeName: node-1"}, pod{name: "far", spec: "nodeName: node-2"}, pod{name: "host", spec: "nodeName: node-2, hostNetwork: true"})

	addresses := strings.Fields(w.field(t, namespace, "pod/server", ".status.podIPs[*].ip"))
	if len(addresses) != 2 {
		t.Fatalf("the Pod has the addresses %v, want one of each family", addresses)
	}
	for i, a := range addresses {
		for _, client := range []string{"near", "far", "host"} {
			ip := strings.Fields(w.field(t, namespace, "pod/"+client, ".status.podIPs[*].ip"))
			got := w.exec(t, namespace, client, "/pod", "get", "http://"+netip.AddrPortFrom(netip.MustParseAddr(a), 8080).String())
			if i < len(ip) && strings.TrimSpace(got) != "200 "+ip[i] {
				t.Errorf("%s at %s is seen as %q, want %s", client, a, got, ip[i])
			}
		}
	}

	w.apply(t, namespace, pod{name: "api", args: "api, /version", spec: "restartPolicy: Never"}.manifest())
	w.kubectl(t, "--namespace="+namespace, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/api", "--timeout=60s")
	if got := w.logs(t, namespace, "api"); !strings.HasPrefix(got, "200 ") {
		t.Errorf("a Pod asks the API server with its own token: %s", got)
	}
	google := w.google(t, nil)
	for _, client := range []string{"near", "far", "host"} {
		if got := w.exec(t, namespace, client, "/pod", "get", google.url+"/.well-known/openid-configuration"); !strings.HasPrefix(got, "200 ") {
			t.Errorf("%s asks gcemds google: %s", client, got)
		}
		if got := w.refused(t, "--namespace="+namespace, "exec", client, "--", "/pod", "get", "http://169.254.169.254/"); !strings.Contains(got, "unreachable") {
			t.Errorf("%s asks 169.254.169.254, where nobody is: %s\nwant unreachable", client, got)
		}
	}
}

// gcemdsImage is the image that gcemds is shipped in, as e2e/run makes it.
const gcemdsImage = "docker.io/library/gcemds:e2e"

// loadGcemds imports that image on every node.
func (w *world) loadGcemds(t *testing.T) {
	t.Helper()
	_, dist := directories()
	archive := filepath.Join(dist, "image.tar")
	if _, err := os.Stat(archive); err != nil {
		lacks(t, "the image of gcemds is not made; run e2e/run")
	}
	w.load(t, archive)
}

// TestManifests: what is shipped for those who want one identity for all Pods
// is taken by a real cluster and gets ready there, without a single capability.
func TestManifests(t *testing.T) {
	w := sharedWorld(t)
	w.loadGcemds(t)
	data, err := os.ReadFile("../../deploy/kubernetes/gcemds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	w.apply(t, "default", strings.Replace(string(data), "gcemds:dev", gcemdsImage, 1))
	ctx := context.WithoutCancel(t.Context())
	t.Cleanup(func() {
		if _, err := w.try(ctx, string(data), "delete", "--filename=-", "--wait=false"); err != nil {
			t.Error(err)
		}
	})
	w.kubectl(t, "rollout", "status", "deployment/gcemds", "--timeout=60s")

	namespace := w.namespace(t)
	w.run(t, namespace, pod{name: "client", machine: true})
	address := w.kubectl(t, "get", "pods", "--selector=app.kubernetes.io/name=gcemds", "--output=jsonpath={.items[0].status.podIP}")
	args := []string{"curl", "-sS", "-H", "Metadata-Flavor: Google", "--connect-to", "gcemds.default:80:" + address + ":8080"}
	if got, want := w.exec(t, namespace, "client", append(args, "http://gcemds.default/computeMetadata/v1/instance/attributes/cluster-name")...), "my-cluster"; got != want {
		t.Errorf("a Pod asks gcemds in another for the name of the cluster: %q, want %q", got, want)
	}
}

// TestAddressIsUsedAgain: the address of a Pod that is gone is that of the next,
// if the test wants so.
func TestAddressIsUsedAgain(t *testing.T) {
	w := sharedWorld(t)
	namespace := w.namespace(t)
	address := func(name string) string {
		w.nodes[0].reuseAddresses(t)
		w.run(t, namespace, pod{name: name, spec: "nodeName: node-1"})
		return w.field(t, namespace, "pod/"+name, ".status.podIP")
	}
	first := address("first")
	w.kubectl(t, "--namespace="+namespace, "delete", "pod/first", "--wait")
	if next := address("next"); next != first {
		t.Errorf("the next Pod has the address %s, want %s", next, first)
	}
}

// TestCgroups: the kernel knows which Pod a process belongs to, whatever its
// network is.
func TestCgroups(t *testing.T) {
	w := sharedWorld(t)
	namespace := w.namespace(t)
	w.run(t, namespace, pod{name: "own", spec: "nodeName: node-1"}, pod{name: "host", spec: "nodeName: node-1, hostNetwork: true"})
	for _, name := range []string{"own", "host"} {
		uid := w.field(t, namespace, "pod/"+name, ".metadata.uid")
		tasks := w.nodes[0].run(t, "sh", "-c", "cat /proc/[0-9]*/cgroup")
		if !strings.Contains(tasks, "/kubepods/besteffort/pod"+uid+"/") {
			t.Errorf("no process has the uid %s of the Pod %s in its cgroup", uid, name)
		}
	}
}

// TestPodOutlivesItsKeepers: a Pod goes on while kubelet and containerd of its
// node are killed and start again.
func TestPodOutlivesItsKeepers(t *testing.T) {
	w := sharedWorld(t)
	namespace := w.namespace(t)
	w.run(t, namespace, pod{name: "server", args: `serve, ":8080"`, spec: "nodeName: node-2"}, pod{name: "client", spec: "nodeName: node-1"})
	url := "http://" + w.field(t, namespace, "pod/server", ".status.podIP") + ":8080"
	const which = ".status.containerStatuses[0].containerID"
	before := w.field(t, namespace, "pod/server", which)

	w.kill(t, "node-2-kubelet")
	w.kill(t, "node-2-containerd")
	w.exec(t, namespace, "client", "/pod", "get", url)
	if err := w.startContainerd(w.nodes[1]); err != nil {
		t.Fatal(err)
	}
	if err := w.startKubelet(w.nodes[1]); err != nil {
		t.Fatal(err)
	}
	w.run(t, namespace, pod{name: "next", spec: "nodeName: node-2"})
	if after := w.field(t, namespace, "pod/server", which); after != before {
		t.Errorf("the container of the Pod is %s, want %s as before", after, before)
	}
}

// TestDaemonSet: an agent runs on every node, on the node's network, with the
// rights it asks for.
func TestDaemonSet(t *testing.T) {
	w := sharedWorld(t)
	namespace := w.namespace(t)
	w.apply(t, namespace, fmt.Sprintf(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      hostNetwork: true
      hostPID: true
      terminationGracePeriodSeconds: 1
      containers:
      - name: agent
        image: %s
        imagePullPolicy: Never
        args: [serve, ":9100"]
        securityContext: {privileged: true}
        readinessProbe: {httpGet: {path: /, port: 9100}, periodSeconds: 1}
`, podImageName))
	w.kubectl(t, "--namespace="+namespace, "rollout", "status", "daemonset/agent", "--timeout=60s")
	if got, want := w.field(t, namespace, "daemonset/agent", ".status.numberReady"), fmt.Sprint(len(w.nodes)); got != want {
		t.Errorf("%s agents are ready, want %s", got, want)
	}
	w.kubectl(t, "--namespace="+namespace, "delete", "daemonset/agent", "--wait")
}
