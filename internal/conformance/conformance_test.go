package conformance_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/gcemds/gcemds"
	"github.com/gcemds/gcemds/internal/conformance"
)

// TestTopics: every case of the corpus has a topic that somebody has thought
// of, so that the report stays short.
func TestTopics(t *testing.T) {
	report := conformance.NewReport(conformance.Server{})
	known := len(report.Topics)
	for _, c := range cases(t) {
		report.Add(conformance.Result{Case: c})
	}
	for _, topic := range report.Topics[known:] {
		t.Errorf("%d cases have ids that begin with %q, which belongs to no topic", topic.Cases, topic.Name)
	}
	if report.Total.Cases != report.Total.Passed || report.Total.Cases < 900 {
		t.Errorf("the total is %+v, want all passed", report.Total)
	}
}

func cases(t *testing.T) []conformance.Case {
	t.Helper()
	all, err := conformance.Cases()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestParseRefuses(t *testing.T) {
	for input, want := range map[string]string{
		`{}`:                            "cannot unmarshal",
		`[{"id":"a","colour":1}]`:       "colour",
		`[{"id":"a"},{"id":"a"}]`:       "there twice",
		`[{"id":""}]`:                   "empty",
		`[{"id":"a","body_regex":"("}]`: "case a",
		`[{"id":"a","headers_expected":{"x":"~("}}]`: "case a",
	} {
		if _, err := conformance.Parse([]byte(input)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%s) = %v, want an error that says %q", input, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`[{"id":"a","method":"GET","path":"/","status":200,"headers_expected":{"ETag":null,"Server":"~x"}}]`))
	f.Add([]byte(`[{"id":"a","setup":{"set":{"a/b":[1e400]},"after_ms":1,"requests":[{"id":""}]},"body_json":{"x":1}}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cases, err := conformance.Parse(data)
		if err != nil {
			return
		}
		for _, c := range cases {
			c.Topic()
		}
		again, err := json.Marshal(cases)
		if err != nil {
			t.Fatalf("what was parsed cannot be written: %v", err)
		}
		if _, err := conformance.Parse(again); err != nil {
			t.Fatalf("what was written cannot be parsed: %v", err)
		}
	})
}

// serve returns a server whose answers go through wrong.
func serve(t *testing.T, o gcemds.Options, wrong func(http.Handler) http.Handler) string {
	t.Helper()
	s, err := gcemds.New(o)
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(wrong(s.Handler()))
	t.Cleanup(h.Close)
	return h.Listener.Addr().String()
}

func right(h http.Handler) http.Handler { return h }

// A liar answers what lie makes of the status and the headers.
type liar struct {
	http.ResponseWriter
	lie func(status int, h http.Header) int
}

func (l liar) WriteHeader(status int) { l.ResponseWriter.WriteHeader(l.lie(status, l.Header())) }

func lying(lie func(r *http.Request, status int, h http.Header) int) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(liar{w, func(status int, h http.Header) int { return lie(r, status, h) }}, r)
		})
	}
}

// TestWrongServer: what is wrong with a server is what fails, and nothing else.
func TestWrongServer(t *testing.T) {
	t.Parallel()
	for name, k := range map[string]struct {
		wrong func(http.Handler) http.Handler
		fails func(conformance.Case) bool
		what  string
	}{
		"nothing": {right, func(conformance.Case) bool { return false }, ""},
		"redirects with 302": {
			lying(func(_ *http.Request, status int, _ http.Header) int {
				if status == http.StatusMovedPermanently {
					return http.StatusFound
				}
				return status
			}),
			func(c conformance.Case) bool { return c.Status == http.StatusMovedPermanently },
			"status",
		},
		"no X-Frame-Options on errors": {
			lying(func(_ *http.Request, status int, h http.Header) int {
				if status >= 400 {
					delete(h, "X-Frame-Options")
				}
				return status
			}),
			func(c conformance.Case) bool { return c.Status >= 400 && c.Expected["X-Frame-Options"] != nil },
			"X-Frame-Options",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := conformance.Open(t.Context(), serve(t, gcemds.Options{}, k.wrong))
			if err != nil || s.Other {
				t.Fatalf("Open = %+v, %v; want the machine of the corpus", s, err)
			}
			quick := slices.DeleteFunc(cases(t), func(c conformance.Case) bool { return c.Setup == nil && c.MinMS > 0 })
			report := conformance.NewReport(s)
			if err := s.Run(t.Context(), quick, report.Add); err != nil {
				t.Fatal(err)
			}
			failed := map[string][]conformance.Fault{}
			for _, f := range report.Failures {
				failed[f.ID] = f.Faults
			}
			for _, c := range quick {
				faults := failed[c.ID]
				if want := k.fails(c) && c.Setup == nil && (c.Method == "GET" || c.Method == "HEAD" || len(faults) > 0); want != (len(faults) > 0) {
					if c.Method == "GET" || c.Method == "HEAD" || !want {
						t.Errorf("case %s has the faults %v; should it fail: %v", c.ID, faults, want)
					}
				} else if want && (len(faults) != 1 || faults[0].What != k.what) {
					t.Errorf("case %s has the faults %v, want one of the %s", c.ID, faults, k.what)
				}
			}
			if report.NotRun[conformance.NeedsSetup] < 300 {
				t.Errorf("%v were not run, want those that change the document", report.NotRun)
			}
		})
	}
}

const document = `{"instance":{"attributes":{"password":"s3cr3t"},"disks":[{"index":0},{"index":1}],"id":1,"name":"vm-7","networkInterfaces":[{"forwardedIps":["192.0.2.7"]}],` +
	`"serviceAccounts":{"default":{"aliases":["default"],"email":"sa@p.test","scopes":["a"]}},"tags":["x"]},"oslogin":{"authenticate":{"sessions":{}}},"project":{"projectId":"p","numericProjectId":7,"attributes":{}}}`

// TestOtherDocument: a right server with another document has no faults, and a
// wrong one is recorded without its values.
func TestOtherDocument(t *testing.T) {
	t.Parallel()
	for name, k := range map[string]struct {
		wrong  func(http.Handler) http.Handler
		failed bool
	}{
		"right": {right, false},
		"wrong": {lying(func(_ *http.Request, status int, h http.Header) int { h["ETag"] = []string{"x"}; return status }), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := conformance.Open(t.Context(), serve(t, gcemds.Options{Document: []byte(document)}, k.wrong))
			if err != nil || !s.Other {
				t.Fatalf("Open = %+v, %v; want another machine", s, err)
			}
			report := conformance.NewReport(s)
			quick := slices.DeleteFunc(cases(t), func(c conformance.Case) bool { return c.MinMS > 0 })
			if err := s.Run(t.Context(), quick, report.Add); err != nil {
				t.Fatal(err)
			}
			if got := report.Total.Failed > 0; got != k.failed || report.Total.Passed+report.Total.Failed < 300 {
				t.Errorf("the report is\n%v", report)
			}
			recorded, err := json.Marshal(report.Recorded("here"))
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range []string{"s3cr3t", "192.0.2.7", "vm-7", "ya29.", "eyJ"} {
				if strings.Contains(string(recorded)+report.String(), secret) {
					t.Errorf("what is recorded or shown has %q in it", secret)
				}
			}
			if again, err := conformance.Parse(recorded); err != nil || len(again) != report.Total.Failed {
				t.Errorf("what was recorded is read as %d cases, %v; want %d", len(again), err, report.Total.Failed)
			}
		})
	}
}

// TestSecrets: tokens are neither shown nor recorded, whatever path they come from.
func TestSecrets(t *testing.T) {
	t.Parallel()
	token := "ya29." + strings.Repeat("x", 30)
	opaque := serve(t, gcemds.Options{}, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Metadata-Flavor", "Google")
			if strings.HasSuffix(r.URL.Path, "/token") || strings.HasSuffix(r.URL.Path, "/identity") {
				w.Write([]byte("access_token xxxx"))
			}
		})
	})
	addr := serve(t, gcemds.Options{}, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Metadata-Flavor", "Google")
			w.Write([]byte(`{"access_token":"` + token + `","note":"` + token + `"}`))
		})
	})
	for _, s := range []conformance.Server{{Addr: addr}, {Addr: addr, Other: true}, {Addr: opaque}, {Addr: opaque, Other: true}} {
		report := conformance.NewReport(s)
		if err := s.Run(t.Context(), cases(t), report.Add); err != nil {
			t.Fatal(err)
		}
		recorded, err := json.Marshal(report.Recorded("here"))
		shown, _ := json.Marshal(report)
		if all := string(recorded) + string(shown) + report.String(); err != nil || report.Total.Failed < 300 || strings.Contains(all, "xxxx") {
			t.Errorf("%v: %d failed, and the token is there: %v", err, report.Total.Failed, strings.Contains(all, "xxxx"))
		}
	}
}

// TestEndlessServer: bodies of any length to each request are not kept.
func TestEndlessServer(t *testing.T) {
	t.Parallel()
	addr := serve(t, gcemds.Options{}, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Metadata-Flavor", "Google")
			io.WriteString(w, strings.Repeat("x", 200_000))
		})
	})
	s := conformance.Server{Addr: addr}
	report := conformance.NewReport(s)
	if err := s.Run(t.Context(), cases(t)[:20], report.Add); err != nil {
		t.Fatal(err)
	}
	recorded, err := json.Marshal(report.Recorded("here"))
	if n := len(recorded) + len(report.String()); err != nil || report.Total.Failed < 10 || n > 100_000 {
		t.Errorf("%v: of %d cases that failed, with a body of 200 kB each, %d bytes are kept", err, report.Total.Failed, n)
	}
}

// TestNoServer: what is not a metadata server is not judged.
func TestNoServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for addr, want := range map[string]string{
		l.Addr().String(): "does not answer",
		serve(t, gcemds.Options{}, func(http.Handler) http.Handler { return http.NotFoundHandler() }): "is not a metadata server",
	} {
		if _, err := conformance.Open(t.Context(), addr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open = %v, want an error that says %q", err, want)
		}
	}
}

// TestRevert: a server that can be changed is put back before each case that
// changes it and at the end, also when it fails.
func TestRevert(t *testing.T) {
	t.Parallel()
	all := cases(t)
	i := slices.IndexFunc(all, func(c conformance.Case) bool { return c.Setup != nil && len(c.Setup.Set) > 0 && c.Setup.AfterMS == 0 })
	log := ""
	var fails error
	s := conformance.Server{
		Addr:   serve(t, gcemds.Options{}, right),
		Edit:   func(context.Context, map[string]any, []string) error { log += "edit "; return fails },
		Revert: func(context.Context) error { log += "revert "; return nil },
	}
	for _, fails = range []error{nil, errors.New("the disk is full")} {
		log = ""
		err := s.Run(t.Context(), all[i:i+1], func(conformance.Result) {})
		if log != "revert edit revert " || !errors.Is(err, fails) {
			t.Errorf("Run where the edit ends with %v does %sand ends with %v", fails, log, err)
		}
	}
}
