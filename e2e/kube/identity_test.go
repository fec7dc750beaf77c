package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// robot is the Google service account that Pods of the ServiceAccount gsa are.
const (
	robot   = "robot@my-project.iam.gserviceaccount.com"
	robotID = "110194084483439539492" // its number, which is all that a token without the scope of e-mail shows
)

// An installation is the chart on a world, as it is shipped, with a namespace
// of Pods that use it.
type installation struct {
	*world
	google    *google
	space     string // namespace of the Pods
	values    string
	manifests string // what is applied
}

// TestPodIdentity: with the chart installed, every Pod finds its own identity
// and no other. What is installed is shared, because that takes longest.
func TestPodIdentity(t *testing.T) {
	w := sharedWorld(t)
	w.loadGcemds(t)
	in := &installation{world: w, space: w.namespace(t)}
	in.google = w.google(t, map[string][]string{robot: {in.space + "/gsa", in.space + "/recreated"}})
	for name, annotations := range map[string][]string{
		"gsa":       {"iam.gke.io/gcp-service-account=" + robot},
		"stranger":  {"iam.gke.io/gcp-service-account=" + robot}, // which may not be the robot
		"recreated": {"iam.gke.io/gcp-service-account=" + robot},
		"principal": {"iam.gke.io/return-principal-id-as-email=true"},
		"quota":     {"iam.gke.io/credential-quota-project=billed-project"},
		"other":     nil,
	} {
		w.kubectl(t, "--namespace="+in.space, "create", "serviceaccount", name)
		if annotations != nil {
			w.kubectl(t, append([]string{"--namespace=" + in.space, "annotate", "serviceaccount", name}, annotations...)...)
		}
	}
	in.install(t)

	t.Run("Pods", in.testPods)
	t.Run("Clients", in.testClients)
	t.Run("Attacks", in.testAttacks)
	t.Run("Surge", in.testSurge)
	t.Run("Killed", in.testKilled)
}

const system = "gcemds-system"

// install renders the chart, applies it and returns when every node has a
// server that is ready.
func (in *installation) install(t *testing.T) {
	t.Helper()
	in.values = fmt.Sprintf(`
image: {repository: docker.io/library/gcemds, tag: e2e, pullPolicy: Never}
gke:
  attest: host
  project_id: my-project
  provider: {workload_identity: %s}
intercept: {mode: nftables, hostNetwork: true}
config:
  endpoints: {sts: %s/v1/token, iamcredentials: %[2]s}
`, strings.TrimPrefix(provider, "//iam.googleapis.com/"), in.google.url)
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, []byte(in.values), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	render := here(ctx, "go", "run", ".", "-values", values, "-namespace", system)
	render.Dir = "../../deploy/helm"
	manifests, err := output(render)
	if err != nil {
		t.Fatalf("the chart cannot be rendered: %v", err)
	}
	in.manifests = manifests
	in.kubectl(t, "create", "namespace", system)
	after := context.WithoutCancel(t.Context())
	t.Cleanup(func() {
		if t.Failed() {
			pods, _ := in.try(after, "", "--namespace="+system, "get", "pods", "--output=wide")
			logs, _ := in.try(after, "", "--namespace="+system, "logs", "--selector=app.kubernetes.io/name=gcemds", "--all-containers", "--prefix", "--tail=40")
			t.Logf("%s%s", pods, logs)
		}
		// All of it is waited for: what comes next wants the address of the
		// metadata server for itself, or for nobody.
		if _, err := in.try(after, in.manifests, "delete", "--filename=-", "--ignore-not-found", "--timeout=60s"); err != nil {
			t.Error(err)
		}
		if _, err := in.try(after, "", "delete", "namespace", system, "--wait=false"); err != nil {
			t.Error(err)
		}
		for _, n := range in.nodes {
			if _, err := output(n.place(after, gcemds, "intercept", "remove")); err != nil {
				t.Errorf("%s: intercept remove: %v", n.name, err)
			}
		}
	})
	in.apply(t, system, manifests)
	in.rolledOut(t)
}

func (in *installation) rolledOut(t *testing.T) {
	t.Helper()
	in.kubectl(t, "--namespace="+system, "rollout", "status", "daemonset/gcemds", "--timeout=90s")
}

const (
	metadataURL = "http://169.254.169.254/computeMetadata/v1/"
	accountPath = "instance/service-accounts/default/"
)

