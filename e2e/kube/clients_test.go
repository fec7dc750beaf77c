package kube

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A library is one of Google's, in a program that says who it finds that it
// is: a line of JSON, with an ID token if the last argument is its audience.
type library struct {
	name    string
	command []string
}

// libraries are those that e2e/run has installed, as a Pod with the
// programs of this machine sees them.
func libraries(t *testing.T) []library {
	t.Helper()
	e2e, dist := directories()
	nodes, err := filepath.Glob(e2e + "/node/node_modules/node-linux-*/bin/node")
	if err != nil || len(nodes) != 1 {
		lacks(t, "Google's library for Node is not installed; run e2e/run")
	}
	debian := dist + "/debian"
	if _, err := os.Stat(debian); err != nil {
		lacks(t, "the Debian packages are not unpacked; run e2e/run")
	}
	const jars = "/usr/share/java/*"
	return []library{
		{"Go", []string{"/pod", "google"}},
		{"Node", []string{nodes[0], e2e + "/node/whoami.js"}},
		{"Python", []string{"/usr/bin/env", "PYTHONDONTWRITEBYTECODE=1", "PYTHONPATH=" + debian + "/usr/lib/python3/dist-packages", "/usr/bin/python3", e2e + "/python/whoami.py"}},
		{"Java", []string{"/usr/bin/java", "-cp", debian + jars + ":" + jars, e2e + "/java/Whoami.java"}},
	}
}

// An identity is what a library finds.
type identity struct{ Project, Email, Token, IDToken string }

// whoami lets a library in a Pod find who it is, with an ID token for an
// audience unless that is empty.
func (w *world) whoami(t *testing.T, namespace, pod string, l library, audience string) identity {
	t.Helper()
	command := l.command
	if audience != "" {
		command = append(slices.Clone(command), audience)
	}
	var me identity
	out := w.exec(t, namespace, pod, command...)
	if err := json.Unmarshal([]byte(out), &me); err != nil {
		t.Fatalf("%s says %q, want a line of JSON: %v", l.name, out, err)
	}
	return me
}

// TestClients: Google's libraries run in Pods, and find a metadata server on
// their node at the address that they all know.
func TestClients(t *testing.T) {
	w := sharedWorld(t)
	all := libraries(t)
	namespace := w.namespace(t)
	w.run(t, namespace, pod{name: "client", machine: true, spec: "nodeName: node-1"})

	n := w.nodes[0]
	n.run(t, "ip", "address", "add", "169.254.169.254/32", "dev", "lo")
	t.Cleanup(func() {
		output(n.place(context.Background(), "ip", "address", "delete", "169.254.169.254/32", "dev", "lo"))
	})
	server, err := w.start(n.place, "gcemds", gcemds, "serve", "--listen=169.254.169.254:80", "--allow-remote", "--admin=/run/gcemds.sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.kill)
	ctx := t.Context()
	if err := server.until(ctx, func(context.Context) error {
		_, err := output(n.place(ctx, "curl", "-sf", "http://169.254.169.254/"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if got, want := w.exec(t, namespace, "client", "curl", "-sSf", "-H", "Metadata-Flavor: Google", "http://metadata.google.internal/computeMetadata/v1/instance/name"), "demo-instance"; got != want {
		t.Errorf("curl says that the instance is %q, want %s", got, want)
	}
	for _, l := range all {
		t.Run(l.name, func(t *testing.T) {
			me := w.whoami(t, namespace, "client", l, "https://service.example.com")
			if me.Project != "demo-project" || me.Email != "123456789012-compute@developer.gserviceaccount.com" || !strings.HasPrefix(me.Token, "ya29.") || strings.Count(me.IDToken, ".") != 2 {
				t.Errorf("in a Pod the library finds the project %q, the account %q, and tokens of %d and %d characters; want those of the server", me.Project, me.Email, len(me.Token), len(me.IDToken))
			}
		})
	}
}
