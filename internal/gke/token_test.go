package gke

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/token"
)

// mint gets a token as a request of the Pod at an address would.
func (w *world) mint(t *testing.T, ip string, req token.Request) (token.Token, *token.Error) {
	t.Helper()
	i, err := w.Resolve(t.Context(), w.caller(ip), askToken)
	if err != nil {
		t.Fatal(err)
	}
	if req.Scopes == nil {
		req.Scopes = i.Accounts[0].Scopes
	}
	tok, err := i.Accounts[0].Source.Mint(t.Context(), req)
	var e *token.Error
	if err != nil && !errors.As(err, &e) {
		t.Fatalf("the error is %v, want a *token.Error", err)
	}
	return tok, e
}

// good gets a token, or fails.
func (w *world) good(t *testing.T, ip string, req token.Request) token.Token {
	t.Helper()
	tok, err := w.mint(t, ip, req)
	if err != nil {
		t.Fatalf("no token: %v\n%s", err, err.Text)
	}
	return tok
}

const (
	direct1, direct2, robot1, robot2 = "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"
	readOnly                         = "https://www.googleapis.com/auth/devstorage.read_only"
)

// four are two Pods of each of two accounts.
func (w *world) four() {
	w.know(pod("direct1", "default", direct1), pod("direct2", "default", direct2), pod("robot1", "robot", robot1), pod("robot2", "robot", robot2))
	time.Sleep(5 * time.Second) // what is done at the start is over
}

// TestTokens: what is asked upstream for each kind of token, and in whose name.
func TestTokens(t *testing.T) {
	audience := iamPrefix + testProvider
	for _, test := range []struct {
		name    string
		from    string
		req     token.Request
		created []string
		asked   []string
		life    time.Duration
	}{
		{"direct", direct2, token.Request{}, nil, nil, time.Hour}, // made for the other Pod
		{"direct, own scopes", direct2, token.Request{Scopes: []string{readOnly}}, []string{"direct2 ns/default " + audience + " 1h0m0s"}, []string{"/v1/token"}, time.Hour},
		{"impersonated", robot2, token.Request{}, []string{"robot2 ns/robot " + audience + " 10m0s"},
			[]string{"/v1/token", "/v1/projects/-/serviceAccounts/" + testGSA + ":generateAccessToken"}, time.Hour},
		{"impersonated, own scopes", robot1, token.Request{Scopes: []string{readOnly}}, []string{"robot1 ns/robot " + audience + " 10m0s"},
			[]string{"/v1/token", "/v1/projects/-/serviceAccounts/" + testGSA + ":generateAccessToken"}, time.Hour},
		{"ID token", robot1, token.Request{Audience: "https://service.example"}, []string{"robot1 ns/robot " + audience + " 10m0s"},
			[]string{"/v1/token", "/v1/projects/-/serviceAccounts/" + testGSA + ":generateIdToken"}, time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, w *world) {
				w.four()
				w.good(t, direct1, token.Request{})
				w.api.set(func(f *fakeAPI) { f.created = nil })
				w.google.set(func(g *fakeGoogle) { g.asked = nil })
				tok := w.good(t, test.from, test.req)
				if life := time.Until(tok.Expiry); (life - test.life).Abs() > 10*time.Second {
					t.Errorf("the token lives for %v, want %v", life, test.life)
				}
				if !slices.Equal(w.api.created, test.created) || !slices.Equal(w.google.asked, test.asked) {
					t.Errorf("Kubernetes was asked for %q and Google for %q, want %q and %q", w.api.created, w.google.asked, test.created, test.asked)
				}
				if again := w.good(t, test.from, test.req); again.Value != tok.Value || !slices.Equal(w.google.asked, test.asked) {
					t.Error("the same request is not answered from the cache")
				}
			})
		})
	}
}

