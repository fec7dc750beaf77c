package daemon_test

import (
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
)

// restart runs a daemon anew, with another configuration but where it was.
func (w *world) restart(yaml string) *world {
	w.t.Helper()
	address := w.Addr("main").String()
	if err := w.stop(); err != nil {
		w.t.Fatal(err)
	}
	again := prepare(w.t, yaml+"listen: {main: {tcp: '"+address+"'}}\n")
	again.run()
	return again
}

// becomes waits for a value.
func (w *world) becomes(path, want string) {
	w.t.Helper()
	var status int
	var got string
	if !poll(func() bool { status, got = w.get(path); return status == http.StatusOK && got == want }) {
		w.t.Fatalf("%s is %d %q, want %q before long", path, status, got, want)
	}
}

// TestFollow: an instance has the document of another metadata server, with
// what is changed here on top; who waits here sees what changes there.
func TestFollow(t *testing.T) {
	t.Parallel()
	up := start(t, "instances: {far: {set: {instance/attributes/env: far, instance/attributes/both: far}}}\n")
	w := start(t, "instances: {vm: {upstream: '"+up.Addr("main").String()+"', set: {instance/attributes/both: near}}}\n")
	w.becomes("instance/name", "far")
	if got := w.value("instance/attributes/both"); got != "near" {
		t.Errorf("a value that the configuration sets is %q, want that of the configuration", got)
	}
	for _, path := range []string{"?recursive=true", "instance/service-accounts/", "universe/?recursive=true", "instance/upcoming-maintenance"} {
		near, far := w.value(path), strings.ReplaceAll(up.value(path), `"both":"far"`, `"both":"near"`)
		if near != far {
			t.Errorf("%s is %s, want what the other server has: %s", path, near, far)
		}
	}

	issuer := up.Status().Issuer
	if status, body := fetch(t, w.http, issuer+"/tokeninfo?access_token="+w.token()); status != http.StatusOK {
		t.Errorf("the issuer there says of a token from here: %d %s; want one of its own", status, body)
	}
	identity := w.value("instance/service-accounts/default/identity?audience=https://a.example")
	if status, body := fetch(t, w.http, issuer+"/tokeninfo?id_token="+identity); status != http.StatusOK {
		t.Errorf("the issuer there says of an ID token from here: %d %s; want one of its own", status, body)
	}

	waiting := w.hang("instance/attributes/env")
	up.edit(t, "instance/attributes/env", `"changed"`)
	if a := <-waiting; a.status != http.StatusOK || a.body != "changed" {
		t.Errorf("who waits here for what changes there gets %d %q, want the new value", a.status, a.body)
	}
	w.edit(t, "instance/attributes/env", `"edited"`)
	up.edit(t, "instance/attributes/more", `"x"`)
	up.edit(t, "universe/universe-domain", `"example.test"`)
	up.edit(t, "instance/upcoming-maintenance", `{"type":"SCHEDULED"}`)
	w.becomes("instance/attributes/more", "x")
	w.becomes("universe/universe-domain", "example.test")
	w.becomes("instance/upcoming-maintenance", up.value("instance/upcoming-maintenance"))
	w.becomes("instance/attributes/env", "edited")

	up.edit(t, "instance/service-accounts/second@p.iam.gserviceaccount.com", `{"aliases":[],"email":"second@p.iam.gserviceaccount.com","scopes":["https://www.googleapis.com/auth/cloud-platform"]}`)
	if !poll(func() bool {
		status, body := w.get("instance/service-accounts/second@p.iam.gserviceaccount.com/token")
		return status == http.StatusOK && json.Valid([]byte(body))
	}) {
		t.Error("an account that was added there has no tokens here")
	}
	if s := w.Status().Instances[0]; s.Upstream != up.base("main") || s.Trouble != "" || len(s.Accounts) != 2 {
		t.Errorf("status shows %+v, want the other server, its accounts and no trouble", s)
	}
}

// TestFollowWithAccounts: accounts of the configuration replace those there.
func TestFollowWithAccounts(t *testing.T) {
	t.Parallel()
	up := start(t, "instances: {far: {}}\n")
	w := start(t, "instances: {vm: {upstream: '"+up.base("main")+"', accounts: {near@p.iam.gserviceaccount.com: {aliases: [default]}}}}\n")
	w.becomes("instance/service-accounts/default/email", "near@p.iam.gserviceaccount.com")
	if got, want := w.value("instance/service-accounts/"), "default/\nnear@p.iam.gserviceaccount.com/\n"; got != want {
		t.Errorf("the accounts are %q, want %q", got, want)
	}
	if status, body := fetch(t, w.http, w.Status().Issuer+"/tokeninfo?access_token="+w.token()); status != http.StatusOK {
		t.Errorf("our issuer says of a token of our account: %d %s", status, body)
	}
}

