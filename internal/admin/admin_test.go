package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcemds/gcemds/internal/admin"
	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/tree"
)

// A world is a server of two machines, and what it was asked.
type world struct {
	server  *admin.Server
	first   *fleet.Instance
	second  *fleet.Instance
	journal *journal.Journal
	reload  error // what Reload returns
	reloads int
}

func newWorld() *world {
	w := &world{
		first:   &fleet.Instance{Name: "vm-1", Metadata: tree.NewStore(fleet.Builtin())},
		second:  &fleet.Instance{Name: "vm-2", Metadata: tree.NewStore(fleet.Builtin())},
		journal: journal.New(100),
	}
	w.server = &admin.Server{
		Status: func() admin.Status { return admin.Status{Version: "v0-test", PID: 7} },
		Instance: func(name string) *fleet.Instance {
			return map[string]*fleet.Instance{"": w.first, "vm-1": w.first, "vm-2": w.second}[name]
		},
		Reload:  func(context.Context) error { w.reloads++; return w.reload },
		Journal: w.journal,
	}
	return w
}

// serve answers on a socket until the test ends.
func serve(t *testing.T, h http.Handler) *admin.Client {
	t.Helper()
	socket := filepath.Join(shortDir(t), "admin.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	return &admin.Client{Socket: socket}
}

// shortDir is a folder whose sockets have names that every system accepts.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mds")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func set(path, value string) admin.Edit {
	return admin.Edit{Path: path, Value: json.RawMessage(value)}
}

// says reports whether err is an answer of that status with these words.
func says(err error, status int, words string) bool {
	var e *admin.Error
	return errors.As(err, &e) && e.Status == status && strings.Contains(e.Msg, words)
}

func TestGet(t *testing.T) {
	w := newWorld()
	client := serve(t, w.server.Handler())
	for _, c := range []struct {
		path      string
		recursive bool
		text      string
		json      string // "": none
		dir       bool
	}{
		{"instance/name", false, "demo-instance", `"demo-instance"`, false},
		{"instance/id", true, "5193847261058203746", "5193847261058203746", false},
		{"/instance/name/", false, "demo-instance", `"demo-instance"`, false},
		{"http://metadata.google.internal/computeMetadata/v1/instance/name", false, "demo-instance", `"demo-instance"`, false},
		{"instance/disks/0/", false, "device-name\nindex\ninterface\nmode\ntype\n", "", true},
		{"instance/disks/0/", true, "device-name demo-instance\nindex 0\ninterface SCSI\nmode READ_WRITE\ntype PERSISTENT-BALANCED\n", `{"deviceName":"demo-instance","index":0,"interface":"SCSI","mode":"READ_WRITE","type":"PERSISTENT-BALANCED"}`, true},
		{"", false, "instance/\noslogin/\nproject/\n", "", true},
	} {
		v, err := client.Get(t.Context(), "vm-1", c.path, c.recursive)
		if err != nil {
			t.Errorf("Get(%q): %v", c.path, err)
			continue
		}
		n, err := w.first.Metadata.Tree().Lookup(strings.Trim(c.path, "/"))
		if strings.Contains(c.path, "://") {
			n, err = w.first.Metadata.Tree().Lookup("instance/name")
		}
		if err != nil {
			t.Fatal(err)
		}
		if want := (admin.Value{Text: c.text, JSON: c.json, Dir: c.dir, ETag: n.ETag(c.recursive || !c.dir)}); v != want {
			t.Errorf("Get(%q, recursive %v) = %+v, want %+v", c.path, c.recursive, v, want)
		}
	}
}

