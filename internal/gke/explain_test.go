package gke

import (
	"context"
	"strings"
	"testing"

	"github.com/gcemds/gcemds/internal/exchange"
)

// A told API has objects by path, and the tokens of a fake.
type toldAPI struct {
	filed
	*fakeAPI
}

func (a toldAPI) Get(ctx context.Context, path string) ([]byte, error) { return a.filed.Get(ctx, path) }

const (
	podPath     = "/api/v1/namespaces/ns/pods/p"
	accountPath = "/api/v1/namespaces/ns/serviceaccounts/robot"
)

// A shutAPI lets nobody read.
type shutAPI struct{ toldAPI }

func (shutAPI) Get(context.Context, string) ([]byte, error) { return nil, &APIError{Status: 403} }

// The chain breaks where it is broken, and the step says what mends it. No step
// shows a token.
func TestExplain(t *testing.T) {
	const running = `{"metadata":{"uid":"u1"},"spec":{"nodeName":"n1","serviceAccountName":"robot"},"status":{"phase":"Running","podIPs":[{"ip":"10.0.0.1"}]}}`
	account := func(annotations string) string {
		return `{"metadata":{"uid":"s1","annotations":{` + annotations + `}}}`
	}
	acting := account(`"` + annotationGSA + `":"` + testGSA + `"`)
	stranger := func(f filed) { // one that IAM does not let act as the account
		f[podPath] = strings.Replace(running, "robot", "stranger", 1)
		f[strings.Replace(accountPath, "robot", "stranger", 1)] = acting
	}
	for _, c := range []struct {
		name       string
		change     func(filed, *world, *Explanation)
		last, says string // of the last step
		fix        string
		good       bool
	}{
		{name: "acts as another", last: "the Pod", says: "is " + testGSA, good: true},
		{name: "with an ID token", change: func(_ filed, _ *world, e *Explanation) { e.Audience = "https://a.example" }, last: "the Pod", says: "is " + testGSA, good: true},
		{name: "acts as itself", change: func(f filed, _ *world, _ *Explanation) { f[accountPath] = account("") }, last: "the Pod", says: "my-project.svc.id.goog", good: true},
		{
			name:   "ID token of itself",
			change: func(f filed, _ *world, e *Explanation) { f[accountPath], e.Audience = account(""), "https://a.example" },
			last:   "ID token", says: "is not annotated", fix: annotationGSA,
		},
		{name: "no Pod", change: func(f filed, _ *world, _ *Explanation) { delete(f, podPath) }, last: "Pod", says: "none of this name", fix: "kubectl get pods --namespace=ns"},
		{name: "ended", change: func(f filed, _ *world, _ *Explanation) {
			f[podPath] = strings.Replace(running, "Running", "Succeeded", 1)
		}, last: "Pod", says: "has ended"},
		{name: "not scheduled", change: func(f filed, _ *world, _ *Explanation) {
			f[podPath] = strings.Replace(running, `"nodeName":"n1",`, "", 1)
		}, last: "Pod", says: "on no node", fix: "kubectl describe pod"},
		{
			name: "of the host's network",
			change: func(f filed, _ *world, e *Explanation) {
				f[podPath], e.Config.Attest = strings.Replace(running, `"nodeName"`, `"hostNetwork":true,"nodeName"`, 1), AttestNone
			},
			last: "Pod", says: "403", fix: "gke.attest",
		},
		{name: "no account", change: func(f filed, _ *world, _ *Explanation) { delete(f, accountPath) }, last: "service account", says: "none of this name", fix: "kubectl create serviceaccount"},
		{name: "wrong annotation", change: func(f filed, _ *world, _ *Explanation) { f[accountPath] = account(`"` + annotationGSA + `":"robot"`) }, last: "annotations", says: "not the e-mail", fix: "kubectl annotate"},
		{
			name:   "may not make tokens",
			change: func(_ filed, w *world, _ *Explanation) { w.api.refuse = &APIError{Status: 403} },
			last:   "cluster token", says: "you may not", fix: "kubectl auth can-i create serviceaccounts/token",
		},
		{name: "Kubernetes refuses", change: func(_ filed, w *world, _ *Explanation) { w.api.refuse = &APIError{Status: 409} }, last: "cluster token", says: "created again"},
		{
			name:   "another issuer",
			change: func(f filed, _ *world, _ *Explanation) { f[discoveryPath] = `{"issuer":"https://other.test"}` },
			last:   "cluster token", says: "not that which the cluster tells of",
		},
		{
			name:   "may not read the Pod",
			change: func(_ filed, _ *world, e *Explanation) { e.API = shutAPI{e.API.(toldAPI)} },
			last:   "Pod", says: "right to get pods in the namespace ns", fix: "kubectl auth can-i get pods --namespace=ns",
		},
		{
			name: "in Terraform",
			change: func(f filed, _ *world, e *Explanation) {
				stranger(f)
				e.Language = Terraform
			},
			last: "access token", says: "the Pod gets 403", fix: `member             = "principal://iam.googleapis.com/projects/123456789/locations/global/workloadIdentityPools/pool-1/subject/system:serviceaccount:ns:stranger"`,
		},
		{
			name:   "not bound in IAM",
			change: func(f filed, _ *world, _ *Explanation) { stranger(f) },
			last:   "access token", says: "the Pod gets 403", fix: "gcloud iam service-accounts add-iam-policy-binding " + testGSA,
		},
		{name: "no provider", change: func(_ filed, _ *world, e *Explanation) {
			e.Config.Provider.WorkloadIdentity = strings.Replace(testProvider, "cluster-1", "cluster-2", 1)
		}, last: "token exchange", says: "invalid", fix: "misspelt in the configuration of gcemds.\ngcloud iam workload-identity-pools providers describe cluster-2 --workload-identity-pool=pool-1 --project=123456789 --location=global\nMust be there: the issuer https://cluster.test, and the key k1"},
		{name: "not the account's", change: func(f filed, _ *world, _ *Explanation) {
			f[accountPath] = account(`"` + annotationGSA + `":"nobody@my-project.iam.gserviceaccount.com"`)
		}, last: "access token", says: "IAM returned 40"},
		{name: "Google away", change: func(_ filed, w *world, _ *Explanation) { w.google.down = true }, last: "token exchange", says: "no token right now"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, w *world) {
				files := filed{
					podPath: running, accountPath: acting,
					discoveryPath: `{"issuer":"https://cluster.test"}`, keysPath: `{"keys":[{"kid":"k1"}]}`,
				}
				e := Explanation{
					Config: Config{ProjectID: "my-project", Provider: Provider{WorkloadIdentity: testProvider}},
					API:    toldAPI{files, w.api}, Google: Google{Client: &exchange.Client{Transport: w.google}},
				}
				if c.change != nil {
					c.change(files, w, &e)
				}
				var steps []Step
				if err := e.Explain(t.Context(), "ns", "p", func(s Step) { steps = append(steps, s) }); err != nil {
					t.Fatal(err)
				}
				last := steps[len(steps)-1]
				if last.Name != c.last || last.Bad == c.good || !strings.Contains(last.Says, c.says) || !strings.Contains(last.Fix, c.fix) {
					t.Errorf("the last step is %+v, want %s (good: %v) with %q and the fix %q", last, c.last, c.good, c.says, c.fix)
				}
				for i, s := range steps {
					if s.Bad && i < len(steps)-1 {
						t.Errorf("after the bad step %+v there is another", s)
					}
					if strings.Contains(s.Says+s.Fix, "eyJ") || strings.Contains(s.Says+s.Fix, "ya29") {
						t.Errorf("a step shows a token: %+v", s)
					}
				}
			})
		})
	}
}