// get asks the metadata server from a Pod; the answer is STATUS BODY.
func (in *installation) get(t *testing.T, pod, path string) string {
	t.Helper()
	return strings.TrimSpace(in.exec(t, in.space, pod, "/pod", "get", metadataURL+path))
}

// whoIs says whose token a Pod is given.
func (in *installation) whoIs(t *testing.T, pod string) string {
	t.Helper()
	answer := in.get(t, pod, accountPath+"token")
	var token struct {
		AccessToken string `json:"access_token"`
	}
	body, ok := strings.CutPrefix(answer, "200 ")
	if !ok {
		return answer
	}
	if err := json.Unmarshal([]byte(body), &token); err != nil {
		t.Fatalf("%s gets a token that cannot be read: %v", pod, err)
	}
	return in.google.whose(t, token.AccessToken)
}

// principal of a ServiceAccount in the namespace of the Pods.
func (in *installation) principal(account string) string {
	return principal(in.space + "/" + account)
}

// pod applies one Pod and waits until it is ready.
func (in *installation) pod(t *testing.T, p pod) {
	t.Helper()
	in.apply(t, in.space, p.manifest())
	in.ready(t, in.space, "pod/"+p.name)
}

// testPods: Pods of every kind are who their ServiceAccount is.
func (in *installation) testPods(t *testing.T) {
	email := metadataURL + accountPath + "email"
	const pool = "my-project.svc.id.goog"
	pods := []struct {
		pod
		email, owner string
	}{
		{pod{name: "own", spec: "nodeName: node-1"}, pool, in.principal("app")},
		{pod{name: "neighbour", account: "other", spec: "nodeName: node-1"}, pool, in.principal("other")},
		{pod{name: "far", account: "other", spec: "nodeName: node-2"}, pool, in.principal("other")},
		{pod{name: "gsa", account: "gsa", spec: "nodeName: node-1"}, robot, robot},
		{pod{name: "principal", account: "principal", spec: "nodeName: node-2"}, in.principal("principal"), in.principal("principal")},
		{pod{name: "host", account: "other", spec: "nodeName: node-1, hostNetwork: true"}, pool, in.principal("other")},
		{pod{name: "host-gsa", account: "gsa", spec: "nodeName: node-1, hostNetwork: true"}, robot, robot},
		{pod{name: "init", account: "gsa", spec: fmt.Sprintf("initContainers: [{name: init, image: %q, imagePullPolicy: Never, args: [get, %q]}]", podImageName, email)}, robot, robot},
	}
	var manifests strings.Builder
	for _, p := range pods {
		manifests.WriteString(p.manifest())
	}
	again := pod{name: "again", account: "gsa", args: fmt.Sprintf("get, %q", email)} // and again, and again
	manifests.WriteString(again.manifest())
	in.apply(t, in.space, manifests.String())
	for _, p := range pods {
		in.ready(t, in.space, "pod/"+p.name)
		if got := in.get(t, p.name, accountPath+"email"); got != "200 "+p.email {
			t.Errorf("the Pod %s is told that it is %q, want %s", p.name, got, p.email)
		}
		if got := in.whoIs(t, p.name); got != p.owner {
			t.Errorf("the Pod %s gets a token of %s, want %s", p.name, got, p.owner)
		}
		if got := in.get(t, p.name, "project/project-id"); got != "200 my-project" {
			t.Errorf("the Pod %s is told that the project is %q, want my-project", p.name, got)
		}
	}
	if got := strings.TrimSpace(in.kubectl(t, "--namespace="+in.space, "logs", "init", "--container=init")); got != "200 "+robot {
		t.Errorf("an init container is told that it is %q, want %s", got, robot)
	}
	in.kubectl(t, "--namespace="+in.space, "wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=2", "--timeout=60s", "pod/again")
	if got := strings.TrimSpace(in.kubectl(t, "--namespace="+in.space, "logs", "again", "--previous")); got != "200 "+robot {
		t.Errorf("a container that was started again is told that it is %q, want %s", got, robot)
	}
	in.kubectl(t, "--namespace="+in.space, "delete", "pod", "again", "init", "--wait=false")

	audience := accountPath + "identity?audience=https://service.example.com"
	if got := in.get(t, "gsa", audience); !strings.HasPrefix(got, "200 ey") {
		t.Errorf("with a Google service account an ID token is %.40q, want one", got)
	}
	if got := in.get(t, "own", audience); !strings.Contains(got, "not annotated with a target Google service account") {
		t.Errorf("without a Google service account an ID token is %q, want the words of GKE", got)
	}
	in.pod(t, pod{name: "stranger", account: "stranger"})
	if got := in.get(t, "stranger", accountPath+"token"); !strings.HasPrefix(got, "403 ") || !strings.Contains(got, "workloadIdentityUser") {
		t.Errorf("a Pod that may not be %s gets %q, want 403 and what mends it", robot, got)
	}

	t.Run("Terminating", func(t *testing.T) {
		in.pod(t, pod{name: "last", account: "gsa", machine: true, container: `command: [/bin/sh, -c, "trap '' TERM; while :; do sleep 0.2; done"]`, spec: "nodeName: node-1"})
		in.kubectl(t, "--namespace="+in.space, "delete", "pod/last", "--grace-period=30", "--wait=false")
		time.Sleep(time.Second) // for the news to get around
		if got := in.whoIs(t, "last"); got != robot {
			t.Errorf("a Pod that is being terminated gets a token of %s, want %s as before", got, robot)
		}
		in.kubectl(t, "--namespace="+in.space, "delete", "pod/last", "--grace-period=0", "--force", "--wait=false")
	})
	t.Run("AddressUsedAgain", func(t *testing.T) {
		in.nodes[0].reuseAddresses(t)
		in.pod(t, pod{name: "before", account: "gsa", spec: "nodeName: node-1"})
		address := in.field(t, in.space, "pod/before", ".status.podIP")
		if got := in.whoIs(t, "before"); got != robot {
			t.Errorf("the first Pod at an address gets a token of %s, want %s", got, robot)
		}
		in.kubectl(t, "--namespace="+in.space, "delete", "pod/before", "--wait")
		in.nodes[0].reuseAddresses(t)
		in.pod(t, pod{name: "after", account: "other", spec: "nodeName: node-1"})
		if got := in.field(t, in.space, "pod/after", ".status.podIP"); got != address {
			t.Fatalf("the second Pod is at %s, want %s again", got, address)
		}
		if got := in.whoIs(t, "after"); got != in.principal("other") {
			t.Errorf("the second Pod at an address gets a token of %s, want %s", got, in.principal("other"))
		}
	})
}

