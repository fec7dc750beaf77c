package gke

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/server"
)

const root = "/computeMetadata/v1/"

// get asks a server over the whole of the protocol but its sockets.
func get(s *server.Server, ip, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	r.RequestURI = path
	r.Host = "metadata.google.internal"
	r.RemoteAddr = ip + ":40000"
	r.Header.Set("Metadata-Flavor", "Google")
	for i := 0; i < len(header); i += 2 {
		switch header[i] {
		case "Host":
			r.Host = header[i+1]
		default:
			r.Header.Del(header[i])
			if header[i+1] != "" {
				r.Header.Set(header[i], header[i+1])
			}
		}
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// TestProtocol: the closed tree of section 2.1 with the values of section 2.2,
// and nothing else, for a Pod that impersonates (10.1.0.3) and one that does
// not (10.1.0.1).
func TestProtocol(t *testing.T) {
	const principal = "principal://iam.googleapis.com/projects/123456789/locations/global/workloadIdentityPools/pool-1/subject/system:serviceaccount:ns:direct"
	const both = "https://www.googleapis.com/auth/cloud-platform\nhttps://www.googleapis.com/auth/userinfo.email\n"
	id := fmt.Sprint(numericID(testNode.UID))
	sa := root + "instance/service-accounts/"
	for _, test := range []struct {
		ip, path string
		header   []string
		status   int
		body     string // "*": any
	}{
		{robot1, "/", []string{"Metadata-Flavor", ""}, 200, "computeMetadata/\n"},
		{robot1, "/computeMetadata/", nil, 200, "v1/\n"},
		{robot1, root, nil, 200, "instance/\nproject/\n"},
		{robot1, root + "instance", nil, 301, "*"},
		{robot1, root + "instance/", nil, 200, "attributes/\nhostname\nid\nname\nservice-accounts/\nzone\n"},
		{robot1, root + "instance/attributes/", nil, 200, "cluster-location\ncluster-name\ncluster-uid\n"},
		{robot1, root + "instance/attributes/cluster-location", nil, 200, "europe-west1"},
		{robot1, root + "instance/attributes/cluster-name", nil, 200, "cluster-1"},
		{robot1, root + "instance/attributes/cluster-uid", nil, 200, "cluster-1"},
		{robot1, root + "instance/attributes/gcp_gce_instance_template", nil, 404, "*"},
		{robot1, root + "instance/hostname", nil, 200, "node-1.example"},
		{robot1, root + "instance/name", nil, 200, "node-1"},
		{robot1, root + "instance/id", nil, 200, id},
		{robot1, root + "instance/zone", nil, 200, "projects/123456789/zones/europe-west1-b"},
		{robot1, root + "project/", nil, 200, "numeric-project-id\nproject-id\n"},
		{robot1, root + "project/project-id", nil, 200, "my-project"},
		{robot1, root + "project/numeric-project-id", nil, 200, "123456789"},
		{robot1, root + "universe/universe-domain", nil, 200, "googleapis.com"},
		{robot1, sa, nil, 200, "default/\n" + testGSA + "/\n"},
		{robot1, sa + "default", nil, 301, "*"},
		{robot1, sa + "default/", nil, 200, "aliases\nemail\nidentity\nscopes\ntoken\n"},
		{robot1, sa + "default/aliases", nil, 200, "default\n"},
		{robot1, sa + "default/email", nil, 200, testGSA},
		{robot1, sa + "default/scopes", nil, 200, both},
		{robot1, sa + testGSA + "/email", nil, 200, testGSA},
		{robot1, sa + "default/?recursive=true", nil, 200, `{"aliases":["default"],"email":"` + testGSA + `","scopes":["https://www.googleapis.com/auth/cloud-platform","https://www.googleapis.com/auth/userinfo.email"]}`},
		{robot1, sa + "other@my-project.iam.gserviceaccount.com/token", nil, 404, "*"},
		{robot1, sa + "default/identity", nil, 400, "non-empty audience parameter required"},
		{direct1, sa, nil, 200, "default/\nmy-project.svc.id.goog/\n"},
		{direct1, sa + "default/email", nil, 200, "my-project.svc.id.goog"},
		{direct1, sa + testGSA + "/token", nil, 404, "*"},
		{direct1, sa + "default/identity?audience=a", nil, 404, "*"},
		{direct2, sa, nil, 200, "default/\n"},
		{direct2, sa + "default/email", nil, 200, principal},
		{"10.9.9.9", sa, nil, 403, "*"},
		{"10.9.9.9", root + "project/project-id", nil, 200, "my-project"},

		// What is of a machine, and what is of another's.
		{robot1, root + "instance/network-interfaces/", nil, 404, "*"},
		{robot1, root + "instance/disks/", nil, 404, "*"},
		{robot1, root + "instance/tags", nil, 404, "*"},
		{robot1, root + "instance/machine-type", nil, 404, "*"},
		{robot1, root + "instance/maintenance-event", nil, 404, "*"},
		{robot1, root + "instance/upcoming-maintenance", nil, 404, "*"},
		{robot1, root + "instance/guest-attributes/", nil, 404, "*"},
		{robot1, root + "instance/credentials/mds-client-certificate", nil, 404, "*"},
		{robot1, root + "instance/gce-workload-certificates/config-status", nil, 404, "*"},
		{robot1, root + "instance/attributes/kube-env", nil, 404, "*"},
		{robot1, root + "project/attributes/", nil, 404, "*"},
		{robot1, root + "oslogin/users", nil, 404, "*"},
		{robot1, root + "oslogin/authorize?email=a&policy=login", nil, 404, "*"},
		{robot1, "/computeMetadata/v1beta1/instance/id", nil, 404, "*"},
		{robot1, "/0.1/meta-data/instance-id", nil, 404, "*"},
		{robot1, "/computeMetadata/v1beta1/instance/id", []string{"Metadata-Flavor", ""}, 404, "*"},
		{robot1, "/latest/meta-data/", nil, 404, "*"},

		// Header, flavor and Host (section 3.6).
		{robot1, sa + "default/email", []string{"Metadata-Flavor", ""}, 403, "*"},
		{robot1, sa + "default/email", []string{"X-Forwarded-For", direct1}, 403, "*"},
		{robot1, sa + "default/email", []string{"X-Real-IP", direct1}, 403, "*"},
		{robot1, sa + "default/email", []string{"Forwarded", "for=" + direct1}, 403, "*"},
		{robot1, sa + "default/email", []string{"Host", "attacker.example"}, 403, "*"},
		{robot1, sa + "default/email", []string{"Host", "169.254.169.254"}, 200, testGSA},

		// Paths that are not what they seem.
		{robot1, root + "instance//service-accounts/default/email", nil, 200, testGSA}, // as on a machine
		{"10.9.9.9", root + "instance//service-accounts/default/email", nil, 403, "*"},
		{robot1, root + "instance/x/../service-accounts/default/email", nil, 404, "*"},
		{robot1, root + "instance/service-accounts%2Fdefault%2Femail", nil, 404, "*"},
		{robot1, root + "instance/Service-Accounts/default/email", nil, 404, "*"},
		{robot1, root + "instance/service-accountsX/default/email", nil, 404, "*"},
	} {
		t.Run(strings.TrimPrefix(test.path, root)+" of "+test.ip, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, w *world) {
				w.learn(ksa("direct", annotationPrincipal, "true"))
				w.know(pod("direct1", "default", direct1), pod("direct2", "direct", direct2), pod("robot1", "robot", robot1))
				s := server.New(w.Cluster, nil, server.Limits{})
				s.NoLegacy = true
				got := get(s, test.ip, test.path, test.header...)
				if got.Code != test.status || test.body != "*" && got.Body.String() != test.body {
					t.Errorf("GET %s = %d %q, want %d %q", test.path, got.Code, got.Body, test.status, test.body)
				}
				if got.Header().Get("Metadata-Flavor") != "Google" {
					t.Errorf("GET %s: the answer has no Metadata-Flavor", test.path)
				}
			})
		})
	}
}

