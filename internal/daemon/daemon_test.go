package daemon_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gcemds/gcemds/internal/admin"
	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/daemon"
	"github.com/gcemds/gcemds/internal/fleet"
)

// TestMain runs the tests and then sees to it that no daemon left a goroutine.
func TestMain(m *testing.M) {
	if dir := os.Getenv(signerVariable); dir != "" {
		if err := beSigner(dir); err != nil {
			panic(err)
		}
		return
	}
	code := m.Run()
	var left string
	if code == 0 && !poll(func() bool { left = ours(); return left == "" }) {
		os.Stderr.WriteString("goroutines that outlive their daemon:\n" + left + "\n")
		code = 1
	}
	os.Exit(code)
}

// ours returns the goroutines that run code of this module, other than the caller's.
func ours() string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	all := strings.Split(string(stacks), "\n\n")[1:]
	return strings.Join(slices.DeleteFunc(all, func(s string) bool { return !strings.Contains(s, "gcemds/internal/") }), "\n\n")
}

// poll asks until the answer is yes, for as long as a slow machine needs.
func poll(done func() bool) bool {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if done() {
			return true
		}
	}
	return done()
}

// A world is a daemon that runs until the test ends.
type world struct {
	*daemon.Daemon
	t       *testing.T
	dir     string // has mds.yaml and what it names
	socket  string // of the admin API
	log     *safeBuffer
	metrics *prometheus.Registry
	http    *http.Client
	stop    func() error // ends Run and returns what it returned
	peer    func(*fleet.Caller) func(context.Context) (fleet.Peer, error)
}

// A safeBuffer is what log lines are written to.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// loopback is the listener of tests that say nothing of listeners.
const loopback = "listen: {main: {tcp: '127.0.0.1:0'}}\n"

// prepare writes a configuration into a folder of its own. It listens on a
// free port and has an admin socket with a name that is not too long, unless
// it says otherwise. DIR in it is the folder.
func prepare(t *testing.T, yaml string) *world {
	t.Helper()
	short, err := os.MkdirTemp("", "mds")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	w := &world{t: t, dir: t.TempDir(), socket: filepath.Join(short, "admin.sock"), log: &safeBuffer{}, metrics: prometheus.NewRegistry()}
	transport := &http.Transport{}
	w.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(transport.CloseIdleConnections)
	w.write(yaml)
	return w
}

// start runs a daemon with this configuration.
func start(t *testing.T, yaml string) *world {
	t.Helper()
	w := prepare(t, yaml)
	w.run()
	return w
}

// write replaces the configuration file.
func (w *world) write(yaml string) {
	w.t.Helper()
	w.file("mds.yaml", w.complete(yaml))
}

func (w *world) complete(yaml string) string {
	if !strings.Contains(yaml, "admin:") {
		yaml = "admin: {socket: '" + w.socket + "'}\n" + yaml
	}
	if !strings.Contains(yaml, "listen: {") {
		yaml = loopback + yaml
	}
	return strings.ReplaceAll(yaml, "DIR", w.dir)
}

// file writes a file that only its owner may read, as a key is.
func (w *world) file(name, content string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) load() (*config.Config, error) {
	name := filepath.Join(w.dir, "mds.yaml")
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return config.Load(name, data)
}

