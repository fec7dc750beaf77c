package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/server"
	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tree"
)

const waiting = event + "?wait_for_change=true"

// hang asks in the background. In a bubble, synctest.Wait afterwards means
// that the request hangs or is answered.
func hang(ctx context.Context, s *server.Server, path string) <-chan *httptest.ResponseRecorder {
	answered := make(chan *httptest.ResponseRecorder, 1)
	go func() { answered <- do(s, request("GET", path, "").WithContext(ctx)) }()
	return answered
}

func edit(t *testing.T, i *fleet.Instance, path string, value any) {
	t.Helper()
	if err := i.Metadata.Edit(tree.Edit{Path: path, Value: value}); err != nil {
		t.Fatal(err)
	}
}

// timeout_sec: what is no integer is ignored, 0 and less answer at once.
func TestTimeoutSec(t *testing.T) {
	const ignored = -1
	for value, after := range map[string]time.Duration{
		"0":                     0,
		"-1":                    0,
		"-9223372037":           0, // seconds that are more nanoseconds than fit
		"-9223372036854775808":  0,
		"1":                     time.Second,
		"60":                    time.Minute,
		"0060":                  time.Minute,
		"3600":                  time.Hour,
		"100000":                100000 * time.Second,
		"":                      ignored,
		"abc":                   ignored,
		"1.5":                   ignored,
		"1e1":                   ignored,
		"0x10":                  ignored,
		"10s":                   ignored,
		"%201":                  ignored,
		"9223372036854775807":   ignored,
		"9223372037":            ignored,
		"99999999999999999999":  ignored,
		"-99999999999999999999": ignored,
		"1&timeout_sec=2":       time.Second,
	} {
		t.Run(value, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := plain(t)
				s := serverOf(i, nil, server.Limits{})
				const change = 240 * time.Hour
				time.AfterFunc(change, func() { edit(t, i, event, "CHANGED") })
				begin := time.Now()
				w := <-hang(t.Context(), s, waiting+"&timeout_sec="+value)
				body := "NONE"
				if after == ignored {
					after, body = change, "CHANGED"
				}
				if took := time.Since(begin); took != after {
					t.Errorf("timeout_sec=%s answers after %v, want %v", value, took, after)
				}
				if w.Code != 200 || w.Body.String() != body {
					t.Errorf("timeout_sec=%s = %d %q, want %q", value, w.Code, w.Body, body)
				}
			})
		})
	}
}

// Over a connection, nothing of ours ends a hanging GET: not the time for a
// header, a body, a write or an idle connection.
func TestHangingForADay(t *testing.T) {
	for _, body := range []string{"", "Content-Length: 0\r\n\r\n", "Connection: keep-alive\r\n\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			i := plain(t)
			s := serverOf(i, nil, server.Limits{})
			w := servePipes(t.Context(), t, s).dial(t)
			if body == "" {
				body = "\r\n"
			}
			w.send(t, "GET %s HTTP/1.1\r\n%s%s", v1+waiting, head, body)
			time.AfterFunc(24*time.Hour, func() { edit(t, i, event, "CHANGED") })
			if res, text := w.receive(t); res.StatusCode != 200 || text != "CHANGED" {
				t.Errorf("with %q after the headers: %d %q after a day, want the change", body, res.StatusCode, text)
			}
			if s.Waiting() != 0 {
				t.Errorf("%d requests hang after the answer", s.Waiting())
			}
		})
	}
}

func TestHangingGetsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := plain(t)
		j := journal.New(10)
		s := serverOf(i, j, server.Limits{HangingGets: 2})
		first, second := hang(t.Context(), s, waiting), hang(t.Context(), s, waiting)
		synctest.Wait()
		if s.Waiting() != 2 {
			t.Fatalf("%d requests hang, want 2", s.Waiting())
		}
		w := get(s, waiting)
		want(t, "a third hanging GET", w, 503, "Too many hanging GET requests")
		if etag(w) != "" {
			t.Error("the refusal has an ETag")
		}
		if e := j.Entries(0); e[len(e)-1].Class != "wait" || e[len(e)-1].Status != 503 {
			t.Errorf("the journal has %+v", e[len(e)-1])
		}
		want(t, "a plain GET meanwhile", get(s, event), 200, "NONE")
		edit(t, i, event, "X")
		want(t, "the first", <-first, 200, "X")
		want(t, "the second", <-second, 200, "X")
		again := hang(t.Context(), s, waiting+"&timeout_sec=1")
		want(t, "one afterwards", <-again, 200, "X")
		if s.Waiting() != 0 {
			t.Errorf("%d requests hang at the end", s.Waiting())
		}
	})
}

