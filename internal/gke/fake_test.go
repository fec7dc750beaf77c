package gke

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/token"
)

// A fakeAPI is a Kubernetes of which the test says what its watches see. It
// signs tokens for the Pods and accounts that were last seen.
type fakeAPI struct {
	pods     chan Change[Pod]
	node     chan Change[Node]
	mu       sync.Mutex
	accounts map[key]chan Change[ServiceAccount]
	refuse   error         // of CreateToken
	gone     string        // the Pod that is not there any more for CreateToken
	took     time.Duration // by it
	created  []string      // what was asked of it: POD KSA AUDIENCE LIFE
	warned   []string
}

func newFakeAPI() *fakeAPI {
	return &fakeAPI{pods: make(chan Change[Pod], 100), node: make(chan Change[Node], 100), accounts: map[key]chan Change[ServiceAccount]{}}
}

func see[T any](ctx context.Context, from <-chan Change[T]) iter.Seq2[Change[T], error] {
	return func(yield func(Change[T], error) bool) {
		for {
			select {
			case c := <-from:
				if !yield(c, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

func (f *fakeAPI) account(namespace, name string) chan Change[ServiceAccount] {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := key{namespace, name}
	if f.accounts[k] == nil {
		f.accounts[k] = make(chan Change[ServiceAccount], 100)
	}
	return f.accounts[k]
}

func (f *fakeAPI) set(change func(*fakeAPI)) { f.mu.Lock(); defer f.mu.Unlock(); change(f) }

func (f *fakeAPI) Pods(ctx context.Context, _ string) iter.Seq2[Change[Pod], error] {
	return see(ctx, f.pods)
}
func (f *fakeAPI) Node(ctx context.Context, _ string) iter.Seq2[Change[Node], error] {
	return see(ctx, f.node)
}
func (f *fakeAPI) ServiceAccount(ctx context.Context, namespace, name string) iter.Seq2[Change[ServiceAccount], error] {
	return see(ctx, f.account(namespace, name))
}
func (f *fakeAPI) ClusterUID(context.Context) (string, error) { return "cluster-1", nil }

// did reports whether that was asked for.
func (f *fakeAPI) did(what string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.warned, what)
}

func (f *fakeAPI) Untaint(_ context.Context, node, key string) error {
	f.set(func(f *fakeAPI) { f.warned = append(f.warned, node+" without "+key) })
	return nil
}
func (f *fakeAPI) Warn(_ context.Context, p Pod, reason, _ string) error {
	f.set(func(f *fakeAPI) { f.warned = append(f.warned, p.Name+" "+reason) })
	return nil
}

func (f *fakeAPI) CreateToken(ctx context.Context, sa ServiceAccount, p Pod, audience string, life time.Duration) (string, error) {
	f.mu.Lock()
	f.created = append(f.created, p.Name+" "+sa.String()+" "+audience+" "+life.String())
	err, took := f.refuse, f.took
	if p.Name == f.gone {
		err = fmt.Errorf("%w: %w", ErrPodGone, &APIError{Status: http.StatusNotFound, Err: errors.New("not found")})
	}
	f.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if err != nil {
		return "", err
	}
	return signed(sa, p, audience, life), nil
}

// signed is a token as Kubernetes makes them.
func signed(sa ServiceAccount, p Pod, audience any, life time.Duration) string {
	now := time.Now()
	jwt, err := issuer.SignJWT(clusterKey(), "k1", map[string]any{
		"iss": "https://cluster.test", "sub": subject(sa.Namespace, sa.Name), "aud": audience, "iat": now.Unix(), "exp": now.Add(life).Unix(),
		"kubernetes.io": map[string]any{"pod": map[string]any{"uid": p.UID}, "serviceaccount": map[string]any{"uid": sa.UID}},
	})
	if err != nil {
		panic(err)
	}
	return jwt
}

var clusterKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

const (
	testProvider = "projects/123456789/locations/global/workloadIdentityPools/pool-1/providers/cluster-1"
	testGSA      = "robot@my-project.iam.gserviceaccount.com"
)

// A fakeGoogle is the issuer's, in this process: it can be down, and knows what
// it was asked.
type fakeGoogle struct {
	*issuer.Issuer
	mu     sync.Mutex
	down   bool
	status int           // instead of an answer
	body   string        // of that
	took   time.Duration // by an answer
	asked  []string      // paths
	header []http.Header
}

func (g *fakeGoogle) set(change func(*fakeGoogle)) { g.mu.Lock(); defer g.mu.Unlock(); change(g) }

func (g *fakeGoogle) count() int { g.mu.Lock(); defer g.mu.Unlock(); return len(g.asked) }

func (g *fakeGoogle) RoundTrip(r *http.Request) (*http.Response, error) {
	g.mu.Lock()
	g.asked = append(g.asked, r.URL.Path)
	g.header = append(g.header, r.Header)
	down, status, body, took := g.down, g.status, g.body, g.took
	g.mu.Unlock()
	select {
	case <-time.After(took):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if down {
		return nil, errors.New("connection refused")
	}
	w := httptest.NewRecorder()
	if status != 0 {
		if status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "7")
		}
		w.WriteHeader(status)
		w.WriteString(body)
	} else {
		g.Handler().ServeHTTP(w, r)
	}
	return w.Result(), nil
}

// A world is a cluster that runs, with what is around it.
type world struct {
	*Cluster
	api    *fakeAPI
	google *fakeGoogle
}

var providerKeys = sync.OnceValue(func() []*rsa.PrivateKey { return []*rsa.PrivateKey{clusterKey()} })

// newWorld starts a cluster that ends with the test.
func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	audience := iamPrefix + testProvider
	i, err := issuer.New(issuer.Options{Keys: providerKeys(), Directory: &issuer.Directory{
		Accounts: []issuer.Account{{Email: testGSA, Grants: map[string][]string{
			"roles/iam.workloadIdentityUser": {"principal:" + iamPrefix + "projects/123456789/locations/global/workloadIdentityPools/pool-1/subject/system:serviceaccount:ns:robot"},
		}}},
		Providers: []issuer.Provider{{Audience: audience, Issuer: "https://cluster.test", Keys: []issuer.PublicKey{{ID: "k1", Key: &clusterKey().PublicKey}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{api: newFakeAPI(), google: &fakeGoogle{Issuer: i}}
	config := Config{Node: "node-1", ProjectID: "my-project", Provider: Provider{WorkloadIdentity: testProvider}, Events: true}
	config.Cluster.Name, config.Cluster.Location = "cluster-1", "europe-west1"
	if change != nil {
		change(&config)
	}
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	tokens := token.NewCache(token.Limits{})
	w.Cluster, err = New(Options{Config: config, API: w.api, Tokens: tokens, Journal: journal.New(1000), Google: Google{Client: &exchange.Client{Transport: w.google}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); tokens.Close(); i.Close() })
	return w
}
