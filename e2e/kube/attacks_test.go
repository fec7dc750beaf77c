package kube

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// raw sends bytes to the metadata server from a Pod that has the programs of
// this machine, and returns what comes back until the end of the connection or
// three seconds of silence.
func (in *installation) raw(t *testing.T, pod, request string) string {
	t.Helper()
	const script = `
import socket, sys
s = socket.create_connection(("169.254.169.254", 80), 5)
s.settimeout(3)
s.sendall(sys.argv[1].encode("latin1"))
try:
    while True:
        data = s.recv(65536)
        if not data:
            break
        sys.stdout.write(data.decode("latin1"))
except (TimeoutError, ConnectionError):
    pass
`
	return in.exec(t, in.space, pod, "/usr/bin/python3", "-c", script, request)
}

const (
	accountsPath = "/computeMetadata/v1/instance/service-accounts/"
	flavor       = "Metadata-Flavor: Google\r\n"
)

// request is one of HTTP/1.1, after which the connection ends.
func request(target, header string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: metadata.google.internal\r\nConnection: close\r\n" + header + "\r\n"
}

var statusLine = regexp.MustCompile(`HTTP/1\.1 (\d{3})`)

// statuses are those of the answers on a connection.
func statuses(answer string) (all []string) {
	for _, m := range statusLine.FindAllStringSubmatch(answer, -1) {
		all = append(all, m[1])
	}
	return all
}

