package kube

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// forged: where the kernel says who callers are, the address of another does
// not make a Pod the other, though it has told the node that the address is its
// own.
func (h *house) forged(t *testing.T, namespace, forger, of string) {
	victim := h.field(t, namespace, "pod/"+of, ".status.podIP")
	const script = `
import fcntl, socket, struct, subprocess, sys, time
victim = sys.argv[1]
subprocess.run(["ip", "address", "add", victim + "/32", "dev", "eth0"], check=True)
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
mac, ip = s.getsockname()[4], socket.inet_aton(victim)
arp = b"\xff" * 6 + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 2) + mac + ip + b"\xff" * 6 + ip
for i in range(20):
    s.send(arp)
    c = subprocess.run(["curl", "-sS", "--max-time", "1", "--interface", victim, "-w", "\n%{http_code}", "-H", "Metadata-Flavor: Google", sys.argv[2]], capture_output=True, text=True)
    if c.returncode == 0:
        print(c.stdout)
        break
subprocess.run(["ip", "address", "delete", victim + "/32", "dev", "eth0"], check=True)
`
	out := h.python(t, namespace, forger, script, victim, tokenURL)
	if strings.Contains(out, "access_token") {
		t.Error("a Pod that has taken the address of another gets its token")
	}
	if !strings.HasSuffix(out, "403") {
		t.Errorf("a Pod that has taken the address of another gets %.100q, want 403", out)
	}
	h.nodes[0].run(t, "ip", "neigh", "flush", "dev", "cni0") // it learns where the victim is again
}

const cloudURL = "http://172.30.0.1:8169"