// TestAnswers: tokens and refusals as a Pod gets them.
func TestAnswers(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.four()
		s := server.New(w.Cluster, nil, server.Limits{})
		var tok struct {
			Value   string `json:"access_token"`
			Seconds int    `json:"expires_in"`
			Type    string `json:"token_type"`
		}
		got := get(s, robot1, root+"instance/service-accounts/default/token")
		if err := json.Unmarshal(got.Body.Bytes(), &tok); err != nil || got.Code != 200 || tok.Value == "" || tok.Seconds < 3000 || tok.Type != "Bearer" {
			t.Errorf("token = %d %s", got.Code, got.Body)
		}
		// Exactly the scopes of the request, in any form and order.
		for _, query := range []string{"scopes=https://www.googleapis.com/auth/pubsub,https://www.googleapis.com/auth/drive", "scopes=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fdrive%2Chttps%3A%2F%2Fwww.googleapis.com%2Fauth%2Fpubsub"} {
			got := get(s, robot1, root+"instance/service-accounts/default/token?"+query)
			json.Unmarshal(got.Body.Bytes(), &tok)
			ask := httptest.NewRecorder()
			w.google.Handler().ServeHTTP(ask, httptest.NewRequest("GET", "/tokeninfo?access_token="+url.QueryEscape(tok.Value), nil))
			var info struct{ Scope string }
			if err := json.Unmarshal(ask.Body.Bytes(), &info); err != nil || info.Scope != "https://www.googleapis.com/auth/drive https://www.googleapis.com/auth/pubsub" {
				t.Errorf("%s: the token has the scopes %q (%v)", query, info.Scope, err)
			}
		}
		got = get(s, direct1, root+"instance/service-accounts/default/identity?audience=https://a.example")
		if lines := strings.Split(got.Body.String(), "\n"); got.Code != 404 || len(lines) != 4 || !strings.HasPrefix(got.Header().Get("Content-Type"), "application/text") {
			t.Errorf("identity without a Google service account = %d %s %q, want 404 with three lines", got.Code, got.Header().Get("Content-Type"), got.Body)
		}
		begin := time.Now()
		got = get(s, "10.9.9.9", root+"instance/service-accounts/default/token")
		if got.Code != 403 || time.Since(begin) != patience || got.Header().Get("Retry-After") != "" {
			t.Errorf("a stranger gets %d after %v", got.Code, time.Since(begin))
		}
		w.change(phase(pod("new", "default"), "Pending"))
		got = get(s, "10.9.9.9", root+"instance/service-accounts/default/token")
		if got.Code != 503 || got.Header().Get("Retry-After") != "1" {
			t.Errorf("somebody who may be a Pod soon gets %d, Retry-After %q; want 503 and 1", got.Code, got.Header().Get("Retry-After"))
		}
	})
}

