package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/server"
	"github.com/gcemds/gcemds/internal/tree"
)

// pipes is a listener in memory, for tests with a clock of their own.
type pipes struct {
	queue  chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes {
	return &pipes{queue: make(chan net.Conn, 100), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.queue:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { close(p.closed); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (p *pipes) dial(t *testing.T) *wire {
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close() })
	p.queue <- there
	return &wire{here, bufio.NewReader(here)}
}

// servePipes serves in a bubble of synctest until the test ends.
func servePipes(ctx context.Context, t *testing.T, s *server.Server) *pipes {
	l := newPipes()
	h := s.HTTP(ctx, "pipe", slog.New(slog.DiscardHandler))
	done := make(chan error)
	go func() { done <- h.Serve(s.Bound(l)) }()
	t.Cleanup(func() { h.Close(); <-done })
	return l
}

// A wire is a connection to write requests to by hand.
type wire struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, network, addr string) *wire {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return &wire{c, bufio.NewReader(c)}
}

func (w *wire) send(t *testing.T, format string, args ...any) {
	t.Helper()
	if _, err := fmt.Fprintf(w, format, args...); err != nil {
		t.Fatal(err)
	}
}

// receive reads one answer and its body.
func (w *wire) receive(t *testing.T) (*http.Response, string) {
	t.Helper()
	res, err := http.ReadResponse(w.r, nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("half an answer: %v", err)
	}
	return res, string(body)
}

const head = "Host: metadata.google.internal\r\nMetadata-Flavor: Google\r\n"

func TestHTTP10WithoutHost(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	addr := s.Addr
	for path, location := range map[string]string{
		"instance/name": "",
		"instance?a=b":  "Location: http://" + addr + v1 + "instance/?a=b\r\n",
	} {
		w := dial(t, "tcp", addr)
		w.send(t, "GET %s HTTP/1.0\r\nMetadata-Flavor: Google\r\n\r\n", v1+path)
		data, err := io.ReadAll(w) // to the end of the connection
		answer := string(data)
		if err != nil || !strings.HasPrefix(answer, "HTTP/1.0 ") {
			t.Errorf("%s: %q, %v; want HTTP/1.0", path, answer, err)
		}
		if !strings.Contains(strings.ToLower(answer), "\r\nconnection: close\r\n") { // section 1.2
			t.Errorf("%s: no Connection: close in %q", path, answer)
		}
		if !strings.Contains(answer, location) {
			t.Errorf("%s: no %q in %q", path, location, answer)
		}
	}
}

// A socket file has no address that a redirect could name.
func TestHTTP10WithoutHostOnASocketFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Skipf("no socket files here: %v", err)
	}
	s := serverOf(plain(t), nil, server.Limits{})
	h := s.HTTP(t.Context(), "socket", slog.New(slog.DiscardHandler))
	go h.Serve(s.Bound(l))
	t.Cleanup(func() { h.Close() })

	w := dial(t, "unix", path)
	w.send(t, "GET %sinstance HTTP/1.0\r\nMetadata-Flavor: Google\r\n\r\n", v1)
	res, _ := w.receive(t)
	u, err := url.Parse(res.Header.Get("Location"))
	if err != nil || u.Path != v1+"instance/" || strings.Contains(u.Host, "invalid") {
		t.Errorf("Location %q cannot be followed (%v)", res.Header.Get("Location"), err)
	}
}

