package gcemds_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/gcemds/gcemds"
)

// read is what a workload does.
func read(s *gcemds.Server, path string) string {
	req, err := http.NewRequest(http.MethodGet, "http://"+s.Addr()+"/computeMetadata/v1/"+path, nil)
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

// serve starts a server; the examples are about its options.
func serve(o gcemds.Options) *gcemds.Server {
	s, err := gcemds.New(o)
	if err == nil {
		err = s.Start("127.0.0.1:0")
	}
	if err != nil {
		panic(err)
	}
	return s
}

func Example() {
	s, err := gcemds.New(gcemds.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := s.Start("127.0.0.1:0"); err != nil {
		fmt.Println(err)
		return
	}
	defer s.Shutdown(context.Background())

	// Programs find it with GCE_METADATA_HOST set to s.Addr().
	fmt.Println(read(s, "instance/name"))
	// Output: demo-instance
}

func ExampleServer() {
	s := serve(gcemds.Options{})
	defer s.Shutdown(context.Background())

	s.Set("instance/attributes/env", "dev")
	fmt.Println(read(s, "instance/attributes/env"))
	s.Set("instance/tags", []string{"web", "test"})
	fmt.Println(read(s, "instance/tags"))
	s.Delete("instance/attributes")
	s.Set("instance/attributes/only", "this")
	fmt.Print(read(s, "instance/attributes/"))
	// Output:
	// dev
	// ["web","test"]
	// only
}

// Verifiers of our own find the keys of the offline issuer where Google has
// its own.
func ExampleServer_Keys() {
	s := serve(gcemds.Options{})
	defer s.Shutdown(context.Background())
	keys := httptest.NewServer(s.Keys())
	defer keys.Close()

	resp, err := http.Get(keys.URL + "/oauth2/v3/certs")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode, strings.Contains(string(body), `"alg": "RS256"`))
	// Output: 200 true
}

func ExampleEnviron() {
	s, err := gcemds.New(gcemds.Options{})
	if err == nil {
		err = s.Start("127.0.0.1:0")
	}
	if err != nil {
		panic(err)
	}
	defer s.Shutdown(context.Background())
	empty, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(empty)

	cmd := exec.Command("gcloud", "storage", "ls") // a program that shall have the identity of s
	set := gcemds.Environ(s.Addr(), empty)
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if _, ours := set[name]; !ours {
			cmd.Env = append(cmd.Env, v)
		}
	}
	for name, value := range set {
		if value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	fmt.Println(slices.Contains(cmd.Env, "GCE_METADATA_ROOT="+s.Addr()))
	// Output: true
}

func ExampleOptions() {
	s := serve(gcemds.Options{
		Document: []byte(`{
			"instance": {"name": "vm-1", "zone": "projects/1/zones/europe-west1-b"},
			"project": {"projectId": "my-project"}
		}`),
		Set: map[string]any{"instance/attributes/env": "dev"},
	})
	defer s.Shutdown(context.Background())

	fmt.Println(read(s, "instance/?recursive=true"))
	fmt.Println(read(s, "project/project-id"))
	// Output:
	// {"attributes":{"env":"dev"},"name":"vm-1","serviceAccounts":{},"zone":"projects/1/zones/europe-west1-b"}
	// my-project
}

func ExampleAccount() {
	s := serve(gcemds.Options{Accounts: []gcemds.Account{{
		Email:   "robot@my-project.iam.gserviceaccount.com",
		Aliases: []string{"default"},
		Scopes:  []string{"https://www.googleapis.com/auth/cloud-platform"},
	}}})
	defer s.Shutdown(context.Background())

	fmt.Print(read(s, "instance/service-accounts/"))
	fmt.Print(read(s, "instance/service-accounts/default/scopes"))
	// Output:
	// default/
	// robot@my-project.iam.gserviceaccount.com/
	// https://www.googleapis.com/auth/cloud-platform
}

// A vault is where a program of ours has its tokens.
type vault struct{}

func (vault) Mint(_ context.Context, r gcemds.Request) (gcemds.Token, error) {
	if r.Audience != "" {
		return gcemds.Token{}, &gcemds.Error{Kind: gcemds.Unsupported, Err: errors.New("the vault has no ID tokens")}
	}
	return gcemds.Token{Value: "from-the-vault", Expiry: time.Now().Add(time.Hour)}, nil
}

func ExampleSource() {
	s := serve(gcemds.Options{Accounts: []gcemds.Account{{
		Email:   "robot@my-project.iam.gserviceaccount.com",
		Aliases: []string{"default"},
		Source:  vault{},
	}}})
	defer s.Shutdown(context.Background())

	answer := read(s, "instance/service-accounts/default/token?alt=text")
	fmt.Println(strings.SplitAfter(answer, "\n")[0])
	// Output: access_token from-the-vault
}

func ExampleRequest() {
	ask := func(r gcemds.Request) string {
		if r.Audience != "" {
			return "an ID token for " + r.Audience
		}
		return "an access token for " + strings.Join(r.Scopes, " and ")
	}
	fmt.Println(ask(gcemds.Request{Scopes: []string{"https://www.googleapis.com/auth/pubsub"}}))
	fmt.Println(ask(gcemds.Request{Audience: "https://example.com"}))
	// Output:
	// an access token for https://www.googleapis.com/auth/pubsub
	// an ID token for https://example.com
}

// Printing a token does not show it.
func ExampleToken() {
	t := gcemds.Token{Value: "secret", Expiry: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	fmt.Println(t)
	// Output: [token 2bb80d53, expires 2030-01-01T00:00:00Z]
}

// The workload is told the class of what went wrong, the log the cause.
func ExampleError() {
	err := &gcemds.Error{Kind: gcemds.Denied, Err: errors.New("the key was revoked")}
	fmt.Println(err)
	fmt.Println(err.Status(), err.Code())
	// Output:
	// denied: the key was revoked
	// 403 access_denied
}

func ExampleLimits() {
	s := serve(gcemds.Options{Limits: gcemds.Limits{GuestAttributes: 64}})
	defer s.Shutdown(context.Background())

	url := "http://" + s.Addr() + "/computeMetadata/v1/instance/guest-attributes/disk/state"
	for _, value := range []string{"ok", strings.Repeat("long", 20)} {
		req, err := http.NewRequest(http.MethodPut, url, strings.NewReader(value))
		if err != nil {
			fmt.Println(err)
			return
		}
		req.Header.Set("Metadata-Flavor", "Google")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		fmt.Println(resp.Status)
	}
	// Output:
	// 200 OK
	// 400 Bad Request
}