// testAttacks: a Pod, the attacker, does not become another, the victim, on the
// same node, and cannot keep it from being served.
func (in *installation) testAttacks(t *testing.T) {
	in.apply(t, in.space, pod{name: "victim", account: "gsa", machine: true, spec: "nodeName: node-1"}.manifest()+
		pod{name: "attacker", account: "other", machine: true, spec: "nodeName: node-1"}.manifest()+
		pod{name: "attacker-host", account: "other", machine: true, spec: "nodeName: node-1, hostNetwork: true"}.manifest())
	in.ready(t, in.space, "pod/victim", "pod/attacker", "pod/attacker-host")
	if got := in.whoIs(t, "victim"); got != robot {
		t.Fatalf("the victim gets a token of %s, want %s", got, robot)
	}
	victim := in.field(t, in.space, "pod/victim", ".status.podIP")
	email, token := accountsPath+"default/email", accountsPath+"default/token"

	// refused sends bytes whose last answer must be one of these statuses, and
	// no answer may know the victim.
	refused := func(name, pod, bytes string, want ...string) {
		t.Run(name, func(t *testing.T) {
			answer := in.raw(t, pod, bytes)
			all := statuses(answer)
			if len(all) == 0 {
				t.Fatalf("there is no answer, want the status %v", want)
			}
			if last := all[len(all)-1]; !strings.Contains(strings.Join(want, " "), last) {
				t.Errorf("the answers have the statuses %v, want %v in the end", all, want)
			}
			if strings.Contains(answer, robot) && !strings.Contains(bytes, robot) || strings.Contains(answer, "access_token") {
				t.Errorf("the attacker learns what it should not")
			}
		})
	}
	for _, header := range []string{"X-Forwarded-For: " + victim, "X-Real-IP: " + victim, "Forwarded: for=" + victim} {
		name, _, _ := strings.Cut(header, ":")
		refused("Header/"+name, "attacker", request(token, flavor+header+"\r\n"), "403")
	}
	refused("NoFlavor", "attacker", request(token, ""), "403")
	refused("ForeignHost", "attacker", "GET "+email+" HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n"+flavor+"\r\n", "403")
	refused("AnotherAccount", "attacker", request(accountsPath+robot+"/token", flavor), "404")
	refused("Post", "attacker", strings.Replace(request(token, flavor+"Content-Length: 0\r\n"), "GET", "POST", 1), "403", "404", "405")

	keep := strings.NewReplacer("Connection: close\r\n", "")
	refused("SecondRequest", "attacker", keep.Replace(request("/", flavor))+request(token, ""), "403")
	refused("SecondRequestForwarded", "attacker", keep.Replace(request(email, flavor))+request(token, flavor+"X-Forwarded-For: "+victim+"\r\n"), "403")
	refused("SecondRequestOfAnother", "attacker", keep.Replace(request(email, flavor))+request(accountsPath+robot+"/token", flavor), "404")

	refused("AbsoluteForm", "attacker", request("http://evil.example"+token, flavor), "400", "403", "404")
	refused("AbsoluteFormOfAnotherCloud", "attacker", request("http://169.254.169.254/latest/meta-data/iam/security-credentials/", flavor), "400", "403", "404")
	for _, path := range []string{
		"/computeMetadata/v1/../../latest/meta-data/",
		"/latest/meta-data/", "/metadata/identity/oauth2/token",
		"//latest/meta-data/", "/computeMetadata/v1/instance/attributes/kube-env",
		accountsPath + "default/../" + robot + "/token",
		accountsPath + "default/%2e%2e/" + robot + "/token",
		accountsPath + "default%2f..%2f" + robot + "/token",
		"//computeMetadata//v1//instance//service-accounts//" + robot + "//token",
		"/computeMetadata/v1beta1/instance/service-accounts/" + robot + "/token",
		"/0.1/meta-data/service-accounts/" + robot + "/acquire",
	} {
		refused("Path/"+strings.ReplaceAll(path, "/", "_"), "attacker", request(path, flavor), "301", "302", "307", "400", "403", "404")
	}

	// In the network of the node a program has many addresses, and is itself at
	// each of them.
	gateway := "10.244.1.1"
	for _, source := range []string{"172.30.0.11", gateway, "169.254.169.252"} {
		t.Run("HostNetwork/"+source, func(t *testing.T) {
			got := in.exec(t, in.space, "attacker-host", "curl", "-sS", "--interface", source, "-H", "Metadata-Flavor: Google", "http://169.254.169.254"+email)
			if strings.Contains(got, robot) {
				t.Errorf("a Pod of the host's network poses as another: it is told %q", got)
			}
		})
	}

	t.Run("AccountMadeAgain", func(t *testing.T) {
		in.pod(t, pod{name: "recreated", account: "recreated", spec: "nodeName: node-1"})
		if got := in.whoIs(t, "recreated"); got != robot {
			t.Fatalf("the Pod gets a token of %s, want %s", got, robot)
		}
		in.kubectl(t, "--namespace="+in.space, "delete", "serviceaccount", "recreated")
		in.kubectl(t, "--namespace="+in.space, "create", "serviceaccount", "recreated")
		time.Sleep(2 * time.Second) // for the news to get around
		if got := in.whoIs(t, "recreated"); got == robot {
			t.Errorf("a new ServiceAccount of the same name has the tokens of the one before, of %s", got)
		}
	})

	t.Run("SlowHeaders", func(t *testing.T) { in.flood(t, "GET / HT") })
	t.Run("Connections", func(t *testing.T) { in.flood(t, "") })
	t.Run("Scopes", func(t *testing.T) { in.distinct(t, "token?scopes=https://www.googleapis.com/auth/s%d") })
	t.Run("Audiences", func(t *testing.T) { in.distinct(t, "identity?audience=https://a%d.example.com") })
}

// served fails the test unless the victim is told who it is, soon.
func (in *installation) served(t *testing.T) {
	t.Helper()
	got := in.exec(t, in.space, "victim", "curl", "-sS", "--max-time", "3", "-H", "Metadata-Flavor: Google", metadataURL+accountPath+"email")
	if got != robot {
		t.Errorf("while it is attacked the server tells the victim that it is %q, want %s", got, robot)
	}
}