// One connection carries any number of requests, whatever became of those before.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	addr := s.Addr
	w := dial(t, "tcp", addr)
	for _, step := range []struct {
		request string
		status  int
		body    string
	}{
		{"GET " + v1 + "instance/name HTTP/1.1\r\n" + head + "\r\n", 200, "demo-instance"},
		{"GET " + v1 + "instance/nope HTTP/1.1\r\n" + head + "\r\n", 404, "was not found"},
		{"GET " + v1 + "instance/name HTTP/1.1\r\nHost: x\r\n\r\n", 403, "Missing Metadata-Flavor"},
		{"GET " + v1 + "instance/name HTTP/1.1\r\n" + head + "Content-Length: 7\r\n\r\nignored", 200, "demo-instance"},
		{"PUT " + v1 + "instance/guest-attributes/a/b HTTP/1.1\r\n" + head + "Content-Length: 5\r\n\r\nvalue", 200, ""},
		{"GET " + v1 + "instance/guest-attributes/a/b HTTP/1.1\r\n" + head + "\r\n", 200, "value"},
		{"PUT " + v1 + "instance/guest-attributes/a/b HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\n3\r\nchu\r\n3\r\nnks\r\n0\r\n\r\n", 200, ""},
		{"GET " + v1 + "instance/guest-attributes/a/b HTTP/1.1\r\n" + head + "\r\n", 200, "chunks"},
		{"PUT " + v1 + "instance/guest-attributes/a HTTP/1.1\r\n" + head + "Content-Length: 5\r\n\r\nvalue", 400, "NAMESPACE/KEY"},
		{"POST " + v1 + "instance/name HTTP/1.1\r\n" + head + "Content-Length: 5\r\n\r\nvalue", 405, "GET, HEAD"},
		{"OPTIONS * HTTP/1.1\r\n" + head + "\r\n", 405, ""},
		{"GET " + v1 + "instance HTTP/1.1\r\n" + head + "\r\n", 301, v1 + "instance/\n"},
		{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200, "computeMetadata/\n"},
	} {
		w.send(t, "%s", step.request)
		res, body := w.receive(t)
		line, _, _ := strings.Cut(step.request, "\r\n")
		if res.StatusCode != step.status || !strings.Contains(body, step.body) {
			t.Errorf("%s = %d %q, want %d %q", line, res.StatusCode, body, step.status, step.body)
		}
		if res.Header.Get("Metadata-Flavor") != "Google" {
			t.Errorf("%s: no Metadata-Flavor in the answer", line)
		}
	}
}

func TestPipelining(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	addr := s.Addr
	w := dial(t, "tcp", addr)
	paths := []string{"instance/name", "project/project-id", "instance/nope", "instance/id", event}
	bodies := []string{"demo-instance", "demo-project", "was not found", "5193847261058203746", "NONE"}
	var all strings.Builder
	for range 20 {
		for _, path := range paths {
			fmt.Fprintf(&all, "GET %s%s HTTP/1.1\r\n%s\r\n", v1, path, head)
		}
	}
	w.send(t, "%s", all.String())
	for range 20 {
		for i, path := range paths {
			if _, body := w.receive(t); !strings.Contains(body, bodies[i]) {
				t.Fatalf("the answer for %s is %q: out of order", path, body)
			}
		}
	}
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	s, store := start(t)
	addr := s.Addr
	w := dial(t, "tcp", addr)
	w.send(t, "PUT %sinstance/guest-attributes/a/b HTTP/1.1\r\n%sExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", v1, head)
	if line, err := w.r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		t.Fatalf("%q, %v; want to be told to go on", line, err)
	}
	w.r.ReadString('\n')
	w.send(t, "value")
	if res, _ := w.receive(t); res.StatusCode != 200 {
		t.Errorf("status %d", res.StatusCode)
	}
	if n, err := store.Tree().Lookup("instance/guest-attributes/a/b"); err != nil || n.Value() != "value" {
		t.Errorf("the attribute is %q, %v", n.Value(), err)
	}
}

