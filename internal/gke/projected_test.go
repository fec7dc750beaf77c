package gke

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

// mount puts a token where the kubelet would: a link to a link to a file, as
// it swaps them, or a CSI driver, plainly.
func mount(t *testing.T, dir, uid, volume, jwt string) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	at := filepath.Join(dir, uid, "volumes", filepath.FromSlash(volume))
	if strings.HasSuffix(volume, "/mount") {
		must(os.MkdirAll(at, 0o755))
		must(os.WriteFile(filepath.Join(at, "token"), []byte(jwt+"\n"), 0o644))
		return
	}
	must(os.MkdirAll(filepath.Join(at, "..2026_11_25"), 0o755))
	must(os.WriteFile(filepath.Join(at, "..2026_11_25", "token"), []byte(jwt), 0o644))
	for link, to := range map[string]string{"..data": "..2026_11_25", "token": filepath.Join("..data", "token")} {
		if err := os.Symlink(to, filepath.Join(at, link)); err != nil {
			t.Skipf("this system has no symbolic links: %v", err)
		}
	}
}

// TestProjected: a token of the kubelet's is used if it is of that Pod, for
// that audience, and good; nothing else is.
func TestProjected(t *testing.T) {
	t.Parallel()
	const projectedVolume, csiVolume, emptyDir = "kubernetes.io~projected/gcemds", "kubernetes.io~csi/gcemds/mount", "kubernetes.io~empty-dir/gcemds"
	p, sa := pod("uid-1", "robot", robot1), ksa("robot")
	p.Volumes = []string{"gcemds"}
	good := signed(sa, p, []string{"other", "aud"}, time.Hour)
	with := func(change func(*ServiceAccount, *Pod)) string {
		sa, p := sa, p
		change(&sa, &p)
		return signed(sa, p, "aud", time.Hour)
	}
	for _, test := range []struct {
		name, volume, jwt, says string
	}{
		{"projected", projectedVolume, good, ""},
		{"CSI", csiVolume, good, ""},
		{"one audience", projectedVolume, signed(sa, p, "aud", time.Hour), ""},
		{"written by the Pod itself", emptyDir, good, "not mounted"},
		{"another Pod's", projectedVolume, with(func(_ *ServiceAccount, p *Pod) { p.UID = "uid-2" }), "another Pod"},
		{"another account's", projectedVolume, with(func(s *ServiceAccount, _ *Pod) { s.Name = "other" }), "another service account"},
		{"that of an account before", projectedVolume, with(func(s *ServiceAccount, _ *Pod) { s.UID = "old" }), "deleted"},
		{"for another audience", projectedVolume, signed(sa, p, "other", time.Hour), "audience"},
		{"expired", projectedVolume, signed(sa, p, "aud", -time.Second), "expired"},
		{"no token", projectedVolume, "x", "no JWT"},
		{"nothing", projectedVolume, "", "no JWT"},
		{"too long", projectedVolume, strings.Repeat("x", maxProjected+1), "too long"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			mount(t, dir, p.UID, test.volume, test.jwt)
			api := projected{nil, Projected{Dir: dir, Volume: "gcemds", Path: "token"}}
			jwt, err := api.CreateToken(t.Context(), sa, p, "aud", time.Hour)
			var e *token.Error
			switch {
			case test.says == "" && (err != nil || jwt != strings.TrimSpace(test.jwt)):
				t.Errorf("the token is refused: %v", err)
			case test.says != "" && (!errors.As(err, &e) || e.Status() != 403 || !strings.Contains(e.Text, test.says) || strings.Contains(e.Text+e.Error(), dir) || strings.Contains(e.Text+e.Error(), "eyJ")):
				t.Errorf("%v, want 403 that says %q, without the token and the path", err, test.says)
			}
		})
	}
	t.Run("a link out of the volume", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		secret := filepath.Join(dir, "secret")
		at := filepath.Join(dir, p.UID, "volumes", projectedVolume)
		if err := errors.Join(os.WriteFile(secret, []byte(good), 0o600), os.MkdirAll(at, 0o755), os.Symlink(secret, filepath.Join(at, "token"))); err != nil {
			t.Skip(err)
		}
		api := projected{nil, Projected{Dir: dir, Volume: "gcemds", Path: "token"}}
		if jwt, err := api.CreateToken(t.Context(), sa, p, "aud", time.Hour); err == nil {
			t.Errorf("a file outside is read: %d bytes", len(jwt))
		}
	})
	t.Run("a Pod without the volume", func(t *testing.T) {
		t.Parallel()
		api := projected{nil, Projected{Dir: t.TempDir(), Volume: "gcemds", Path: "token"}}
		var e *token.Error
		if _, err := api.CreateToken(t.Context(), sa, pod("uid-1", "robot"), "aud", time.Hour); !errors.As(err, &e) || !strings.Contains(e.Text, "Add a projected volume") {
			t.Errorf("%v, want how to add it", err)
		}
	})
}

