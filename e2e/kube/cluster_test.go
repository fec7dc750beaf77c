package kube

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// bin is where the programs of Kubernetes are. TestMain sets it.
var bin string

// patience is how long anything may take on a busy machine.
const patience = 2 * time.Minute

// issuerURL is what the tokens of the cluster say that they are from. Nobody
// can reach it: who wants the keys gets them from the API server.
const issuerURL = "https://cluster.example"

// An owner ends what it started: a test, or all of them.
type owner interface {
	Cleanup(func())
	Failed() bool
}

// A cluster is etcd and kube-apiserver, with the admission that real ones have.
// There is no controller: a namespace has no ServiceAccount but those that a
// test makes, and Pods stay what the test says that they are.
type cluster struct {
	*authority
	server string // URL of the API server
	etcd   string // and of etcd
	peer   string // which it needs though it is alone
	place  place  // where its programs and kubectl run

	mu        sync.Mutex
	processes map[string]*process
}

// startCluster starts a cluster on free ports of the loopback device.
func startCluster(o owner) (*cluster, error) {
	dir, err := os.MkdirTemp("", "gcemds-kube-")
	if err != nil {
		return nil, err
	}
	o.Cleanup(func() { os.RemoveAll(dir) })
	ports, err := freePorts()
	if err != nil {
		return nil, err
	}
	c, err := newCluster(o, dir, "127.0.0.1", here, ports)
	if err != nil {
		return nil, err
	}
	return c, c.control(filepath.Join(dir, "etcd"))
}

// newCluster writes the keys of a cluster whose API server has the first of the
// ports, etcd the other two. All that it starts ends with the owner; if that has
// failed, it tells what they said.
func newCluster(o owner, dir, host string, p place, ports [3]string) (*cluster, error) {
	a, err := newAuthority(dir)
	if err != nil {
		return nil, err
	}
	c := &cluster{
		authority: a, place: p, processes: map[string]*process{},
		server: "https://" + net.JoinHostPort(host, ports[0]), etcd: "http://127.0.0.1:" + ports[1], peer: "http://127.0.0.1:" + ports[2],
	}
	if err := a.issue("apiserver", "kube-apiserver", "", host, "127.0.0.1", "10.96.0.1", "localhost", "kubernetes.default.svc"); err != nil {
		return nil, err
	}
	if err := a.serviceAccounts(); err != nil {
		return nil, err
	}
	o.Cleanup(func() {
		if o.Failed() {
			fmt.Fprintln(os.Stderr, c.said())
		}
		c.end()
	})
	return c, a.kubeconfig("admin", c.server, "admin", "system:masters")
}

func freePorts() (ports [3]string, err error) {
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return ports, err
		}
		defer l.Close()
		_, ports[i], _ = net.SplitHostPort(l.Addr().String())
	}
	return ports, nil
}

// file is the path of a file of the cluster, such as admin.kubeconfig.
func (c *cluster) file(name string) string { return filepath.Join(c.dir, name) }

// start starts a program of the cluster. One of the name that has ended may be
// started again.
func (c *cluster) start(p place, name, program string, args ...string) (*process, error) {
	process, err := start(c.dir, name, p(context.Background(), program, args...))
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.processes[name] = process
	}
	return process, err
}

// kill kills a program of the cluster, such as kube-apiserver or node-1-kubelet.
// What does that in a shared world or cluster must start it again.
func (c *cluster) kill(t *testing.T, name string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.processes[name] == nil {
		t.Fatalf("there is no program %s", name)
	}
	c.processes[name].kill()
}

// end ends all programs that start has started.
func (c *cluster) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.processes {
		p.kill()
	}
}

// said is the end of what each program of the cluster said.
func (c *cluster) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for name, p := range c.processes {
		fmt.Fprintf(&b, "--- %s said:\n%s\n", name, p.tail())
	}
	return b.String()
}

// control starts etcd, which keeps its data in a directory, and the API server.
func (c *cluster) control(data string) error {
	if _, err := c.start(c.place, "etcd", filepath.Join(bin, "etcd"), "--name=e2e", "--data-dir="+data, "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+c.etcd, "--advertise-client-urls="+c.etcd,
		"--listen-peer-urls="+c.peer, "--initial-advertise-peer-urls="+c.peer, "--initial-cluster=e2e="+c.peer); err != nil {
		return err
	}
	return c.startAPI()
}