// What is not HTTP is refused before it gets to us, and says nothing about the machine.
func TestRefusedByHTTP(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	addr := s.Addr
	long := strings.Repeat("x", 70<<10)
	for request, status := range map[string]int{
		"GET " + v1 + "instance/name HTTP/1.1\r\nMetadata-Flavor: Google\r\n\r\n":                                                  400, // no Host
		"GET " + v1 + "instance/name HTTP/1.1\r\nHost: a\r\nHost: b\r\nMetadata-Flavor: Google\r\n\r\n":                            400,
		"GET " + v1 + "instance/name HTTP/1.1\r\nHost: <a>\r\nMetadata-Flavor: Google\r\n\r\n":                                     400,
		"GET " + v1 + "instance/name HTTP/1.1\r\n" + head + "Bad Name: x\r\n\r\n":                                                  400,
		"GET " + v1 + "instance/name HTTP/1.1\r\n" + head + "X: a\x00b\r\n\r\n":                                                    400,
		"GET " + v1 + "instance/%zz HTTP/1.1\r\n" + head + "\r\n":                                                                  400,
		"GET " + v1 + "instance/name HTTP/1.1\r\n" + head + "Content-Length: -1\r\n\r\n":                                           400,
		"GET " + v1 + "instance/name HTTP/9.9\r\n" + head + "\r\n":                                                                 505,
		"GET " + v1 + "instance/name\r\n\r\n":                                                                                      400,
		"GET " + v1 + "instance/name HTTP/1.1\r\n" + head + "X: " + long + "\r\n\r\n":                                              431,
		"GET " + v1 + "instance/name?" + long + " HTTP/1.1\r\n" + head + "\r\n":                                                    431,
		"PUT " + v1 + "instance/guest-attributes/a/b HTTP/1.1\r\n" + head + "Transfer-Encoding: gzip\r\n\r\nx":                     501,
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 40) + "\r\n\r\n":                                   400, // TLS
		"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\n\r\n":                                                  403,
		"GET instance/name HTTP/1.1\r\n" + head + "\r\n":                                                                           400,
		"GET " + v1 + "instance/name HTTP/1.1\r\nHost: evil.example.com\r\nMetadata-Flavor: Google\r\n\r\n":                        403,
		"GET http://evil.example.com" + v1 + "instance/name HTTP/1.1\r\nHost: metadata\r\nMetadata-Flavor: Google\r\n\r\n":         403,
		"GET http://metadata?x HTTP/1.1\r\nHost: metadata\r\nMetadata-Flavor: Google\r\n\r\n":                                      200,
		"GET " + v1 + "instance/service-accounts/default/token HTTP/1.1\r\nHost: x\r\nmetadata-flavor : Google\r\n\r\n":            400,
		"GET " + v1 + "instance/name HTTP/1.1\r\nHost: x\r\nX-Padding: y\r\n Metadata-Flavor: Google\r\n\r\n":                      403, // a folded header is not ours
		"GET " + v1 + "instance/name HTTP/1.1\r\n" + head + "X: " + strings.Repeat("x", 60<<10) + "\r\nConnection: close\r\n\r\n":  200,
		"GET " + v1 + "instance/name?scopes=" + strings.Repeat("x", 60<<10) + " HTTP/1.1\r\n" + head + "Connection: close\r\n\r\n": 200,
	} {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			w := dial(t, "tcp", addr)
			go io.WriteString(w, request) // the answer may come, and the connection close, while we still write
			res, err := http.ReadResponse(w.r, nil)
			if err != nil {
				t.Fatalf("%.120q: %v, want status %d", request, err, status)
			}
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != status {
				t.Errorf("%.120q = %d %.100q, want %d", request, res.StatusCode, body, status)
			}
			if status != 200 && strings.Contains(string(body), "demo-instance") {
				t.Errorf("%.120q is refused with data: %q", request, body)
			}
		})
	}
}

// Nobody holds a connection by being slow. The clock is the test's.
func TestSlowClients(t *testing.T) {
	for _, test := range []struct {
		name, begin string
		status      int // 0: the connection just ends
		after       time.Duration
	}{
		{"silent from the start", "", 0, 10 * time.Second},
		{"half a header", "GET / HTTP/1.1\r\nHost:", 0, 10 * time.Second},
		{"half a body", "PUT " + v1 + "instance/guest-attributes/a/b HTTP/1.1\r\n" + head + "Content-Length: 5\r\n\r\nva", 400, 10 * time.Second},
		{"no chunk", "PUT " + v1 + "instance/guest-attributes/a/b HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\n", 400, 10 * time.Second},
		{"half a login", "POST " + v1 + "oslogin/authenticate/sessions/start HTTP/1.1\r\n" + head + "Content-Length: 5\r\n\r\n{", 400, 10 * time.Second},
		{"idle after a request", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200, 10 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := plain(t, tree.Edit{Path: "oslogin/users", Value: json.RawMessage(loginUsers)})
				l := servePipes(t.Context(), t, serverOf(i, nil, server.Limits{}))
				begin := time.Now()
				w := l.dial(t)
				w.send(t, "%s", test.begin)
				if test.status != 0 {
					if res, body := w.receive(t); res.StatusCode != test.status {
						t.Errorf("status %d %q, want %d", res.StatusCode, body, test.status)
					}
				}
				if _, err := w.r.ReadByte(); err != io.EOF {
					t.Errorf("the connection ends with %v", err)
				}
				if took := time.Since(begin); took < test.after || took > test.after+2*time.Second {
					t.Errorf("the connection ended after %v, want %v", took, test.after)
				}
				if _, err := i.Metadata.Tree().Lookup("instance/guest-attributes/a/b"); err == nil {
					t.Error("half a value was stored")
				}
			})
		})
	}
}

