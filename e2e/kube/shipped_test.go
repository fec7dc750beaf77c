package kube

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/issuer"
)

// A house is gcemds as it is shipped for Pod identity, on every node, with a
// Google that believes the cluster.
type house struct {
	*world
	google *google
}

// actsAs is a Google service account that ServiceAccounts named robot in the
// test's namespace may use.
const actsAs = "robot@my-project.iam.gserviceaccount.com"

// install applies the plain manifests, with the names of the test, and returns
// when each node has a server that is ready. more changes the manifests.
func (w *world) install(t *testing.T, users map[string][]string, more ...string) *house {
	t.Helper()
	data, err := os.ReadFile("../../deploy/kubernetes/pod-identity.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return w.house(t, users, string(data), more...)
}

// house installs manifests of the chart.
func (w *world) house(t *testing.T, users map[string][]string, manifest string, more ...string) *house {
	t.Helper()
	w.loadGcemds(t)
	h := &house{world: w, google: w.google(t, users)}
	manifest = strings.NewReplacer(append([]string{
		"ghcr.io/gcemds/gcemds:dev", gcemdsImage,
		"projects/123456789012/locations/global/workloadIdentityPools/my-pool/providers/my-cluster", strings.TrimPrefix(provider, "//iam.googleapis.com/"),
		"    gke:\n", fmt.Sprintf("    endpoints: {sts: %q, iamcredentials: %q}\n    gke:\n", h.google.url+"/v1/token", h.google.url),
	}, more...)...).Replace(manifest)
	w.apply(t, "gcemds-system", manifest)
	ctx := context.WithoutCancel(t.Context())
	t.Cleanup(func() {
		if _, err := w.try(ctx, manifest, "delete", "--filename=-", "--ignore-not-found", "--wait=true", "--timeout=60s"); err != nil {
			t.Error(err)
		}
		for _, n := range w.nodes { // what is installed stays, until it is told to go
			if _, err := output(n.place(ctx, gcemds, "intercept", "remove")); err != nil {
				t.Error(err)
			}
		}
	})
	if _, err := w.try(ctx, "", "--namespace=gcemds-system", "rollout", "status", "daemonset/gcemds", "--timeout=60s"); err != nil {
		said, _ := w.try(ctx, "", "--namespace=gcemds-system", "logs", "--selector=app.kubernetes.io/name=gcemds", "--all-containers", "--tail=20")
		pods, _ := w.try(ctx, "", "--namespace=gcemds-system", "get", "pods", "--output=wide")
		t.Fatalf("%v\n%s\n%s", err, pods, said)
	}
	return h
}

// accounts makes the service accounts of the tests in a namespace: app, which
// acts as itself, and robot, which acts as one of Google.
func (h *house) accounts(t *testing.T, namespace string) {
	t.Helper()
	h.apply(t, namespace, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, annotations: {iam.gke.io/gcp-service-account: `+actsAs+`}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: stranger, annotations: {iam.gke.io/gcp-service-account: `+actsAs+`}}
`)
}

const tokenURL = "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token"

// ask has curl in a Pod ask for something below /computeMetadata/v1/, and
// returns the status and the body.
func (h *house) ask(t *testing.T, namespace, pod, path string, more ...string) (status, body string) {
	t.Helper()
	args := append([]string{"curl", "-sS", "--max-time", "20", "-o", "/dev/stdout", "-w", "\n%{http_code}", "-H", "Metadata-Flavor: Google"}, more...)
	out := h.exec(t, namespace, pod, append(args, "http://169.254.169.254/computeMetadata/v1/"+path)...)
	i := strings.LastIndexByte(strings.TrimRight(out, "\n"), '\n')
	return strings.TrimSpace(out[i+1:]), strings.TrimSpace(out[:max(i, 0)])
}

// owner is whose the token in the body of an answer is, according to Google.
func (h *house) owner(t *testing.T, body string) string {
	t.Helper()
	value, _, _ := strings.Cut(strings.TrimPrefix(body, `{"access_token":"`), `"`)
	return h.google.whose(t, value)
}

// TestShipped: gcemds as it is shipped gives unmodified clients in Pods the
// identity of their own service account.
func TestShipped(t *testing.T) {
	w := sharedWorld(t)
	namespace := w.namespace(t)
	h := w.install(t, map[string][]string{actsAs: {namespace + "/robot"}})
	h.accounts(t, namespace)
	w.run(t, namespace,
		pod{name: "app", machine: true, spec: "nodeName: node-1"},
		pod{name: "robot", account: "robot", machine: true, spec: "nodeName: node-1"},
		pod{name: "stranger", account: "stranger", machine: true, spec: "nodeName: node-2"},
		pod{name: "host", machine: true, spec: "nodeName: node-1, hostNetwork: true"},
	)

	t.Run("of its own", func(t *testing.T) {
		status, body := h.ask(t, namespace, "app", "instance/service-accounts/default/token")
		if status != "200" {
			t.Fatalf("token: %s %s", status, body)
		}
		if got, want := h.owner(t, body), principal(namespace+"/app"); got != want {
			t.Errorf("the token is of %s, want %s", got, want)
		}
		if _, email := h.ask(t, namespace, "app", "instance/service-accounts/default/email"); email != "my-project.svc.id.goog" {
			t.Errorf("the e-mail is %q, want that of the pool", email)
		}
		if status, body := h.ask(t, namespace, "app", "instance/service-accounts/default/identity?audience=a"); status != "404" || !strings.Contains(body, "not annotated") {
			t.Errorf("an ID token of an account that acts as itself: %s %s, want 404 and what to do", status, body)
		}
	})
	t.Run("without the role", func(t *testing.T) {
		if status, body := h.ask(t, namespace, "stranger", "instance/service-accounts/default/token"); status != "403" || !strings.Contains(body, "IAM returned 403 Forbidden") || !strings.Contains(body, "add-iam-policy-binding") {
			t.Errorf("token: %s %s, want 403 and the command that mends it", status, body)
		}
	})
	t.Run("in the host's network", func(t *testing.T) {
		out, err := w.try(context.WithoutCancel(t.Context()), "", "--namespace="+namespace, "exec", "host", "--", "curl", "-sS", "--max-time", "5", "-H", "Metadata-Flavor: Google", tokenURL)
		if err == nil && strings.Contains(out, "access_token") {
			t.Errorf("a Pod in the network of the host has a token, though nobody asked the kernel who it is: %s", out)
		}
	})
	for _, l := range libraries(t) {
		t.Run(l.name, func(t *testing.T) {
			me := w.whoami(t, namespace, "robot", l, "https://service.example.com")
			if me.Project != "my-project" || me.Email != actsAs || strings.Count(me.IDToken, ".") != 2 {
				t.Errorf("the library finds the project %q, the account %q and an ID token of %d characters, want my-project and %s", me.Project, me.Email, len(me.IDToken), actsAs)
			}
			// With other scopes than those of the e-mail, the unique id is all that a token tells.
			if got := h.google.whose(t, me.Token); got != actsAs && !strings.HasPrefix(got, issuer.UniqueID(actsAs)) {
				t.Errorf("the token is of %s, want %s", got, actsAs)
			}
		})
	}
	t.Run("asked for once", func(t *testing.T) {
		if n := h.google.lines(t, "path=/v1/token", "who="+principal(namespace+"/robot")); n > 1 {
			t.Errorf("%d exchanges for all the clients of one service account, want 1", n)
		}
	})

	t.Run("attacks", func(t *testing.T) { h.attacks(t, namespace) })
	t.Run("Google away", func(t *testing.T) {
		h.google.set(t, `faults: [{path: /v1, status: 503}]`)
		defer h.google.set(t, "")
		if status, body := h.ask(t, namespace, "robot", "instance/service-accounts/default/token"); status != "200" {
			t.Errorf("a token that is kept: %s %s, want it while Google is away", status, body)
		}
		if status, body := h.ask(t, namespace, "app", "project/project-id"); status != "200" || body != "my-project" {
			t.Errorf("what is the same for all: %s %s", status, body)
		}
	})
	t.Run("Kubernetes away", func(t *testing.T) {
		const ask = `while :; do curl -s -o /dev/null -w "%{http_code}\\n" -H "Metadata-Flavor: Google" ` + tokenURL + ` -o /dev/null http://169.254.169.254/computeMetadata/v1/project/project-id; sleep 0.2; done`
		h.run(t, namespace, pod{name: "loop", account: "robot", machine: true, spec: "nodeName: node-1", container: "command: [/usr/bin/sh, -c, " + strconv.Quote(ask) + "]"})
		time.Sleep(2 * time.Second)
		h.kill(t, "kube-apiserver")
		time.Sleep(15 * time.Second)
		if err := h.startAPI(); err != nil {
			t.Fatal(err)
		}
		h.ready(t, namespace)
		codes := strings.Fields(h.logs(t, namespace, "loop"))
		bad := slices.DeleteFunc(slices.Clone(codes), func(code string) bool { return code == "200" })
		if len(codes) < 40 || len(bad) > 0 {
			t.Errorf("while the API server was away %d answers, of which these are bad: %q", len(codes), bad)
		}
	})
	t.Run("a rollout", func(t *testing.T) {
		const ask = `while :; do curl -sS -o /dev/null -w "%{http_code}\\n" -H "Metadata-Flavor: Google" ` + tokenURL + ` 2>&1; done`
		for _, name := range []string{"one", "two"} {
			h.run(t, namespace, pod{name: name, account: "robot", machine: true, spec: "nodeName: node-1", container: "command: [/usr/bin/sh, -c, " + strconv.Quote(ask) + "]"})
		}
		h.kubectl(t, "--namespace=gcemds-system", "rollout", "restart", "daemonset/gcemds")
		h.kubectl(t, "--namespace=gcemds-system", "rollout", "status", "daemonset/gcemds", "--timeout=90s")
		for _, name := range []string{"one", "two"} {
			lines := strings.Split(strings.TrimSpace(h.logs(t, namespace, name)), "\n")
			bad := slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return line == "200" })
			if len(lines) < 100 || len(bad) > 0 {
				t.Errorf("while a new server took over from the old one, %d requests had these other answers: %q", len(lines), bad)
			}
		}
	})
	t.Run("the daemon is gone", func(t *testing.T) {
		for _, n := range w.nodes {
			output(n.place(context.WithoutCancel(t.Context()), "true"))
		}
		w.kubectl(t, "--namespace=gcemds-system", "delete", "daemonset", "gcemds", "--wait=true", "--timeout=60s")
		w.kubectl(t, "--namespace=gcemds-system", "wait", "--for=delete", "pod", "--all", "--timeout=60s")
		out, err := w.try(context.WithoutCancel(t.Context()), "", "--namespace="+namespace, "exec", "app", "--", "curl", "-sS", "--max-time", "5", tokenURL)
		if err == nil || !strings.Contains(err.Error()+out, "Failed to connect") {
			t.Errorf("without the server a Pod gets %q, %v; want that its connection is refused", out, err)
		}
	})
}