func TestGetRefused(t *testing.T) {
	w := newWorld()
	client := serve(t, w.server.Handler())
	if err := w.first.Metadata.Edit(
		tree.Edit{Path: "instance/attributes/enable-guest-attributes", Value: "FALSE"},
		tree.Edit{Path: "instance/service-accounts/default/token", Value: tree.Live("token")},
	); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		instance, path string
		status         int
		words          string
	}{
		{"", "instance/nmae", 404, "instance/nmae: no such key"},
		{"", "instance/gce-workload-certificates/trust-anchors", 404, "no such key"},
		{"", "instance/guest-attributes/a/b", 403, "guest attributes are off; switch them on with: gcemds set instance/attributes/enable-guest-attributes TRUE"},
		{"", "instance/service-accounts/default/token", 400, "this value is made at each request; ask the metadata server itself for it"},
		{"vm-3", "instance/name", 404, `there is no instance "vm-3"; gcemds status lists them`},
	} {
		if _, err := client.Get(t.Context(), c.instance, c.path, false); !says(err, c.status, c.words) {
			t.Errorf("Get(%q, %q): %#v, want %d %s", c.instance, c.path, err, c.status, c.words)
		}
	}
}

func TestEdit(t *testing.T) {
	w := newWorld()
	client := serve(t, w.server.Handler())
	err := client.Edit(t.Context(), "vm-2",
		set("http://metadata/computeMetadata/v1/instance/attributes/a", `"text"`),
		set("/instance/tags/", `["web","test"]`),
		set("instance/id", `12345678901234567890`),
		set("instance/attributes/gone", `"x"`),
		admin.Edit{Path: "instance/attributes/gone", Delete: true}, // what the same batch made
		admin.Edit{Path: "instance/licenses/0", Delete: true},
	)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"instance/attributes/a": "text", "instance/tags": "web\ntest\n", "instance/id": "12345678901234567890", "instance/licenses/": ""} {
		if v, err := client.Get(t.Context(), "vm-2", path, false); err != nil || v.Text != want {
			t.Errorf("after the edits %s is %q (%v), want %q", path, v.Text, err, want)
		}
	}
	if _, err := client.Get(t.Context(), "vm-1", "instance/attributes/a", false); !says(err, 404, "") {
		t.Errorf("an edit of vm-2 reached vm-1: %v", err)
	}
	entries := w.journal.Entries(0)
	if len(entries) != 1 || entries[0].Kind != journal.Edit || entries[0].Instance != "vm-2" || !strings.Contains(entries[0].Detail, "instance/tags") {
		t.Errorf("the journal has %+v, want one entry of the batch", entries)
	}
}

// TestEditRefused: of a batch with one fault, nothing is done.
func TestEditRefused(t *testing.T) {
	w := newWorld()
	client := serve(t, w.server.Handler())
	before := w.first.Metadata.Tree()
	good := set("instance/attributes/good", `"x"`)
	for _, c := range []struct {
		edits  []admin.Edit
		status int
		words  string
	}{
		{nil, 400, "there is nothing to change"},
		{[]admin.Edit{good, {Path: "instance/attributes/absent", Delete: true}}, 404, "instance/attributes/absent: no such key; nothing was changed"},
		{[]admin.Edit{good, {Path: "instance/disks/7", Delete: true}}, 404, "instance/disks/7: no such key"},
		{[]admin.Edit{good, {Path: "instance/attributes/demo-key", Delete: true}, {Path: "instance/attributes/demo-key", Delete: true}}, 404, "no such key"},
		{[]admin.Edit{good, {Path: "instance/attributes/x"}}, 400, "instance/attributes/x: there is no value"},
		{[]admin.Edit{good, {Path: "", Delete: true}}, 422, "the whole document cannot be deleted"},
		{[]admin.Edit{good, set("instance/name/x", `"1"`)}, 422, "instance/name/x: instance/name is a leaf; nothing can be set below it"},
		{[]admin.Edit{good, set("instance/disks/9", `{}`)}, 422, "index 9 is past the end; the next free one is 1"},
		{[]admin.Edit{good, set("instance/machineType", `"x"`)}, 422, "paths are written with hyphens"},
		{[]admin.Edit{good, set("instance/disks", `"x"`)}, 422, "instance/disks: is a list; give a JSON array"},
	} {
		if err := client.Edit(t.Context(), "", c.edits...); !says(err, c.status, c.words) {
			t.Errorf("Edit(%v): %v, want %d %s", c.edits, err, c.status, c.words)
		}
		if w.first.Metadata.Tree() != before {
			t.Fatalf("Edit(%v) failed and changed the document", c.edits)
		}
	}
	if err := client.Edit(t.Context(), "vm-3", good); !says(err, 404, `there is no instance "vm-3"`) {
		t.Errorf("an edit of nobody: %v", err)
	}
	for _, e := range w.journal.Entries(0) {
		if e.Err == nil {
			t.Errorf("the journal shows an edit that failed as done: %+v", e)
		}
	}
}

