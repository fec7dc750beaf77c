package daemon_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gcemds/gcemds/internal/admin"
	"github.com/gcemds/gcemds/internal/daemon"
	"github.com/gcemds/gcemds/internal/token"
)

// An upstream is a token endpoint. It remembers what nobody may see in a log.
type upstream struct {
	*httptest.Server
	mu      sync.Mutex
	secrets []string
	fail    bool
}

func newUpstream(t *testing.T) *upstream {
	u := &upstream{}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := len(u.secrets)
	secret := fmt.Sprintf("upstream-secret-%d", n)
	u.secrets = append(u.secrets, r.FormValue("assertion"), secret)
	w.Header().Set("Content-Type", "application/json")
	if u.fail {
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
		return
	}
	json.NewEncoder(w).Encode(map[string]any{"access_token": secret, "expires_in": 3599, "token_type": "Bearer"})
}

const keyed = "sources: {k: {key_file: {file: sa.json, token_uri: UPSTREAM}}}\ninstances: {vm-1: {accounts: {default: {source: k}}}}\n"

// TestKeyFile: tokens come from the endpoint, are kept, and are made anew when
// the key changes.
func TestKeyFile(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	w := prepare(t, strings.ReplaceAll(keyed, "UPSTREAM", u.URL))
	w.file("sa.json", testKey())
	w.run()
	first := w.token()
	if first != "upstream-secret-0" {
		t.Errorf("the token is %q, want that of the endpoint", first)
	}
	for path, want := range map[string]string{
		"instance/service-accounts/default/email": "robot@key-project.iam.gserviceaccount.com",
		"project/project-id":                      "key-project",
		"instance/name":                           "vm-1",
		"instance/hostname":                       "vm-1.us-central1-a.c.key-project.internal",
	} {
		if got := w.value(path); got != want {
			t.Errorf("%s is %q, want %q: the built-in machine has the account and the project of the key, and the name of the instance", path, got, want)
		}
	}

	w.write(strings.ReplaceAll(keyed, "UPSTREAM", u.URL) + "hosts: [x.example.test]\n")
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.token(); got != first {
		t.Errorf("after a reload that leaves the key alone the token is %q, want %q", got, first)
	}
	w.file("sa.json", otherKey())
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.token(); got == first {
		t.Error("after the key was replaced, the token of the old one is still served")
	}
	w.file("sa.json", "{}")
	if err := w.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), `instance "vm-1": account "default": source "k": key_file: `) {
		t.Errorf("a key that is none: %v", err)
	}
	if got := w.token(); got == first {
		t.Error("a reload that failed brought the first token back")
	}
}

