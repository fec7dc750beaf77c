package server_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/server"
	"github.com/gcemds/gcemds/internal/tree"
)

const (
	v1       = "/computeMetadata/v1/"
	event    = "instance/maintenance-event"
	account  = "123456789012-compute@developer.gserviceaccount.com"
	accounts = "instance/service-accounts/"
)

// serverOf serves one instance to everybody.
func serverOf(i *fleet.Instance, j *journal.Journal, l server.Limits) *server.Server {
	var router fleet.Router
	router.Set(fleet.Route{Instance: i})
	return server.New(&router, j, l)
}

// plain is the built-in machine after these edits, with no source of tokens.
func plain(t testing.TB, edits ...tree.Edit) *fleet.Instance {
	t.Helper()
	doc, err := fleet.Builtin().With(edits...)
	if err != nil {
		t.Fatal(err)
	}
	return &fleet.Instance{Name: "demo-instance", Metadata: tree.NewStore(doc), Created: fleet.BuiltinCreated}
}

// request has the flavor header; a path without a slash at its start is below v1.
func request(method, path, body string) *http.Request {
	if !strings.HasPrefix(path, "/") {
		path = v1 + path
	}
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "metadata.google.internal"
	r.Header.Set("Metadata-Flavor", "Google")
	return r
}