// endless is a body that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestBodies: what is no list of edits is refused, and nothing is read without
// end.
func TestBodies(t *testing.T) {
	h := newWorld().server.Handler()
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		words                    string
	}{
		{"no JSON", "POST", "/v1/edit", "x", 400, "the body is not a list of edits: "},
		{"no list", "POST", "/v1/edit", `{"path": "x"}`, 400, "the body is not a list of edits: "},
		{"no value", "POST", "/v1/edit", `[{"path": "instance/attributes/x"}]`, 400, "instance/attributes/x: there is no value"},
		{"null", "POST", "/v1/edit", `[{"path": "instance/attributes/x", "value": null}]`, 422, "instance/attributes/x: null is not a value"},
		{"empty", "POST", "/v1/edit", `[]`, 400, "there is nothing to change"},
		{"large", "POST", "/v1/edit", "endless", 413, "the edits are larger than a document may be"},
		{"method", "GET", "/v1/edit", "", 405, ""},
		{"path", "GET", "/v2/status", "", 404, ""},
	} {
		r, body := httptest.NewRecorder(), io.Reader(strings.NewReader(c.body))
		if c.body == "endless" {
			body = endless{}
		}
		h.ServeHTTP(r, httptest.NewRequest(c.method, c.path, body))
		if r.Code != c.status || !strings.Contains(r.Body.String(), c.words) {
			t.Errorf("%s: %d %s, want %d %s", c.name, r.Code, r.Body, c.status, c.words)
		}
	}
}

func TestStatusAndReload(t *testing.T) {
	w := newWorld()
	client := serve(t, w.server.Handler())
	if s, err := client.Status(t.Context()); err != nil || s.Version != "v0-test" || s.PID != 7 {
		t.Errorf("Status() = %+v, %v", s, err)
	}
	if err := client.Reload(t.Context()); err != nil || w.reloads != 1 {
		t.Errorf("Reload() = %v, asked %d times", err, w.reloads)
	}
	w.reload = errors.New("mds.yaml:3: listen: wrong")
	if err := client.Reload(t.Context()); !says(err, 422, "mds.yaml:3: listen: wrong") {
		t.Errorf("a reload that fails: %v", err)
	}
}

// TestNobodyAnswers: the error says what to do.
func TestNobodyAnswers(t *testing.T) {
	dir := shortDir(t)
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	for _, socket := range []string{filepath.Join(dir, "none.sock"), stale} {
		want := "no gcemds answers on " + socket + "; start one with: gcemds serve (if it runs with another --admin, set GCEMDS_ADMIN to that)"
		if _, err := (&admin.Client{Socket: socket}).Status(t.Context()); err == nil || err.Error() != want {
			t.Errorf("Status: %v\nwant %s", err, want)
		}
	}
	if got := (&admin.Client{Socket: stale}).Complete(t.Context(), "", "instance/"); got != nil {
		t.Errorf("Complete without a daemon is %q, want nothing", got)
	}

	mute := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	if _, err := mute.Status(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "the daemon on "+mute.Socket+" does not answer: ") || strings.Contains(err.Error(), "http://") {
		t.Errorf("a daemon that hangs up: %v", err)
	}
	strange := serve(t, http.NotFoundHandler())
	if _, err := strange.Status(t.Context()); !says(err, 404, "the daemon answered 404 Not Found") {
		t.Errorf("somebody else on the socket: %v", err)
	}
}