// TestNoSecretsInLog: not a token, not an assertion, not a key is in the log,
// not even at debug; and there is one line a request.
func TestNoSecretsInLog(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	w := prepare(t, "")
	w.write(strings.ReplaceAll(`sources: {k: {key_file: {file: sa.json, token_uri: UPSTREAM}}}
instances:
  vm-1:
    accounts:
      default: {source: k}
      offline@p.iam.gserviceaccount.com: {}
`, "UPSTREAM", u.URL))
	w.file("sa.json", testKey())
	w.run()

	requests := 0
	ask := func(path string) string {
		requests++
		_, body := w.get(path)
		return body
	}
	var secrets []string
	for _, path := range []string{
		"instance/service-accounts/default/token",
		"instance/service-accounts/default/token?scopes=https://www.googleapis.com/auth/devstorage.read_only&enforce_scopes=true",
		"instance/service-accounts/offline@p.iam.gserviceaccount.com/token",
		"instance/service-accounts/offline@p.iam.gserviceaccount.com/token?alt=text",
	} {
		body := ask(path)
		fields := strings.FieldsFunc(body, func(r rune) bool { return strings.ContainsRune("\"{},: \n", r) })
		if len(fields) < 2 || fields[0] != "access_token" {
			t.Fatalf("GET %s = %s", path, body)
		}
		secrets = append(secrets, fields[1])
	}
	secrets = append(secrets, ask("instance/service-accounts/offline@p.iam.gserviceaccount.com/identity?audience=secret-audience&format=full"))
	ask("instance/service-accounts/default/token/") // and what is refused
	ask("nonsense?x=secret-query")
	u.mu.Lock()
	u.fail = true
	u.mu.Unlock()
	ask("instance/service-accounts/default/token?scopes=https://www.googleapis.com/auth/pubsub&enforce_scopes=true")
	u.mu.Lock()
	secrets = append(secrets, u.secrets...)
	u.mu.Unlock()
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}

	log := w.log.String()
	for _, secret := range append(secrets, "secret-audience", "secret-query", "PRIVATE KEY") {
		if len(secret) < 8 {
			t.Fatalf("%q is no secret", secret)
		}
		for _, part := range append(strings.Split(secret, "."), secret) {
			if len(part) >= 8 && !strings.HasPrefix(secret, "ya29.c.offline."+part) && part != "offline" && strings.Contains(log, part) {
				t.Errorf("the log shows %.20q…", part)
			}
		}
	}
	lines := 0
	for line := range strings.Lines(log) {
		var entry struct {
			Msg, Level, Path, Method, Instance, Listener string
			Status                                       int
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("a line of the log is not JSON: %v\n%s", err, line)
		}
		if entry.Msg != "request" {
			continue
		}
		lines++
		if entry.Status == 0 || entry.Method != "GET" || entry.Listener != "main" || entry.Instance != "vm-1" || !strings.HasPrefix(entry.Path, "/computeMetadata/v1/") {
			t.Errorf("the line of a request lacks something: %s", line)
		}
		if want := map[bool]string{true: "WARN", false: "DEBUG"}[entry.Status >= 500 || entry.Status == 403]; entry.Level != want { // 403: upstream refuses
			t.Errorf("a request answered %d is logged at %s, want %s", entry.Status, entry.Level, want)
		}
	}
	if lines != requests {
		t.Errorf("%d requests are %d lines in the log", requests, lines)
	}
}