// testClients: Google's libraries and curl, as they are, find who the Pod is.
func (in *installation) testClients(t *testing.T) {
	all := libraries(t)
	in.pod(t, pod{name: "libraries", account: "gsa", machine: true, spec: "nodeName: node-2"})
	in.pod(t, pod{name: "direct", account: "quota", machine: true, spec: "nodeName: node-1"})
	for _, l := range all {
		t.Run(l.name, func(t *testing.T) {
			me := in.whoami(t, in.space, "libraries", l, "https://service.example.com")
			if owner := in.google.whose(t, me.Token); me.Project != "my-project" || me.Email != robot || owner != robot && owner != robotID || strings.Count(me.IDToken, ".") != 2 {
				t.Errorf("the library finds the project %q, the account %q, a token of %q and an ID token of %d characters; want those of %s", me.Project, me.Email, owner, len(me.IDToken), robot)
			}
			me = in.whoami(t, in.space, "direct", l, "")
			if owner := in.google.whose(t, me.Token); me.Email != "my-project.svc.id.goog" || owner != in.principal("quota") {
				t.Errorf("where there is no Google service account the library finds the account %q and a token of %q, want the pool and %s", me.Email, owner, in.principal("quota"))
			}
		})
	}
	t.Run("curl", func(t *testing.T) {
		ask := []string{"curl", "-sS", "-H", "Metadata-Flavor: Google", "http://metadata.google.internal/computeMetadata/v1/" + accountPath}
		for path, want := range map[string]string{"email": robot, "aliases": "default", "?recursive=true": `"email":"` + robot + `"`} {
			ask := append(ask[:len(ask)-1:len(ask)-1], ask[len(ask)-1]+path)
			if got := in.exec(t, in.space, "libraries", ask...); !strings.Contains(got, want) {
				t.Errorf("curl …/%s says %q, want %q", path, got, want)
			}
		}
		scopes := in.exec(t, in.space, "libraries", append(ask[:len(ask)-1:len(ask)-1], ask[len(ask)-1]+"token?scopes=https://www.googleapis.com/auth/devstorage.read_only")...)
		if !strings.Contains(scopes, "access_token") {
			t.Errorf("a token with scopes: %.80q, want one", scopes)
		}
	})
}
