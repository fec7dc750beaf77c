package server_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/server"
	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tree"
)

// The corpus is replayed on our server over sockets, or on any other one:
//
//	go test ./internal/server -run Corpus -against 10.0.0.5:80
//
// Cases that need a change of the document are skipped there.
var against = flag.String("against", "", "host:port of a metadata server to replay the corpus on")

// A corpusCase is one request and what it must get; testdata/corpus/README.md
// describes the fields.
type corpusCase struct {
	ID          string            `json:"id"`
	Method      string            `json:"method"`
	Path        string            `json:"path"`
	Headers     map[string]string `json:"headers"`
	RequestBody string            `json:"request_body"`
	Setup       *struct {
		Set      map[string]any `json:"set"`
		Delete   []string       `json:"delete"`
		Requests []corpusCase   `json:"requests"`
		AfterMS  int            `json:"after_ms"`
	} `json:"setup"`
	Status      int                `json:"status"`
	ContentType *string            `json:"content_type"`
	Body        *string            `json:"body"`
	BodyJSON    json.RawMessage    `json:"body_json"`
	BodyRegex   string             `json:"body_regex"`
	Expected    map[string]*string `json:"headers_expected"`
	MinMS       int                `json:"min_ms"`
	MaxMS       int                `json:"max_ms"`
	Confidence  string             `json:"confidence"`
	Source      string             `json:"source"`
	Note        string             `json:"note"`
}

func TestCorpus(t *testing.T) {
	files, err := filepath.Glob("../../testdata/corpus/*.json")
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, file := range files {
		if filepath.Base(file) == "default-instance.json" {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var cases []corpusCase
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.UseNumber()
		dec.DisallowUnknownFields()
		if err := dec.Decode(&cases); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, c := range cases {
			ran++
			t.Run(c.ID, func(t *testing.T) {
				t.Parallel()
				replay(t, c)
			})
		}
	}
	if ran < 200 {
		t.Errorf("the corpus has %d cases; it had more than 200", ran)
	}
}

func replay(t *testing.T, c corpusCase) {
	addr := *against
	var store *tree.Store
	if addr == "" {
		addr, store = start(t)
	} else if c.Setup != nil || strings.Contains("PUT DELETE POST", c.Method) {
		t.Skip("this case changes the document; not done to a foreign server")
	}
	etag := func(s string) string {
		return regexp.MustCompile(`\{\{etag:(.*?)\}\}`).ReplaceAllStringFunc(s, func(m string) string {
			r := ask(t, addr, corpusCase{Method: "GET", Path: m[len("{{etag:") : len(m)-2], Headers: map[string]string{"Metadata-Flavor": "Google"}})
			return r.headers["ETag"]
		})
	}
	c.Path = etag(c.Path)
	if c.Setup != nil {
		for _, r := range c.Setup.Requests {
			if got := ask(t, addr, r); got.status != http.StatusOK {
				t.Fatalf("%s %s before the case = %d %s", r.Method, r.Path, got.status, got.body)
			}
		}
		var edits []tree.Edit
		for path, value := range c.Setup.Set {
			edits = append(edits, tree.Edit{Path: path, Value: value})
		}
		for _, path := range c.Setup.Delete {
			edits = append(edits, tree.Edit{Path: path})
		}
		edit := func() {
			if err := store.Edit(edits...); err != nil {
				t.Errorf("setup: %v", err)
			}
		}
		if c.Setup.AfterMS == 0 {
			edit()
		} else {
			timer := time.AfterFunc(time.Duration(c.Setup.AfterMS)*time.Millisecond, edit)
			t.Cleanup(func() { timer.Stop() })
		}
	}
	begin := time.Now()
	got := ask(t, addr, c)
	took := time.Since(begin).Milliseconds()

	fault := func(what string, got, want any) {
		t.Helper()
		t.Errorf("%s %s: %s = %q, want %q (case %s)", c.Method, c.Path, what, fmt.Sprint(got), fmt.Sprint(want), c.ID)
	}
	if got.status != c.Status {
		fault("status", got.status, c.Status)
	}
	if c.ContentType != nil && got.headers["Content-Type"] != *c.ContentType {
		fault("Content-Type", got.headers["Content-Type"], *c.ContentType)
	}
	if c.Body != nil && got.body != *c.Body {
		fault("body", got.body, *c.Body)
	}
	if c.BodyJSON != nil {
		decode := func(s string) (v any) {
			dec := json.NewDecoder(strings.NewReader(s))
			dec.UseNumber()
			if err := dec.Decode(&v); err != nil {
				return err
			}
			return v
		}
		if !reflect.DeepEqual(decode(got.body), decode(string(c.BodyJSON))) {
			fault("JSON", got.body, string(c.BodyJSON))
		}
	}
	if c.BodyRegex != "" && !regexp.MustCompile(c.BodyRegex).MatchString(got.body) {
		fault("body", got.body, c.BodyRegex)
	}
	for name, want := range c.Expected {
		value, there := got.headers[name]
		switch {
		case want == nil:
			if there {
				fault(name, value, "none")
			}
		case strings.HasPrefix(*want, "~"):
			if !there || !regexp.MustCompile((*want)[1:]).MatchString(value) {
				fault(name, value, *want)
			}
		case value != etag(*want):
			fault(name, value, *want)
		}
	}
	if c.Method != http.MethodHead && got.headers["Content-Length"] != strconv.Itoa(len(got.body)) {
		fault("Content-Length", got.headers["Content-Length"], len(got.body))
	}
	if took < int64(c.MinMS) || c.MaxMS > 0 && took > int64(c.MaxMS) {
		fault("time in ms", took, fmt.Sprintf("%d to %d", c.MinMS, c.MaxMS))
	}
}

type answer struct {
	status  int
	headers map[string]string // as spelt on the wire
	body    string
}

// ask speaks HTTP by hand: the spelling of headers counts, and paths must not
// be cleaned on the way.
func ask(t *testing.T, addr string, c corpusCase) answer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	host := addr
	var b strings.Builder
	for name, value := range c.Headers {
		if name == "Host" {
			host = value
			continue
		}
		fmt.Fprintf(&b, "%s: %s\r\n", name, value)
	}
	if c.RequestBody != "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(c.RequestBody))
	}
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n%s", c.Method, c.Path, host, b.String(), c.RequestBody)

	r := bufio.NewReader(conn)
	line := func() string {
		s, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("%s %s: the answer ends in its head: %v", c.Method, c.Path, err)
		}
		return strings.TrimSuffix(s, "\r\n")
	}
	a := answer{headers: map[string]string{}}
	if _, err := fmt.Sscanf(line(), "HTTP/1.1 %d", &a.status); err != nil {
		t.Fatalf("%s %s: %v", c.Method, c.Path, err)
	}
	for {
		name, value, ok := strings.Cut(line(), ": ")
		if !ok {
			break
		}
		a.headers[name] = value
	}
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	a.body = string(body)
	return a
}