// TestHardened: the whole way with a token of the kubelet's, and no right to
// make any.
func TestHardened(t *testing.T) {
	dir := t.TempDir()
	bubble(t, func(c *Config) { c.Projected = &Projected{Dir: dir} }, func(t *testing.T, w *world) {
		w.api.refuse = &APIError{Status: 403, Err: errors.New("no right")}
		p, sa := pod("robot1", "robot", robot1), ksa("robot")
		p.Volumes = []string{"gcemds"}
		mount(t, dir, p.UID, "kubernetes.io~projected/gcemds", signed(sa, p, iamPrefix+testProvider, time.Hour))
		bad := pod("robot2", "robot", robot2)
		bad.Volumes = p.Volumes
		w.know(p, bad, pod("direct1", "default", direct1), pod("direct2", "robot", direct2))
		time.Sleep(5 * time.Second)
		for range 2 { // a failure is that of its Pod, and so is what it shows
			if _, err := w.mint(t, robot2, token.Request{}); err == nil || err.Status() != 403 || !strings.Contains(err.Text, "of the Pod ns/robot2 cannot be used: the kubelet has not mounted it") {
				t.Errorf("a Pod whose volume is not mounted: %v, want 403 and that", err)
			}
			w.good(t, robot1, token.Request{})
			if _, err := w.mint(t, direct2, token.Request{}); err == nil || err.Status() != 403 || !strings.Contains(err.Text, "The Pod ns/direct2 has no volume") {
				t.Errorf("a Pod without the volume, of an account that has a token: %v, want 403 and how to add it", err)
			}
		}
		if _, err := w.mint(t, direct1, token.Request{}); err == nil || err.Status() != 403 || !strings.Contains(err.Text, "projected volume") {
			t.Errorf("a Pod without the volume: %v, want 403 and how to add it", err)
		}
		if err := w.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		if len(w.api.created) > 0 {
			t.Errorf("Kubernetes was asked for tokens: %q", w.api.created)
		}
	})
}

// FuzzProjected: whatever is in the volume, it is used or refused.
func FuzzProjected(f *testing.F) {
	p, sa := pod("uid-1", "robot", robot1), ksa("robot")
	f.Add(signed(sa, p, "aud", time.Hour))
	f.Add("")
	f.Add("a.e30.c")
	f.Add("a.eyJhdWQiOltdfQ.c")
	f.Add("a.eyJhdWQiOnsieCI6MX0sImt1YmVybmV0ZXMuaW8iOltdfQ.c")
	f.Fuzz(func(t *testing.T, jwt string) {
		if err := checkProjected(jwt, sa, p, "aud", time.Now()); err == nil && strings.Count(jwt, ".") != 2 {
			t.Errorf("%q passes", jwt)
		}
	})
}

// FuzzIdentity: no annotation gets into an address, a path or a header.
func FuzzIdentity(f *testing.F) {
	for _, s := range []string{testGSA, "123-compute@developer.gserviceaccount.com", "a@p.iam.gserviceaccount.com/../b", "a@b.c?x=1", "a@b", "@b.c", "a@b..c", "a@@b.c", "a b@c.d", "\x00@b.c", "a@.b"} {
		f.Add(s, "", "")
	}
	f.Add("", "my-project", "x")
	f.Add("", "a\r\nb", "x")
	f.Add("", "123", "true")
	config, err := Config{Node: "n", ProjectID: "my-project", Provider: Provider{WorkloadIdentity: testProvider}}.complete()
	if err != nil {
		f.Fatal(err)
	}
	c := &Cluster{config: config}
	f.Fuzz(func(t *testing.T, gsa, quota, principal string) {
		id := c.newIdentity(ksa("robot", annotationGSA, gsa, annotationQuota, quota, annotationPrincipal, principal))
		if id.fault == nil && (strings.ContainsAny(id.gsa, "/?#%:\\ \r\n\x00") || strings.ContainsAny(id.quota, "/ \r\n\x00")) {
			t.Errorf("%q and %q are taken", id.gsa, id.quota)
		}
		if id.email == "" {
			t.Error("there is no e-mail")
		}
		if id.fault != nil && (id.fault.Text == "" || len(id.fault.Text) > 1000) {
			t.Errorf("the fault says %q", id.fault.Text)
		}
	})
}

// TestAudit: one line for each token that a Pod is given, with whose it is and
// without what it is.
func TestAudit(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.four()
		for range 3 {
			w.good(t, robot1, token.Request{})
			w.good(t, robot2, token.Request{})
			w.mint(t, direct1, token.Request{Audience: "https://a.example"})
		}
		got := map[string]int{}
		for _, e := range w.audit.Entries(0) {
			verdict := "given"
			if e.Err != nil {
				verdict = "refused"
			}
			if len(e.Grant.For) != 8 || (e.Err == nil) == e.Grant.Expiry.IsZero() {
				t.Errorf("an entry is %+v", e.Grant)
			}
			got[strings.Join([]string{e.Instance, e.Grant.Account, e.Grant.Email, e.Grant.Token, verdict}, " ")]++
		}
		for _, want := range []string{"ns/robot1 ns/robot " + testGSA + " access token given", "ns/robot2 ns/robot " + testGSA + " access token given", "ns/direct1 ns/default  ID token refused"} {
			if got[want] != 1 {
				t.Errorf("the audit has %v, want %q once", got, want)
			}
		}
		if len(got) != 3 {
			t.Errorf("the audit has %v, want three lines", got)
		}
	})
}
