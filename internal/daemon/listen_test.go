package daemon_test

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gcemds/gcemds/internal/daemon"
)

func TestListeners(t *testing.T) {
	t.Parallel()
	w := prepare(t, "")
	yaml := "listen: {main: {tcp: '127.0.0.1:0'}, second: {tcp: 'localhost:0'}, local: {unix: '" + filepath.Dir(w.socket) + "/mds.sock', mode: '0606'}"
	listeners := []string{"main", "second"}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		l.Close()
		yaml += ", six: {tcp: '[::1]:0'}"
		listeners = append(listeners, "six")
	} else {
		t.Log("IPv6 is not tried: this machine has no address ::1")
	}
	w.write(yaml + "}\n")
	w.run()
	for _, l := range listeners {
		if status, body := fetch(t, w.http, w.base(l)+"/computeMetadata/v1/instance/name"); status != http.StatusOK || body != "demo-instance" {
			t.Errorf("listener %s answers %d %s", l, status, body)
		}
	}

	if got, want := w.Status().Listeners[2].Address, filepath.Dir(w.socket)+"/mds.sock"; got != want {
		t.Errorf("status shows the socket %q, want %q", got, want)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Dir(w.socket)+"/mds.sock")
	}}
	defer transport.CloseIdleConnections()
	if status, body := fetch(t, &http.Client{Transport: transport}, "http://metadata/computeMetadata/v1/instance/name"); status != http.StatusOK || body != "demo-instance" {
		t.Errorf("the Unix socket answers %d %s", status, body)
	}
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no permissions of sockets")
	}
	for name, want := range map[string]fs.FileMode{filepath.Dir(w.socket) + "/mds.sock": 0o606, w.socket: 0o600} {
		info, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o whatever the umask is", filepath.Base(name), got, want)
		}
	}
}

// TestRefused: a daemon that cannot do all it is told does not begin. It says
// why, and leaves nothing behind.
func TestRefused(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, c := range map[string]struct {
		yaml string
		want string
	}{
		"port in use":     {"listen: {main: {tcp: '" + taken.Addr().String() + "'}}", "listen.main: cannot listen on " + taken.Addr().String() + ": the port is in use; stop who has it, or choose another with --listen"},
		"other machines":  {"listen: {main: {tcp: '0.0.0.0:0'}}", "mds.yaml:2: listen.main.tcp: 0.0.0.0:0 can be reached from other machines, and whoever reaches it gets tokens; if you want that, say allow_remote: true"},
		"strange address": {"listen: {main: {tcp: '192.0.2.1:0', allow_remote: true}}", "listen.main: cannot listen on 192.0.2.1:0: this machine does not have that address"},
		"none is here":    {"listen: {main: {tcp: '192.0.2.1:0', allow_remote: true, optional: true}}", "listen.main: cannot listen on 192.0.2.1:0: this machine does not have that address"},
		"second listener": {"listen: {main: {tcp: '127.0.0.1:0'}, two: {tcp: '" + taken.Addr().String() + "'}}", "listen.two: cannot listen on "},
		"admin.http":      {"admin: {socket: DIR/a.sock, http: '" + taken.Addr().String() + "'}", "admin.http: cannot listen on "},
		"issuer":          {"issuer: {listen: '" + taken.Addr().String() + "'}", "issuer.listen: cannot listen on "},
		"issuer key":      {"issuer: {key_file: empty.json}", "issuer: issuer key file DIR/empty.json: "},
		"no socket":       {"listen: {main: {unix: DIR/mds.yaml}}", "listen.main: cannot listen on DIR/mds.yaml: there is a file of that name that is not a socket"},
		"systemd":         {"listen: {main: {fd: metadata}}", `listen.main: systemd passed no socket named "metadata" (FileDescriptorName= in the socket unit)`},
		"no document":     {"instances: {vm-1: {metadata: none.json}}", `instance "vm-1": open DIR/none.json: no such file or directory`},
		"bad document":    {"instances: {vm-1: {metadata: bad.json}}", `instance "vm-1": DIR/bad.json: `},
		"bad OS Login":    {"instances: {vm-1: {oslogin: bad.json}}", `instance "vm-1": DIR/bad.json: `},
		"no key":          {"sources: {k: {key_file: none.json}}\ninstances: {vm-1: {accounts: {default: {source: k}}}}", `instance "vm-1": account "default": source "k": key_file: `},
		"no e-mail":       {"instances: {vm-1: {metadata: nobody.json, accounts: {default: {}}}}", `instance "vm-1": account "default": source "": issuer: field email is missing`},
		"set":             {"instances: {vm-1: {set: {instance/name/x: 1}}}", `instance "vm-1": set: instance/name/x: instance/name is a leaf; nothing can be set below it`},
		"authority":       {"listen: {main: {tcp: '127.0.0.1:0', tls: {ca: empty.json, ca_key: empty.json}}}", "listen.main: DIR/empty.json and DIR/empty.json are not a certificate and its key"},
	} {
		t.Run(name, func(t *testing.T) {
			w := prepare(t, c.yaml)
			w.file("bad.json", "{\n\"instance\": }")
			w.file("empty.json", "{}")
			w.file("nobody.json", `{"instance": {"name": "vm-1"}}`)
			err := w.open()
			want := strings.ReplaceAll(c.want, "DIR", w.dir)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("New says: %v\nwant %s", err, want)
			}
			for _, name := range []string{w.socket, w.dir + "/a.sock"} {
				if _, err := os.Lstat(name); err == nil {
					t.Errorf("the admin socket stays when New fails")
				}
			}
		})
	}
}