// What explain says is what the Pod gets: a principal that is used itself has
// tokens for an hour, and one that acts as another needs the token of the
// cluster for minutes only.
func TestExplainLives(t *testing.T) {
	for annotations, want := range map[string]string{`"` + annotationGSA + `":"` + testGSA + `"`: "for 10m0s", "": "for 1h0m0s"} {
		bubble(t, nil, func(t *testing.T, w *world) {
			e := Explanation{
				Config: Config{ProjectID: "my-project", Provider: Provider{WorkloadIdentity: testProvider}},
				API: toldAPI{filed{
					podPath:       `{"metadata":{"uid":"u1"},"spec":{"nodeName":"n1","serviceAccountName":"robot"},"status":{"phase":"Running"}}`,
					accountPath:   `{"metadata":{"uid":"s1","annotations":{` + annotations + `}}}`,
					discoveryPath: `{"issuer":"https://cluster.test"}`, keysPath: `{"keys":[{"kid":"k2"}]}`,
				}, w.api},
				Google: Google{Client: &exchange.Client{Transport: w.google}},
			}
			said := map[string]string{}
			if err := e.Explain(t.Context(), "ns", "p", func(s Step) { said[s.Name] = s.Says }); err != nil {
				t.Fatal(err)
			}
			if got := said["cluster token"]; !strings.HasPrefix(got, "bound to the Pod") || !strings.Contains(got, want+", signed with the key k1, which is none of those") {
				t.Errorf("with the annotations %s the cluster token is %q, want one that is bound, %s", annotations, got, want)
			}
			if got := said["the Pod"]; !strings.Contains(got, "for 1h0m0s") {
				t.Errorf("with the annotations %s the Pod %s, want tokens for an hour", annotations, got)
			}
			if got := said["issuer"]; !strings.Contains(got, "Google cannot fetch them") {
				t.Errorf("the issuer is %q, want that Google cannot reach it", got)
			}
		})
	}
}
