//go:build !nogke

package daemon_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/admin"
	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/issuer"
)

// A kubernetes is an API server of one Pod, on one node, with one service
// account. Its watches end when the test says so.
type kubernetes struct {
	key   *rsa.PrivateKey
	again sync.Mutex    // of ended
	ended chan struct{} // closed: watches end
	phase atomic.Value  // of the Pod
	lists atomic.Int64  // of Pods
}

func (k *kubernetes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	object := func(kind string, more string) string {
		return fmt.Sprintf(`{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"name":%q,"namespace":"ns","uid":"uid-of-%s","resourceVersion":"1"%s}}`, strings.TrimPrefix(kind, "x-"), kind, more)
	}
	var list string
	switch {
	case r.Method == "POST" && strings.HasSuffix(r.URL.Path, "/serviceaccounts/robot/token"):
		var ask struct {
			Spec struct {
				Audiences []string
				Ref       struct{ UID string } `json:"boundObjectRef"`
			}
		}
		json.NewDecoder(r.Body).Decode(&ask)
		now := time.Now()
		jwt, _ := issuer.SignJWT(k.key, "k1", map[string]any{"iss": "https://cluster.test", "sub": "system:serviceaccount:ns:robot", "aud": ask.Spec.Audiences, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()})
		if ask.Spec.Ref.UID != "uid-p" {
			http.Error(w, "not bound to the Pod", http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(map[string]any{"status": map[string]any{"token": jwt}})
		return
	case q.Get("sendInitialEvents") != "":
		http.Error(w, "an old server", http.StatusBadRequest)
		return
	case r.URL.Path == "/api/v1/namespaces/kube-system":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, object("kube-system", ""))
		return
	case q.Get("watch") != "":
		k.again.Lock()
		ended := k.ended
		k.again.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.(http.Flusher).Flush()
		select {
		case <-ended:
			fmt.Fprint(w, `{"type":"ERROR","object":{"apiVersion":"v1","kind":"Status","status":"Failure","code":410,"reason":"Expired"}}`)
		case <-r.Context().Done():
		}
		return
	case r.URL.Path == "/api/v1/pods":
		k.lists.Add(1)
		list = fmt.Sprintf(`{"apiVersion":"v1","kind":"PodList","metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"p","namespace":"ns","uid":"uid-p"},
			"spec":{"serviceAccountName":"robot","hostNetwork":true},"status":{"phase":%q,"podIPs":[{"ip":"127.0.0.1"}]}}]}`, k.phase.Load())
	case strings.HasSuffix(r.URL.Path, "/serviceaccounts"):
		list = `{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadataList","metadata":{"resourceVersion":"1"},"items":[` + object("robot", "") + `]}`
	case r.URL.Path == "/api/v1/nodes":
		list = `{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadataList","metadata":{"resourceVersion":"1"},"items":[` + object("node-1", `,"labels":{"topology.kubernetes.io/zone":"z-1"}`) + `]}`
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, list)
}

// TestPods: with the section gke a caller is the Pod that the kernel says, a
// server is ready once it has made a token, and a watch that ends begins again.
func TestPods(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	k := &kubernetes{key: key, ended: make(chan struct{})}
	k.phase.Store("Running")
	api := httptest.NewServer(k)
	t.Cleanup(func() { api.CloseClientConnections(); api.Close() })
	const provider = "projects/123456789/locations/global/workloadIdentityPools/pool-1/providers/cluster-1"
	google, err := issuer.New(issuer.Options{Directory: &issuer.Directory{Providers: []issuer.Provider{
		{Audience: "//iam.googleapis.com/" + provider, Issuer: "https://cluster.test", Keys: []issuer.PublicKey{{ID: "k1", Key: &key.PublicKey}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var open atomic.Bool // the exchange
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for !open.Load() && r.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
		google.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(func() { sts.Close(); google.Close() })

	w := prepare(t, "")
	w.peer = func(*fleet.Caller) func(context.Context) (fleet.Peer, error) {
		return func(context.Context) (fleet.Peer, error) { return fleet.Peer{PodUID: "uid-p"}, nil }
	}
	w.file("kube.yaml", `{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c"}}],"clusters":[{"name":"c","cluster":{"server":"`+api.URL+`"}}]}`)
	yaml := "admin: {socket: '" + w.socket + "', http: '127.0.0.1:0'}\n" +
		"endpoints: {sts: '" + sts.URL + "/v1/token'}\n" +
		"gke: {node: node-1, kubeconfig: kube.yaml, project_id: my-project, provider: {workload_identity: " + provider + "}}\n"
	w.write(yaml)
	w.run()

	ready := func() (int, string) { return fetch(t, w.http, w.base("admin http")+"/readyz") }
	if code, why := ready(); code != http.StatusServiceUnavailable || why == "" {
		t.Errorf("before a token was made /readyz = %d %q, want 503 and why", code, why)
	}
	if !poll(func() bool { status, _ := w.get("instance/zone"); return status == http.StatusOK }) {
		t.Fatal("the node does not become known")
	}
	if got := w.value("instance/zone"); got != "projects/123456789/zones/z-1" {
		t.Errorf("the zone is %s", got)
	}
	if got := w.value("instance/service-accounts/default/email"); got != "my-project.svc.id.goog" {
		t.Errorf("the e-mail is %s", got)
	}
	open.Store(true)
	if !poll(func() bool { code, _ := ready(); return code == http.StatusOK }) {
		code, why := ready()
		t.Errorf("though tokens can be made, /readyz = %d %s", code, why)
	}
	if status, body := w.get("instance/service-accounts/default/token"); status != http.StatusOK || !strings.Contains(body, "access_token") {
		t.Errorf("token = %d %s", status, body)
	}
	if status, body := w.get("instance/service-accounts/default/identity?audience=a"); status != http.StatusNotFound || !strings.HasPrefix(body, "Your Kubernetes service account (ns/robot)") {
		t.Errorf("identity = %d %s", status, body)
	}
	if code, metrics := fetch(t, w.http, w.base("admin http")+"/metrics"); code != http.StatusOK || !strings.Contains(metrics, `gcemds_gke_upstream_calls_total{outcome="ok",to="sts"}`) || !strings.Contains(metrics, "gcemds_gke_pods 1") {
		t.Errorf("the metrics have no Pods:\n%s", metrics)
	}

	client := &admin.Client{Socket: w.socket}
	if status, err := client.Status(t.Context()); err != nil || status.Node != "node-1" || len(status.Instances) != 0 {
		t.Errorf("the status is %+v (%v), want the node and no instances", status, err)
	}
	if err := client.Edit(t.Context(), "", admin.Edit{Path: "instance/attributes/x", Value: json.RawMessage(`"1"`)}); err == nil || !strings.Contains(err.Error(), "callers are Pods") {
		t.Errorf("an edit is %v, want that there is nothing to edit", err)
	}

	w.write(strings.Replace(yaml, "my-project", "other-project", 1))
	if err := w.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "restart") {
		t.Errorf("a change of gke is %v, want that it needs a restart", err)
	}

	// The watches end, and what happened meanwhile is seen.
	k.phase.Store("Succeeded")
	before := k.lists.Load()
	k.again.Lock()
	close(k.ended)
	k.ended = make(chan struct{})
	k.again.Unlock()
	if !poll(func() bool { return k.lists.Load() > before }) {
		t.Fatal("a watch that ended does not begin again")
	}
	if !poll(func() bool {
		status, _ := w.get("instance/service-accounts/default/email")
		return status == http.StatusForbidden
	}) {
		t.Error("a Pod that ended while nobody watched still has its identity")
	}
}