// TestAllFaults: every instance that cannot be served is named at once.
func TestAllFaults(t *testing.T) {
	t.Parallel()
	w := prepare(t, "instances: {vm-1: {metadata: a.json}, vm-2: {}, vm-3: {metadata: c.json}}")
	err := w.open()
	if err == nil || !strings.Contains(err.Error(), `instance "vm-1"`) || !strings.Contains(err.Error(), `instance "vm-3"`) || strings.Contains(err.Error(), "vm-2") {
		t.Errorf("New says: %v\nwant the faults of vm-1 and vm-3", err)
	}
	c, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := daemon.Check(t.Context(), c, nil, false); err == nil || !strings.Contains(err.Error(), `instance "vm-3"`) {
		t.Errorf("Check says: %v\nwant what New says", err)
	}
}

// TestOtherMachines: the socket decides, whatever the configuration looks like.
func TestOtherMachines(t *testing.T) {
	t.Parallel()
	w := prepare(t, "")
	c, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	c.Listen[0].TCP = "0.0.0.0:0"
	d, err := daemon.New(t.Context(), daemon.Options{Config: c})
	if want := " can be reached from other machines, and whoever reaches it gets tokens; if you want that, say --allow-remote"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("New says: %v\nwant …%s…", err, want)
	}
	_ = d

	w.write("listen: {main: {tcp: '0.0.0.0:0', allow_remote: true}}\n")
	w.run()
	_, port, err := net.SplitHostPort(w.Addr("main").String())
	if err != nil {
		t.Fatal(err)
	}
	if status, body := fetch(t, w.http, "http://127.0.0.1:"+port+"/computeMetadata/v1/instance/name"); status != http.StatusOK {
		t.Errorf("a listener on all addresses answers %d %s", status, body)
	}
}

// TestOptional: an address that the machine does not have is no reason not to
// serve the others.
func TestOptional(t *testing.T) {
	t.Parallel()
	w := start(t, "listen: {away: {tcp: '192.0.2.1:0', allow_remote: true, optional: true}, main: {tcp: '127.0.0.1:0'}, ipv6: {tcp: '[2001:db8::1]:0', allow_remote: true, optional: true}}")
	if name := w.value("instance/name"); name != "demo-instance" {
		t.Errorf("the listener that is here says %q", name)
	}
}

// TestSecondDaemon: two daemons cannot have one admin socket, and the second
// one does not harm the first.
func TestSecondDaemon(t *testing.T) {
	t.Parallel()
	first := start(t, "")
	second := prepare(t, "admin: {socket: '"+first.socket+"'}\n")
	want := "admin: cannot listen on " + first.socket + ": another gcemds answers there; stop it, or give this one a socket of its own (--admin, GCEMDS_ADMIN or admin.socket)"
	if err := second.open(); err == nil || err.Error() != want {
		t.Errorf("New says: %v\nwant %s", err, want)
	}
	c, err := net.Dial("unix", first.socket)
	if err != nil {
		t.Fatalf("the first daemon lost its admin socket: %v", err)
	}
	c.Close()
}