// TestShared: Pods of an account share its tokens, those of others never; one
// exchange serves access and ID tokens.
func TestShared(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.four()
		a, b, c := w.good(t, robot1, token.Request{}), w.good(t, robot2, token.Request{}), w.good(t, direct1, token.Request{})
		w.good(t, robot2, token.Request{Audience: "https://a.example"})
		if a.Value != b.Value || a.Value == c.Value {
			t.Error("two Pods of an account have two tokens, or two accounts one")
		}
		exchanges := 0
		for _, path := range w.google.asked {
			if path == "/v1/token" {
				exchanges++
			}
		}
		if exchanges != 2 || len(w.api.created) != 2 {
			t.Errorf("two accounts made %d exchanges and %d tokens of Kubernetes, want one each", exchanges, len(w.api.created))
		}
	})
}

// TestHerd: all Pods of a node that start at once are served, with one
// TokenRequest and one exchange for each account.
func TestHerd(t *testing.T) {
	const pods, accounts = 250, 60
	bubble(t, nil, func(t *testing.T, w *world) {
		w.api.took, w.google.took = 50*time.Millisecond, 50*time.Millisecond
		var all []Pod
		for i := range accounts {
			w.learn(ksa(fmt.Sprint("a", i)))
		}
		for i := range pods {
			all = append(all, pod(fmt.Sprint("p", i), fmt.Sprint("a", i%accounts), fmt.Sprintf("10.1.%d.%d", i/200, i%200+1)))
		}
		w.know(all...)
		begin := time.Now()
		var group sync.WaitGroup
		for _, p := range all {
			group.Go(func() { w.good(t, p.IPs[0].String(), token.Request{}) })
		}
		group.Wait()
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("it took %v until all had a token, want no more than the calls take", took)
		}
		if n, m := len(w.api.created), w.google.count(); n != accounts || m != accounts {
			t.Errorf("%d TokenRequests and %d exchanges, want one of each for each of %d accounts", n, m, accounts)
		}
	})
}

// TestChange: another uid or annotation is another identity at once; the
// instance that is waited on changes.
func TestChange(t *testing.T) {
	other := ksa("robot", annotationGSA, testGSA)
	other.UID = "another"
	for name, sa := range map[string]ServiceAccount{"created again": other, "without its annotation": ksa("robot"), "with a quota project": ksa("robot", annotationGSA, testGSA, annotationQuota, "paying-project")} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, w *world) {
				w.four()
				before := w.good(t, robot1, token.Request{})
				i, _ := w.Resolve(t.Context(), w.caller(robot1), askToken)
				w.learn(sa)
				synctest.Wait()
				if after := w.good(t, robot1, token.Request{}); after.Value == before.Value {
					t.Error("the token of the identity before is still handed out")
				}
				j, _ := w.Resolve(t.Context(), w.caller(robot1), askToken)
				n, _ := j.Metadata.Tree().Lookup("instance/service-accounts/default/email")
				if m, _ := i.Metadata.Tree().Lookup("instance/service-accounts/default/email"); m.Value() != n.Value() {
					t.Errorf("who waits on the instance before sees the e-mail %s, want %s", m.Value(), n.Value())
				}
				if sa.Annotations[annotationQuota] != "" && w.google.header[len(w.google.header)-1].Get("X-Goog-User-Project") != "paying-project" {
					t.Error("the project that pays is not said")
				}
			})
		})
	}
	t.Run("the same again", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, w *world) {
			w.four()
			i, _ := w.Resolve(t.Context(), w.caller(robot1), askToken)
			w.learn(ksa("robot", annotationGSA, testGSA))
			w.change(pod("robot1", "robot", robot1))
			if j, _ := w.Resolve(t.Context(), w.caller(robot1), askToken); i != j {
				t.Error("news without a change make another instance")
			}
		})
	})
}

// TestOutage: what is known serves while Kubernetes and Google are away, and
// what is not fails at once.
func TestOutage(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.four()
		w.good(t, robot1, token.Request{})
		w.api.set(func(f *fakeAPI) { f.refuse = &APIError{Err: errors.New("connection refused")} })
		w.google.set(func(g *fakeGoogle) { g.down = true })
		for range 50 { // minutes
			w.good(t, robot1, token.Request{})
			w.good(t, robot2, token.Request{})
			w.good(t, direct2, token.Request{})
			time.Sleep(time.Minute)
		}
		begin := time.Now()
		_, err := w.mint(t, robot1, token.Request{Scopes: []string{readOnly}})
		if err == nil || err.Status() != 503 || err.Text == "" || time.Since(begin) > time.Second {
			t.Errorf("a new token during the outage: %v after %v, want 503 with words at once", err, time.Since(begin))
		}
		if err := w.Ready(); err != nil {
			t.Errorf("the outage takes readiness back: %v", err)
		}
	})
}