// open makes the daemon, which listens and does not serve yet.
func (w *world) open() error {
	c, err := w.load()
	if err != nil {
		return err
	}
	w.Daemon, err = daemon.New(w.t.Context(), daemon.Options{
		Config: c, Load: w.load, Metrics: w.metrics, Version: "v0-test", Peer: w.peer,
		Log: slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	return err
}

// run serves until the test ends or stop is called.
func (w *world) run() {
	w.t.Helper()
	if err := w.open(); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	w.stop = sync.OnceValue(func() error { cancel(); return <-done })
	w.t.Cleanup(func() {
		if err := w.stop(); err != nil {
			w.t.Errorf("Run ends with %v, want nil when it is told to end", err)
		}
	})
}

// serveAndStop runs a daemon that was made without open while something is
// done to it.
func (w *world) serveAndStop(work ...func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	for _, f := range work {
		f()
	}
	cancel()
	if err := <-done; err != nil {
		w.t.Errorf("Run ends with %v, want nil when it is told to end", err)
	}
}

// edit changes a value as gcemds set does.
func (w *world) edit(t *testing.T, path, value string) {
	t.Helper()
	client := &admin.Client{Socket: w.socket}
	if err := client.Edit(t.Context(), "", admin.Edit{Path: path, Value: json.RawMessage(value)}); err != nil {
		t.Fatal(err)
	}
}

// base is the URL of a listener.
func (w *world) base(listener string) string {
	w.t.Helper()
	addr := w.Addr(listener)
	if addr == nil {
		w.t.Fatalf("there is no listener %s", listener)
	}
	return "http://" + addr.String()
}

// get asks for a path below /computeMetadata/v1/.
func (w *world) get(path string) (status int, body string) {
	w.t.Helper()
	return fetch(w.t, w.http, w.base("main")+"/computeMetadata/v1/"+path)
}

// value is what is at a path.
func (w *world) value(path string) string {
	w.t.Helper()
	status, body := w.get(path)
	if status != http.StatusOK {
		w.t.Fatalf("GET %s = %d %s", path, status, body)
	}
	return body
}

// token asks for an access token of the default account.
func (w *world) token() string {
	w.t.Helper()
	var answer struct {
		Token string `json:"access_token"`
	}
	body := w.value("instance/service-accounts/default/token")
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Token == "" {
		w.t.Fatalf("the token endpoint answers %s (%v)", body, err)
	}
	return answer.Token
}

func fetch(t *testing.T, client *http.Client, url string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Metadata-Flavor", "Google")
	return do(t, client, req)
}

func do(t *testing.T, client *http.Client, req *http.Request) (status int, body string) {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// An answer is what somebody got who waited.
type answer struct {
	status int
	body   string
}

// hang waits for a change of a path; it returns when the server knows.
func (w *world) hang(path string) <-chan answer {
	w.t.Helper()
	before := w.Status().Hanging
	got := make(chan answer, 1)
	go func() {
		req, _ := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.base("main")+"/computeMetadata/v1/"+path+"?recursive=true&alt=text&wait_for_change=true", nil)
		req.Header.Set("Metadata-Flavor", "Google")
		resp, err := w.http.Do(req)
		if err != nil {
			got <- answer{body: err.Error()}
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		got <- answer{resp.StatusCode, string(body)}
	}()
	if !poll(func() bool { return w.Status().Hanging == before+1 }) {
		w.t.Fatalf("GET %s does not hang", path)
	}
	return got
}

// metric is the value of a counter or a gauge; labels are name, value, …
func (w *world) metric(name string, labels ...string) float64 {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetName(), l.GetValue())
			}
			if f.GetName() == name && slices.Equal(has, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

// newKey is a service account key; making one takes a moment.
func newKey() string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	file, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "key-project", "private_key_id": "k1",
		"private_key":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"client_email": "robot@key-project.iam.gserviceaccount.com", "client_id": "1234",
	})
	if err != nil {
		panic(err)
	}
	return string(file)
}

var testKey, otherKey = sync.OnceValue(newKey), sync.OnceValue(newKey)