// A client that does not read what it asked for loses its connection.
func TestClientThatDoesNotRead(t *testing.T) {
	for query, want := range map[string]time.Duration{
		"":                                     30 * time.Second,
		"&wait_for_change=true&timeout_sec=10": 40 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			s := serverOf(plain(t), nil, server.Limits{Connections: 1})
			l := servePipes(t.Context(), t, s)
			begin := time.Now()
			deaf := l.dial(t)
			deaf.send(t, "GET %s?recursive=true%s HTTP/1.1\r\n%s\r\n", v1, query, head)
			next := l.dial(t) // waits for the only place
			next.send(t, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			next.receive(t)
			if took := time.Since(begin); took > want || took < want-time.Second { // the clock of connections ticks each second
				t.Errorf("%s: the next client was served after %v, want %v", query, took, want)
			}
		})
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serverOf(plain(t), nil, server.Limits{Connections: 2})
		l := servePipes(t.Context(), t, s)
		first, second, third := l.dial(t), l.dial(t), l.dial(t)
		for _, w := range []*wire{first, second} {
			w.send(t, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			w.receive(t)
		}
		answered := make(chan int, 1)
		go func() {
			fmt.Fprint(third, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			res, err := http.ReadResponse(third.r, nil)
			if err != nil {
				t.Error(err)
				answered <- 0
				return
			}
			answered <- res.StatusCode
		}()
		synctest.Wait()
		select {
		case <-answered:
			t.Error("a third connection was served, 2 are allowed")
		default:
		}
		first.Close()
		if got := <-answered; got != 200 {
			t.Errorf("after one closed, the third got %d", got)
		}
	})
}

func TestBoundListenerCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serverOf(plain(t), nil, server.Limits{Connections: 1})
		inner := newPipes()
		l := s.Bound(inner)
		inner.dial(t)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() {
			_, err := l.Accept()
			ended <- err
		}()
		synctest.Wait() // it waits for a place
		l.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept on a closed listener: %v, want net.ErrClosed", err)
		}
		c.Close()
		c.Close() // a second time gives no second place back, and does not hang
	})
}

// An error of Accept must not cost a place.
func TestBoundListenerFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serverOf(plain(t), nil, server.Limits{Connections: 1})
		inner := &flaky{pipes: newPipes(), failures: 3}
		l := s.Bound(inner)
		inner.dial(t)
		for range 3 {
			if _, err := l.Accept(); err == nil {
				t.Fatal("no error")
			}
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		inner.dial(t)
		c, err = l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	})
}

type flaky struct {
	*pipes
	failures int
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.failures--; f.failures >= 0 {
		return nil, errors.New("too many open files")
	}
	return f.pipes.Accept()
}

// The deadline of writes moves with them: a slow reader may take its time, a
// stuck one may not.
func TestWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serverOf(plain(t), nil, server.Limits{})
		inner := newPipes()
		l := s.Bound(inner)
		reader := inner.dial(t)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go func() {
			for range 20 {
				time.Sleep(15 * time.Second)
				io.ReadFull(reader, make([]byte, 3))
			}
		}()
		begin := time.Now()
		for i := range 20 {
			if _, err := c.Write([]byte("abc")); err != nil {
				t.Fatalf("write %d after %v: %v", i, time.Since(begin), err)
			}
		}
		begin = time.Now()
		_, err = c.Write([]byte("abc"))
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("a write that nobody reads: %v, want a timeout", err)
		}
		if took := time.Since(begin); took < 20*time.Second || took > 30*time.Second {
			t.Errorf("it took %v, want 20s to 30s", took)
		}
	})
}

// A connection that was idle for long gets a new deadline with its next answer.
func TestWriteAfterIdleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := servePipes(t.Context(), t, serverOf(plain(t), nil, server.Limits{}))
		w := l.dial(t)
		for range 3 {
			w.send(t, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			w.receive(t)
			time.Sleep(9 * time.Minute)
		}
	})
}

// Any http.Server can run the handler; callers are then told apart by what
// that server says about the connection.
func TestForeignHTTPServer(t *testing.T) {
	t.Parallel()
	var router fleet.Router
	s := server.New(&router, nil, server.Limits{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Server{Handler: s}
	go h.Serve(l)
	t.Cleanup(func() { h.Close() })
	local := l.Addr().(*net.TCPAddr).AddrPort().Addr()
	router.Set(fleet.Route{Local: local, Instance: plain(t)})
	w := dial(t, "tcp", l.Addr().String())
	w.send(t, "GET %sinstance/name HTTP/1.1\r\n%s\r\n", v1, head)
	if res, body := w.receive(t); res.StatusCode != 200 || body != "demo-instance" {
		t.Errorf("%d %q, want the instance of the address %v", res.StatusCode, body, local)
	}
}