// While a body is on its way, nobody notices that the client has gone: a
// request does not hang before it is there, nor for a large one.
func TestWaitWithBody(t *testing.T) {
	for _, rest := range []string{"Content-Length: 4\r\n\r\nbo", "Transfer-Encoding: chunked\r\n\r\n", "Content-Length: 65536\r\n\r\n" + strings.Repeat("x", 65536)} {
		synctest.Test(t, func(t *testing.T) {
			s := serverOf(plain(t), nil, server.Limits{})
			w := servePipes(t.Context(), t, s).dial(t)
			w.send(t, "GET %s HTTP/1.1\r\n%s%s", v1+waiting, head, rest)
			if res, body := w.receive(t); res.StatusCode != 400 || !strings.Contains(body, "body") {
				t.Errorf("%q = %d %q, want 400", rest, res.StatusCode, body)
			}
			if s.Waiting() != 0 {
				t.Errorf("%q: %d requests hang", rest, s.Waiting())
			}
		})
	}
}

// The body of a GET is ignored, also while it waits, and does not shorten the wait.
func TestWaitAfterBody(t *testing.T) {
	for _, rest := range []string{"Content-Length: 4\r\n\r\nbody", "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			s := serverOf(plain(t), nil, server.Limits{})
			w := servePipes(t.Context(), t, s).dial(t)
			begin := time.Now()
			w.send(t, "GET %s&timeout_sec=60 HTTP/1.1\r\n%s%s", v1+waiting, head, rest)
			if res, body := w.receive(t); res.StatusCode != 200 || time.Since(begin) != time.Minute {
				t.Errorf("%q = %d %q after %v, want 200 after a minute", rest, res.StatusCode, body, time.Since(begin))
			}
		})
	}
}

// TestAnswerAfterWait: the answer to a request that has waited is, byte for byte,
// what the same request gets that need not wait, and the connection goes on.
func TestAnswerAfterWait(t *testing.T) {
	for name, request := range map[string]struct{ line, more string }{
		"leaf":                  {"GET " + v1 + event + "?wait_for_change=true&timeout_sec=1 HTTP/1.1", ""},
		"JSON":                  {"GET " + v1 + event + "?wait_for_change=true&timeout_sec=1&alt=json HTTP/1.1", ""},
		"the whole tree":        {"GET " + v1 + "?recursive=true&wait_for_change=true&timeout_sec=1 HTTP/1.1", ""},
		"HEAD":                  {"HEAD " + v1 + event + "?wait_for_change=true&timeout_sec=1 HTTP/1.1", ""},
		"a body of nothing":     {"GET " + v1 + event + "?wait_for_change=true&timeout_sec=1 HTTP/1.1", "Content-Length: 0\r\n"},
		"Connection: close":     {"GET " + v1 + event + "?wait_for_change=true&timeout_sec=1 HTTP/1.1", "Connection: close\r\n"},
		"HTTP/1.0":              {"GET " + v1 + event + "?wait_for_change=true&timeout_sec=1 HTTP/1.0", ""},
		"HTTP/1.0 that goes on": {"GET " + v1 + event + "?wait_for_change=true&timeout_sec=1 HTTP/1.0", "Connection: keep-alive\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := serverOf(plain(t), nil, server.Limits{})
				l := servePipes(t.Context(), t, s)
				// Waits, does not, and then asks for what is not there.
				raw := func(line string) (all string, closed bool) {
					w := l.dial(t)
					w.send(t, "%s\r\n%s%s\r\n", line, head, request.more)
					read := make(chan []byte, 1)
					go func() { all, _ := io.ReadAll(w.r); read <- all }()
					time.Sleep(2 * time.Second)
					_, err := fmt.Fprintf(w, "GET %sinstance/nope HTTP/1.1\r\n%sConnection: close\r\n\r\n", v1, head)
					return dateLine.ReplaceAllString(string(<-read), "Date: now"), err != nil
				}
				waited, waitedClosed := raw(request.line)
				direct, directClosed := raw(strings.ReplaceAll(request.line, "wait_for_change=true&timeout_sec=1", ""))
				if waited != direct || waitedClosed != directClosed {
					t.Errorf("after the wait (closed: %v):\n%s\nwithout it (closed: %v):\n%s", waitedClosed, waited, directClosed, direct)
				}
				if strings.Count(waited, " 200 OK\r\n") != 1 {
					t.Errorf("not one answer:\n%s", waited)
				}
			})
		})
	}
}