func TestServe(t *testing.T) {
	t.Parallel()
	w := start(t, "")
	if got := w.value("instance/name"); got != "demo-instance" {
		t.Errorf("the built-in machine is called %q", got)
	}
	if got := w.value("instance/service-accounts/default/aliases"); got != "default\n" {
		t.Errorf("aliases of the default account = %q, want one line", got)
	}
	if addr := w.Addr("nobody"); addr != nil {
		t.Errorf("a listener that does not exist listens on %v", addr)
	}

	s := w.Status()
	if len(s.Listeners) != 1 || s.Listeners[0] != (admin.Listener{Name: "main", Address: w.Addr("main").String()}) {
		t.Errorf("status shows the listeners %+v", s.Listeners)
	}
	if s.Version != "v0-test" || s.PID != os.Getpid() || s.Config != filepath.Join(w.dir, "mds.yaml") || s.ConfigError != "" || time.Since(s.Started) > time.Minute {
		t.Errorf("status is %+v", s)
	}
	if len(s.Instances) != 1 || len(s.Instances[0].Accounts) != 1 || !slices.Equal(s.Instances[0].Accounts[0].Aliases, []string{"default"}) {
		t.Errorf("status shows the instances %+v", s.Instances)
	}

	status, body := fetch(t, w.http, s.Issuer+"/tokeninfo?access_token="+w.token())
	if status != http.StatusOK || !strings.Contains(body, `"expires_in"`) {
		t.Errorf("the issuer says of a token of ours: %d %s", status, body)
	}
	if status, body = fetch(t, w.http, s.Issuer+"/oauth2/v3/certs"); status != http.StatusOK || !strings.Contains(body, `"kty": "RSA"`) {
		t.Errorf("the issuer shows the keys %d %s", status, body)
	}
}

// TestShutdown: whoever waits is told to ask again, and nothing stays.
func TestShutdown(t *testing.T) {
	t.Parallel()
	w := start(t, "listen: {main: {tcp: '127.0.0.1:0'}, local: {unix: DIR/mds.sock}}\n")
	waiting := []<-chan answer{w.hang("instance/attributes/"), w.hang("instance/name")}
	if err := w.stop(); err != nil {
		t.Errorf("Run ends with %v, want nil", err)
	}
	for _, got := range waiting {
		if a := <-got; a.status != http.StatusServiceUnavailable {
			t.Errorf("a request that waits is answered %d %q when the server stops, want 503", a.status, a.body)
		}
	}
	for _, name := range []string{w.socket, filepath.Join(w.dir, "mds.sock")} {
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there after the end: %v", filepath.Base(name), err)
		}
	}
	if c, err := net.Dial("tcp", w.Addr("main").String()); err == nil {
		c.Close()
		t.Error("the port is still open after the end")
	}
}

// TestRunEndsAtOnce: a daemon that is told to end before it began ends.
func TestRunEndsAtOnce(t *testing.T) {
	t.Parallel()
	w := prepare(t, "")
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Run(ctx); err != nil {
		t.Errorf("Run ends with %v, want nil", err)
	}
}

// TestAdminAPI: what the command line asks for reaches the instances.
func TestAdminAPI(t *testing.T) {
	t.Parallel()
	w := start(t, "instances: {vm-1: {}, vm-2: {set: {instance/name: vm-2}}}\n")
	client := &admin.Client{Socket: w.socket}
	if err := client.Edit(t.Context(), "vm-2", admin.Edit{Path: "instance/attributes/x", Value: json.RawMessage(`"1"`)}); err != nil {
		t.Fatal(err)
	}
	for instance, want := range map[string]string{"": "vm-1", "vm-1": "vm-1", "vm-2": "vm-2"} {
		v, err := client.Get(t.Context(), instance, "instance/name", false)
		if err != nil || v.Text != want {
			t.Errorf("the name of instance %q is %q (%v), want %q", instance, v.Text, err, want)
		}
	}
	s, err := client.Status(t.Context())
	if err != nil || len(s.Instances) != 2 || len(s.Instances[0].Edits) != 0 || !slices.Equal(s.Instances[1].Edits, []string{"instance/attributes/x"}) {
		t.Errorf("status shows the instances %+v (%v), want the edit of vm-2", s.Instances, err)
	}
	if got := w.metric("gcemds_edits_total"); got != 1 {
		t.Errorf("gcemds_edits_total is %v, want 1", got)
	}
	w.write("instances: {vm-1: {set: {instance/name: renamed}}}\n")
	if err := client.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.value("instance/name"); got != "renamed" {
		t.Errorf("after a reload through the socket the name is %q", got)
	}
	if _, err := client.Get(t.Context(), "vm-2", "instance/name", false); err == nil || !strings.Contains(err.Error(), `there is no instance "vm-2"`) {
		t.Errorf("an instance that a reload removed: %v", err)
	}
}
