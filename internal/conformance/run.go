package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gcemds/gcemds/testdata/corpus"
)

// A Server is one that cases are run on.
type Server struct {
	// Addr is its host and port.
	Addr string

	// Other says that it serves another document than the default one. Then
	// values are compared by their shape: text with or without lines, or the
	// kind of JSON.
	Other bool

	// Edit changes the document. Nil: it cannot be changed, and cases that
	// need that are not run.
	Edit func(ctx context.Context, set map[string]any, deleted []string) error

	// Revert makes the document what it was at first, before each case that
	// changes it. Nil: each case gets a server of its own.
	Revert func(context.Context) error

	// Waiting is the number of requests that hang. Where it is known, a change
	// that comes some time after the request comes that long after the server
	// has begun to wait, however slow the machine is. Nil: after it was sent.
	Waiting func(context.Context) (int, error)
}

// Open finds out what is served at an address. It is an error if nothing
// answers there as a metadata server does.
func Open(ctx context.Context, addr string) (Server, error) {
	s := Server{Addr: addr}
	a, err := Ask(ctx, addr, get("/computeMetadata/v1/?recursive=true"))
	if err != nil {
		return s, fmt.Errorf("%s does not answer: %w", addr, err)
	}
	if !strings.EqualFold(header(a.Headers, "Metadata-Flavor"), "Google") {
		return s, fmt.Errorf("%s answers %d without the header Metadata-Flavor: Google, so it is not a metadata server", addr, a.Status)
	}
	document, err := corpus.Files.ReadFile(corpus.Document)
	s.Other = !sameJSON(a.Body, string(document))
	return s, err
}

// get is the request for a path.
func get(path string) Case {
	return Case{Method: http.MethodGet, Path: path, Headers: map[string]string{"Metadata-Flavor": "Google"}}
}

// header finds a header however it is spelt.
func header(headers map[string]string, name string) string {
	for n, v := range headers {
		if strings.EqualFold(n, name) {
			return v
		}
	}
	return ""
}

// A Result is what became of a case.
type Result struct {
	Case   Case
	Answer Answer
	Faults []Fault // how the answer differs from what is expected
	NotRun string  // why there is no verdict: one of the reasons below
	Other  bool    // the document is not that of the corpus
}

// Why a case has no verdict.
const (
	NeedsSetup = "change the document, which takes the control socket of a gcemds"
	NotThere   = "depend on what the machine of the corpus has"
)

// A Fault is one difference. Tokens in it are redacted.
type Fault struct {
	What string `json:"what"` // status, body, the name of a header …
	Got  string `json:"got"`
	Want string `json:"want"`
}

func (f Fault) String() string { return fmt.Sprintf("%s = %q, want %q", f.What, f.Got, f.Want) }

// parallel is how many cases run at a time.
const parallel = 8

// Run runs the cases and calls each with their results, one at a time and in
// any order. Those that leave the document alone run side by side. The error
// is one that ends it all: the context's, or that of a server that cannot be
// set up.
func (s Server) Run(ctx context.Context, cases []Case, each func(Result)) (err error) {
	if s.Edit != nil && s.Revert != nil {
		defer func() {
			if failed := s.Revert(context.WithoutCancel(ctx)); failed != nil && err == nil {
				err = fmt.Errorf("the document cannot be put back: %w", failed)
			}
		}()
	}
	var quiet, loud []Case
	for _, c := range cases {
		if c.changes() {
			loud = append(loud, c)
		} else {
			quiet = append(quiet, c)
		}
	}
	next := make(chan Case)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for c := range next {
				r, _ := s.Try(ctx, c) // it sets nothing up, so there is no error
				mu.Lock()
				each(r)
				mu.Unlock()
			}
		})
	}
	for _, c := range quiet {
		if ctx.Err() != nil {
			break
		}
		next <- c
	}
	close(next)
	wg.Wait()
	for _, c := range loud {
		if ctx.Err() != nil {
			break
		}
		r, err := s.Try(ctx, c)
		if err != nil {
			return err
		}
		each(r)
	}
	return context.Cause(ctx)
}