// TestFaults: what a Pod is told when something is wrong: status and words.
func TestFaults(t *testing.T) {
	iam := func(status int, code, message string) func(t *testing.T, w *world) {
		return func(t *testing.T, w *world) {
			w.good(t, robot1, token.Request{Audience: "https://first.example"}) // so that the exchange is done
			w.google.set(func(g *fakeGoogle) {
				g.status, g.body = status, fmt.Sprintf(`{"error":{"code":%d,"message":%q,"status":%q}}`, status, message, code)
			})
		}
	}
	sts := func(status int, code, description string) func(t *testing.T, w *world) {
		return func(t *testing.T, w *world) {
			w.google.set(func(g *fakeGoogle) {
				g.status, g.body = status, fmt.Sprintf(`{"error":%q,"error_description":%q}`, code, description)
			})
		}
	}
	api := func(status int) func(t *testing.T, w *world) {
		return func(t *testing.T, w *world) {
			refuse := &APIError{Status: status, Err: errors.New("no")}
			if status == http.StatusTooManyRequests {
				refuse.RetryAfter = 7 * time.Second
			}
			w.api.set(func(f *fakeAPI) { f.refuse = refuse })
		}
	}
	own := token.Request{Scopes: []string{readOnly}}
	for _, test := range []struct {
		name   string
		with   func(t *testing.T, w *world)
		from   string
		req    token.Request
		status int
		retry  time.Duration
		text   string // its beginning
		also   string
		event  string
	}{
		{"binding missing", iam(403, "PERMISSION_DENIED", "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist)."), robot1, own, 403, 0,
			"Unable to generate access token; IAM returned 403 Forbidden: Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).\n", "gcloud iam service-accounts add-iam-policy-binding " + testGSA, "robot1 TokenRefused"},
		{"no such GSA", iam(404, "NOT_FOUND", "Unknown service account"), robot1, own, 404, 0, "Unable to generate access token; IAM returned 404 Not Found: Unknown service account", "does not exist", "robot1 TokenRefused"},
		{"API off", iam(403, "PERMISSION_DENIED", "IAM Service Account Credentials API has not been used in project 1 before or it is disabled."), robot1, own, 403, 0,
			"Unable to generate access token; IAM returned 403 Forbidden: IAM Service", "gcloud services enable iamcredentials.googleapis.com", "robot1 TokenRefused"},
		{"quota project not allowed", func(t *testing.T, w *world) {
			w.learn(ksa("robot", annotationGSA, testGSA, annotationQuota, "payer-project"))
			iam(403, "PERMISSION_DENIED", "Caller does not have required permission to use project payer-project. Grant the caller the roles/serviceusage.serviceUsageConsumer role.")(t, w)
		}, robot1, own, 403, 0, "Unable to generate access token; IAM returned 403 Forbidden: Caller does not",
			"gcloud projects add-iam-policy-binding payer-project --role roles/serviceusage.serviceUsageConsumer", "robot1 TokenRefused"},
		{"bad scope", iam(400, "INVALID_ARGUMENT", "Scope is bad"), robot1, own, 400, 0, "Unable to generate access token; IAM returned 400 Bad Request: Scope is bad", "", ""},
		{"IAM quota", iam(429, "RESOURCE_EXHAUSTED", "Quota exceeded"), robot1, own, 429, 7 * time.Second, "The quota of Google's IAM", "", ""},
		{"no ID token without GSA", nil, direct1, token.Request{Audience: "https://a.example"}, 404, 0,
			"Your Kubernetes service account (ns/default) is not annotated with a target Google service account, which is a requirement for retrieving Identity Tokens using Workload Identity.\n", "iam.gke.io/gcp-service-account=[GSA_NAME]@[PROJECT_ID]", "direct1 TokenRefused"},
		{"issuer unknown", sts(400, "invalid_grant", "Error connecting to the given credential's issuer."), direct1, own, 403, 0, "Unable to exchange the token of the Kubernetes service account ns/default; the token exchange returned 400 Bad Request: Error connecting", "gcemds gke setup", "direct1 TokenRefused"},
		{"provider gone", sts(400, "invalid_target", "The target service indicated by the audience is invalid."), direct1, own, 403, 0, "Unable to exchange", testProvider, "direct1 TokenRefused"},
		{"attribute condition", sts(403, "unauthorized_client", "The given credential is rejected by the attribute condition."), direct1, own, 403, 0, "Unable to exchange", "attribute condition of the provider", "direct1 TokenRefused"},
		{"STS quota", sts(429, "", "quota"), direct1, own, 429, 7 * time.Second, "The quota of Google's token exchange", "", ""},
		{"STS away", func(_ *testing.T, w *world) { w.google.set(func(g *fakeGoogle) { g.down = true }) }, direct1, own, 503, 0, "Google's token exchange gives no token right now", "", ""},
		{"service account deleted", api(404), direct1, own, 403, 0, "Kubernetes made no token: the service account ns/default of the Pod ns/direct1 has been deleted", "", "direct1 TokenRefused"},
		{"other service account", api(400), direct1, own, 403, 0, "Kubernetes made no token of", "", "direct1 TokenRefused"},
		{"no right", api(403), direct1, own, 500, 0, "Kubernetes does not let gcemds make tokens", "serviceaccounts/token", "direct1 TokenRefused"},
		{"Kubernetes throttles", api(429), direct1, own, 429, 7 * time.Second, "Kubernetes is asked", "", ""},
		{"Kubernetes away", api(0), direct1, own, 503, 0, "Kubernetes could not make a token", "", ""},
		{"annotation is no e-mail", func(_ *testing.T, w *world) { w.learn(ksa("default", annotationGSA, "robot/../x@y.example?")) }, direct1, token.Request{}, 403, 0,
			"The annotation iam.gke.io/gcp-service-account of the Kubernetes service account ns/default", "kubectl annotate serviceaccount -n ns default", "direct1 TokenRefused"},
		{"quota project is none", func(_ *testing.T, w *world) { w.learn(ksa("default", annotationQuota, "a b")) }, direct1, token.Request{}, 403, 0, "The annotation iam.gke.io/credential-quota-project", "", "direct1 TokenRefused"},
		{"provider that is not allowed", func(_ *testing.T, w *world) { w.learn(ksa("default", annotationProvider, "other")) }, direct1, token.Request{}, 403, 0, "The annotation gcemds.dev/provider", "gke.providers", "direct1 TokenRefused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, w *world) {
				w.four()
				if test.with != nil {
					test.with(t, w)
				}
				synctest.Wait()
				begin := time.Now()
				_, e := w.mint(t, test.from, test.req)
				if e == nil {
					t.Fatal("a token was minted")
				}
				if e.Status() != test.status || e.RetryAfter != test.retry || !strings.HasPrefix(e.Text, test.text) || !strings.Contains(e.Text, test.also) {
					t.Errorf("a Pod is told %d, to ask again after %v, and:\n%s\nwant %d, %v, and:\n%s… %s …", e.Status(), e.RetryAfter, e.Text, test.status, test.retry, test.text, test.also)
				}
				if took := time.Since(begin); took > 11*time.Second {
					t.Errorf("it is told after %v", took)
				}
				if strings.Contains(e.Text+e.Error(), "eyJ") {
					t.Errorf("a token is in the error: %v\n%s", e, e.Text)
				}
				w.mint(t, test.from, test.req)
				synctest.Wait()
				if got := strings.Join(w.api.warned, ","); got != test.event {
					t.Errorf("the Events are %q, want %q once", got, test.event)
				}
			})
		})
	}
}