func do(s *server.Server, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func get(s *server.Server, path string) *httptest.ResponseRecorder {
	return do(s, request("GET", path, ""))
}

// etag returns the ETag as it is spelt on the wire, "" where there is none.
func etag(w *httptest.ResponseRecorder) string {
	for name, values := range w.Header() {
		if name == "ETag" {
			return values[0]
		}
	}
	return ""
}

// want checks an answer's status and that its body has the text.
func want(t *testing.T, what string, w *httptest.ResponseRecorder, status int, text string) {
	t.Helper()
	if w.Code != status || !strings.Contains(w.Body.String(), text) {
		t.Errorf("%s = %d %q, want %d and %q", what, w.Code, w.Body, status, text)
	}
	if got := w.Header()["Metadata-Flavor"]; len(got) != 1 || got[0] != "Google" {
		t.Errorf("%s: Metadata-Flavor %q; every answer says Google", what, got)
	}
}

// A page in a browser that was lured to a name of an attacker sends that name.
func TestHosts(t *testing.T) {
	t.Parallel()
	s := serverOf(plain(t), nil, server.Limits{})
	s.SetHosts("Metadata.Example.Test.", "with-port.example.net:8080", "*.corp.example")
	for host, allowed := range map[string]bool{
		"":                               true, // HTTP/1.0
		"metadata.google.internal":       true,
		"metadata.google.internal.":      true,
		"metadata.google.internal:80":    true,
		"metadata.google.internal.:80":   true,
		"METADATA.GOOGLE.INTERNAL":       true,
		"metadata.goog":                  true,
		"metadata.goog:8080":             true,
		"metadata":                       true,
		"metadata:80":                    true,
		"metadata.":                      true,
		"host.docker.internal:8080":      true,
		"localhost":                      true,
		"localhost:8080":                 true,
		"localhost.":                     true,
		"vm-1.localhost":                 true,
		"a.b.localhost:8080":             true,
		"169.254.169.254":                true,
		"169.254.169.254:80":             true,
		"127.0.0.1:65535":                true,
		"127.0.0.1.":                     true,
		"[fd20:ce::254]":                 true,
		"[fd20:ce::254]:80":              true,
		"[::1]:8080":                     true,
		"[::ffff:169.254.169.254]":       true,
		"[::ffff:169.254.169.254]:80":    true,
		"[fe80::1.2.3.4%25eth0]:80":      true,
		"gcemds-7d4b9":                   true,
		"metadata.example.test":          true,
		"metadata.example.test:1":        true,
		"with-port.example.net":          true,
		"a.corp.example":                 true,
		"a.b.CORP.example.:80":           true,
		"evil.example.com":               false,
		"evil.example.com:80":            false,
		"127.0.0.1.evil.example.com":     false,
		"169.254.169.254.example.com":    false,
		"metadata.google.internal.evil":  false,
		"xmetadata.google.internal":      false,
		"x.metadata.google.internal":     false,
		"metadata-google.internal":       false,
		"google.internal":                false,
		"metadata.goog.example":          false,
		"1.2.3.4.5.example":              false,
		"1.2.3":                          false,
		"0x7f.0.0.1":                     false,
		"127.0.0.1:80:80":                false,
		"localhost.example.com":          false,
		"evil-localhost.com":             false,
		"corp.example":                   false,
		"evilcorp.example":               false,
		"a.corp.example.evil":            false,
		"example.test":                   false,
		"x.metadata.example.test":        false,
		"[::1].evil.example.com":         false,
		"evil.example.com.":              false,
		"metadata.google.internal@x.com": false,
	} {
		for _, path := range []string{"/", v1 + "instance/name"} {
			r := request("GET", path, "")
			r.Host = host
			w := do(s, r)
			if allowed {
				want(t, "GET "+path+" with Host "+host, w, 200, "")
			} else {
				want(t, "GET "+path+" with Host "+host, w, 403, "Host header")
			}
		}
	}

	s.SetHosts("other.example.test")
	r := request("GET", "/", "")
	r.Host = "metadata.example.test"
	want(t, "a host of an earlier SetHosts", do(s, r), 403, "Host header")
	r.Host = "metadata.goog"
	want(t, "an official host after SetHosts", do(s, r), 200, "")
}

// A caller's list is the caller's.
func TestSetHostsKeepsTheList(t *testing.T) {
	t.Parallel()
	list := []string{"a.test", "1", "2", "3", "4", "5", "6", "7"}
	before := slices.Clone(list)
	server.New(&fleet.Router{}, nil, server.Limits{}).SetHosts(list[:1]...)
	if !slices.Equal(list, before) {
		t.Errorf("SetHosts wrote into its argument: %q, was %q", list, before)
	}
}

// Every header that a proxy leaves is a reason to refuse.
func TestForwardingHeaders(t *testing.T) {
	t.Parallel()
	s := serverOf(plain(t), nil, server.Limits{})
	for _, name := range []string{"X-Forwarded-For", "x-forwarded-for", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "X-Real-IP"} {
		for _, value := range []string{"127.0.0.1", ""} {
			r := request("GET", "instance/name", "")
			r.Header.Add(name, value)
			want(t, name+": "+value, do(s, r), 403, "forwarding headers")
		}
	}
	r := request("GET", "instance/name", "")
	r.Header.Set("X-Goog-Api-Client", "x")
	r.Header.Set("Via", "1.1 cache") // what an egress proxy of the workload's own adds says nothing about us
	want(t, "other headers", do(s, r), 200, "demo-instance")
}

// A server knows its own requests, and no other's.
func TestMark(t *testing.T) {
	t.Parallel()
	s, other := serverOf(plain(t), nil, server.Limits{}), serverOf(plain(t), nil, server.Limits{})
	r := request("GET", "instance/name", "")
	r.Header.Set(s.Mark())
	want(t, "a request of its own", do(s, r), 508, "leads back to it")
	want(t, "a request of another", do(other, r), 200, "demo-instance")
}

// Two flavor headers are not one that says Google.
func TestFlavorTwice(t *testing.T) {
	t.Parallel()
	s := serverOf(plain(t), nil, server.Limits{})
	r := request("GET", "instance/name", "")
	r.Header.Add("Metadata-Flavor", "Google")
	want(t, "two flavor headers", do(s, r), 403, "Missing Metadata-Flavor:Google header")
}

// Escapes that a path cannot do without are decoded, once; others are not.
func TestEscapes(t *testing.T) {
	t.Parallel()
	s := serverOf(plain(t,
		tree.Edit{Path: "instance/attributes/a b", Value: "space"},
		tree.Edit{Path: "instance/attributes/grüße", Value: "umlaut"},
		tree.Edit{Path: "instance/attributes/100%", Value: "percent"},
		tree.Edit{Path: "instance/attributes/a?b", Value: "question"},
		tree.Edit{Path: "instance/attributes/A", Value: "letter"},
	), nil, server.Limits{})
	for path, found := range map[string]string{
		"a%20b":             "space",
		"gr%C3%BC%C3%9Fe":   "umlaut",
		"100%25":            "percent",
		"a%3Fb":             "question",
		"%41":               "", // a letter needs no escape
		"a%2520b":           "", // twice
		"a%2Fb":             "",
		"..%2Fname":         "",
		"%00":               "",
		"a%20b%2F":          "",
		"%2E%2E/%2E%2E/etc": "",
	} {
		w := get(s, "instance/attributes/"+path)
		if found == "" {
			want(t, "GET "+path, w, 404, "was not found")
		} else {
			want(t, "GET "+path, w, 200, found)
		}
	}
}

// The first of several equal parameters counts.
func TestRepeatedParameters(t *testing.T) {
	t.Parallel()
	s := serverOf(plain(t), nil, server.Limits{})
	for query, body := range map[string]string{
		"recursive=true&recursive=false":  `{"automaticRestart"`,
		"recursive=false&recursive=true":  "automatic-restart\n",
		"recursive=&recursive=true":       "automatic-restart\n",
		"recursive&recursive=true":        "automatic-restart\n",
		"recursive=true&alt=text&alt=bad": "automatic-restart TRUE\n",
		"recursive=ye%C5%BF":              "automatic-restart\n", // long s is no letter case of s
	} {
		want(t, query, get(s, "instance/scheduling/?"+query), 200, body)
	}
	want(t, "a broken escape", get(s, "instance/scheduling/?recursive=%zz"), 200, "automatic-restart\n")
	want(t, "a broken escape in alt", get(s, "instance/name?alt=%zz"), 200, "demo-instance")
	want(t, "a broken escape in alt of a directory", get(s, "instance/scheduling/?alt=%zz"), 400, "recursive=true")
	want(t, "a broken escape elsewhere", get(s, "instance/scheduling/?x=%zz&%zz=1&%&recursive=true"), 200, `{"automaticRestart"`)
}

func TestRedirectKeepsScheme(t *testing.T) {
	t.Parallel()
	r := request("GET", "instance", "")
	r.TLS = &tls.ConnectionState{}
	w := do(serverOf(plain(t), nil, server.Limits{}), r)
	if got, want := w.Header().Get("Location"), "https://metadata.google.internal/computeMetadata/v1/instance/"; got != want {
		t.Errorf("Location %q over TLS, want %q", got, want)
	}
}

func TestUnknownCaller(t *testing.T) {
	t.Parallel()
	s := server.New(&fleet.Router{}, nil, server.Limits{})
	want(t, "a leaf for nobody", get(s, "instance/name"), 403, "No instance is served to this caller.")
	want(t, "a write by nobody", do(s, request("PUT", "instance/guest-attributes/a/b", "x")), 403, "No instance")
	want(t, "the root for nobody", get(s, "/"), 200, "computeMetadata/\n") // every library's probe
}

// One entry for each request: what logs, metrics and the dashboard show.
func TestJournal(t *testing.T) {
	t.Parallel()
	j := journal.New(100)
	s := serverOf(newInstance(t), j, server.Limits{})
	const secret = "s3cret"
	for _, test := range []struct {
		method, path, class string
		status              int
	}{
		{"GET", "/", "root", 200},
		{"GET", "/computeMetadata/", "root", 200},
		{"GET", "instance/name", "leaf", 200},
		{"HEAD", "instance/name", "leaf", 200},
		{"GET", "instance/tags", "leaf", 200},
		{"GET", "instance/", "directory", 200},
		{"GET", "instance/?recursive=true", "recursive", 200},
		{"GET", "instance", "redirect", 301},
		{"GET", event + "?wait_for_change=true&last_etag=0", "wait", 200},
		{"GET", accounts + "default/token?scopes=" + secret, "token", 200},
		{"GET", accounts + "default/identity?audience=" + secret, "identity", 200},
		{"GET", accounts + "default/identity", "identity", 400},
		{"GET", "instance/nope?x=" + secret, "error", 404},
		{"GET", "project/?alt=json", "error", 400},
		{"POST", "instance/name", "error", 405},
		{"GET", "/0.1/meta-data/", "legacy", 403},
		{"GET", "oslogin/users?username=" + secret, "error", 404},
		{"PUT", "instance/guest-attributes/a/b", "write", 200},
		{"DELETE", "instance/guest-attributes/a/b", "write", 200},
	} {
		last := uint64(0)
		if before := j.Entries(0); len(before) > 0 {
			last = before[len(before)-1].Seq
		}
		body := ""
		if test.method == "PUT" || test.method == "POST" {
			body = secret
		}
		do(s, request(test.method, test.path, body))
		entries := slices.DeleteFunc(j.Entries(last), func(e journal.Entry) bool { return e.Kind != journal.Request })
		if len(entries) != 1 {
			t.Fatalf("%s %s made %d request entries, want 1", test.method, test.path, len(entries))
		}
		e := entries[0]
		if e.Class != test.class || e.Status != test.status || e.Method != test.method {
			t.Errorf("%s %s: %s %s %d in the journal, want %s %d", test.method, test.path, e.Method, e.Class, e.Status, test.class, test.status)
		}
		path, _, _ := strings.Cut(test.path, "?")
		if !strings.HasSuffix(e.Path, path) || strings.ContainsAny(e.Path, "?=") || strings.Contains(e.Path+e.Detail, secret) {
			t.Errorf("%s %s: path %q in the journal, want it without the query", test.method, test.path, e.Path)
		}
		if above := !strings.HasPrefix(e.Path, v1); e.Instance != "demo-instance" && !above {
			t.Errorf("%s %s: instance %q in the journal", test.method, test.path, e.Instance)
		}
		if e.Time.IsZero() || e.Took < 0 {
			t.Errorf("%s %s: time %v, took %v in the journal", test.method, test.path, e.Time, e.Took)
		}
	}
}

// The reason of a refusal is for the log.
func TestJournalHasTheCause(t *testing.T) {
	t.Parallel()
	j := journal.New(10)
	s := server.New(&fleet.Router{}, j, server.Limits{})
	get(s, "instance/name")
	if e := j.Entries(0); len(e) != 1 || !errors.Is(e[0].Err, fleet.ErrNoInstance) {
		t.Errorf("entries %+v, want one with the error of the resolver", e)
	}
}