var dateLine = regexp.MustCompile(`Date: [^\r]*`)

// A client that goes away gives its place back at once.
func TestClientGone(t *testing.T) {
	for name, rest := range map[string]string{
		"no body":    "\r\n",
		"empty body": "Content-Length: 0\r\n\r\n",
		"pipelined":  "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := journal.New(10)
				s := serverOf(plain(t), j, server.Limits{})
				w := servePipes(t.Context(), t, s).dial(t)
				w.send(t, "GET %s HTTP/1.1\r\n%s%s", v1+waiting, head, rest)
				synctest.Wait()
				if s.Waiting() != 1 {
					t.Fatalf("%d requests hang, want 1", s.Waiting())
				}
				w.Close()
				synctest.Wait()
				if s.Waiting() != 0 {
					t.Fatal("the client has gone, its request still hangs")
				}
				if e := j.Entries(0); len(e) != 1 || e[0].Class != "gone" || e[0].Status != 499 {
					t.Errorf("the journal has %+v, want one entry of class gone", e)
				}
			})
		})
	}
}

// When the server stops, whoever waits is told to ask again.
func TestShutdown(t *testing.T) {
	for name, path := range map[string]string{
		"hanging":       waiting,
		"hanging, root": "?recursive=true&wait_for_change=true&timeout_sec=60",
		"token":         accounts + "default/token",
		"identity":      accounts + "default/identity?audience=x",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := withSource(t, mint(func(ctx context.Context, _ token.Request) (token.Token, error) {
					<-ctx.Done()
					return token.Token{}, ctx.Err()
				}))
				ctx, stop := context.WithCancelCause(t.Context())
				w := servePipes(ctx, t, serverOf(i, nil, server.Limits{})).dial(t)
				w.send(t, "GET %s HTTP/1.1\r\n%s\r\n", v1+path, head)
				synctest.Wait()
				stop(server.ErrShutdown)
				res, body := w.receive(t)
				if res.StatusCode != 503 {
					t.Errorf("%d %q at shutdown, want 503: clients take others for final", res.StatusCode, body)
				}
			})
		})
	}
}

