package gcemds_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gcemds/gcemds"
	"github.com/gcemds/gcemds/internal/issuer"
)

const (
	provider = "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/ci/providers/builds"
	builder  = "robot@my-project.iam.gserviceaccount.com"
)

// A ci is an identity provider of ours, and a Google that lets its build 7
// impersonate an account.
type ci struct {
	*httptest.Server // Google
	key              *rsa.PrivateKey
	exchanges        atomic.Int64
}

func newCI() *ci {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	google, err := issuer.New(issuer.Options{Directory: &issuer.Directory{
		Accounts: []issuer.Account{{Email: builder, Grants: map[string][]string{"roles/iam.workloadIdentityUser": {
			"principal://iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/ci/subject/build-7"}}}},
		Providers: []issuer.Provider{{Audience: provider, Issuer: "https://ci.example", Keys: []issuer.PublicKey{{ID: "ci", Key: &key.PublicKey}}}},
	}})
	if err != nil {
		panic(err)
	}
	c := &ci{key: key}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/token" {
			c.exchanges.Add(1)
		}
		google.Handler().ServeHTTP(w, r)
	}))
	return c
}

// token is what a build gets from its CI system.
func (c *ci) token(context.Context) (string, error) {
	now := time.Now().Unix()
	return issuer.SignJWT(c.key, "ci", map[string]any{"iss": "https://ci.example", "sub": "build-7", "aud": "https:" + provider, "iat": now, "exp": now + 300})
}

// A program that has a token of its own identity provider serves a service
// account of Google, without a key and without a file.
func ExampleFederation() {
	ours := newCI() // in place of Google, for this example; leave TokenURL and Address out
	defer ours.Close()

	build := &gcemds.Federation{Audience: provider, Subject: ours.token, TokenURL: ours.URL + "/v1/token"}
	robot := &gcemds.Impersonation{
		Target: "robot@my-project.iam.gserviceaccount.com", Via: build,
		Address: ours.URL + "/v1/projects/-/serviceAccounts/robot@my-project.iam.gserviceaccount.com",
	}
	s, err := gcemds.New(gcemds.Options{Accounts: []gcemds.Account{{
		Email:   robot.Target,
		Aliases: []string{"default"},
		Scopes:  []string{"https://www.googleapis.com/auth/cloud-platform"},
		Source:  robot,
	}}})
	if err == nil {
		err = s.Start("127.0.0.1:0")
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Shutdown(context.Background())

	fmt.Println(strings.HasPrefix(read(s, "instance/service-accounts/default/token"), `{"access_token":"ya29.`))
	fmt.Println(strings.Count(read(s, "instance/service-accounts/default/identity?audience=https://service.example"), "."))
	// Output:
	// true
	// 2
}

func ExampleImpersonation() {
	robot := &gcemds.Impersonation{
		Target: "robot@my-project.iam.gserviceaccount.com",
		Via:    vault{}, // has the tokens of somebody who may impersonate the robot
	}
	_, err := robot.Mint(context.Background(), gcemds.Request{})
	fmt.Println(err)
	// Output: invalid request: impersonate robot@my-project.iam.gserviceaccount.com: an access token needs at least one scope
}

// TestFederation: the token of the federated principal is kept for all that is
// made with it, and what is wrong reaches the workload as a class only.
func TestFederation(t *testing.T) {
	ours := newCI()
	defer ours.Close()
	build := &gcemds.Federation{Audience: provider, Subject: ours.token, TokenURL: ours.URL + "/v1/token"}
	robot := &gcemds.Impersonation{Target: builder, Via: build, Address: ours.URL + "/v1/projects/-/serviceAccounts/" + builder}
	scopes := []string{"https://www.googleapis.com/auth/cloud-platform"}
	none := &gcemds.Federation{Audience: provider, TokenURL: ours.URL + "/v1/token"}
	s := serve(gcemds.Options{Accounts: []gcemds.Account{
		{Email: builder, Aliases: []string{"default"}, Scopes: scopes, Source: robot},
		{Email: "principal@example.test", Scopes: scopes, Source: build},
		{Email: "nobody@example.test", Scopes: scopes, Source: none},
	}})
	defer s.Shutdown(t.Context())
	for _, audience := range []string{"a", "b", "c"} {
		if got := read(s, "instance/service-accounts/default/identity?audience=https://"+audience+".example"); strings.Count(got, ".") != 2 {
			t.Errorf("the identity for %s is %s, want a JWT", audience, got)
		}
	}
	if n := ours.exchanges.Load(); n != 1 {
		t.Errorf("three ID tokens took %d exchanges, want one", n)
	}
	var answer struct{ Error string }
	got := read(s, "instance/service-accounts/principal@example.test/identity?audience=https://a.example")
	if json.Unmarshal([]byte(got), &answer) != nil || answer.Error != "unsupported_token_type" {
		t.Errorf("an ID token of a principal is %s, want unsupported_token_type", got)
	}
	got = read(s, "instance/service-accounts/nobody@example.test/token")
	if json.Unmarshal([]byte(got), &answer) != nil || answer.Error != "server_error" {
		t.Errorf("the token of a Federation without a subject is %s, want server_error", got)
	}
}
