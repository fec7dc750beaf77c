package daemon_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/daemon"
	"github.com/gcemds/gcemds/internal/token"
)

// TestWatch: however a file is replaced, its new content is served. There is
// no signal and no request for it.
func TestWatch(t *testing.T) {
	t.Parallel()
	named := func(name string) string { return "instances: {vm-1: {set: {instance/name: " + name + "}}}\n" }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	type change struct {
		name  string
		begin func(w *world) bool // false: this system cannot
		make  func(w *world)
	}
	changes := []change{
		{
			"rewritten",
			func(w *world) bool { w.write(named("before")); return true },
			func(w *world) { w.write(named("after!")) }, // as long as before
		},
		{
			"renamed",
			func(w *world) bool { w.write(named("before")); return true },
			func(w *world) {
				w.file("new", w.complete(named("after!")))
				must(os.Rename(filepath.Join(w.dir, "new"), filepath.Join(w.dir, "mds.yaml")))
			},
		},
		{
			"linked, as a ConfigMap",
			func(w *world) bool {
				if err := os.Symlink("v1", filepath.Join(w.dir, "data")); err != nil {
					t.Logf("not tried: no symbolic links here: %v", err)
					return false
				}
				must(os.Mkdir(filepath.Join(w.dir, "v1"), 0o700))
				must(os.Mkdir(filepath.Join(w.dir, "v2"), 0o700))
				w.file("v1/mds.yaml", w.complete(named("before")))
				w.file("v2/mds.yaml", w.complete(named("after!")))
				must(os.Remove(filepath.Join(w.dir, "mds.yaml")))
				must(os.Symlink("data/mds.yaml", filepath.Join(w.dir, "mds.yaml")))
				return true
			},
			func(w *world) {
				must(os.Symlink("v2", filepath.Join(w.dir, "next")))
				must(os.Rename(filepath.Join(w.dir, "next"), filepath.Join(w.dir, "data")))
			},
		},
		{
			"the document",
			func(w *world) bool {
				w.file("doc.json", `{"instance": {"name": "before"}}`)
				w.write("instances: {vm-1: {metadata: doc.json}}\n")
				return true
			},
			func(w *world) { w.file("doc.json", `{"instance": {"name": "after!"}}`) },
		},
	}
	worlds, waiting := map[string]*world{}, map[string]<-chan answer{}
	for _, c := range changes {
		w := prepare(t, "")
		if !c.begin(w) {
			continue
		}
		w.run()
		if got := w.value("instance/name"); got != "before" {
			t.Fatalf("%s: the name is %q before the change", c.name, got)
		}
		worlds[c.name], waiting[c.name] = w, w.hang("instance/name")
	}
	for _, c := range changes {
		if w := worlds[c.name]; w != nil {
			c.make(w)
		}
	}
	for name, waiting := range waiting {
		select {
		case got := <-waiting:
			if got.status != http.StatusOK || got.body != "after!" {
				t.Errorf("%s: who waits gets %d %q", name, got.status, got.body)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the change is not seen; the log has:\n%s", name, worlds[name].log)
		}
	}
}

// TestWatchRecovers: a bad file changes nothing and is said once; when it is
// mended, it is served.
func TestWatchRecovers(t *testing.T) {
	t.Parallel()
	w := start(t, "instances: {vm-1: {set: {instance/name: good}}}\n")
	w.write("instances: {vm-1: {sett: {instance/name: bad}}}\n")
	if !poll(func() bool { return w.Status().ConfigError != "" }) {
		t.Fatal("status does not show that the file is wrong")
	}
	want := filepath.Join(w.dir, "mds.yaml") + `:3: instances.vm-1: unknown field "sett" (did you mean "set"?)`
	if got := w.Status().ConfigError; got != want {
		t.Errorf("status says %s, want %s", got, want)
	}
	if ok, name := w.metric("gcemds_config_ok"), w.value("instance/name"); ok != 0 || name != "good" {
		t.Errorf("with a bad file gcemds_config_ok is %v and the name %q, want 0 and good", ok, name)
	}
	w.write("instances: {vm-1: {set: {instance/name: mended}}}\n")
	if !poll(func() bool { return w.value("instance/name") == "mended" }) {
		t.Fatal("the mended file is not served")
	}
	if !poll(func() bool { return w.metric("gcemds_reloads_total", "result", "ok") == 1 }) {
		t.Error("the reload is not counted")
	}
	if s := w.Status(); s.ConfigError != "" || w.metric("gcemds_config_ok") != 1 {
		t.Errorf("with the mended file status says %q and gcemds_config_ok is %v", s.ConfigError, w.metric("gcemds_config_ok"))
	}
	if got := strings.Count(w.log.String(), `"level":"ERROR"`); got != 1 || w.metric("gcemds_reloads_total", "result", "failed") != 1 {
		t.Errorf("the bad file is logged %d times and counted %v times, want once", got, w.metric("gcemds_reloads_total", "result", "failed"))
	}
}

// TestReload: hanging requests see a reload as a change, and what was edited
// by hand stays.
func TestReload(t *testing.T) {
	t.Parallel()
	w := start(t, "instances: {vm-1: {set: {instance/attributes/file: a, instance/attributes/both: a}}}\n")
	w.edit(t, "instance/attributes/hand", `"b"`)
	w.edit(t, "instance/attributes/both", `"b"`)
	waiting := w.hang("instance/attributes/file")
	deaf := w.hang("instance/attributes/both")
	w.write("hosts: [new.example.test]\ninstances: {vm-1: {set: {instance/attributes/file: c, instance/attributes/both: c}}, vm-2: {}}\n")
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-waiting; got.status != http.StatusOK || got.body != "c" {
		t.Errorf("who waits gets %d %q from a reload, want c", got.status, got.body)
	}
	for path, want := range map[string]string{"file": "c", "hand": "b", "both": "b", "demo-key": "demo-value"} {
		if got := w.value("instance/attributes/" + path); got != want {
			t.Errorf("after the reload %s is %q, want %q", path, got, want)
		}
	}
	select {
	case got := <-deaf:
		t.Errorf("a reload that does not change a value wakes who waits for it: %d %q", got.status, got.body)
	default:
	}
	if got := len(w.Status().Instances); got != 2 {
		t.Errorf("after the reload there are %d instances, want 2", got)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.base("main")+"/computeMetadata/v1/instance/name", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Metadata-Flavor", "Google")
	req.Host = "new.example.test"
	if status, _ := do(t, w.http, req); status != http.StatusOK {
		t.Errorf("a host that the reload added gets %d", status)
	}
}

// TestReloadFreesRefreshTokens: a set of scopes counts for as long as an
// instance has it, and a reload that removes the last one makes room.
func TestReloadFreesRefreshTokens(t *testing.T) {
	t.Parallel()
	yaml := func(scopes ...string) string {
		text := "limits: {refresh_tokens: 2}\ninstances:\n"
		for n, scope := range scopes {
			text += fmt.Sprintf("  vm-%d: {accounts: {default: {email: robot@p.iam.gserviceaccount.com, scopes: ['https://scope.example/%s']}}}\n", n, scope)
		}
		return text
	}
	w := start(t, yaml("a", "b", "b"))
	for _, step := range []struct {
		scopes []string
		full   bool
	}{
		{[]string{"a", "b", "b", "c"}, true},
		{[]string{"a", "b", "c"}, true}, // one of the two with b is left
		{[]string{"a", "c", "c"}, false},
		{[]string{"a", "c", "b"}, true},
		{[]string{"c", "b"}, false},
	} {
		w.write(yaml(step.scopes...))
		if err := w.Reload(t.Context()); errors.Is(err, token.ErrTooManyTokens) != step.full || err != nil && !step.full {
			t.Errorf("a reload to instances with the scopes %q: %v; too many: want %v", step.scopes, err, step.full)
		}
	}
	if got := w.value("instance/service-accounts/default/scopes"); got != "https://scope.example/c\n" {
		t.Errorf("in the end the scopes are %q, want those of the last reload", got)
	}
}

// TestReloadDropsMisfits: an edit that the new document has no place for is
// dropped and said.
func TestReloadDropsMisfits(t *testing.T) {
	t.Parallel()
	w := start(t, "instances: {vm-1: {set: {instance/x: {y: '1'}}}}\n")
	w.edit(t, "instance/x/z", `"2"`)
	w.write("instances: {vm-1: {set: {instance/x: leaf}}}\n")
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.value("instance/x"); got != "leaf" {
		t.Errorf("instance/x is %q, want that of the new document", got)
	}
	if edits := w.Status().Instances[0].Edits; len(edits) != 0 || !strings.Contains(w.log.String(), `"path":"instance/x/z"`) {
		t.Errorf("the edits are %q, want none and a line in the log that says so", edits)
	}
}

func TestReloadRefused(t *testing.T) {
	t.Parallel()
	w := start(t, "")
	for part, yaml := range map[string]string{
		"listen": "listen: {main: {tcp: '127.0.0.1:1'}}\n",
		"admin":  "admin: {socket: DIR/other.sock}\n",
		"issuer": "issuer: {life: 2h}\n",
		"limits": "limits: {hanging_gets: 1}\n",
		"log":    "log: {level: debug}\n",
	} {
		w.write("instances: {vm-1: {set: {instance/name: changed}}}\n" + yaml)
		want := filepath.Join(w.dir, "mds.yaml") + ": a change of " + part + " needs a restart; nothing was changed"
		if err := w.Reload(t.Context()); err == nil || err.Error() != want {
			t.Errorf("a change of %s: %v\nwant %s", part, err, want)
		}
	}
	w.write("instances: {vm-1: {metadata: none.json}}\n")
	if err := w.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), `instance "vm-1": open `) {
		t.Errorf("a document that is missing: %v", err)
	}
	if got := w.value("instance/name"); got != "demo-instance" {
		t.Errorf("after reloads that failed the name is %q", got)
	}
	if got := w.metric("gcemds_reloads_total", "result", "failed"); got != 6 {
		t.Errorf("%v reloads are counted as failed, want 6", got)
	}
}

// TestNothingToReload: a daemon without a way to load says so.
func TestNothingToReload(t *testing.T) {
	t.Parallel()
	w := prepare(t, "")
	c, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	d, err := daemon.New(t.Context(), daemon.Options{Config: c})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Reload(t.Context()); err == nil || err.Error() != "there is nothing to reload" {
		t.Errorf("Reload says %v", err)
	}
	w.Daemon = d
	w.serveAndStop()
}