// TestTakeOver: two daemons that say so listen at one port, and when the first
// ends the second has it alone. Who does not say so stays out.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows lets nobody share a port with those of the same user alone")
	}
	const yaml = "admin: {socket: 'SOCKET', http: 'HTTP', reuse_port: true}\nlisten: {main: {tcp: 'MAIN', reuse_port: true}}\n" +
		"instances: {default: {set: {instance/name: NAME}}}\n"
	at := func(w *world, name, main, health string) {
		w.write(strings.NewReplacer("SOCKET", w.socket, "NAME", name, "MAIN", main, "HTTP", health).Replace(yaml))
	}
	first, second := prepare(t, ""), prepare(t, "")
	at(first, "first", "127.0.0.1:0", "127.0.0.1:0")
	first.run()
	main, health := first.Addr("main").String(), first.Addr("admin http").String()
	stranger := prepare(t, "listen: {main: {tcp: '"+main+"'}}\n")
	if err := stranger.open(); err == nil || !strings.Contains(err.Error(), "the port is in use") {
		t.Errorf("a daemon that does not share the port: %v, want that the port is in use", err)
	}
	// Whoever comes while one of them leaves is served, and before that by the
	// oldest alone.
	leave := func(w *world, oldest string) (after map[string]bool) {
		t.Helper()
		var group sync.WaitGroup
		var left atomic.Bool
		var answers atomic.Int64
		more := func() bool { // a good many
			before := answers.Load()
			return poll(func() bool { return answers.Load() > before+50 })
		}
		var mu sync.Mutex
		after = map[string]bool{}
		over := make(chan struct{})
		for range 8 {
			group.Go(func() {
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
				for {
					select {
					case <-over:
						return
					default:
					}
					req, _ := http.NewRequest(http.MethodGet, "http://"+main+"/computeMetadata/v1/instance/name", nil)
					req.Header.Set("Metadata-Flavor", "Google")
					res, err := client.Do(req)
					if err != nil {
						t.Errorf("a connection while one of them leaves: %v", err)
						return
					}
					name, _ := io.ReadAll(res.Body)
					res.Body.Close()
					answers.Add(1)
					mu.Lock()
					if left.Load() {
						after[string(name)] = true
					} else if string(name) != oldest && runtime.GOOS == "linux" {
						t.Errorf("before one of them leaves, the answer is that of %q, want %q", name, oldest)
					}
					mu.Unlock()
				}
			})
		}
		busy := more()
		mu.Lock()
		left.Store(true)
		mu.Unlock()
		err := w.stop()
		busy = more() && busy
		close(over)
		group.Wait()
		if err != nil || !busy {
			t.Fatalf("%v; nobody is answered: %v", err, !busy)
		}
		return after
	}
	third := prepare(t, "") // is taken back before it has begun
	at(third, "third", main, health)
	third.run()
	if after := leave(third, "first"); runtime.GOOS == "linux" && (len(after) != 1 || !after["first"]) {
		t.Errorf("while one leaves that was never in charge, the answers are those of %v, want those of the first", after)
	}
	at(second, "second", main, health)
	second.run()
	if after := leave(first, "first"); !after["second"] || after["third"] {
		t.Errorf("after the first left, the answers are those of %v", after)
	}
	for range 20 { // each a new connection
		second.http.CloseIdleConnections()
		if name := second.value("instance/name"); name != "second" {
			t.Fatalf("the second daemon says %q", name)
		}
		if status, body := fetch(t, second.http, second.base("admin http")+"/readyz"); status != http.StatusOK {
			t.Fatalf("/readyz of the second daemon = %d %s", status, body)
		}
	}
	if why := second.Status().Unready; why != "" {
		t.Errorf("the status of a daemon that serves says that it is not ready: %s", why)
	}
	if why := first.Status().Unready; why != "starting or stopping" {
		t.Errorf("the status of a daemon that has stopped says %q of why it is not ready", why)
	}
}

// TestStaleSocket: what a crashed process left does not keep us from starting.
func TestStaleSocket(t *testing.T) {
	t.Parallel()
	w := prepare(t, "")
	for _, name := range []string{w.socket, filepath.Join(filepath.Dir(w.socket), "mds.sock")} {
		l, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
	}
	w.write("listen: {main: {tcp: '127.0.0.1:0'}, local: {unix: '" + filepath.Dir(w.socket) + "/mds.sock'}}\n")
	w.run()
	if c, err := net.Dial("unix", w.socket); err != nil {
		t.Errorf("nobody answers on the socket that was replaced: %v", err)
	} else {
		c.Close()
	}
}

// TestHealth: probes and scrapes are answered for who may know our names.
func TestHealth(t *testing.T) {
	t.Parallel()
	w := prepare(t, "admin: {socket: SOCKET, http: '127.0.0.1:0'}\nhosts: ['*.example.test']\n")
	w.write(strings.ReplaceAll(w.complete("admin: {socket: SOCKET, http: '127.0.0.1:0'}\nhosts: ['*.example.test']\n"), "SOCKET", "'"+w.socket+"'"))
	w.run()
	base := w.base("admin http")
	if !poll(func() bool { status, _ := fetch(t, w.http, base+"/readyz"); return status == http.StatusOK }) {
		t.Error("/readyz does not become 200")
	}
	w.value("instance/name")
	for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ok\n", "/metrics": `gcemds_requests_total{class="leaf",status="2xx"} 1`} {
		for host, status := range map[string]int{"": 200, "localhost": 200, "probe.example.test:9": 200, "evil.example": 403} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			got, body := do(t, w.http, req)
			if got != status || status == 200 && !strings.Contains(body, want) {
				t.Errorf("GET %s for host %q = %d %s, want %d and %q", path, host, got, body, status, want)
			}
		}
	}
	if status, _ := fetch(t, w.http, base+"/computeMetadata/v1/instance/name"); status != http.StatusNotFound {
		t.Errorf("the health listener answers %d for metadata, want 404", status)
	}
	if status, _ := fetch(t, w.http, w.base("main")+"/metrics"); status != http.StatusNotFound {
		t.Errorf("workloads see /metrics: %d, want 404", status)
	}
}

