package gcemds_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gcemds/gcemds"
)

const robot = "robot@my-project.iam.gserviceaccount.com"

// start runs a server until the test ends.
func start(t *testing.T, o gcemds.Options) *gcemds.Server {
	t.Helper()
	s, err := gcemds.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Shutdown(ctx)
	})
	return s
}

// get asks for a path below /computeMetadata/v1/.
func get(t *testing.T, s *gcemds.Server, path string) (status int, body string) {
	t.Helper()
	status, _, body = ask(t, s.Addr(), "", path)
	return status, body
}

func ask(t *testing.T, addr, host, path string) (status int, header http.Header, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/computeMetadata/v1/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Metadata-Flavor", "Google")
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(data)
}

// A source counts and remembers what it is asked.
type source struct {
	mu   sync.Mutex
	asks []gcemds.Request
	err  error
}

func (s *source) Mint(_ context.Context, r gcemds.Request) (gcemds.Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asks = append(s.asks, r)
	if s.err != nil {
		return gcemds.Token{}, s.err
	}
	return gcemds.Token{Value: fmt.Sprintf("token-%d", len(s.asks)), Expiry: time.Now().Add(time.Hour)}, nil
}

func (s *source) asked() []gcemds.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asks)
}

func TestZeroOptions(t *testing.T) {
	t.Parallel()
	s, err := gcemds.New(gcemds.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Addr(); got != "" {
		t.Errorf("Addr before Start is %q", got)
	}
	for range 2 {
		if err := s.Start("127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	first := s.Addr()
	if status, body := get(t, s, "instance/name"); status != 200 || body != "demo-instance" {
		t.Errorf("the built-in machine answers %d %s", status, body)
	}
	if status, body := get(t, s, "instance/service-accounts/default/token"); status != 200 || !strings.Contains(body, `"access_token":"ya29.c.offline.`) {
		t.Errorf("a token of the built-in machine: %d %s", status, body)
	}
	if err := s.Start(first); err == nil || !strings.HasPrefix(err.Error(), "gcemds: listen tcp "+first) {
		t.Errorf("Start on a port that is taken: %v", err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := s.Start("127.0.0.1:0"); err == nil || err.Error() != "gcemds: the server has been shut down" {
		t.Errorf("Start after Shutdown: %v", err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown again: %v", err)
	}
	if c, err := net.Dial("tcp", first); err == nil {
		c.Close()
		t.Error("the port is still open after Shutdown")
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	created := time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)
	s := start(t, gcemds.Options{
		Document: []byte(`{"instance": {"name": "vm-1", "id": 7, "zone": "projects/1/zones/z", "attributes": {"a": "1"}}, "project": {"projectId": "p", "numericProjectId": 1}}`),
		Accounts: []gcemds.Account{{Email: robot, Aliases: []string{"default"}, Scopes: []string{"https://www.googleapis.com/auth/cloud-platform"}}},
		Set:      map[string]any{"instance/attributes/b": "2", "instance/tags": []string{"web"}, "instance/id": 8},
		Created:  created,
		Hosts:    []string{"mds.example.test"},
	})
	for path, want := range map[string]string{
		"instance/name": "vm-1", "instance/attributes/": "a\nb\n", "instance/tags": `["web"]`, "instance/id": "8",
		"instance/service-accounts/":              "default/\n" + robot + "/\n",
		"instance/service-accounts/default/email": robot,
	} {
		if status, body := get(t, s, path); status != 200 || body != want {
			t.Errorf("%s is %d %q, want %q", path, status, body, want)
		}
	}
	for host, want := range map[string]int{"mds.example.test": 200, "metadata.google.internal": 200, "evil.example.test": 403} {
		if status, _, _ := ask(t, s.Addr(), host, "instance/name"); status != want {
			t.Errorf("the host %s gets %d, want %d", host, status, want)
		}
	}
	_, jwt := get(t, s, "instance/service-accounts/default/identity?audience=x&format=full")
	var claims struct {
		Email  string
		Google struct {
			Compute struct {
				Created int64  `json:"instance_creation_timestamp"`
				ID      string `json:"instance_id"`
			} `json:"compute_engine"`
		}
	}
	decode(t, strings.Split(jwt, ".")[1], &claims)
	if c := claims.Google.Compute; c.Created != created.Unix() || c.ID != "8" || claims.Email != robot {
		t.Errorf("a full identity token says %+v", claims)
	}
}

func TestOptionsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		options gcemds.Options
		want    string
	}{
		{gcemds.Options{Document: []byte("{")}, "gcemds: Document: "},
		{gcemds.Options{Document: []byte{}}, "gcemds: Document: "},
		{gcemds.Options{Accounts: []gcemds.Account{{Email: "a\nb@p"}}}, "gcemds: Accounts: "},
		{gcemds.Options{Set: map[string]any{"instance/name/x": "1"}}, "gcemds: Set: instance/name/x: instance/name is a leaf; nothing can be set below it"},
		{gcemds.Options{Set: map[string]any{"instance/attributes/x": func() {}}}, "gcemds: Set: instance/attributes/x: "},
	} {
		if s, err := gcemds.New(c.options); err == nil || !strings.HasPrefix(err.Error(), c.want) || s != nil {
			t.Errorf("New(%+v) = %v, %v; want %s", c.options, s, err, c.want)
		}
	}
}

// TestSetOrder: a directory is set before what is in it, each time.
func TestSetOrder(t *testing.T) {
	t.Parallel()
	for range 20 {
		s, err := gcemds.New(gcemds.Options{Set: map[string]any{
			"instance/attributes": map[string]string{"a": "1"}, "instance/attributes/b": "2", "instance/attributes/c": "3",
		}})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodGet, "/computeMetadata/v1/instance/attributes/", nil)
		req.Host = "metadata"
		req.Header.Set("Metadata-Flavor", "Google")
		s.Handler().ServeHTTP(r, req)
		if got := r.Body.String(); got != "a\nb\nc\n" {
			t.Fatalf("the attributes are %q, want a, b and c", got)
		}
	}
}

// TestNoAccounts: an empty list is a machine without any; nil is the document's.
func TestNoAccounts(t *testing.T) {
	t.Parallel()
	s := start(t, gcemds.Options{Accounts: []gcemds.Account{}})
	if status, body := get(t, s, "instance/service-accounts/default/token"); status != 404 {
		t.Errorf("a machine without accounts gives a token: %d %s", status, body)
	}
}

// TestSeveral: servers in one process share nothing, and leave the environment
// as it is.
func TestSeveral(t *testing.T) {
	before := os.Environ()
	a, b := start(t, gcemds.Options{Set: map[string]any{"instance/name": "a"}}), start(t, gcemds.Options{})
	if err := b.Set("instance/name", "b"); err != nil {
		t.Fatal(err)
	}
	tokens := map[string]bool{}
	for want, s := range map[string]*gcemds.Server{"a": a, "b": b} {
		if _, got := get(t, s, "instance/name"); got != want {
			t.Errorf("server %s says that it is %q", want, got)
		}
		_, token := get(t, s, "instance/service-accounts/default/token?alt=text")
		tokens[strings.Fields(token)[1]] = true
	}
	if a.Addr() == b.Addr() || len(tokens) != 2 {
		t.Errorf("two servers share an address or a token: %s %s", a.Addr(), b.Addr())
	}
	if after := os.Environ(); !slices.Equal(before, after) {
		t.Errorf("the environment was changed to %q", after)
	}
}

// TestSource: a source is asked for what the client wants, and once.
func TestSource(t *testing.T) {
	t.Parallel()
	mint := &source{}
	s := start(t, gcemds.Options{Accounts: []gcemds.Account{
		{Email: robot, Aliases: []string{"default"}, Scopes: []string{"b", " a"}, Source: mint},
		{Email: "offline@my-project.iam.gserviceaccount.com"},
	}})
	for range 3 {
		if status, body := get(t, s, "instance/service-accounts/default/token?alt=text"); status != 200 || !strings.HasPrefix(body, "access_token token-1\n") {
			t.Errorf("the token is %d %q, want the first one of the source each time", status, body)
		}
	}
	if _, body := get(t, s, "instance/service-accounts/"+robot+"/identity?audience=https://x"); body != "token-2" {
		t.Errorf("the identity is %q, want what the source made", body)
	}
	got := mint.asked()
	if len(got) != 2 || !slices.Equal(got[0].Scopes, []string{"a", "b"}) || got[0].Audience != "" || got[1].Audience != "https://x" {
		t.Errorf("the source was asked %+v, want the scopes of the account, then the audience", got)
	}
	if _, body := get(t, s, "instance/service-accounts/offline@my-project.iam.gserviceaccount.com/token"); !strings.Contains(body, "ya29.c.offline.") {
		t.Errorf("an account without a source answers %s", body)
	}
}

// TestErrors: the kind decides what the workload is told, and the cause stays
// inside.
func TestErrors(t *testing.T) {
	t.Parallel()
	secret := errors.New("the-secret-cause")
	for _, c := range []struct {
		err    error
		status int
	}{
		{secret, 503},
		{&gcemds.Error{Err: secret}, 503},
		{&gcemds.Error{Kind: gcemds.Unavailable, Err: secret}, 503},
		{&gcemds.Error{Kind: gcemds.Throttled, RetryAfter: 7 * time.Second, Err: secret}, 429},
		{&gcemds.Error{Kind: gcemds.Denied, Err: secret}, 403},
		{fmt.Errorf("wrapped: %w", &gcemds.Error{Kind: gcemds.Denied, Err: secret}), 403},
		{&gcemds.Error{Kind: gcemds.Misconfigured, Err: secret}, 500},
		{&gcemds.Error{Kind: gcemds.Clock, Err: secret}, 500},
		{&gcemds.Error{Kind: gcemds.Unsupported, Err: secret}, 404},
		{&gcemds.Error{Kind: gcemds.InvalidRequest, Err: secret}, 400},
	} {
		s := start(t, gcemds.Options{Accounts: []gcemds.Account{{Email: robot, Aliases: []string{"default"}, Source: &source{err: c.err}}}})
		status, header, body := ask(t, s.Addr(), "", "instance/service-accounts/default/token")
		var answer struct {
			Error       string
			Description string `json:"error_description"`
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Error == "" || answer.Description == "" {
			t.Errorf("%v: the answer is %s, want an OAuth error", c.err, body)
		}
		if status != c.status || strings.Contains(body, "secret") {
			t.Errorf("%v: the workload is told %d %s, want %d and nothing of the cause", c.err, status, body, c.status)
		}
		if want := map[bool]string{true: "7"}[status == 429]; header.Get("Retry-After") != want {
			t.Errorf("%v: Retry-After is %q, want %q", c.err, header.Get("Retry-After"), want)
		}
	}
}

// TestChanges: Set and Delete wake whoever waits.
func TestChanges(t *testing.T) {
	t.Parallel()
	s := start(t, gcemds.Options{Set: map[string]any{"instance/attributes/x": "1"}})
	wait := func(change func() error) (int, string) {
		t.Helper()
		_, header, _ := ask(t, s.Addr(), "", "instance/attributes/x")
		failed := make(chan error, 1)
		go func() { failed <- change() }()
		status, _, body := ask(t, s.Addr(), "", "instance/attributes/x?wait_for_change=true&last_etag="+header.Get("ETag"))
		if err := <-failed; err != nil {
			t.Errorf("the change fails: %v", err)
		}
		return status, body
	}
	if status, body := wait(func() error { return s.Set("instance/attributes/x", "2") }); status != 200 || body != "2" {
		t.Errorf("who waits gets %d %q from Set, want 2", status, body)
	}
	if status, _ := wait(func() error { return s.Delete("instance/attributes/x") }); status != 404 {
		t.Errorf("who waits gets %d from Delete, want 404", status)
	}
	if err := s.Set("instance/attributes/x", nil); err == nil || err.Error() != "gcemds: instance/attributes/x: nil is not a value; use Delete" {
		t.Errorf("Set to nil: %v", err)
	}
	if err := s.Set("instance/name/x", "1"); err == nil || !strings.Contains(err.Error(), "instance/name is a leaf") {
		t.Errorf("Set below a leaf: %v", err)
	}
	if err := s.Delete("instance/nothing"); err != nil {
		t.Errorf("Delete of what is not there: %v", err)
	}
	if err := s.Delete(""); err == nil {
		t.Error("the whole document was deleted")
	}
}

// TestShutdownWakes: hanging requests are answered when the server ends.
func TestShutdownWakes(t *testing.T) {
	t.Parallel()
	s := start(t, gcemds.Options{Limits: gcemds.Limits{HangingGets: 1}})
	answer := make(chan int, 1)
	var ending atomic.Bool
	go func() {
		status := 503
		for status == 503 && !ending.Load() { // before the end, the only place was that of the question below
			status, _, _ = ask(t, s.Addr(), "", "instance/name?wait_for_change=true")
		}
		answer <- status
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // one may wait; is it there yet?
		if status, body := get(t, s, "instance/name?wait_for_change=true&timeout_sec=0"); status == 503 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("nobody hangs: %d %s", status, body)
		}
	}
	ending.Store(true)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if status := <-answer; status != 503 {
		t.Errorf("who waits gets %d at the end, want 503", status)
	}
}

// TestShutdownGivesUp: it waits for requests no longer than it is told.
func TestShutdownGivesUp(t *testing.T) {
	t.Parallel()
	s, err := gcemds.New(gcemds.Options{Set: map[string]any{"instance/attributes/enable-guest-attributes": "TRUE"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT /computeMetadata/v1/instance/guest-attributes/a/b HTTP/1.1\r\nHost: x\r\nMetadata-Flavor: Google\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "100") {
		t.Fatalf("the server answers %q, %v, want it to wait for the body", line, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown with a context that has ended is %v, want its error", err)
	}
}

// TestHandler: the protocol in an http.Server of the program's own.
func TestHandler(t *testing.T) {
	t.Parallel()
	s, err := gcemds.New(gcemds.Options{})
	if err != nil {
		t.Fatal(err)
	}
	own := httptest.NewServer(s.Handler())
	defer own.Close()
	if status, header, body := ask(t, own.Listener.Addr().String(), "", "instance/name"); status != 200 || body != "demo-instance" || header.Get("Metadata-Flavor") != "Google" {
		t.Errorf("our handler in another server answers %d %s", status, body)
	}
}

func decode(t *testing.T, part string, v any) {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(part)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatalf("%s: %v", part, err)
	}
}

// TestKeys: a verifier that knows nothing of us accepts an identity token by
// the keys that Keys shows.
func TestKeys(t *testing.T) {
	t.Parallel()
	s := start(t, gcemds.Options{})
	keys := httptest.NewServer(s.Keys())
	defer keys.Close()
	_, jwt := get(t, s, "instance/service-accounts/default/identity?audience=https://example.com")
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("the identity is no JWT: %s", jwt)
	}
	var head struct{ Alg, Kid string }
	decode(t, parts[0], &head)
	var claims struct {
		Aud, Iss string
		Exp      int64
	}
	decode(t, parts[1], &claims)
	if head.Alg != "RS256" || claims.Aud != "https://example.com" || claims.Iss != "https://accounts.google.com" || claims.Exp < time.Now().Unix() {
		t.Errorf("the token says %+v %+v", head, claims)
	}

	resp, err := http.Get(keys.URL + "/oauth2/v3/certs")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var set struct {
		Keys []struct{ Kid, Kty, N, E string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil {
		t.Fatal(err)
	}
	verified := false
	for _, k := range set.Keys {
		if k.Kid != head.Kid || k.Kty != "RSA" {
			continue
		}
		n, errN := base64.RawURLEncoding.DecodeString(k.N)
		e, errE := base64.RawURLEncoding.DecodeString(k.E)
		sig, errS := base64.RawURLEncoding.DecodeString(parts[2])
		if err := errors.Join(errN, errE, errS); err != nil {
			t.Fatal(err)
		}
		key := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
		sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		verified = rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig) == nil
	}
	if !verified {
		t.Errorf("no key of %+v verifies the token of the key %s", set, head.Kid)
	}
}