// Try runs one case. The error says that the server could not be set up.
func (s Server) Try(ctx context.Context, c Case) (Result, error) {
	r := Result{Case: c, Other: s.Other}
	if c.changes() && s.Edit == nil {
		r.NotRun = NeedsSetup
		return r, nil
	}
	if c.changes() && s.Revert != nil {
		if err := s.Revert(ctx); err != nil {
			return r, fmt.Errorf("before case %s: %w", c.ID, err)
		}
	}
	fill := etags{ctx: ctx, addr: s.Addr}
	c.Path = fill.in(c.Path)
	answer, err := s.ask(ctx, c)
	var setup *setupError
	if errors.As(err, &setup) {
		return r, fmt.Errorf("case %s: %w", c.ID, err)
	}
	r.Answer = answer
	if err != nil {
		r.Faults = []Fault{{"answer", err.Error(), strconv.Itoa(c.Status)}}
		return r, nil
	}
	expected := map[string]*string{}
	for name, want := range c.Expected {
		if want != nil && !strings.HasPrefix(*want, "~") {
			filled := fill.in(*want)
			want = &filled
		}
		expected[name] = want
	}
	c.Expected = expected
	absent := c.shows() && (answer.Status == http.StatusNotFound || answer.Status == http.StatusForbidden)
	if s.Other && (absent || fill.missing || particular.MatchString(c.Path)) {
		r.NotRun = NotThere
		return r, nil
	}
	r.Faults = c.compare(answer, s.Other)
	return r, nil
}

// particular matches paths whose answer, also an error, says what the machine
// of the corpus is like: its account, the scopes of that, how many disks it
// has, and that it has guest attributes.
var particular = regexp.MustCompile(`/123456789012-compute(@|%40)|enforce_scopes|/guest-attributes/|/(disks|network-interfaces|forwarded-ips|forwarded-ipv6s|ip-aliases|licenses)/[1-9]|/forwarded-ips/0`)

// etags fills in {{etag:PATH}}.
type etags struct {
	ctx     context.Context
	addr    string
	missing bool // a path has none
}

var etagPattern = regexp.MustCompile(`\{\{etag:(.*?)\}\}`)

func (e *etags) in(s string) string {
	return etagPattern.ReplaceAllStringFunc(s, func(m string) string {
		a, err := Ask(e.ctx, e.addr, get(m[len("{{etag:"):len(m)-len("}}")]))
		tag := a.Headers["ETag"]
		e.missing = e.missing || err != nil || tag == ""
		return tag
	})
}

// A setupError says that the server could not be set up.
type setupError struct{ error }

func (e *setupError) Unwrap() error { return e.error }

// ask sends the request of a case in its setting.
func (s Server) ask(ctx context.Context, c Case) (Answer, error) {
	if c.Setup == nil {
		return Ask(ctx, s.Addr, c)
	}
	for _, before := range c.Setup.Requests {
		a, err := Ask(ctx, s.Addr, before)
		if err == nil && a.Status != http.StatusOK {
			err = fmt.Errorf("%s %s before the case = %d", before.Method, before.Path, a.Status)
		}
		if err != nil {
			return a, err
		}
	}
	edit := func() error {
		if len(c.Setup.Set)+len(c.Setup.Delete) == 0 {
			return nil
		}
		if err := s.Edit(ctx, c.Setup.Set, c.Setup.Delete); err != nil {
			return &setupError{err}
		}
		return nil
	}
	if c.Setup.AfterMS == 0 {
		if err := edit(); err != nil {
			return Answer{}, err
		}
		return Ask(ctx, s.Addr, c)
	}

	before := 0
	if s.Waiting != nil {
		var err error
		if before, err = s.Waiting(ctx); err != nil {
			return Answer{}, &setupError{err}
		}
	}
	answered, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan error, 1)
	go func() {
		if err := s.awaitHanging(answered, before); err != nil {
			changed <- err
			return
		}
		select {
		case <-time.After(time.Duration(c.Setup.AfterMS) * time.Millisecond):
			changed <- edit()
		case <-answered.Done():
			changed <- nil // too early: the verdict says so
		}
	}()
	a, err := Ask(ctx, s.Addr, c)
	cancel()
	if fault := <-changed; fault != nil {
		err = fault
	}
	return a, err
}