// TestStatic: what is the same for all never waits, whatever is away.
func TestStatic(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) { // nothing is known
		s := server.New(w.Cluster, nil, server.Limits{})
		for path, status := range map[string]int{
			"": 200, "instance/": 200, "project/project-id": 200, "project/numeric-project-id": 200, "instance/hostname": 200, "instance/name": 200,
			"instance/attributes/cluster-name": 200, "instance/attributes/cluster-location": 200, "instance/id": 503, "instance/zone": 503,
		} {
			begin := time.Now()
			if got := get(s, "10.9.9.9", root+path); got.Code != status || time.Since(begin) > 0 {
				t.Errorf("%s = %d after %v, want %d at once", path, got.Code, time.Since(begin), status)
			}
		}
	})
}

// TestWaiters: who waits for a change of the accounts sees one.
func TestWaiters(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.four()
		s := server.New(w.Cluster, nil, server.Limits{})
		go func() {
			time.Sleep(time.Minute / 2)
			w.api.node <- Change[Node]{Items: []Node{{Name: "node-1", UID: "another"}}} // which is no change of the accounts
			time.Sleep(time.Minute / 2)
			w.learn(ksa("robot"))
		}()
		begin := time.Now()
		got := get(s, robot1, root+"instance/service-accounts/default/?recursive=true&wait_for_change=true")
		if took := time.Since(begin); took != time.Minute || !strings.Contains(got.Body.String(), "my-project.svc.id.goog") {
			t.Errorf("after %v: %s; want the new e-mail when it changes", took, got.Body)
		}
	})
}

// TestMetrics: each metric has a value, and labels are of small sets.
func TestMetrics(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.four()
		seen := map[string]int{}
		for m, c := range w.Counts {
			seen[m.Name]++
			if len(c.Label) != len(m.Label) {
				t.Errorf("%s has the labels %q for %q", m.Name, c.Label, m.Label)
			}
		}
		for _, m := range metrics {
			if n := seen[m.Name]; n == 0 || n > 40 {
				t.Errorf("%s has %d values", m.Name, n)
			}
		}
		for range 2 {
			w.who(t, w.caller("10.9.9.9"))
		}
		if n := w.counts.refused[reasonUnknown].Load(); n != 2 {
			t.Errorf("%d refusals are counted, want 2", n)
		}
		if names := slices.Collect(func(yield func(string) bool) {
			for _, r := range refusals {
				if !yield(r.name) {
					return
				}
			}
		}); slices.Contains(names, "") {
			t.Errorf("a reason has no name: %q", names)
		}
	})
}