// flood opens 1000 connections from one Pod, says something on each and
// nothing more.
func (in *installation) flood(t *testing.T, say string) {
	const script = `
import socket, sys, time
open_ = []
for i in range(1000):
    try:
        s = socket.create_connection(("169.254.169.254", 80), 5)
        s.sendall(sys.argv[1].encode())
        open_.append(s)
    except OSError:
        pass
time.sleep(6)
alive = 0
for s in open_:
    s.setblocking(False)
    try:
        alive += s.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        alive += 1
    except OSError:
        pass
print(alive)
`
	ended := make(chan string)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		out, err := in.try(ctx, "", "--namespace="+in.space, "exec", "attacker", "--", "/usr/bin/python3", "-c", script, say)
		if err != nil {
			out = err.Error()
		}
		ended <- out
	}()
	time.Sleep(3 * time.Second)
	in.served(t)
	out := strings.TrimSpace(<-ended)
	if alive, err := strconv.Atoi(out); err != nil || alive > 200 {
		t.Errorf("of 1000 connections of a Pod %s are open, want 200 at most", out)
	}
	in.served(t)
}

var resident = regexp.MustCompile(`(?m)^process_resident_memory_bytes (\S+)$`)

// distinct asks for 5000 tokens that are all different, from one Pod.
func (in *installation) distinct(t *testing.T, path string) {
	const script = `
import http.client, sys
c = http.client.HTTPConnection("169.254.169.254", timeout=30)
statuses = {}
for i in range(5000):
    c.request("GET", "/computeMetadata/v1/instance/service-accounts/default/" + sys.argv[1] % i, headers={"Metadata-Flavor": "Google"})
    r = c.getresponse()
    r.read()
    statuses[r.status] = statuses.get(r.status, 0) + 1
print(statuses)
`
	upstream := func() int { return in.google.lines(t, "path=") }
	pod := "attacker"
	if strings.HasPrefix(path, "identity") {
		in.pod(t, podOf("attacker-gsa", "gsa"))
		pod = "attacker-gsa"
	}
	before, began := upstream(), time.Now()
	got := in.exec(t, in.space, pod, "/usr/bin/python3", "-c", script, path)
	calls, took := upstream()-before, time.Since(began)
	t.Logf("5000 different requests take %v, %d calls to Google, and are answered with %s", took.Round(time.Millisecond), calls, strings.TrimSpace(got))
	// A hundred, one more each second, and a handful that others cause; each
	// may take an exchange and an impersonation.
	if most := 2*(100+int(took.Seconds())) + 20; calls > most {
		t.Errorf("Google is called %d times, want %d at most", calls, most)
	}
	if !strings.Contains(got, "429") {
		t.Errorf("the answers are %s, want some with 429", got)
	}
	in.served(t)
	metrics := in.nodes[0].run(t, "curl", "-sS", "http://127.0.0.1:16989/metrics")
	if m := resident.FindStringSubmatch(metrics); m == nil {
		t.Log("the server does not say how much memory it has")
	} else if bytes, err := strconv.ParseFloat(m[1], 64); err != nil || bytes > 200<<20 {
		t.Errorf("the server has %s bytes of memory, want 200 MiB at most", m[1])
	}
}

func podOf(name, account string) pod {
	return pod{name: name, account: account, machine: true, spec: "nodeName: node-1"}
}

// poller is a Pod that asks for these paths again and again, each time on a new
// connection. Its log has what failed, and how many requests did not.
func poller(name, node string, paths ...string) pod {
	const script = `
import sys, time, urllib.request
n = 0
while True:
    for path in sys.argv[1:]:
        try:
            r = urllib.request.Request("http://169.254.169.254/computeMetadata/v1/" + path, headers={"Metadata-Flavor": "Google"})
            urllib.request.urlopen(r, timeout=5).read()
            n += 1
        except Exception as e:
            print(time.strftime("%X"), "failed", path, e)
    print("count", n)
    time.sleep(0.1)
`
	args := ""
	for _, p := range paths {
		args += fmt.Sprintf(", %q", p)
	}
	return pod{name: name, account: "gsa", machine: true, spec: "nodeName: " + node,
		container: fmt.Sprintf("command: [/usr/bin/python3, -u, -c, %q%s]", script, args)}
}