func TestLockedSocket(t *testing.T) {
	client := serve(t, newWorld().server.Handler())
	if err := os.Chmod(client.Socket, 0); err != nil {
		t.Fatal(err)
	}
	_, err := client.Status(t.Context())
	if err == nil {
		t.Skip("this user may open every socket")
	}
	if want := client.Socket + " belongs to another user"; err.Error() != want {
		t.Errorf("Status: %v, want %s", err, want)
	}
}

// TestWatch: every change is seen, and nothing twice.
func TestWatch(t *testing.T) {
	w := newWorld()
	client := serve(t, w.server.Handler())
	var got []string
	path := "instance/attributes/x"
	if err := w.first.Metadata.Edit(tree.Edit{Path: path, Value: "0"}); err != nil {
		t.Fatal(err)
	}
	for v, err := range client.Watch(t.Context(), "", path) {
		if err != nil {
			if !says(err, 404, path+": no such key") {
				t.Errorf("the watch of a value that is deleted ends with %v", err)
			}
			break
		}
		got = append(got, v.Text)
		next := tree.Edit{Path: path, Value: fmt.Sprint(len(got))}
		if len(got) == 4 {
			next.Value = nil
		}
		if err := w.first.Metadata.Edit(next); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"0", "1", "2", "3"}; !slices.Equal(got, want) {
		t.Errorf("the watch saw %q, want %q", got, want)
	}
}

// TestWatchDirectory: a change anywhere below counts; whoever has seen enough
// stops.
func TestWatchDirectory(t *testing.T) {
	w := newWorld()
	client := serve(t, w.server.Handler())
	n := 0
	for v, err := range client.Watch(t.Context(), "", "instance/attributes/") {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 3 {
			if !strings.Contains(v.Text, "x 2\n") || !v.Dir {
				t.Errorf("the third value is %+v, want all below with x 2", v)
			}
			break
		}
		if err := w.first.Metadata.Edit(tree.Edit{Path: "instance/attributes/x", Value: fmt.Sprint(n)}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, err := range client.Watch(ctx, "", "instance/name") {
		if err != nil {
			t.Errorf("a watch that its caller ends fails with %v", err)
		}
		cancel()
	}
}

// TestWatchAsksAgain: an answer that brings nothing new is not shown, and the
// next question carries its ETag.
func TestWatchAsksAgain(t *testing.T) {
	var asked atomic.Int32
	answers := []admin.Value{{Text: "a", ETag: "1"}, {Text: "a", ETag: "1"}, {Text: "a", ETag: "1"}, {Text: "b", ETag: "2"}}
	etags := []string{"0", "1", "1", "1"}
	client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(asked.Add(1)) - 1
		if n >= len(answers) {
			w.WriteHeader(http.StatusNotFound)
			json.NewEncoder(w).Encode(admin.Error{Msg: "over"})
			return
		}
		if got := r.FormValue("etag"); got != etags[n] {
			t.Errorf("question %d has the ETag %q, want %q", n, got, etags[n])
		}
		json.NewEncoder(w).Encode(answers[n])
	}))
	var got []string
	for v, err := range client.Watch(t.Context(), "", "instance/x") {
		if err != nil {
			break
		}
		got = append(got, v.Text)
	}
	if !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the watch shows %q, want a and b", got)
	}
}

