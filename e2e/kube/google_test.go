package kube

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	pool     = "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/e2e-pool"
	provider = pool + "/providers/cluster"                                                                                                 // of its own
	fleet    = "identitynamespace:" + poolAudience + ":https://gkehub.googleapis.com/projects/my-project/locations/global/memberships/e2e" // as a member
)

// A google is gcemds google beside the control plane. It believes the keys of
// the cluster, which it knows as a provider of its own and as a member of a
// fleet.
type google struct {
	url   string // for Pods, nodes and the world, or for this machine
	place place
	file  string // its configuration
	fixed string // the part of it that stays
	log   string
}

// principal is a ServiceAccount, NAMESPACE/NAME, as IAM policies name it.
func principal(account string) string {
	return "principal:" + pool + "/subject/system:serviceaccount:" + strings.Replace(account, "/", ":", 1)
}

// google starts one that ends with the test, in which each Google service
// account may be used by some ServiceAccounts (NAMESPACE/NAME).
func (c *cluster) google(t *testing.T, users map[string][]string) *google {
	t.Helper()
	dir := t.TempDir()
	keys := filepath.Join(dir, "jwks.json")
	if err := os.WriteFile(keys, []byte(c.kubectl(t, "get", "--raw=/openid/v1/jwks")), 0o600); err != nil {
		t.Fatal(err)
	}
	type object = map[string]any
	accounts := object{}
	for email, may := range users {
		var members []string
		for _, account := range may {
			members = append(members, principal(account), fmt.Sprintf("serviceAccount:%s[%s]", poolAudience, account))
		}
		accounts[email] = object{"grants": object{"roles/iam.workloadIdentityUser": members}}
	}
	cluster := object{"issuer": issuerURL, "keys": []string{keys}}
	fixed, err := json.Marshal(object{"accounts": accounts, "providers": object{provider: cluster, fleet: cluster}})
	if err != nil {
		t.Fatal(err)
	}
	g := &google{place: c.place, file: filepath.Join(dir, "google.yaml"), fixed: string(fixed)}
	g.write(t, "")

	host, _, _ := net.SplitHostPort(strings.TrimPrefix(c.server, "https://"))
	name := "google-" + filepath.Base(dir) + strings.ReplaceAll(t.Name(), "/", "-")
	p, err := c.start(c.place, name, gcemds, "google", "--listen="+host+":0", "--allow-remote", "--config="+g.file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	g.log = p.log
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.until(ctx, func(context.Context) error {
		m := regexp.MustCompile(`fake Google on (http://\S+);`).FindStringSubmatch(p.tail())
		if m == nil {
			return fmt.Errorf("it does not say where it is")
		}
		g.url = m[1]
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return g
}

// write writes the configuration: JSON, which is YAML too, and what else there
// is, such as faults.
func (g *google) write(t *testing.T, more string) {
	t.Helper()
	if more != "" {
		more = ", " + more
	}
	if err := os.WriteFile(g.file, []byte(strings.TrimSuffix(g.fixed, "}")+more+"}"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// set changes what else there is, in the form of YAML that JSON has, such as
// faults: [{path: /v1/token, status: 503}], and returns when it is in use.
func (g *google) set(t *testing.T, more string) {
	t.Helper()
	before := g.lines(t, "is in use")
	g.write(t, more)
	for deadline := time.Now().Add(20 * time.Second); g.lines(t, "is in use") == before; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(g.log)
			t.Fatalf("gcemds google does not take %q; it said at the end:\n%s", more, said[max(0, len(said)-1000):])
		}
	}
}

// lines counts the lines of its log that contain all these texts: requests that
// it has answered, for example, by path=/v1/token and who=PRINCIPAL.
func (g *google) lines(t *testing.T, texts ...string) int {
	t.Helper()
	log, err := os.Open(g.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	n := 0
lines:
	for s := bufio.NewScanner(log); s.Scan(); {
		for _, text := range texts {
			if !strings.Contains(s.Text(), text) {
				continue lines
			}
		}
		n++
	}
	return n
}

// post sends a form, or JSON if it begins with {, and returns the answer.
func (g *google) post(t *testing.T, path, body string, header ...string) map[string]any {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	args := []string{"--silent", "--show-error", "--data-binary", "@-", g.url + path}
	if strings.HasPrefix(body, "{") {
		header = append(header, "Content-Type: application/json")
	}
	for _, h := range header {
		args = append(args, "--header", h)
	}
	cmd := g.place(ctx, "curl", args...)
	cmd.Stdin = strings.NewReader(body)
	out, err := output(cmd)
	var answer map[string]any
	if err == nil {
		err = json.Unmarshal([]byte(out), &answer)
	}
	if err != nil {
		t.Fatalf("POST %s: %v", path, err)
	}
	return answer
}

// whose returns the owner of an access token: the e-mail of a Google service
// account, or a principal.
func (g *google) whose(t *testing.T, token string) string {
	t.Helper()
	if answer := g.post(t, "/v1/introspect", "token="+token); answer["active"] == true {
		return fmt.Sprint(answer["username"])
	}
	answer := g.post(t, "/tokeninfo", "access_token="+token)
	if answer["email"] == nil { // not with these scopes, but there is the unique id
		return fmt.Sprint(cmp.Or(answer["sub"], answer["error"]))
	}
	return fmt.Sprint(answer["email"])
}

// TestGoogle: a token of the cluster, as a Pod's metadata server has it, becomes
// what Google makes of it.
func TestGoogle(t *testing.T) {
	c := sharedCluster(t)
	namespace := c.namespace(t)
	uid := boundPod(t, c, namespace)
	c.kubectl(t, "--namespace="+namespace, "create", "serviceaccount", "other")
	const robot = "robot@my-project.iam.gserviceaccount.com"
	g := c.google(t, map[string][]string{robot: {namespace + "/app"}})

	exchange := func(account, jwtAudience, audience string) map[string]any {
		t.Helper()
		create := []string{"--namespace=" + namespace, "create", "token", account, "--audience=" + jwtAudience}
		if account == "app" {
			create = append(create, "--bound-object-kind=Pod", "--bound-object-name=app", "--bound-object-uid="+uid)
		}
		return g.post(t, "/v1/token", fmt.Sprintf(`{"grantType": "urn:ietf:params:oauth:grant-type:token-exchange", "scope": "https://www.googleapis.com/auth/cloud-platform",
			"requestedTokenType": "urn:ietf:params:oauth:token-type:access_token", "subjectTokenType": "urn:ietf:params:oauth:token-type:jwt",
			"audience": %q, "subjectToken": %q}`, audience, c.kubectl(t, create...)))
	}
	impersonate := func(token any) map[string]any {
		t.Helper()
		return g.post(t, "/v1/projects/-/serviceAccounts/"+robot+":generateAccessToken",
			`{"scope": ["https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/userinfo.email"]}`, fmt.Sprint("Authorization: Bearer ", token))
	}
	for _, account := range []string{"app", "other"} {
		federated := exchange(account, "https:"+provider, provider)
		if got, want := g.whose(t, fmt.Sprint(federated["access_token"])), principal(namespace+"/"+account); got != want {
			t.Errorf("the federated token of %s is of %s, want %s", account, got, want)
		}
		token, ok := impersonate(federated["access_token"])["accessToken"]
		if ok != (account == "app") {
			t.Errorf("%s may use %s: %v, want what the grant says", account, robot, ok)
		}
		if ok {
			if got := g.whose(t, fmt.Sprint(token)); got != robot {
				t.Errorf("the token of %s is of %s, want %s", account, got, robot)
			}
		}
		if n := g.lines(t, "path=/v1/token", "who="+principal(namespace+"/"+account)); n != 1 {
			t.Errorf("the log has %d exchanges of %s, want 1", n, account)
		}
	}
	if got, want := g.whose(t, fmt.Sprint(exchange("app", poolAudience, fleet)["access_token"])), fmt.Sprintf("serviceAccount:%s[%s/app]", poolAudience, namespace); got != want {
		t.Errorf("as a member of a fleet the token is of %s, want %s", got, want)
	}
	if got := exchange("app", "somebody-else", provider); got["error"] != "invalid_grant" {
		t.Errorf("a token for another audience: %v, want invalid_grant", got)
	}

	long := strings.Repeat("a", 120)
	c.kubectl(t, "--namespace="+namespace, "create", "serviceaccount", long)
	if got := exchange(long, "https:"+provider, provider); !strings.Contains(fmt.Sprint(got["error_description"]), "127 bytes") {
		t.Errorf("a subject of more than 127 bytes: %v, want that it is too long", got)
	}

	g.set(t, `faults: [{path: /v1/token, quota: 1, per: 1h, status: 429, header: {Retry-After: "30"}}]`)
	if got := exchange("app", "https:"+provider, provider); got["access_token"] == nil {
		t.Errorf("within the quota: %v, want a token", got)
	}
	if got := exchange("app", "https:"+provider, provider); got["error"] != "rate_limit_exceeded" {
		t.Errorf("beyond the quota: %v, want rate_limit_exceeded", got)
	}
}