// polled fails the test if a poller has failed, or has not asked as often as
// it should, and ends it.
func (in *installation) polled(t *testing.T, name string, least int) {
	t.Helper()
	log := in.logs(t, in.space, name)
	lines := strings.Split(strings.TrimSpace(log), "\n")
	var failed []string
	for _, line := range lines {
		if strings.Contains(line, "failed") {
			failed = append(failed, line)
		}
	}
	// A connection in the queue of a socket that its server closes is reset by
	// the kernel (unless net.ipv4.tcp_migrate_req is 1).
	if len(failed) == 1 && strings.Contains(failed[0], "reset by peer") {
		t.Logf("%s: one connection is reset while its server ends", name)
	} else if len(failed) > 0 {
		t.Errorf("%s: %d requests fail, want none:\n%s", name, len(failed), strings.Join(failed[:min(10, len(failed))], "\n"))
	}
	count, err := strconv.Atoi(strings.TrimPrefix(lines[len(lines)-1], "count "))
	if err != nil && len(failed) == 0 || err == nil && count < least {
		t.Errorf("%s: the log ends with %q, want %d requests", name, lines[len(lines)-1], least)
	}
	in.kubectl(t, "--namespace="+in.space, "delete", "pod", name, "--wait=false", "--grace-period=0", "--force")
}

// testSurge: no request fails while the servers are replaced.
func (in *installation) testSurge(t *testing.T) {
	names := []string{"poller-1", "poller-2"}
	for i, name := range names {
		in.pod(t, poller(name, fmt.Sprintf("node-%d", i+1), accountPath+"token", accountPath+"email", "project/project-id"))
	}
	const which = "--output=jsonpath={.items[*].metadata.uid}"
	before := in.kubectl(t, "--namespace="+system, "get", "pods", which)
	in.kubectl(t, "--namespace="+system, "rollout", "restart", "daemonset/gcemds")
	in.rolledOut(t)
	time.Sleep(2 * time.Second)
	if after := in.kubectl(t, "--namespace="+system, "get", "pods", "--field-selector=status.phase=Running", which); after == before {
		t.Error("the servers are still those of before")
	}
	for _, name := range names {
		in.polled(t, name, 50)
	}
}

// testKilled: without a server on the node a caller is refused, and does not
// get to the metadata server of the machine's own cloud.
func (in *installation) testKilled(t *testing.T) {
	ctx := t.Context()
	if _, err := output(in.command(ctx, "ip", "address", "add", "169.254.169.254/32", "dev", "lo")); err != nil {
		t.Fatal(err)
	}
	after := context.WithoutCancel(ctx)
	t.Cleanup(func() { output(in.command(after, "ip", "address", "delete", "169.254.169.254/32", "dev", "lo")) })
	cloud, err := in.start(in.command, "cloud", gcemds, "serve", "--listen=169.254.169.254:80", "--allow-remote", "--admin=/run/cloud.sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cloud.kill)
	if err := cloud.until(ctx, func(ctx context.Context) error {
		_, err := output(in.command(ctx, "curl", "-sf", "http://169.254.169.254/"))
		return err
	}); err != nil {
		t.Fatal(err)
	}

	in.kubectl(t, "--namespace="+system, "patch", "daemonset", "gcemds", "--patch", `{"spec": {"template": {"spec": {"nodeSelector": {"nobody": "has-this"}}}}}`)
	in.kubectl(t, "--namespace="+system, "wait", "--for=delete", "pod", "--selector=app.kubernetes.io/name=gcemds", "--timeout=60s")
	for _, pod := range []string{"attacker", "attacker-host"} {
		if got := in.refused(t, "--namespace="+in.space, "exec", pod, "--", "/pod", "get", metadataURL+"project/project-id"); !strings.Contains(got, "refused") {
			t.Errorf("without a server on the node %s is told %s\nwant that the connection is refused", pod, got)
		}
	}
}