// attacks are those of the table of section 3.6 that a Pod can try on the wire.
func (h *house) attacks(t *testing.T, namespace string) {
	victim := h.field(t, namespace, "pod/robot", ".status.podIP")
	token := "instance/service-accounts/default/token"
	for _, a := range []struct {
		name, path, status string
		more               []string
	}{
		{"X-Forwarded-For", token, "403", []string{"-H", "X-Forwarded-For: " + victim}},
		{"X-Real-IP", token, "403", []string{"-H", "X-Real-IP: " + victim}},
		{"Forwarded", token, "403", []string{"-H", "Forwarded: for=" + victim}},
		{"a foreign Host", token, "403", []string{"-H", "Host: evil.example.com"}},
		{"another account in the path", "instance/service-accounts/" + actsAs + "/token", "404", nil},
		{"the way up", "../../latest/meta-data/", "404", []string{"--path-as-is"}},
		{"a way up in code", "%2e%2e/%2e%2e/latest/meta-data/", "404", []string{"--path-as-is"}},
		{"keys of a machine", "instance/attributes/kube-env", "404", nil},
		{"an absolute target", "instance/attributes/kube-env", "404", []string{"--request-target", "http://169.254.169.254/computeMetadata/v1/instance/attributes/kube-env"}},
		{"PUT of a guest attribute", "instance/guest-attributes/a/b", "404", []string{"-X", "PUT", "--data", "x"}},
	} {
		t.Run(a.name, func(t *testing.T) {
			status, body := h.ask(t, namespace, "app", a.path, a.more...)
			if status != a.status && !(a.status == "404" && (status == "400" || status == "405")) {
				t.Errorf("%s %s, want %s", status, body, a.status)
			}
			if strings.Contains(body, "access_token") {
				t.Errorf("there is a token: %s", body)
			}
		})
	}
	t.Run("no flavor", func(t *testing.T) {
		if got := h.exec(t, namespace, "app", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", tokenURL); got != "403" {
			t.Errorf("without the header Metadata-Flavor: %s, want 403", got)
		}
	})
	t.Run("thousands of scopes", func(t *testing.T) {
		before := h.google.lines(t, "path=/v1/token", "who="+principal(namespace+"/app"))
		var urls strings.Builder
		for i := range 1000 {
			fmt.Fprintf(&urls, "url = \"%s?scopes=https://www.googleapis.com/auth/s%d\"\noutput = /dev/null\n", tokenURL, i)
		}
		out, err := h.try(context.WithoutCancel(t.Context()), urls.String(), "--namespace="+namespace, "exec", "--stdin", "app", "--",
			"curl", "-sS", "-H", "Metadata-Flavor: Google", "-w", "%{http_code}\n", "--config", "-")
		if err != nil {
			t.Fatal(err)
		}
		after := h.google.lines(t, "path=/v1/token", "who="+principal(namespace+"/app"))
		if made := after - before; made > 250 {
			t.Errorf("%d exchanges at Google for 1000 different sets of scopes of one Pod; they should be bounded", made)
		}
		if !strings.Contains(out, "429") {
			t.Errorf("nobody is told to ask for less: %.300s", out)
		}
		if status, body := h.ask(t, namespace, "robot", token); status != "200" {
			t.Errorf("meanwhile another Pod gets %s %s", status, body)
		}
	})
	t.Run("a flood of connections", func(t *testing.T) {
		flood := `import socket,time
held=[]
for i in range(400):
    s=socket.socket(); s.settimeout(2)
    try: s.connect(("169.254.169.254",80)); held.append(s)
    except OSError: pass
print(len(held)); time.sleep(8)`
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		defer cancel()
		go func() {
			_, err := h.try(ctx, "", "--namespace="+namespace, "exec", "app", "--", "/usr/bin/python3", "-c", flood)
			done <- err
		}()
		time.Sleep(2 * time.Second)
		if status, body := h.ask(t, namespace, "robot", token); status != "200" {
			t.Errorf("while a Pod holds hundreds of connections, another gets %s %s", status, body)
		}
		<-done
	})
	t.Run("created again", func(t *testing.T) {
		h.run(t, namespace, pod{name: "again", account: "robot", machine: true, spec: "nodeName: node-1"})
		h.kubectl(t, "--namespace="+namespace, "delete", "serviceaccount", "robot")
		h.kubectl(t, "--namespace="+namespace, "create", "serviceaccount", "robot") // acts as nobody else
		deadline := time.Now().Add(patience)
		for {
			_, email := h.ask(t, namespace, "again", "instance/service-accounts/default/email")
			if email == "my-project.svc.id.goog" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("a service account of the same name is still %s", email)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if _, body := h.ask(t, namespace, "again", token); strings.Contains(body, "access_token") {
			value, _, _ := strings.Cut(strings.TrimPrefix(body, `{"access_token":"`), `"`)
			if got := h.google.whose(t, value); got == actsAs {
				t.Errorf("a service account of the same name has the token of the one before, %s", got)
			}
		}
		h.kubectl(t, "--namespace="+namespace, "annotate", "serviceaccount", "robot", "iam.gke.io/gcp-service-account="+actsAs)
	})
}