// TestSubject: a subject that is too long for Google is found before it is
// asked (section 1.4).
func TestSubject(t *testing.T) {
	for size, good := range map[int]bool{maxSubject: true, maxSubject + 1: false} {
		bubble(t, nil, func(t *testing.T, w *world) {
			name := strings.Repeat("x", size-len(subject("ns", "")))
			w.learn(ksa(name))
			w.know(pod("p", name, direct1))
			time.Sleep(time.Second)
			before := w.google.count()
			_, err := w.mint(t, direct1, token.Request{})
			if good && err != nil || !good && (err == nil || err.Status() != 403 || !strings.Contains(err.Text, "128 bytes") || w.google.count() != before) {
				t.Errorf("a subject of %d bytes: %v", size, err)
			}
		})
	}
}

// TestLimits: one account that wants ever different tokens is refused, and
// others are served.
func TestLimits(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.four()
		throttled := 0
		for i := range 5000 {
			_, err := w.mint(t, robot1, token.Request{Audience: fmt.Sprint("https://", i, ".example")})
			if err != nil {
				if err.Status() != http.StatusTooManyRequests || err.RetryAfter <= 0 || err.Text == "" {
					t.Fatalf("too many tokens: %v, want 429 with Retry-After", err)
				}
				throttled++
			}
		}
		if served := 5000 - throttled; served < accountBurst || served > 2*accountBurst {
			t.Errorf("%d of 5000 different tokens were minted, want about %d", served, accountBurst)
		}
		begin := time.Now()
		w.good(t, direct1, token.Request{Scopes: []string{readOnly}})
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("another account waited %v", took)
		}
	})
}