// awaitHanging returns when more requests hang than before, or the context
// has ended.
func (s Server) awaitHanging(ctx context.Context, before int) error {
	if s.Waiting == nil {
		return nil
	}
	for {
		switch n, err := s.Waiting(ctx); {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return &setupError{err}
		case n > before:
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

// compare returns how an answer differs from what the case expects. Values of
// another document have the shape of those of the default one.
func (c Case) compare(got Answer, other bool) (faults []Fault) {
	fault := func(what string, got, want any) {
		faults = append(faults, Fault{what, redact(fmt.Sprint(got), false), fmt.Sprint(want)})
	}
	body := redact(got.Body, c.token() && got.Status < 300)
	if got.Status != c.Status {
		fault("status", got.Status, c.Status)
	}
	if c.ContentType != nil && got.Headers["Content-Type"] != *c.ContentType {
		fault("Content-Type", got.Headers["Content-Type"], *c.ContentType)
	}
	switch want := c.want(); {
	case other && got.Status != c.Status:
		// The status is the fault; a value is nobody's business.
	case other && c.shows():
		if got, want := shapeOf(got.Headers["Content-Type"], got.Body), shapeOf(value(c.ContentType), want); c.ContentType != nil && want != "not JSON" && got != want {
			fault("body", got, want)
		}
	case c.Body != nil && got.Body != *c.Body:
		fault("body", body, *c.Body)
	case c.BodyJSON != nil && !sameJSON(got.Body, string(c.BodyJSON)):
		fault("JSON", body, string(c.BodyJSON))
	case c.BodyRegex != "" && !regexp.MustCompile(c.BodyRegex).MatchString(got.Body):
		fault("body", body, c.BodyRegex)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Expected)) {
		want := c.Expected[name]
		value, there := got.Headers[name]
		switch {
		case want == nil:
			if there {
				fault(name, value, "none")
			}
		case strings.HasPrefix(*want, "~"):
			if !there || !regexp.MustCompile((*want)[1:]).MatchString(value) {
				fault(name, value, *want)
			}
		case value != *want:
			fault(name, value, *want)
		}
	}
	if c.Method != http.MethodHead && got.Headers["Content-Length"] != strconv.Itoa(len(got.Body)) {
		fault("Content-Length", got.Headers["Content-Length"], len(got.Body))
	}
	if took := got.Took.Milliseconds(); took < int64(c.MinMS) || c.MaxMS > 0 && took > int64(c.MaxMS) {
		fault("time in ms", took, fmt.Sprintf("%d to %d", c.MinMS, c.MaxMS))
	}
	return faults
}

// want is the body that the case expects, if it says it literally.
func (c Case) want() string {
	if c.BodyJSON != nil {
		return string(c.BodyJSON)
	}
	return value(c.Body)
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// shapeOf is what answers for the same key have in common on all machines.
func shapeOf(contentType, body string) string {
	if !strings.HasPrefix(contentType, "application/json") {
		return "text"
	}
	switch v, err := decode(body); v.(type) {
	case map[string]any:
		return "JSON object"
	case []any:
		return "JSON list"
	default:
		if err != nil {
			return "not JSON"
		}
		return "JSON value"
	}
}

func sameJSON(got, want string) bool {
	g, err := decode(got)
	w, _ := decode(want)
	return err == nil && reflect.DeepEqual(g, w)
}

// decode keeps numbers as they are written.
func decode(s string) (v any, err error) {
	dec := json.NewDecoder(strings.NewReader(s))
	dec.UseNumber()
	err = dec.Decode(&v)
	return v, err
}
