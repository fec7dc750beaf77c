package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	measure = flag.Bool("measure", false, "measure gcemds on a node of a real cluster, in a network of its own; takes minutes")
	table   = flag.String("table", "", "put what was measured into this Markdown `file`")
)

// What is measured: a full node, alone and in a large cluster.
const (
	manyPods, manyAccounts = 250, 60
	nodes                  = 250 // others
	otherPods, otherKSAs   = 200, 20
	runs                   = 3 // starts from nothing, of which the median counts
	rounds                 = 7 // of the warm GET
	away                   = time.Minute
)

// A row is a line of the report, as go run ./bench report reads it.
type row struct {
	What, GCEMDS, Floor, Ratio, Bound string
	Pass                              bool
}

// TestMeasured measures what docs/performance.md says of a node of Kubernetes.
// The control plane is real; Pods are objects of the API, and addresses that
// ask. There is no kubelet, which has no part in it.
func TestMeasured(t *testing.T) {
	if !*measure {
		t.Skip("it takes minutes, and a machine that does nothing else: make bench-gke")
	}
	m := newMeasured(t)
	var rows []row
	add := func(what, got, bound string, pass bool) {
		rows = append(rows, row{What: what, GCEMDS: got, Bound: bound, Pass: pass})
	}

	alone := m.cold(t)
	add(fmt.Sprintf("start until all of %d Pods have a token", manyPods), fmt.Sprintf("%d ms", alone.took.Milliseconds()), "", true)
	add(fmt.Sprintf("TokenRequests for %d service accounts", manyAccounts), fmt.Sprint(alone.tokens), fmt.Sprintf("at most %d", manyAccounts), alone.tokens <= manyAccounts && alone.mostTokens <= 1)
	add("exchanges at STS for these", fmt.Sprint(alone.exchanges), fmt.Sprintf("at most %d", manyAccounts), alone.exchanges <= manyAccounts && alone.mostExchanges <= 1)
	add("resident memory 1s later", megabytes(alone.memory), "", true)

	rows = append(rows, m.warm(t))

	// The others come while the node is served: it must not hear of them.
	p, _ := m.start(t, "")
	m.everyone(t, p)
	before, began := m.api.bytes.Load(), time.Now()
	others := map[string]any{}
	for i := range nodes {
		maps.Copy(others, crowd(m.namespace, fmt.Sprintf("node-%d", i+2), i+2, otherPods, otherKSAs))
	}
	m.c.seed(t, others)
	time.Sleep(5 * time.Second) // for what comes late
	heard := m.api.bytes.Load() - before
	add(fmt.Sprintf("received from the API server while %d objects of other nodes were made (%.0f s)", len(others), time.Since(began).Seconds()),
		fmt.Sprintf("%.1f kB", float64(heard)/1e3), "under 10 B each", heard < int64(10*len(others)))
	p.kill()

	full := m.cold(t)
	compare := func(what string, of func(figures) float64, show func(float64) string, most float64) {
		ratio := of(full) / of(alone)
		rows = append(rows, row{What: fmt.Sprintf("%s, with %d Pods and %d service accounts elsewhere; beside a cluster without", what, nodes*otherPods, nodes*otherKSAs),
			GCEMDS: show(of(full)), Floor: show(of(alone)), Ratio: fmt.Sprintf("%.3f", ratio), Bound: fmt.Sprintf("at most %.2f", most), Pass: ratio <= most})
	}
	plain := func(v float64) string { return fmt.Sprintf("%.0f", v) }
	compare("memory", func(f figures) float64 { return float64(f.memory) }, func(v float64) string { return megabytes(int64(v)) }, 1.15)
	compare("requests to the API server", func(f figures) float64 { return float64(f.requests) }, plain, 1.1)
	compare("bytes from the API server", func(f figures) float64 { return float64(f.bytes) }, plain, 1.1)

	asked, failed := m.outage(t)
	add(fmt.Sprintf("API server away for %v: GETs of a cached token that fail, of %d", away, asked), fmt.Sprint(failed), "0", failed == 0)

	m.report(t, rows)
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// measured is the cluster of all measurements, and the node in it.
type measured struct {
	c         *cluster
	google    *google
	namespace string
	link      *link
	api       *relay
	bench     string // program
	dir       string
	config    string
	starts    int
}

const (
	servedAt = nodeAddress + ":80"
	floorAt  = nodeAddress + ":81"
)

func newMeasured(t *testing.T) *measured {
	needCluster(t, "etcd")
	m := &measured{dir: t.TempDir(), link: newLink(t, 1, manyPods)}
	m.bench = filepath.Join(m.dir, "bench")
	build := exec.Command("go", "build", "-trimpath", "-o", m.bench, "./bench")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if _, err := output(build); err != nil {
		t.Fatal(err)
	}
	c, err := startCluster(t)
	if err != nil {
		t.Fatal(err)
	}
	m.c, m.namespace = c, c.namespace(t)
	m.google = c.google(t, nil)
	m.api = newRelay(t, strings.TrimPrefix(c.server, "https://"))
	if err := c.kubeconfig("gcemds", "https://"+m.api.addr, "gcemds", ""); err != nil {
		t.Fatal(err)
	}
	c.apply(t, m.namespace, `
{apiVersion: v1, kind: Node, metadata: {name: node-1, labels: {topology.kubernetes.io/zone: us-central1-a}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: gcemds}
rules: # as in the chart
  - {apiGroups: [""], resources: [pods], verbs: [list, watch]}
  - {apiGroups: [""], resources: [serviceaccounts], verbs: [get, list, watch]}
  - {apiGroups: [""], resources: [nodes], verbs: [get, list, watch]}
  - {apiGroups: [""], resources: [namespaces], resourceNames: [kube-system], verbs: [get]}
  - {apiGroups: [""], resources: [serviceaccounts/token], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: gcemds}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: gcemds}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: gcemds}]
`)
	c.seed(t, crowd(m.namespace, "node-1", 1, manyPods, manyAccounts))
	m.config = filepath.Join(m.dir, "gcemds.yaml")
	if err := os.WriteFile(m.config, fmt.Appendf(nil, "endpoints: {sts: %q}\ngke: {node: node-1, kubeconfig: %q, project_id: my-project, project_number: '123456789012', provider: {audience: %q, sts_audience: %q}}\n",
		m.google.url+"/v1/token", c.file("gcemds.kubeconfig"), "https:"+provider, provider), 0o600); err != nil {
		t.Fatal(err)
	}
	return m
}

// run starts a program in an empty environment, on one core or ("") on all.
func (m *measured) run(t *testing.T, core string, stdin io.Reader, command ...string) *process {
	t.Helper()
	m.starts++
	if core != "" {
		command = append([]string{"taskset", "--cpu-list", core}, command...)
	}
	cmd := here(context.Background(), command[0], command[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdin = []string{path, "HOME=" + m.dir}, m.dir, stdin
	p, err := start(m.dir, fmt.Sprintf("measured-%d", m.starts), cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// start starts gcemds and says when it did.
func (m *measured) start(t *testing.T, core string) (*process, time.Time) {
	t.Helper()
	began := time.Now()
	return m.run(t, core, nil, gcemds, "serve", "--config="+m.config, "--listen="+servedAt, "--allow-remote", "--admin="+filepath.Join(m.dir, "admin.sock")), began
}

// everyone lets each Pod ask until it has a token, as soon as the server listens.
func (m *measured) everyone(t *testing.T, p *process) {
	t.Helper()
	for listens := false; !listens; time.Sleep(5 * time.Millisecond) {
		select {
		case <-p.exited:
			t.Fatalf("gcemds ended:\n%s", p.tail())
		default:
		}
		if conn, err := m.link.dial(podAddress(1, 0), servedAt); err == nil {
			conn.Close()
			listens = true
		}
	}
	var all sync.WaitGroup
	deadline := time.Now().Add(patience)
	for n := range manyPods {
		all.Go(func() {
			for {
				conn, _, err := m.link.get(podAddress(1, n), servedAt)
				if err == nil {
					conn.Close()
					return
				}
				if time.Now().After(deadline) {
					t.Errorf("the Pod %s gets no token: %v", podAddress(1, n), err)
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// figures are those of a start.
type figures struct {
	took                     time.Duration
	requests                 int // to the API server
	tokens, mostTokens       int // of them TokenRequests; of one service account
	exchanges, mostExchanges int // at STS
	bytes                    int64
	memory                   int64
}

var who = regexp.MustCompile(`path=/v1/token .*who=(\S+)`)

// cold starts gcemds a few times: the median of what varies, the most of what
// is counted.
func (m *measured) cold(t *testing.T) figures {
	t.Helper()
	var took []time.Duration
	var bytes, memory []int64
	var worst figures
	for range runs {
		_, audit := since(t, m.c.file("audit.log"), 0)
		_, log := since(t, m.google.log, 0)
		before := m.api.bytes.Load()
		p, began := m.start(t, "")
		m.everyone(t, p)
		took = append(took, time.Since(began))
		time.Sleep(time.Second)
		memory = append(memory, residentMemory(t, p))
		bytes = append(bytes, m.api.bytes.Load()-before)

		requests, tokens, exchanges := 0, map[string]int{}, map[string]int{}
		lines, _ := since(t, m.c.file("audit.log"), audit)
		for line := range strings.Lines(lines) {
			var event struct {
				ObjectRef struct{ Namespace, Name, Subresource string }
			}
			if err := json.Unmarshal([]byte(line), &event); err != nil {
				t.Fatal(err)
			}
			requests++
			if o := event.ObjectRef; o.Subresource == "token" {
				tokens[o.Namespace+"/"+o.Name]++
			}
		}
		lines, _ = since(t, m.google.log, log)
		for _, match := range who.FindAllStringSubmatch(lines, -1) {
			exchanges[match[1]]++
		}
		if len(tokens) != manyAccounts || len(exchanges) != manyAccounts {
			t.Errorf("tokens of %d service accounts were made, of %d exchanged, want %d", len(tokens), len(exchanges), manyAccounts)
		}
		worst.requests = max(worst.requests, requests)
		for _, n := range tokens {
			worst.mostTokens = max(worst.mostTokens, n)
		}
		for _, n := range exchanges {
			worst.mostExchanges = max(worst.mostExchanges, n)
		}
		worst.tokens, worst.exchanges = max(worst.tokens, sum(tokens)), max(worst.exchanges, sum(exchanges))
		p.kill()
	}
	worst.took, worst.bytes, worst.memory = median(took), median(bytes), median(memory)
	return worst
}

func sum(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

func median[T interface {
	~int64 | ~float64
}](values []T) T {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}

// residentMemory is the memory of a process in bytes.
func residentMemory(t *testing.T, p *process) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var kib int64
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// cpu is the time that a process has used: the clock of
// clock_getcpuclockid(3), as bench has it.
func cpu(t *testing.T, p *process) time.Duration {
	t.Helper()
	const scheduler = 2 // CPUCLOCK_SCHED of the kernel
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|scheduler), &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// warm measures a GET of a cached token by each Pod beside the floor of bench,
// which gives the same bytes, on the same core in turns.
func (m *measured) warm(t *testing.T) row {
	t.Helper()
	ours, _ := m.start(t, "0")
	defer ours.kill()
	m.everyone(t, ours)
	_, reply, err := m.link.get(podAddress(1, 0), servedAt)
	if err != nil {
		t.Fatal(err)
	}
	bare := m.run(t, "0", bytes.NewReader(reply), m.bench, "floor", floorAt)
	defer bare.kill()

	type server struct {
		*process
		conns   []net.Conn
		size    []int // of the answers
		cpu     time.Duration
		answers int64
	}
	servers := map[string]*server{servedAt: {process: ours}, floorAt: {process: bare}}
	for address, s := range servers {
		for n := range manyPods {
			var conn net.Conn
			var first []byte
			if err := s.until(t.Context(), func(context.Context) (err error) {
				conn, first, err = m.link.get(podAddress(1, n), address)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			s.conns, s.size = append(s.conns, conn), append(s.size, len(first))
		}
	}
	turn := func(s *server) {
		before, end := cpu(t, s.process), time.Now().Add(100*time.Millisecond)
		var answers atomic.Int64
		var all sync.WaitGroup
		for i, conn := range s.conns {
			all.Go(func() {
				answer := make([]byte, s.size[i])
				for time.Now().Before(end) {
					_, err := conn.Write([]byte(tokenRequest))
					if err == nil {
						_, err = io.ReadFull(conn, answer)
					}
					if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) {
						t.Errorf("a warm GET: %v %.20q", err, answer)
						return
					}
					answers.Add(1)
				}
			})
		}
		all.Wait()
		s.cpu += cpu(t, s.process) - before
		s.answers += answers.Load()
	}
	var cost, floor, ratios []float64
	for i := range rounds + 1 {
		a, f := servers[servedAt], servers[floorAt]
		a.cpu, a.answers, f.cpu, f.answers = 0, 0, 0, 0
		for range 10 {
			for _, s := range []*server{a, f, f, a} {
				turn(s)
			}
		}
		if t.Failed() {
			t.FailNow()
		}
		if i == 0 { // grows heaps and stacks
			continue
		}
		cost = append(cost, float64(a.cpu.Microseconds())/float64(a.answers))
		floor = append(floor, float64(f.cpu.Microseconds())/float64(f.answers))
		ratios = append(ratios, floor[i-1]/cost[i-1])
	}
	const least = 0.9
	return row{What: fmt.Sprintf("cached token GET by each of %d Pods, requests per CPU second", manyPods),
		GCEMDS: fmt.Sprintf("%.2f µs CPU", median(cost)), Floor: fmt.Sprintf("%.2f µs CPU", median(floor)),
		Ratio: fmt.Sprintf("%.3f (%.3f to %.3f)", median(ratios), slices.Min(ratios), slices.Max(ratios)),
		Bound: fmt.Sprintf("at least %.2f", least), Pass: median(ratios) >= least}
}

// outage has each Pod ask once a second, on a new connection, while there is no
// API server.
func (m *measured) outage(t *testing.T) (asked, failed int64) {
	t.Helper()
	p, _ := m.start(t, "")
	defer p.kill()
	m.everyone(t, p)
	m.c.kill(t, "kube-apiserver")
	var n, bad atomic.Int64
	for end := time.Now().Add(away); time.Now().Before(end); {
		next := time.After(time.Second)
		var all sync.WaitGroup
		for i := range manyPods {
			all.Go(func() {
				n.Add(1)
				if conn, _, err := m.link.get(podAddress(1, i), servedAt); err != nil {
					bad.Add(1)
				} else {
					conn.Close()
				}
			})
		}
		all.Wait()
		<-next
	}
	if err := m.c.startAPI(); err != nil {
		t.Fatal(err)
	}
	return n.Load(), bad.Load()
}

// report has bench show the rows; it fails if a bound was missed.
func (m *measured) report(t *testing.T, rows []row) {
	t.Helper()
	measured, err := json.Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"report", "bench-gke"}
	if *table != "" {
		args = append(args, *table)
	}
	cmd := here(t.Context(), m.bench, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(measured), os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Error("see above: ", err)
	}
}