// TestFollowLate: until the other server has answered nobody is served, and
// afterwards it may come and go.
func TestFollowLate(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	yaml := "admin: {http: '127.0.0.1:0', socket: 'DIR/a.sock'}\ninstances: {vm: {upstream: '" + address + "'}}\n"
	w := start(t, yaml)
	for _, path := range []string{"instance/name", "?recursive=true", "instance/service-accounts/default/token", "instance/?recursive=true&wait_for_change=true"} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, w.base("main")+"/computeMetadata/v1/"+path, nil)
		req.Header.Set("Metadata-Flavor", "Google")
		resp, err := w.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "1" {
			t.Errorf("before there is a document, %s is answered %d with Retry-After %q, want 503 and 1", path, resp.StatusCode, resp.Header.Get("Retry-After"))
		}
	}
	ready := func() int { status, _ := fetch(t, w.http, w.base("admin http")+"/readyz"); return status }
	if got := ready(); got != http.StatusServiceUnavailable {
		t.Errorf("before there is a document, /readyz is %d, want 503", got)
	}
	if why := w.Status().Unready; !strings.Contains(why, "has no document yet") {
		t.Errorf("before there is a document, the status says %q of why it is not ready", why)
	}
	if s := w.Status().Instances[0]; s.Trouble == "" || len(s.Accounts) != 0 {
		t.Errorf("before there is a document, status shows %+v, want what is amiss", s)
	}

	up := prepare(t, "instances: {first: {}}\nlisten: {main: {tcp: '"+address+"'}}\n")
	up.run()
	w.becomes("instance/name", "first")
	if got := ready(); got != http.StatusOK {
		t.Errorf("with a document, /readyz is %d, want 200", got)
	}

	up.stop()
	if got := w.value("instance/name"); got != "first" {
		t.Errorf("while the other server is away the name is %q, want what it was last", got)
	}
	up = up.restart("instances: {second: {}}\n")
	w.becomes("instance/name", "second")

	w.write(yaml + "hosts: [a.example.test]\n")
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.value("instance/name"); got != "second" {
		t.Errorf("after a reload that leaves the server as it is, the name is %q, want what it was", got)
	}
	up.edit(t, "instance/attributes/x", `"1"`)
	w.becomes("instance/attributes/x", "1")

	waiting := w.hang("instance/attributes/x")
	other := start(t, "instances: {third: {set: {instance/attributes/x: third}}}\n")
	w.write(strings.ReplaceAll(yaml, address, other.Addr("main").String()))
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := <-waiting; a.body != "third" {
		t.Errorf("who waits while the server becomes another one gets %d %q, want the value there", a.status, a.body)
	}
	w.write("admin: {http: '127.0.0.1:0', socket: 'DIR/a.sock'}\ninstances: {vm: {}}\n")
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.value("instance/name"); got != "vm" {
		t.Errorf("after a reload without upstream the name is %q, want that of the configuration", got)
	}
}

// TestFollowHeaders: the other server sees whom it serves, not for whom.
func TestFollowHeaders(t *testing.T) {
	t.Parallel()
	seen := make(chan http.Header, 16)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stranger := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case seen <- r.Header:
		default:
		}
		http.Error(w, "who are you", http.StatusForbidden)
	})}
	go stranger.Serve(l)
	t.Cleanup(func() { stranger.Close() })
	w := start(t, "instances: {vm: {upstream: '"+l.Addr().String()+"'}}\n")
	h := <-seen
	if h.Get("Metadata-Flavor") != "Google" || h.Get("Gcemds-Server") == "" {
		t.Errorf("a request for the document has the headers %v, want the flavor and our mark", h)
	}
	for name := range h {
		if strings.Contains(name, "Forwarded") || name == "X-Real-Ip" || name == "Via" {
			t.Errorf("a request for the document has the header %s", name)
		}
	}
	if !poll(func() bool { return strings.Contains(w.Status().Instances[0].Trouble, "Metadata-Flavor") }) {
		t.Errorf("of a server that is none, status says %q", w.Status().Instances[0].Trouble)
	}
}
