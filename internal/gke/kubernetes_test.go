//go:build !nogke

package gke

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
)

// kubeconfigVariable names a file that leads to a cluster which this test may
// fill with what it likes, as its administrator.
const kubeconfigVariable = "GCEMDS_TEST_KUBECONFIG"

// realCluster opens it, or skips the test.
func realCluster(t *testing.T) *Kubernetes {
	t.Helper()
	file := os.Getenv(kubeconfigVariable)
	if file == "" {
		t.Skipf("no cluster: name the kubeconfig file of one for tests in %s; make e2e starts one", kubeconfigVariable)
	}
	k, err := OpenKubernetes(file, "gcemds-test")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestKubernetes: the API as a real API server sees it. Nothing runs the Pods:
// the test says what the kubelet would.
func TestKubernetes(t *testing.T) {
	k := realCluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ns, node := fmt.Sprint("gke-", time.Now().UnixNano()), fmt.Sprint("node-", time.Now().UnixNano())
	a := admin{t, ctx, k.client}
	a.do("POST", "/api/v1/namespaces", `{"metadata":{"name":"`+ns+`"}}`)
	defer a.do("DELETE", "/api/v1/namespaces/"+ns, "")
	a.do("POST", "/api/v1/nodes", `{"metadata":{"name":"`+node+`","labels":{"kubernetes.io/hostname":"h","topology.kubernetes.io/zone":"z-1","other":"x"}},"spec":{"taints":[{"key":"k/start","effect":"NoSchedule"},{"key":"k/other","effect":"NoSchedule"},{"key":"k/start","effect":"NoExecute"}]}}`)
	defer a.do("DELETE", "/api/v1/nodes/"+node, "")
	for range 2 { // the second time there is nothing to do
		if err := k.Untaint(ctx, node, "k/start"); err != nil {
			t.Errorf("taking off a taint: %v", err)
		}
	}
	if data, err := k.Get(ctx, "/api/v1/nodes/"+node); err != nil || strings.Contains(string(data), "k/start") || !strings.Contains(string(data), "k/other") {
		t.Errorf("the node that is rid of k/start: %v %s", err, data)
	}
	accounts := "/api/v1/namespaces/" + ns + "/serviceaccounts"
	a.do("POST", accounts, `{"metadata":{"name":"robot","annotations":{"iam.gke.io/gcp-service-account":"a@p.iam.gserviceaccount.com","other":"x"}}}`)
	a.do("POST", accounts, `{"metadata":{"name":"other"}}`)

	pods, stop := begin(k.Pods(ctx, node))
	defer stop()
	if first := next(t, pods); !first.All || len(first.Items) != 0 {
		t.Fatalf("the Pods of an empty node are %+v", first)
	}
	path := "/api/v1/namespaces/" + ns + "/pods"
	spec := func(name string) string {
		return `{"metadata":{"name":"` + name + `"},"spec":{"nodeName":"` + node + `","serviceAccountName":"robot","automountServiceAccountToken":false,"containers":[{"name":"c","image":"i","env":[{"name":"SECRET","value":"x"}]}],
		"volumes":[{"name":"google","projected":{"sources":[{"serviceAccountToken":{"path":"token","audience":"a"}}]}},{"name":"e","emptyDir":{}}]}}`
	}
	a.do("POST", path, spec("p"))
	p := next(t, pods).Items[0]
	if p.Namespace != ns || p.Name != "p" || p.UID == "" || p.ServiceAccount != "robot" || p.Phase != "Pending" || len(p.IPs) > 0 || p.HostNetwork || p.Terminating || !slices.Equal(p.Volumes, []string{"google"}) {
		t.Errorf("the new Pod is %+v", p)
	}
	a.do("PATCH", path+"/p/status", `{"status":{"phase":"Running","podIP":"10.1.0.5","podIPs":[{"ip":"10.1.0.5"},{"ip":"fd00::5"}]}}`)
	if p = next(t, pods).Items[0]; p.Phase != "Running" || fmt.Sprint(p.IPs) != "[10.1.0.5 fd00::5]" {
		t.Errorf("the Pod that runs is %+v", p)
	}

	sas, stop := begin(k.ServiceAccount(ctx, ns, "robot"))
	defer stop()
	seen := next(t, sas)
	if !seen.All || len(seen.Items) != 1 || seen.Items[0].Name != "robot" || seen.Items[0].UID == "" || len(seen.Items[0].Annotations) != 1 || seen.Items[0].Annotations[annotationGSA] == "" {
		t.Fatalf("the service account is %+v", seen)
	}
	sa := seen.Items[0]
	a.do("PATCH", accounts+"/other", `{"metadata":{"annotations":{"iam.gke.io/gcp-service-account":"not@seen.example"}}}`)
	a.do("PATCH", accounts+"/robot", `{"metadata":{"annotations":{"iam.gke.io/gcp-service-account":"b@p.iam.gserviceaccount.com"}}}`)
	if got := next(t, sas).Items[0]; got.Annotations[annotationGSA] != "b@p.iam.gserviceaccount.com" || got.UID != sa.UID {
		t.Errorf("the service account with another annotation is %+v", got)
	}

	nodes, stop := begin(k.Node(ctx, node))
	defer stop()
	if n := next(t, nodes); !n.All || len(n.Items) != 1 || n.Items[0].Name != node || n.Items[0].UID == "" || len(n.Items[0].Labels) != 2 || n.Items[0].Labels[labelZone] != "z-1" {
		t.Errorf("the node is %+v", n)
	}
	if uid, err := k.ClusterUID(ctx); err != nil && status(err) != http.StatusNotFound || err == nil && len(uid) != 36 { // it is made after the start
		t.Errorf("the uid of the cluster is %q (%v)", uid, err)
	}

	// Tokens are bound, and refused for what is not so.
	const audience = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/x"
	jwt, err := k.CreateToken(ctx, sa, p, audience, 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkProjected(jwt, sa, p, audience, time.Now()); err != nil {
		t.Errorf("the token is not the one asked for: %v", err)
	}
	wrong, other, nobody := p, sa, sa
	wrong.UID, other.Name, nobody.Name = "another", "other", "nobody"
	for _, test := range []struct {
		name string
		sa   ServiceAccount
		pod  Pod
		life time.Duration
		want int
	}{
		{"a Pod of that name that was created again", sa, wrong, 10 * time.Minute, http.StatusConflict},
		{"a Pod of another service account", other, p, 10 * time.Minute, http.StatusBadRequest},
		{"a service account that is not there", nobody, p, 10 * time.Minute, http.StatusNotFound},
		{"a life that is too short", sa, p, time.Minute, http.StatusUnprocessableEntity},
	} {
		if _, err := k.CreateToken(ctx, test.sa, test.pod, audience, test.life); status(err) != test.want || errors.Is(err, ErrPodGone) != (test.pod.UID == "another") {
			t.Errorf("a token for %s: %v, want %d", test.name, err, test.want)
		}
	}
	if err := k.Warn(ctx, p, "TokenRefused", "for a reason"); err != nil {
		t.Errorf("an Event: %v", err)
	}
	if events := a.do("GET", "/api/v1/namespaces/"+ns+"/events?fieldSelector=involvedObject.uid="+p.UID, ""); !strings.Contains(events, `"TokenRefused"`) {
		t.Errorf("the Events of the Pod are %s", events)
	}
	if body, err := k.Get(ctx, "/openid/v1/jwks"); err != nil || !bytes.Contains(body, []byte(`"keys"`)) {
		t.Errorf("the keys are %s (%v)", body, err)
	}

	// A Pod that ends is seen to end, and then to be gone.
	a.do("DELETE", path+"/p", `{"gracePeriodSeconds":30}`)
	if got := next(t, pods); got.Gone || !got.Items[0].Terminating || got.Items[0].UID != p.UID {
		t.Errorf("the Pod that is being terminated is %+v", got)
	}
	a.do("DELETE", path+"/p", `{"gracePeriodSeconds":0}`)
	got := next(t, pods)
	for !got.Gone && got.Items[0].Terminating { // with less and less patience
		got = next(t, pods)
	}
	if !got.Gone || got.Items[0].UID != p.UID {
		t.Errorf("the Pod that was deleted is %+v", got)
	}
	if _, err := k.CreateToken(ctx, sa, p, audience, 10*time.Minute); status(err) != http.StatusNotFound || !errors.Is(err, ErrPodGone) {
		t.Errorf("a token for a Pod that was deleted: %v, want 404 and that the Pod is gone", err)
	}
	a.do("DELETE", accounts+"/robot", "")
	if got := next(t, sas); !got.Gone || got.Items[0].UID != sa.UID {
		t.Errorf("the service account that was deleted is %+v", got)
	}
}

func status(err error) int {
	if e, ok := errors.AsType[*APIError](err); ok {
		return e.Status
	}
	return 0
}

// admin changes the cluster.
type admin struct {
	t      *testing.T
	ctx    context.Context
	client rest.Interface
}

func (a admin) do(method, path, body string) string {
	a.t.Helper()
	r := a.client.Verb(method).RequestURI(path).SetHeader("Content-Type", "application/json")
	if method == "PATCH" {
		r.SetHeader("Content-Type", "application/merge-patch+json")
	}
	if body != "" {
		r.Body([]byte(body))
	}
	answer, err := r.DoRaw(context.WithoutCancel(a.ctx))
	if err != nil {
		a.t.Fatalf("%s %s: %v\n%s", method, path, err, answer)
	}
	return string(answer)
}

// begin follows a watch. What it met is an item, too.
func begin[T any](seq iter.Seq2[Change[T], error]) (func() (Change[T], error, bool), func()) {
	return iter.Pull2(seq)
}

func next[T any](t *testing.T, pull func() (Change[T], error, bool)) Change[T] {
	t.Helper()
	c, err, ok := pull()
	if err != nil || !ok || !c.All && len(c.Items) != 1 {
		t.Fatalf("the watch yields %+v, %v, %v", c, err, ok)
	}
	return c
}

// deaf is Kubernetes seen through a watch that has stopped without a word.
type deaf struct{ API }

func (d deaf) Pods(ctx context.Context, node string) iter.Seq2[Change[Pod], error] {
	return func(yield func(Change[Pod], error) bool) {
		for c, err := range d.API.Pods(ctx, node) {
			if !yield(c, err) || c.All {
				break
			}
		}
		<-ctx.Done()
	}
}

// TestChain: tokens of a real API server are exchanged by a Google that
// verifies them with its keys; and when a Pod is gone and nobody saw it, the
// API server makes no more tokens in its name for who has its address now.
func TestChain(t *testing.T) {
	k := realCluster(t)
	a := admin{t, t.Context(), k.client}
	found, err := ReadIssuer(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	_, public, err := issuer.ParsePublicKeys(found.Keys)
	if err != nil {
		t.Fatal(err)
	}
	google, err := issuer.New(issuer.Options{Directory: &issuer.Directory{Providers: []issuer.Provider{{Audience: iamPrefix + testProvider, Issuer: found.URL, Keys: public}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer google.Close()

	ns, node := fmt.Sprint("chain-", time.Now().UnixNano()), fmt.Sprint("node-", time.Now().UnixNano())
	a.do("POST", "/api/v1/namespaces", `{"metadata":{"name":"`+ns+`"}}`)
	defer a.do("DELETE", "/api/v1/namespaces/"+ns, "")
	a.do("POST", "/api/v1/nodes", `{"metadata":{"name":"`+node+`"}}`)
	defer a.do("DELETE", "/api/v1/nodes/"+node, "")
	a.do("POST", "/api/v1/namespaces/"+ns+"/serviceaccounts", `{"metadata":{"name":"robot"}}`)
	pod := "/api/v1/namespaces/" + ns + "/pods"
	a.do("POST", pod, `{"metadata":{"name":"p"},"spec":{"nodeName":"`+node+`","serviceAccountName":"robot","automountServiceAccountToken":false,"containers":[{"name":"c","image":"i"}]}}`)
	a.do("PATCH", pod+"/p/status", `{"status":{"phase":"Running","podIP":"10.1.0.5","podIPs":[{"ip":"10.1.0.5"}]}}`)

	tokens := token.NewCache(token.Limits{})
	defer tokens.Close()
	c, err := New(Options{
		Config: Config{Node: node, ProjectID: "my-project", Provider: Provider{WorkloadIdentity: testProvider}},
		API:    deaf{k}, Tokens: tokens, Google: Google{Client: &exchange.Client{Transport: &fakeGoogle{Issuer: google}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	defer running.Wait()
	defer cancel()

	w := &world{Cluster: c}
	for end := time.Now().Add(time.Minute); c.Ready() != nil && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if err := c.Ready(); err != nil {
		t.Fatalf("no token is made: %v", err)
	}
	w.good(t, "10.1.0.5", token.Request{})
	explain := func() (last Step) {
		e := Explanation{
			Config: Config{ProjectID: "my-project", Provider: Provider{WorkloadIdentity: testProvider}},
			API:    k, Google: Google{Client: &exchange.Client{Transport: &fakeGoogle{Issuer: google}}},
		}
		if err := e.Explain(t.Context(), ns, "p", func(s Step) {
			if s.Name == "cluster token" && (!strings.HasPrefix(s.Says, "bound to the Pod") || strings.Contains(s.Says, "none of those")) {
				t.Errorf("the cluster token is %q, want one that is bound, with a key that the cluster tells of", s.Says)
			}
			last = s
		}); err != nil {
			t.Error(err)
		}
		return last
	}
	if last := explain(); last.Bad || last.Name != "the Pod" {
		t.Errorf("explain ends with %+v for a Pod that gets tokens", last)
	}
	a.do("DELETE", pod+"/p", `{"gracePeriodSeconds":0}`)
	if _, err := w.mint(t, "10.1.0.5", token.Request{Scopes: []string{readOnly}}); err == nil || err.Status() != 403 || !strings.Contains(err.Text, "has been deleted") {
		t.Errorf("who has the address of a Pod that is gone: %v, want 403", err)
	}
	if last := explain(); !last.Bad || last.Name != "Pod" {
		t.Errorf("explain ends with %+v for a Pod that is gone", last)
	}
}