// TestMaxTokenAge: no token is handed out for longer than that.
func TestMaxTokenAge(t *testing.T) {
	bubble(t, func(c *Config) { c.MaxTokenAge = 10 * time.Minute }, func(t *testing.T, w *world) {
		w.four()
		for _, ip := range []string{direct1, robot1} {
			first := w.good(t, ip, token.Request{Scopes: []string{readOnly}})
			if life := time.Until(first.Expiry); life != 10*time.Minute {
				t.Errorf("the token lives for %v", life)
			}
			time.Sleep(10 * time.Minute)
			if w.good(t, ip, token.Request{Scopes: []string{readOnly}}).Value == first.Value {
				t.Error("the token is handed out after its time")
			}
		}
	})
}

// TestDeletedPodsLeaveOthers: the token of an account is renewed in the name
// of a Pod that is still there.
func TestDeletedPodsLeaveOthers(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.four()
		w.good(t, robot1, token.Request{})
		w.gone(pod("robot1", "robot", robot1))
		w.api.set(func(f *fakeAPI) { f.created = nil })
		for range 60 {
			w.good(t, robot2, token.Request{})
			time.Sleep(time.Minute)
		}
		for _, c := range w.api.created {
			if strings.HasPrefix(c, "robot1 ") {
				t.Errorf("a token was asked for in the name of a Pod that is gone: %s", c)
			}
		}
	})
}

// TestGoneUnseen: a Pod of which Kubernetes says that it is gone gets nothing,
// whatever the watch still says, and nor does who has its address now. Those of
// its service account go on.
func TestGoneUnseen(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.four()
		w.api.set(func(f *fakeAPI) { f.gone = "robot1" })
		if _, err := w.mint(t, robot1, token.Request{Scopes: []string{"https://www.googleapis.com/auth/logging.write"}}); err == nil || err.Status() != 403 || !strings.Contains(err.Text, "has been deleted") {
			t.Errorf("a Pod that is gone: %v, want 403", err)
		}
		w.good(t, robot2, token.Request{})
		if _, err := w.mint(t, robot2, token.Request{Scopes: []string{readOnly}}); err != nil {
			t.Errorf("another of its service account: %v", err)
		}
		c := w.caller(robot1)
		go func() {
			time.Sleep(time.Second)
			w.gone(pod("robot1", "robot", robot1))
			w.change(pod("next", "default", robot1))
		}()
		if got, took := w.who(t, c); got != "next" || took != time.Second {
			t.Errorf("who has its address is %s after %v, want next as soon as that is known", got, took)
		}
	})
	bubble(t, nil, func(t *testing.T, w *world) {
		w.four()
		w.api.set(func(f *fakeAPI) { f.gone = "direct1" })
		w.gone(pod("direct2", "default", direct2))
		if _, err := w.mint(t, direct1, token.Request{Scopes: []string{readOnly}}); err == nil || err.Status() != 403 {
			t.Errorf("the last Pod of a service account: %v, want 403", err)
		}
		if got, _ := w.who(t, w.caller(direct1)); got != "503 reuse" {
			t.Errorf("who has its address is %s, want 503", got)
		}
		w.change(pod("next", "default", "10.1.0.99"))
		time.Sleep(time.Second)
		w.good(t, "10.1.0.99", token.Request{})
	})
}