// A reload is a change like any other.
func TestWaitAcrossSetBase(t *testing.T) {
	changed := func(edits ...tree.Edit) *tree.Tree {
		doc, err := fleet.Builtin().With(edits...)
		if err != nil {
			t.Fatal(err)
		}
		return doc
	}
	for _, test := range []struct {
		name, path string
		base       *tree.Tree
		status     int // 0: still hangs
		body       string
	}{
		{"another value", waiting, changed(tree.Edit{Path: event, Value: "NEW"}), 200, "NEW"},
		{"the same document", waiting, changed(), 0, ""},
		{"another key", waiting, changed(tree.Edit{Path: "instance/name", Value: "x"}), 0, ""},
		{"gone", waiting, changed(tree.Edit{Path: event}), 404, "was not found"},
		{"a directory now", waiting, changed(tree.Edit{Path: event}, tree.Edit{Path: event + "/x", Value: "y"}), 404, "was not found"},
		{"a leaf now", "instance/extra/?recursive=true&wait_for_change=true", changed(tree.Edit{Path: "instance/extra", Value: "y"}), 404, "was not found"},
		{"a list now", waiting, changed(tree.Edit{Path: event}, tree.Edit{Path: event, Value: json.RawMessage(`["a","b"]`)}), 200, "a\nb\n"},
		{"below a directory", "instance/?recursive=true&alt=text&wait_for_change=true", changed(tree.Edit{Path: event, Value: "NEW"}), 200, "maintenance-event NEW\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := plain(t, tree.Edit{Path: "instance/extra/x", Value: "y"})
				s := serverOf(i, nil, server.Limits{})
				edit(t, i, "instance/attributes/by-hand", "kept")
				answered := hang(t.Context(), s, test.path+"&timeout_sec=60")
				synctest.Wait()
				begin := time.Now()
				if dropped := i.Metadata.SetBase(test.base); len(dropped) > 0 {
					t.Fatalf("dropped %v", dropped)
				}
				w := <-answered
				if test.status == 0 {
					if took := time.Since(begin); took != time.Minute {
						t.Errorf("answered after %v, want to sleep through it for a minute", took)
					}
					return
				}
				if took := time.Since(begin); took != 0 {
					t.Errorf("answered after %v, want at once", took)
				}
				want(t, test.path, w, test.status, test.body)
			})
		})
	}
}

// Who waits below a directory that is shut learns why.
func TestWaitShut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := plain(t, tree.Edit{Path: "instance/guest-attributes/a/b", Value: "v"})
		s := serverOf(i, nil, server.Limits{})
		leaf := hang(t.Context(), s, "instance/guest-attributes/a/b?wait_for_change=true")
		dir := hang(t.Context(), s, "instance/guest-attributes/?recursive=true&wait_for_change=true")
		synctest.Wait()
		edit(t, i, "instance/attributes/enable-guest-attributes", "FALSE")
		want(t, "a leaf", <-leaf, 403, "Guest attributes endpoint access is disabled.")
		want(t, "the directory", <-dir, 403, "Guest attributes endpoint access is disabled.")
	})
}

// A restored value has its old ETag.
func TestETagIsRestored(t *testing.T) {
	t.Parallel()
	i := plain(t)
	s := serverOf(i, nil, server.Limits{})
	etags := func() (e [3]string) {
		for k, path := range []string{event, "instance/?recursive=true", "instance/"} {
			e[k] = etag(get(s, path))
		}
		return e
	}
	before := etags()
	edit(t, i, event, "X")
	during := etags()
	edit(t, i, event, "NONE")
	if after := etags(); after != before {
		t.Errorf("ETags %v after a change and back, want %v", after, before)
	}
	if during[0] == before[0] || during[1] == before[1] || during[2] != before[2] {
		t.Errorf("ETags %v while a value differs, before %v: want all but the listing's to change", during, before)
	}
	if before[1] == before[2] {
		t.Error("the recursive form and the listing share an ETag")
	}
}

// One change, and everybody who waits for it is answered.
func TestThousandWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := plain(t)
		s := serverOf(i, nil, server.Limits{})
		var all []<-chan *httptest.ResponseRecorder
		for k := range 1000 {
			path := waiting
			switch k % 4 {
			case 1:
				path += "&alt=json&last_etag=" + etag(get(s, event))
			case 2:
				path = "?recursive=true&alt=text&wait_for_change=true&timeout_sec=3600"
			case 3:
				path = fmt.Sprintf("project/?recursive=true&wait_for_change=true&timeout_sec=%d", 60+k)
			}
			all = append(all, hang(t.Context(), s, path))
		}
		synctest.Wait()
		if s.Waiting() != 1000 {
			t.Fatalf("%d requests hang, want 1000", s.Waiting())
		}
		edit(t, i, event, "CHANGED")
		synctest.Wait()
		if s.Waiting() != 250 {
			t.Errorf("after a change of the instance %d requests hang, want the 250 of the project", s.Waiting())
		}
		for k, answered := range all {
			text := []string{"CHANGED", `"CHANGED"`, "instance/maintenance-event CHANGED\n", `"projectId":"demo-project"`}[k%4]
			want(t, fmt.Sprintf("waiter %d", k), <-answered, 200, text)
		}
	})
}