// TestWatchTimeout: a question that waits is answered after a minute, with the
// same value, so that a connection that died is found out.
func TestWatchTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		n, err := w.first.Metadata.Tree().Lookup("instance/name")
		if err != nil {
			t.Fatal(err)
		}
		h, start := w.server.Handler(), time.Now()
		r := httptest.NewRecorder()
		h.ServeHTTP(r, httptest.NewRequest("GET", "/v1/get?path=instance/name&etag="+n.ETag(true), nil))
		var v admin.Value
		if err := json.Unmarshal(r.Body.Bytes(), &v); err != nil || r.Code != 200 || v.Text != "demo-instance" || v.ETag != n.ETag(true) {
			t.Errorf("a question that waited in vain is answered %d %s", r.Code, r.Body)
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("a question waits for %v, want a minute", took)
		}
	})
}

func TestComplete(t *testing.T) {
	w := newWorld()
	client := serve(t, w.server.Handler())
	for typed, want := range map[string][]string{
		"":                     {"instance/", "oslogin/", "project/"},
		"ins":                  {"instance/"},
		"instance/dis":         {"instance/disks/"},
		"instance/disks/0/d":   {"instance/disks/0/device-name"},
		"instance/attributes/": {"instance/attributes/demo-key", "instance/attributes/enable-guest-attributes", "instance/attributes/startup-script"},
		"instance/name/":       nil,
		"instance/zzz":         nil,
		"nonsense/":            nil,
	} {
		if got := client.Complete(t.Context(), "", typed); !slices.Equal(got, want) {
			t.Errorf("Complete(%q) = %q, want %q", typed, got, want)
		}
	}
}

func TestDefaultSocket(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", filepath.FromSlash("/run/user/1000"))
	if got, want := admin.DefaultSocket(), filepath.FromSlash("/run/user/1000/gcemds/admin.sock"); got != want {
		t.Errorf("DefaultSocket() = %s, want %s", got, want)
	}
	t.Setenv("XDG_RUNTIME_DIR", "")
	if got := admin.DefaultSocket(); !strings.HasPrefix(got, os.TempDir()) || !strings.HasSuffix(filepath.ToSlash(filepath.Dir(got)), fmt.Sprintf("/gcemds-%d", max(os.Getuid(), 0))) {
		t.Errorf("DefaultSocket() = %s, want one of this user below the temporary directory", got)
	}
}

// TestRevert: all changes of one instance go, and it is in the journal.
func TestRevert(t *testing.T) {
	w := newWorld()
	c := serve(t, w.server.Handler())
	for _, name := range []string{"vm-1", "vm-2"} {
		if err := c.Edit(t.Context(), name, admin.Edit{Path: "instance/name", Value: json.RawMessage(`"x"`)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Revert(t.Context(), "vm-2"); err != nil {
		t.Fatal(err)
	}
	if first, second := len(w.first.Metadata.Edits()), len(w.second.Metadata.Edits()); first != 1 || second != 0 {
		t.Errorf("after Revert of vm-2 there are %d edits of vm-1 and %d of vm-2, want 1 and 0", first, second)
	}
	if err := c.Revert(t.Context(), "vm-3"); err == nil || !strings.Contains(err.Error(), `no instance "vm-3"`) {
		t.Errorf("Revert of an unknown instance = %v", err)
	}
}

// A folder that somebody else could have made is not trusted with a socket.
func TestCheckSocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no permissions of this kind")
	}
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	socket := admin.DefaultSocket()
	if err := admin.CheckSocket(socket); err != nil {
		t.Errorf("a folder that is not there yet: %v", err)
	}
	folder := filepath.Dir(socket)
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := admin.CheckSocket(socket); err != nil {
		t.Errorf("our own folder: %v", err)
	}
	if err := os.Chmod(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	client := admin.Client{Socket: socket}
	if _, err := client.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "only this user can change") {
		t.Errorf("a folder that everyone can change: %v, want a refusal", err)
	}
	if err := admin.CheckSocket(filepath.Join(dir, "other.sock")); err != nil {
		t.Errorf("a socket that was named: %v", err)
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), folder); err != nil {
		t.Fatal(err)
	}
	if err := admin.CheckSocket(socket); err == nil {
		t.Error("a link to a folder is accepted")
	}
}