// theIssuer is shared: its keys take a moment to make.
var theIssuer = sync.OnceValues(func() (*issuer.Issuer, error) { return issuer.New(issuer.Options{}) })

// start serves the built-in instance on a free port.
func start(t *testing.T) (addr string, store *tree.Store) {
	t.Helper()
	instance := newInstance(t)
	var router fleet.Router
	router.Set(fleet.Route{Instance: instance})
	s := server.New(&router, nil, server.Limits{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := s.HTTP(t.Context(), "main", slog.New(slog.DiscardHandler))
	go h.Serve(s.Bound(l))
	t.Cleanup(func() { h.Close() })
	return l.Addr().String(), instance.Metadata
}

// newInstance is the built-in machine with offline tokens.
func newInstance(t testing.TB) *fleet.Instance {
	t.Helper()
	iss, err := theIssuer()
	if err != nil {
		t.Fatal(err)
	}
	cache := token.NewCache(token.Limits{})
	t.Cleanup(cache.Close)
	doc := fleet.Builtin()
	accounts := fleet.Accounts(doc)
	for i := range accounts {
		accounts[i].Source = cache.Source(accounts[i].Email, iss.Source(accounts[i].Email))
	}
	if doc, err = fleet.Document(doc, accounts...); err != nil {
		t.Fatal(err)
	}
	others := func(email string) token.Source { return cache.Source(email, iss.Source(email)) }
	return &fleet.Instance{Name: "demo-instance", Metadata: tree.NewStore(doc), Accounts: accounts, Others: others, Created: fleet.BuiltinCreated}
}