// cloud starts what stands for the metadata service of the machine's own cloud,
// at its address too. All that it is asked for is in its log.
func (w *world) cloud(t *testing.T) *process {
	t.Helper()
	const script = `
import http.server, threading
class Cloud(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        print("asked", self.path, flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"cloud")
    do_PUT = do_POST = do_GET
servers = [http.server.ThreadingHTTPServer(a, Cloud) for a in (("172.30.0.1", 8169), ("169.254.169.254", 80))]
threading.Thread(target=servers[0].serve_forever).start()
servers[1].serve_forever()
`
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	address := func(ctx context.Context, what string) error {
		_, err := output(w.command(ctx, "ip", "address", what, "169.254.169.254/32", "dev", "lo"))
		return err
	}
	if err := address(ctx, "add"); err != nil {
		t.Fatal(err)
	}
	after := context.WithoutCancel(t.Context())
	t.Cleanup(func() { address(after, "delete") })
	p, err := w.start(w.command, "cloud", "/usr/bin/python3", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	if err := p.until(ctx, func(ctx context.Context) error {
		_, err := output(w.command(ctx, "curl", "-sS", "--max-time", "2", "http://169.254.169.254/latest/up"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return p
}

var statusLine = regexp.MustCompile(`HTTP/1\.1 (\d{3})`)

// passed: where the cloud's own service may be reached, each request is looked
// at, not each connection, and Google's paths never get there.
func (h *house) passed(t *testing.T, namespace string, cloud *process) {
	const script = `
import socket, sys
s = socket.create_connection(("169.254.169.254", 80), 5)
s.settimeout(5)
s.sendall(sys.argv[1].encode())
try:
    while data := s.recv(65536):
        sys.stdout.write(data.decode("latin1"))
except (TimeoutError, ConnectionError):
    pass
`
	get := func(target, more string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: 169.254.169.254\r\n" + more + "\r\n"
	}
	const flavor, last = "Metadata-Flavor: Google\r\n", "Connection: close\r\n"
	first := get("/latest/meta-data/", "")
	for _, a := range []struct {
		name, bytes string
		want        []string // statuses
	}{
		{"what is allowed", get("/latest/meta-data/", last), []string{"200"}},
		{"another prefix", first + get("/metadata/identity", flavor+last), []string{"404", "403", "400"}},
		{"no flavor", first + get("/computeMetadata/v1/"+tokenPath, last), []string{"403"}},
		{"absolute target", first + get("http://169.254.169.254/computeMetadata/v1/instance/attributes/kube-env", flavor+last), []string{"404", "403", "400"}},
		{"absolute target elsewhere", first + get("http://evil.example/other", flavor+last), []string{"404", "403", "400"}},
		{"doubled slash", first + get("//computeMetadata/v1/instance/attributes/kube-env", flavor+last), []string{"301", "404", "403", "400"}},
		{"the way up", first + get("/latest/../computeMetadata/v1/instance/attributes/kube-env", flavor+last), []string{"301", "404", "403", "400"}},
		{"the way up in code", first + get("/latest/%2e%2e/computeMetadata/v1/instance/attributes/kube-env", flavor+last), []string{"301", "404", "403", "400"}},
		{"keys of the machine", first + get("/computeMetadata/v1/instance/attributes/kube-env", flavor+last), []string{"404"}},
	} {
		t.Run(a.name, func(t *testing.T) {
			answer := h.python(t, namespace, "app", script, a.bytes)
			var statuses []string
			for _, m := range statusLine.FindAllStringSubmatch(answer, -1) {
				statuses = append(statuses, m[1])
			}
			if n := strings.Count(a.bytes, "GET "); len(statuses) != n || !slices.Contains(a.want, statuses[n-1]) {
				t.Errorf("the answers have the statuses %q, want %d of them, the last of %q", statuses, n, a.want)
			}
			if n := strings.Count(answer, "cloud"); n != 1 {
				t.Errorf("%d requests are passed on, want the first alone", n)
			}
		})
	}
	for line := range strings.Lines(cloud.tail()) {
		if path, ok := strings.CutPrefix(line, "asked "); ok && !strings.HasPrefix(path, "/latest/") {
			t.Errorf("the cloud is asked for %s", path)
		}
	}
}

// served fails the test unless another Pod is told who it is, soon.
func (h *house) served(t *testing.T, namespace string) {
	t.Helper()
	if status, body := h.ask(t, namespace, "robot", "instance/service-accounts/default/email", "--max-time", "3"); body != actsAs {
		t.Errorf("while the server is attacked another Pod gets %s %s, want %s", status, body, actsAs)
	}
}

// distinct asks for 5000 tokens that are all different, from one Pod.
func (h *house) distinct(t *testing.T, namespace, pod, path string) {
	const script = `
import collections, http.client, sys
statuses = collections.Counter()
c = http.client.HTTPConnection("169.254.169.254", timeout=10)
for i in range(5000):
    c.request("GET", "/computeMetadata/v1/instance/service-accounts/default/" + sys.argv[1] % i, headers={"Metadata-Flavor": "Google"})
    r = c.getresponse()
    r.read()
    statuses[r.status] += 1
print(dict(statuses))
`
	before, began := h.google.lines(t, "path="), time.Now()
	got := h.python(t, namespace, pod, script, path)
	calls, took := h.google.lines(t, "path=")-before, time.Since(began)
	t.Logf("5000 different requests in %v: %d calls to Google, answers %s", took.Round(time.Millisecond), calls, got)
	// A hundred, one more each second, and what others cause; each may take an
	// exchange and an impersonation.
	if most := 2*(100+int(took.Seconds())) + 20; calls > most {
		t.Errorf("Google is called %d times, want %d at most", calls, most)
	}
	if !strings.Contains(got, "429") {
		t.Errorf("the answers are %s, want some with 429", got)
	}
	h.served(t, namespace)
}

// flood opens 1000 connections from one Pod, says something on each and nothing
// more.
func (h *house) flood(t *testing.T, namespace, say string) {
	const script = `
import socket, sys, time
held = []
for i in range(1000):
    try:
        s = socket.create_connection(("169.254.169.254", 80), 0.5)
        s.sendall(sys.argv[1].encode())
        held.append(s)
    except OSError:
        pass
time.sleep(5)
alive = 0
for s in held:
    s.setblocking(False)
    try:
        alive += s.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        alive += 1
    except OSError:
        pass
print(alive)
`
	type answer struct {
		out string
		err error
	}
	ended := make(chan answer, 1)
	go func() {
		out, err := h.do(t, namespace, "app", "/usr/bin/python3", "-c", script, say)
		ended <- answer{out, err}
	}()
	time.Sleep(3 * time.Second)
	h.served(t, namespace)
	a := <-ended
	if alive, err := strconv.Atoi(strings.TrimSpace(a.out)); a.err != nil || err != nil || alive > 200 {
		t.Errorf("of 1000 connections of a Pod %q are open, want 200 at most: %v", a.out, a.err)
	}
	h.served(t, namespace)
}

// poller asks for these paths again and again, each time on a new connection,
// and logs each answer: the status, how curl ended, and the body's beginning.
func poller(name string, paths ...string) pod {
	ask := "while :; do "
	for _, path := range paths {
		ask += `b=$(curl -s --max-time 5 -w ' %{http_code}' -H 'Metadata-Flavor: Google' http://169.254.169.254/computeMetadata/v1/` + path + `); echo "$? ${b##* } ` + path + ` $(echo "$b" | cut -c1-12)"; `
	}
	return pod{name: name, account: "robot", machine: true, spec: "nodeName: node-1", container: "command: [/usr/bin/sh, -c, " + strconv.Quote(ask+"sleep 0.1; done") + "]"}
}

// killed: while there is no server on the node a caller is refused. What it asks
// for does not get to the cloud of the machine. Then the server is back.
func (h *house) killed(t *testing.T, namespace string) {
	h.apply(t, namespace, poller("killed", "project/project-id").manifest())
	h.ready(t, namespace, "pod/killed")
	time.Sleep(time.Second)
	uid := h.kubectl(t, "--namespace=gcemds-system", "get", "pods", "--field-selector=spec.nodeName=node-1", "--output=jsonpath={.items[0].metadata.uid}")
	h.nodes[0].run(t, "sh", "-c", `for p in /proc/[0-9]*; do if grep -q "pod$1" $p/cgroup 2>/dev/null && tr '\0' ' ' <$p/cmdline | grep -q 'gcemds serve'; then kill -KILL ${p#/proc/}; exit; fi; done; echo "there is no server" >&2; exit 1`, "sh", uid)
	var refused, again int
	var other []string
	for deadline := time.Now().Add(25 * time.Second); ; time.Sleep(500 * time.Millisecond) {
		refused, again, other = 0, 0, nil
		for line := range strings.Lines(h.logs(t, namespace, "killed")) {
			switch line = strings.TrimSpace(line); {
			case strings.HasPrefix(line, "0 200 project/project-id my-project"):
				if refused > 0 {
					again++
				}
			case strings.HasPrefix(line, "7 000 "): // it cannot connect
				refused, again = refused+1, 0
			case strings.HasPrefix(line, "52 000 "), strings.HasPrefix(line, "56 000 "): // its connection ends with the server
			default:
				other = append(other, line)
			}
		}
		if again > 5 || time.Now().After(deadline) {
			break
		}
	}
	if refused == 0 || again == 0 || len(other) > 0 {
		t.Errorf("when the server is killed, %d are refused, then %d are served, and these get something else: %q; want some, some and none", refused, again, other)
	}
	h.kubectl(t, "--namespace="+namespace, "delete", "pod/killed", "--grace-period=0", "--force", "--wait=false")
}

// outage: while neither the API server nor Google answers, what is known is
// served: cached tokens, and all that needs nobody. Then new Pods are served.
func (h *house) outage(t *testing.T, namespace string) {
	h.is(t, namespace, "robot", actsAs)
	h.apply(t, namespace, poller("outage", tokenPath, "project/project-id", "instance/name").manifest())
	h.ready(t, namespace, "pod/outage")
	time.Sleep(time.Second)
	h.google.set(t, "faults: [{path: /v1, status: 503}]")
	h.kill(t, "kube-apiserver")
	time.Sleep(10 * time.Second)
	if err := h.startAPI(); err != nil {
		t.Fatal(err)
	}
	h.google.set(t, "")
	var good int
	var bad []string
	for line := range strings.Lines(h.logs(t, namespace, "outage")) {
		if strings.HasPrefix(line, "0 200 ") {
			good++
		} else {
			bad = append(bad, strings.TrimSpace(line))
		}
	}
	if good < 60 || len(bad) > 0 {
		t.Errorf("while the API server and Google were away %d are served, and these are not: %.1000q", good, bad)
	}
	h.kubectl(t, "--namespace="+namespace, "delete", "pod/outage", "--grace-period=0", "--force", "--wait=false")
	h.apply(t, namespace, pod{name: "later", machine: true, spec: "nodeName: node-1"}.manifest())
	h.ready(t, namespace, "pod/later")
	deadline := time.Now().Add(20 * time.Second)
	for {
		status, body := h.ask(t, namespace, "later", tokenPath, "--max-time", "10")
		if status == "200" && h.owner(t, body) == principal(namespace+"/app") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the outage a new Pod gets %s %.300s, want a token of its own", status, body)
		}
		time.Sleep(time.Second)
	}
}
