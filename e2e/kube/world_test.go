package kube

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A world is a cluster of real nodes in namespaces of its own (see the script
// of that name). It has the controllers that Pods, ServiceAccounts and
// DaemonSets need, and a scheduler. Pods reach the API server as
// kubernetes.default's address, the control plane as 172.30.0.1, each other as
// Pods do, and nothing else: 169.254.169.254 is unreachable until a test puts
// something there.
type world struct {
	*cluster
	pid   string // of its first process
	group string // its cgroup, in which each node has one
	nodes []*node
}

// A node is a kubelet, a containerd, and a network and mounts of its own.
type node struct {
	name    string
	address string
	place   place
	state   string // directory of its programs, which only the world sees
	config  map[string]string
}

//go:embed node/kubelet.yaml
var kubeletConfig string

//go:embed node/containerd.toml
var containerdConfig string

//go:embed node/bridge.conflist
var bridgeConfig string

//go:embed node/services.nft
var serviceRules string

// startWorld makes a world, with the image for Pods on each node.
func startWorld(o owner, nodes int) (*world, error) {
	dir, err := os.MkdirTemp("", "gcemds-kube-")
	if err != nil {
		return nil, err
	}
	w, err := enterWorld(o, dir, nodes)
	if err != nil {
		return nil, err
	}
	if w.cluster, err = newCluster(o, dir, "172.30.0.1", w.command, [3]string{"6443", "2379", "2380"}); err != nil {
		return nil, err
	}
	podImage, err := buildPodImage(dir)
	if err != nil {
		return nil, err
	}

	// Nodes get ready while the API server does.
	failed := make([]error, nodes+1)
	var all sync.WaitGroup
	all.Go(func() { failed[nodes] = w.control(w.file("state/etcd")) })
	for i := range nodes {
		n := w.newNode(i + 1)
		w.nodes = append(w.nodes, n)
		all.Go(func() {
			if failed[i] = w.startContainerd(n); failed[i] == nil {
				failed[i] = n.load(podImage)
			}
		})
	}
	all.Wait()
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}

	admin := "--kubeconfig=" + w.file("admin.kubeconfig")
	if _, err := w.start(w.command, "kube-controller-manager", filepath.Join(bin, "kube-controller-manager"), admin, "--leader-elect=false", "--bind-address=127.0.0.1",
		"--service-account-private-key-file="+w.file("sa.key"), "--root-ca-file="+w.file("ca.crt"),
		"--controllers=serviceaccount-controller,root-ca-certificate-publisher-controller,namespace-controller,daemonset-controller,deployment-controller,"+
			"replicaset-controller,pod-garbage-collector-controller,garbage-collector-controller"); err != nil {
		return nil, err
	}
	if _, err := w.start(w.command, "kube-scheduler", filepath.Join(bin, "kube-scheduler"), admin, "--leader-elect=false", "--bind-address=127.0.0.1"); err != nil {
		return nil, err
	}
	for _, n := range w.nodes {
		if err := w.startKubelet(n); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, n := range w.nodes {
		kubelet := w.processes[n.name+"-kubelet"]
		if err := kubelet.until(ctx, func(ctx context.Context) error {
			_, err := w.try(ctx, "", "wait", "--for=condition=Ready", "--timeout=5s", "node", n.name)
			return err
		}); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// enterWorld makes the namespaces.
func enterWorld(o owner, dir string, nodes int) (*world, error) {
	script, err := filepath.Abs("world")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(script, dir, strconv.Itoa(nodes))
	said := &strings.Builder{}
	cmd.Stderr = said
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	o.Cleanup(func() {
		stdin.Close() // the world's first process reads it
		if err := cmd.Wait(); err != nil || said.Len() > 0 {
			fmt.Fprintf(os.Stderr, "the world did not end well: %v\n%s", err, said)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		stdin.Close()
		cmd.Wait()
		return nil, fmt.Errorf("cannot make a world (namespaces of networks, mounts and processes, and cgroups): %w\n%s", err, said)
	}
	go io.Copy(io.Discard, stdout)
	w := &world{}
	w.pid, w.group, _ = strings.Cut(strings.TrimSpace(line), " ")
	return w, nil
}

const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// command runs in the world, next to the control plane.
func (w *world) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := grouped(exec.CommandContext(ctx, "nsenter", slices.Concat([]string{"--target=" + w.pid, "--mount", "--net", "--pid", "--", name}, args)...))
	cmd.Env = []string{path, "HOME=/root"}
	return cmd
}

func (w *world) newNode(number int) *node {
	n := &node{name: fmt.Sprintf("node-%d", number), address: fmt.Sprintf("172.30.0.%d", 10+number)}
	n.state = w.file("state/" + n.name)
	n.config = map[string]string{"DIR": w.dir, "STATE": n.state, "NODE": n.name, "N": strconv.Itoa(number), "CGROUP": w.group + "/" + n.name, "IMAGE": podImageName}
	n.place = func(ctx context.Context, name string, args ...string) *exec.Cmd {
		// All that runs on the node is in its cgroup, where there is one for it.
		join := fmt.Sprintf(`f=/sys/fs/cgroup/unified/%s/cgroup.procs; [ ! -e $f ] || echo 0 >$f; exec "$@"`, n.config["CGROUP"])
		return w.command(ctx, "nsenter", slices.Concat([]string{"--net=/run/netns/" + n.name, "--mount=/run/mounts/" + n.name, "--", "sh", "-c", join, "sh", name}, args)...)
	}
	return n
}

// run runs a command on the node; the test ends if it fails.
func (n *node) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := output(n.place(ctx, name, args...))
	if err != nil {
		t.Fatalf("%s: %s %s: %v", n.name, name, strings.Join(args, " "), err)
	}
	return out
}

// reuseAddresses lets the next Pod of the node have the lowest free address,
// such as that of a Pod which is gone.
func (n *node) reuseAddresses(t *testing.T) {
	t.Helper()
	n.run(t, "sh", "-c", "rm -f "+n.state+"/addresses/pods/last_reserved_ip.*")
}

func (w *world) startContainerd(n *node) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	write := func(name, content string) error {
		return os.WriteFile(w.file(n.name+"-"+name), []byte(os.Expand(content, func(key string) string { return n.config[key] })), 0o600)
	}
	if err := errors.Join(write("containerd.toml", containerdConfig), write("bridge.conflist", bridgeConfig),
		write("kubelet.yaml", kubeletConfig), write("services.nft", serviceRules)); err != nil {
		return err
	}
	prepare := fmt.Sprintf("mkdir -p %s/cni && cp %s %[1]s/cni/10-bridge.conflist && nft -f %[3]s",
		n.state, w.file(n.name+"-bridge.conflist"), w.file(n.name+"-services.nft"))
	if _, err := output(n.place(ctx, "sh", "-c", prepare)); err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	containerd, err := w.start(n.place, n.name+"-containerd", "containerd", "--config="+w.file(n.name+"-containerd.toml"))
	if err != nil {
		return err
	}
	return containerd.until(ctx, func(ctx context.Context) error {
		_, err := output(n.ctr(ctx, "--connect-timeout=1s", "version"))
		return err
	})
}

func (w *world) startKubelet(n *node) error {
	if err := w.kubeconfig(n.name, w.server, "system:node:"+n.name, "system:nodes"); err != nil {
		return err
	}
	if err := w.issue(n.name, n.name, "", n.name, n.address, "127.0.0.1"); err != nil {
		return err
	}
	_, err := w.start(n.place, n.name+"-kubelet", filepath.Join(bin, "kubelet"), "--config="+w.file(n.name+"-kubelet.yaml"),
		"--kubeconfig="+w.file(n.name+".kubeconfig"), "--cert-dir="+n.state+"/pki",
		"--hostname-override="+n.name, fmt.Sprintf("--node-ip=%s,fd00:30::%s", n.address, strings.TrimPrefix(n.address, "172.30.0.")))
	return err
}

func (n *node) ctr(ctx context.Context, args ...string) *exec.Cmd {
	return n.place(ctx, "ctr", slices.Concat([]string{"--address=" + n.state + "/containerd.sock", "--namespace=k8s.io"}, args)...)
}

// load imports an image from an archive.
func (n *node) load(archive string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := output(n.ctr(ctx, "images", "import", archive)); err != nil {
		return fmt.Errorf("%s: cannot import %s: %w", n.name, archive, err)
	}
	return nil
}

// load imports an image on every node.
func (w *world) load(t *testing.T, archive string) {
	t.Helper()
	archive, err := filepath.Abs(archive)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range w.nodes {
		if err := n.load(archive); err != nil {
			t.Fatal(err)
		}
	}
}

// exec runs a command in a Pod and returns what it writes.
func (w *world) exec(t *testing.T, namespace, pod string, args ...string) string {
	t.Helper()
	return w.kubectl(t, slices.Concat([]string{"--namespace=" + namespace, "exec", pod, "--"}, args)...)
}

// logs are those of a Pod.
func (w *world) logs(t *testing.T, namespace, pod string) string {
	t.Helper()
	return w.kubectl(t, "--namespace="+namespace, "logs", pod, "--all-containers")
}

// ready waits until a condition holds, by default that all Pods are ready.
func (w *world) ready(t *testing.T, namespace string, objects ...string) {
	t.Helper()
	if len(objects) == 0 {
		objects = []string{"pod", "--all"}
	}
	w.kubectl(t, slices.Concat([]string{"--namespace=" + namespace, "wait", "--for=condition=Ready", "--timeout=" + (patience - 10*time.Second).String()}, objects)...)
}
