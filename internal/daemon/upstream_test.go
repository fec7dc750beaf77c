package daemon_test

import (
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/gcemds/gcemds/internal/daemon"
)

// TestUpstream: another metadata server mints, ours included, and one that is
// its own upstream says so instead of waiting for itself.
func TestUpstream(t *testing.T) {
	t.Parallel()
	up := prepare(t, "instances: {vm-1: {accounts: {robot@my-project.iam.gserviceaccount.com: {aliases: [default]}}}}\n")
	up.run()
	config := func(address string) string {
		return "sources: {up: {upstream: '" + address + "'}}\ninstances: {vm-1: {accounts: {default: {email: a@b.example, source: up}}}}\n"
	}
	w := prepare(t, config(strings.TrimPrefix(up.base("main"), "http://")))
	w.run()
	if got := w.token(); !strings.HasPrefix(got, "ya29.") {
		t.Errorf("the token is %q, want one of the upstream", got)
	}
	if status, body := w.get("instance/service-accounts/default/identity?audience=https://a.example&format=full"); status != 200 || strings.Count(body, ".") != 2 {
		t.Errorf("the ID token is %d %q, want one of the upstream", status, body)
	}

	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	for name, yaml := range map[string]string{
		"source":              config(address) + "listen: {main: {tcp: '" + address + "'}}\n",
		"source, by name":     config("localhost:"+address[strings.LastIndexByte(address, ':')+1:]) + "listen: {main: {tcp: '" + address + "'}}\n",
		"instance":            "instances: {vm-1: {upstream: '" + address + "'}}\nlisten: {main: {tcp: '" + address + "'}}\n",
		"all addresses of us": config(address) + "listen: {main: {tcp: '0.0.0.0" + address[strings.LastIndexByte(address, ':'):] + "', allow_remote: true}}\n",
	} {
		w := prepare(t, yaml)
		if err := w.open(); err == nil || !strings.Contains(err.Error(), "is our own listener main: gcemds would ask itself") {
			t.Errorf("%s: a server that is its own upstream starts, or says %v", name, err)
		}
		c, err := w.load()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := daemon.Check(t.Context(), c, slog.New(slog.DiscardHandler), false); err == nil || !strings.Contains(err.Error(), "gcemds would ask itself") {
			t.Errorf("%s: a check of a server that is its own upstream says %v", name, err)
		}
	}

	// On the way it may be turned back to us; then the mark tells.
	relay, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { relay.Close() })
	go func() {
		for {
			in, err := relay.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", address)
			if err != nil {
				in.Close()
				continue
			}
			go func() { io.Copy(out, in); out.Close() }()
			go func() { io.Copy(in, out); in.Close() }()
		}
	}()
	circle := prepare(t, config(relay.Addr().String())+"listen: {main: {tcp: '"+address+"'}}\n")
	circle.run()
	if status, _ := circle.get("instance/service-accounts/default/token"); status != 500 || !strings.Contains(circle.log.String(), "this is our own server: address leads in a circle") {
		t.Errorf("a server that is its own upstream answers %d and logs %s, want 500 and why", status, circle.log)
	}
}

// TestStatic: the built-in machine is in the project that the environment or
// the configuration says.
func TestStatic(t *testing.T) {
	t.Parallel()
	w := prepare(t, "sources: {s: {static: {access_token: 'file:token', email: a@b.example, project: static-project, project_number: \"123\"}}}\ninstances: {vm-1: {accounts: {default: {source: s}}}}\n")
	w.file("token", "ya29.given\n")
	w.run()
	if got := w.token(); got != "ya29.given" {
		t.Errorf("the token is %q, want the one that was given", got)
	}
	for path, want := range map[string]string{
		"project/project-id":                      "static-project",
		"project/numeric-project-id":              "123",
		"instance/service-accounts/default/email": "a@b.example",
	} {
		if got := w.value(path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}