// TestOneSourceFails: while a source makes no tokens, its account hears that,
// and all else is served: other accounts of the same instance, other instances,
// documents, and who asks whether the server is ready.
func TestOneSourceFails(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	u.fail = true
	w := prepare(t, "")
	w.write(strings.ReplaceAll(`sources: {k: {key_file: {file: sa.json, token_uri: UPSTREAM}}}
instances:
  vm-1:
    accounts:
      default: {source: k}
      offline@p.iam.gserviceaccount.com: {}
  vm-2: {}
routes: [{host: vm-2.example, instance: vm-2}, {instance: vm-1}]
hosts: [vm-2.example]
`, "UPSTREAM", u.URL))
	w.file("sa.json", testKey())
	w.run()
	for range 2 { // before and after it is known that the source fails
		for path, want := range map[string]int{
			"instance/service-accounts/default/token":                                                      http.StatusForbidden,
			"instance/service-accounts/default/identity?audience=a":                                        http.StatusForbidden,
			"instance/service-accounts/robot@key-project.iam.gserviceaccount.com/email":                    http.StatusOK,
			"instance/service-accounts/default/?recursive=true":                                            http.StatusOK,
			"instance/service-accounts/offline@p.iam.gserviceaccount.com/token":                            http.StatusOK,
			"instance/service-accounts/offline@p.iam.gserviceaccount.com/identity?audience=https://a.test": http.StatusOK,
			"?recursive=true": http.StatusOK,
			"instance/name":   http.StatusOK,
		} {
			if status, body := w.get(path); status != want {
				t.Errorf("while a source fails GET %s = %d %s, want %d", path, status, body, want)
			}
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.base("main")+"/computeMetadata/v1/instance/service-accounts/default/token", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "vm-2.example"
		req.Header.Set("Metadata-Flavor", "Google")
		if status, body := do(t, w.http, req); status != http.StatusOK {
			t.Errorf("while a source of another instance fails a token is %d %s, want 200", status, body)
		}
		if s, err := (&admin.Client{Socket: w.socket}).Status(t.Context()); err != nil || s.Unready != "" {
			t.Errorf("while a source fails the server is not ready: %q, %v", s.Unready, err)
		}
	}
}

// TestQuietLog: without debug, requests that succeed are not logged.
func TestQuietLog(t *testing.T) {
	t.Parallel()
	w := prepare(t, "")
	c, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w.Daemon, err = daemon.New(t.Context(), daemon.Options{Config: c, Log: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	w.serveAndStop(func() { w.token(); w.value("instance/name"); w.get("nonsense") })
	if out.Len() > 0 {
		t.Errorf("the log of a quiet day has:\n%s", &out)
	}
}

// TestMetrics: what clients ask for does not make new series.
func TestMetrics(t *testing.T) {
	t.Parallel()
	w := start(t, "")
	series := func() (n int) {
		families, err := w.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			n += len(f.GetMetric())
		}
		return n
	}
	ask := func(method, path, host, flavor string) {
		req, err := http.NewRequestWithContext(t.Context(), method, w.base("main")+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		req.Header.Set("Metadata-Flavor", flavor)
		resp, err := w.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	w.token()
	methods := []string{"GET", "PUT", "DELETE", "POST", "BREW"}
	for i := range 1000 {
		path := fmt.Sprintf("/computeMetadata/v1/instance/guest-attributes/ns/key-%d", i)
		if i%3 == 0 {
			path = fmt.Sprintf("/path-%d/%d?x=%d", i, i, i)
		}
		ask(methods[i%len(methods)], path, fmt.Sprintf("host-%d.example.test", i%7), []string{"Google", "x"}[i%2])
		ask(methods[i%len(methods)], path, "", "Google")
	}
	if n := series(); n > 60 {
		t.Errorf("after 2000 different requests there are %d series; labels must come from small sets", n)
	}
	if got := w.metric("gcemds_requests_total", "class", "token", "status", "2xx"); got != 1 {
		t.Errorf("gcemds_requests_total of tokens is %v, want 1", got)
	}
	if got := w.metric("gcemds_guest_writes_total"); got < 100 {
		t.Errorf("gcemds_guest_writes_total is %v, want one a write", got)
	}
	if got := w.metric("gcemds_config_ok"); got != 1 {
		t.Errorf("gcemds_config_ok is %v, want 1", got)
	}
	w.hang("instance/name")
	if got := w.metric("gcemds_hanging_requests"); got != 1 {
		t.Errorf("gcemds_hanging_requests is %v, want 1", got)
	}
}

// TestCheckKeepsTheLogin: config check --mint does not use up the refresh token
// of the server that runs, where it could not write the new one down.
func TestCheckKeepsTheLogin(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	w := prepare(t, "")
	name := strings.Repeat("x", 250) // so long that no file can be made beside it
	w.file(name, `{"type": "external_account_authorized_user", "audience": "//iam.googleapis.com/locations/global/workforcePools/p/providers/q", `+
		`"client_id": "i", "client_secret": "s", "refresh_token": "r", "token_url": "`+u.URL+`"}`)
	w.write("sources: {me: {user: " + name + "}}\ninstances: {vm-1: {accounts: {default: {source: me, email: ann@example.com}}}}\n")
	c, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	minted, err := daemon.Check(t.Context(), c, slog.New(slog.DiscardHandler), true)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil || len(minted) != 1 || minted[0].Failure != token.Misconfigured.String() || !strings.Contains(minted[0].Error, "not tried") || len(u.secrets) != 0 {
		t.Errorf("config check --mint: %+v, %v, and %d calls, want a failure of the source and none", minted, err, len(u.secrets)/2)
	}
}