// auditPolicy has a line in audit.log for each request of the user gcemds.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted, ResponseComplete]
rules: [{level: Metadata, users: [gcemds]}, {level: None}]
`

// startAPI starts the API server, also again, and returns when it is ready.
func (c *cluster) startAPI() error {
	host, port, err := net.SplitHostPort(strings.TrimPrefix(c.server, "https://"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.file("audit.yaml"), []byte(auditPolicy), 0o600); err != nil {
		return err
	}
	api, err := c.start(c.place, "kube-apiserver", filepath.Join(bin, "kube-apiserver"), "--etcd-servers="+c.etcd,
		"--bind-address="+host, "--advertise-address="+host, "--secure-port="+port, "--endpoint-reconciler-type=none",
		"--tls-cert-file="+c.file("apiserver.crt"), "--tls-private-key-file="+c.file("apiserver.key"), "--client-ca-file="+c.file("ca.crt"),
		"--authorization-mode=Node,RBAC", "--allow-privileged", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer="+issuerURL, "--service-account-key-file="+c.file("sa.pub"), "--service-account-signing-key-file="+c.file("sa.key"),
		"--enable-admission-plugins=NodeRestriction",
		"--audit-policy-file="+c.file("audit.yaml"), "--audit-log-path="+c.file("audit.log"),
		"--disable-admission-plugins=TaintNodesByCondition", // there is no controller that would take the taint away
		"--kubelet-preferred-address-types=InternalIP", "--kubelet-certificate-authority="+c.file("ca.crt"),
		"--kubelet-client-certificate="+c.file("admin.crt"), "--kubelet-client-key="+c.file("admin.key"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return api.until(ctx, func(ctx context.Context) error {
		_, err := c.try(ctx, "", "get", "--raw=/readyz")
		return err
	})
}

// try runs kubectl as the administrator. Input may be empty.
func (c *cluster) try(ctx context.Context, input string, args ...string) (string, error) {
	cmd := c.place(ctx, filepath.Join(bin, "kubectl"), slices.Concat([]string{"--kubeconfig=" + c.file("admin.kubeconfig")}, args)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := output(cmd)
	if err != nil {
		return out, fmt.Errorf("kubectl %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// kubectl runs it and returns what it says; the test ends if it fails.
func (c *cluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := c.try(ctx, "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// refused is the error of a kubectl that must fail.
func (c *cluster) refused(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := c.try(ctx, "", args...)
	if err == nil {
		t.Fatalf("kubectl %s = %q, want an error", strings.Join(args, " "), out)
	}
	return err.Error()
}

// apply makes the objects of a manifest, in a namespace unless they say theirs.
func (c *cluster) apply(t *testing.T, namespace, manifest string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := c.try(ctx, manifest, "--namespace="+namespace, "apply", "--validate=strict", "--filename=-"); err != nil {
		t.Fatal(err)
	}
}

// field is a field of an object, such as .status.podIP of pod/app.
func (c *cluster) field(t *testing.T, namespace, object, path string) string {
	t.Helper()
	return c.kubectl(t, "--namespace="+namespace, "get", object, "--output=jsonpath={"+path+"}")
}

// namespace makes one for the test, with the ServiceAccount app. When the test
// fails it shows what became of what is in it.
func (c *cluster) namespace(t *testing.T) string {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	name := strings.Trim(strings.ToLower(strings.NewReplacer("/", "-", "_", "-", "#", "-").Replace(t.Name())), "-")
	name = name[max(0, len(name)-63):]
	c.kubectl(t, "create", "namespace", name)
	t.Cleanup(func() {
		if t.Failed() {
			pods, _ := c.try(ctx, "", "--namespace="+name, "get", "pods", "--output=wide")
			events, _ := c.try(ctx, "", "--namespace="+name, "get", "events")
			t.Logf("in the namespace %s:\n%s%s", name, pods, events)
		}
		if _, err := c.try(ctx, "", "delete", "namespace", name, "--wait=false"); err != nil {
			t.Error(err)
		}
	})
	c.kubectl(t, "--namespace="+name, "create", "serviceaccount", "app")
	return name
}