// TestFleet: who asks is told apart by where and how they connect.
func TestFleet(t *testing.T) {
	t.Parallel()
	w := prepare(t, "")
	w.write(`listen: {main: {tcp: '127.0.0.1:0'}, other: {tcp: '127.0.0.1:0'}, all: {tcp: '0.0.0.0:0', allow_remote: true}}
hosts: [vm-2.example.test]
instances:
  vm-1: {set: {instance/name: vm-1}, accounts: {default: {email: one@p.iam.gserviceaccount.com}}}
  vm-2: {set: {instance/name: vm-2}, accounts: {robot: {email: two@p.iam.gserviceaccount.com, aliases: [default]}}}
routes:
  - {listener: other, instance: vm-2}
  - {host: vm-2.example.test, instance: vm-2}
  - {listener: all, local: 127.0.0.2, instance: vm-2}
  - {listener: all, source: 127.0.0.3/32, instance: vm-2}
  - {listener: main, instance: vm-1}
  - {listener: all, local: 127.0.0.1, instance: vm-1}
`)
	w.run()
	_, port, _ := net.SplitHostPort(w.Addr("all").String())
	for name, c := range map[string]struct{ addr, host, from, want string }{
		"main":                 {w.Addr("main").String(), "", "", "vm-1"},
		"by listener":          {w.Addr("other").String(), "", "", "vm-2"},
		"by host":              {w.Addr("main").String(), "VM-2.example.test:80", "", "vm-2"},
		"by local address":     {"127.0.0.2:" + port, "", "", "vm-2"},
		"other local address":  {"127.0.0.1:" + port, "", "", "vm-1"},
		"by source":            {"127.0.0.1:" + port, "", "127.0.0.3", "vm-2"},
		"nobody":               {"127.0.0.4:" + port, "", "", ""},
		"a host proves nobody": {"127.0.0.4:" + port, "vm-1", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dialer := &net.Dialer{}
			if c.from != "" {
				dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(c.from)}
			}
			probe, err := dialer.Dial("tcp", c.addr)
			if err != nil {
				t.Skipf("this machine has not all of 127.0.0.0/8: %v", err)
			}
			probe.Close()
			transport := &http.Transport{DialContext: dialer.DialContext}
			defer transport.CloseIdleConnections()
			ask := func(path string) (int, string) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+c.addr+"/computeMetadata/v1/instance/"+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Metadata-Flavor", "Google")
				req.Host = c.host
				return do(t, &http.Client{Transport: transport}, req)
			}
			status, body := ask("name")
			if c.want == "" {
				if status != http.StatusForbidden {
					t.Errorf("who is nobody gets %d %s, want 403", status, body)
				}
				return
			}
			if body != c.want {
				t.Errorf("the caller is taken for %d %q, want %q", status, body, c.want)
			}
			email := map[string]string{"vm-1": "one", "vm-2": "two"}[c.want] + "@p.iam.gserviceaccount.com"
			if _, got := ask("service-accounts/default/email"); got != email {
				t.Errorf("the account of %s is %q, want %q", c.want, got, email)
			}
			aliases := map[string]string{"vm-1": "default\n", "vm-2": "default\nrobot\n"}[c.want]
			if _, got := ask("service-accounts/default/aliases"); got != aliases {
				t.Errorf("the aliases of the account of %s are %q, want %q", c.want, got, aliases)
			}
			_, token := ask("service-accounts/default/token")
			var answer struct {
				Token string `json:"access_token"`
			}
			if err := json.Unmarshal([]byte(token), &answer); err != nil {
				t.Fatal(err)
			}
			if _, info := fetch(t, w.http, w.Status().Issuer+"/tokeninfo?access_token="+answer.Token); !strings.Contains(info, `"azp"`) {
				t.Errorf("tokeninfo says %s", info)
			}
		})
	}
	if got := w.Status().Instances[1].Accounts[0].Aliases; strings.Join(got, " ") != "default robot" {
		t.Errorf("aliases of the account of vm-2 are %q, want default robot", got)
	}
}