// TestReady: not before a token can be made, and then for good.
func TestReady(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		if w.Ready() == nil {
			t.Error("ready before anything is known")
		}
		w.google.set(func(g *fakeGoogle) { g.down = true })
		w.four()
		if err := w.Ready(); err == nil || !strings.Contains(err.Error(), "no token of ns/") {
			t.Errorf("while Google is away: %v, want whose token cannot be made", err)
		}
		w.google.set(func(g *fakeGoogle) { g.down = false })
		time.Sleep(time.Minute)
		if err := w.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
	})
	t.Run("refused by the attribute condition", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, w *world) {
			w.google.set(func(g *fakeGoogle) { g.status, g.body = 403, `{"error":"unauthorized_client"}` })
			w.four()
			if err := w.Ready(); err != nil {
				t.Errorf("not ready, though the exchange only refuses this account: %v", err)
			}
		})
	})
}

// TestStartTaint: the node is rid of its taint when Pods can be served, not
// before.
func TestStartTaint(t *testing.T) {
	const want = "node-1 without gcemds.dev/starting"
	bubble(t, func(c *Config) { c.StartTaint = "gcemds.dev/starting" }, func(t *testing.T, w *world) {
		w.google.set(func(g *fakeGoogle) { g.down = true })
		w.four()
		synctest.Wait()
		if w.api.did(want) {
			t.Error("the taint is gone before a token can be made")
		}
		w.google.set(func(g *fakeGoogle) { g.down = false })
		time.Sleep(time.Minute)
		if !w.api.did(want) {
			t.Errorf("the node is ready and keeps its taint")
		}
	})
}

// TestResolveWarm: a Pod that is known is found without a lock or memory.
func TestResolveWarm(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.four()
		c := w.caller(robot1)
		first, err := w.Resolve(t.Context(), c, askToken)
		if err != nil {
			t.Fatal(err)
		}
		source := first.Accounts[0].Source
		source.Mint(t.Context(), token.Request{Scopes: scopes})
		for name, do := range map[string]func(){
			"Resolve of an identity":              func() { w.Resolve(t.Context(), c, askToken) },
			"Resolve of what is the same for all": func() { w.Resolve(t.Context(), c, fleet.Ask{Key: "project/project-id"}) },
			"Mint of a token that is kept":        func() { source.Mint(t.Context(), token.Request{Scopes: scopes}) },
		} {
			if n := testing.AllocsPerRun(100, do); n > 0 {
				t.Errorf("%s makes %v allocations, want none", name, n)
			}
		}
	})
}

func BenchmarkResolve(b *testing.B) {
	w := newWorld(b, nil)
	w.api.node <- Change[Node]{All: true, Items: []Node{testNode}}
	w.learn(ksa("default"))
	var all []Pod
	for i := range 250 {
		all = append(all, pod(fmt.Sprint("p", i), "default", fmt.Sprintf("10.1.%d.%d", i/200, i%200+1)))
	}
	w.api.pods <- Change[Pod]{All: true, Items: all}
	for w.Cluster.pods.Load().tenants == nil || w.node.Load().UID == "" {
		time.Sleep(time.Millisecond)
	}
	b.Run("warm", func(b *testing.B) {
		c := w.caller("10.1.1.7")
		b.ReportAllocs()
		for b.Loop() {
			if _, err := w.Resolve(b.Context(), c, askToken); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("accept", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.caller("10.1.1.7")
		}
	})
	b.Run("change", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.applyPods(Change[Pod]{Items: all[7:8]})
		}
	})
}
