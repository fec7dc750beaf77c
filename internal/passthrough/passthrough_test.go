package passthrough

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"
)

// A cloud is a metadata service that keeps what it was asked.
type cloud struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
	last  *http.Request
}

func newCloud(t *testing.T) *cloud {
	c := &cloud{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.asked, c.last = append(c.asked, r.Method+" "+r.RequestURI), r
		c.mu.Unlock()
		switch r.URL.Path {
		case "/latest/long":
			w.Write(make([]byte, maxBody+1))
		case "/latest/endless":
			for range 2 * maxBody / 1024 {
				w.Write(make([]byte, 1024))
				w.(http.Flusher).Flush()
			}
		default:
			io.WriteString(w, "cloud")
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *cloud) seen() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.asked...)
}

// front starts a server that passes to the cloud, with ours behind it.
func front(t *testing.T, name string, c *cloud, may bool) string {
	t.Helper()
	p, err := New(Config{Cloud: name, To: c.URL}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ours := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ours") })
	s := httptest.NewServer(p.Handler(ours, func(*http.Request) bool { return may }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// send writes raw requests on one connection and returns the bodies.
func send(t *testing.T, addr string, requests ...string) []string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, strings.Join(requests, ""))
	in := bufio.NewReader(conn)
	var bodies []string
	for range requests {
		a, err := http.ReadResponse(in, nil)
		if err != nil {
			return append(bodies, "no answer")
		}
		body, err := io.ReadAll(a.Body)
		if err != nil {
			body = []byte("broken off")
		}
		if a.StatusCode != 200 {
			body = fmt.Appendf(nil, "%d", a.StatusCode)
		}
		bodies = append(bodies, string(body))
	}
	return bodies
}

// What is passed, and what is ours to answer.
func TestRequests(t *testing.T) {
	for _, c := range []struct{ cloud, request, header, want string }{
		{"aws", "GET /latest/meta-data/instance-id", "X-aws-ec2-metadata-token: s", "cloud"},
		{"aws", "HEAD /latest/user-data", "", ""},
		{"aws", "PUT /latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60", "cloud"},
		{"aws", "GET /latest/meta-data/iam/security-credentials/role+a=b@c,d", "", "cloud"},
		{"aws", "GET /latest/meta-data/", "", "cloud"},
		{"azure", "GET /metadata/instance?api-version=2021-02-01&format=text", "Metadata: true", "cloud"},
		{"azure", "GET /metadata/identity/oauth2/token?resource=https%3A%2F%2Fmanagement.azure.com%2F", "Metadata: true", "cloud"},
		{"oracle", "GET /opc/v2/instance/", "Authorization: Bearer Oracle", "cloud"},
		{"openstack", "GET /openstack/latest/meta_data.json", "", "cloud"},

		{"aws", "GET /", "", "ours"},
		{"aws", "GET /latest", "", "ours"},
		{"aws", "GET /latestx/", "", "ours"},
		{"aws", "GET /LATEST/meta-data", "", "ours"},
		{"aws", "GET /metadata/instance", "", "ours"},
		{"azure", "GET /latest/meta-data/", "", "ours"},
		{"aws", "PUT /latest/meta-data/", "", "ours"},
		{"azure", "PUT /metadata/instance", "", "ours"},
		{"aws", "POST /latest/meta-data/", "Content-Length: 0", "ours"},
		{"aws", "DELETE /latest/meta-data/", "", "ours"},
		{"aws", "TRACE /latest/meta-data/", "", "ours"},
		{"aws", "CONNECT /latest/meta-data/", "", "ours"},
		{"aws", "CONNECT 169.254.169.254:80", "", "ours"},
		{"aws", "OPTIONS /latest/meta-data/", "", "ours"},
		{"openstack", "PUT /latest/api/token", "", "ours"},
		{"aws", "GET /latest/meta-data/", "Connection: X-aws-ec2-metadata-token\r\nX-aws-ec2-metadata-token: s", "ours"},
		{"aws", "GET /latest/meta-data/", "Connection: keep-alive", "cloud"},
		{"aws", "GET /computeMetadata/v1/instance/service-accounts/default/token", "Metadata-Flavor: Google", "ours"},
		{"aws", "GET /computeMetadata/v1/", "", "ours"},
		{"aws", "GET /0.1/meta-data/", "", "ours"},
		{"aws", "GET /latest/meta-data/", "Metadata-Flavor: Google", "ours"},
		{"aws", "GET /latest/meta-data/", "X-Google-Metadata-Request: True", "ours"},
		{"aws", "GET /latest/meta-data/", "X-Forwarded-For: 10.0.0.1", "ours"},
		{"aws", "GET /latest/meta-data/", "Upgrade: x\r\nConnection: Upgrade", "ours"},

		// One path, written in other ways.
		{"aws", "GET http://169.254.169.254/latest/meta-data/", "", "ours"},
		{"aws", "GET http://metadata.google.internal/computeMetadata/v1/", "", "ours"},
		{"aws", "GET //latest/meta-data/", "", "ours"},
		{"aws", "GET /latest//meta-data/", "", "ours"},
		{"aws", "GET /latest/../computeMetadata/v1/", "", "ours"},
		{"aws", "GET /latest/./meta-data/", "", "ours"},
		{"aws", "GET /latest/%2e%2e/computeMetadata/v1/", "", "ours"},
		{"aws", "GET /latest/%2E./computeMetadata/v1/", "", "ours"},
		{"aws", "GET /latest/..%2fcomputeMetadata/v1/", "", "ours"},
		{"aws", "GET /latest/..%5ccomputeMetadata/v1/", "", "ours"},
		{"aws", "GET /latest/..;/computeMetadata/v1/", "", "ours"},
		{"aws", "GET /latest/computemetadata/v1/", "", "ours"},
		{"aws", "GET /%6catest/meta-data/", "", "ours"},
		{"aws", "GET /latest/\\..\\computeMetadata/v1/", "", "ours"},
	} {
		s := newCloud(t)
		request := c.request + " HTTP/1.1\r\nHost: 169.254.169.254\r\n"
		if c.header != "" {
			request += c.header + "\r\n"
		}
		addr := front(t, c.cloud, s, true)
		if strings.HasPrefix(c.request, "HEAD") {
			request += "Connection: close\r\n\r\n"
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(conn, request)
			io.Copy(io.Discard, conn)
			conn.Close()
			if len(s.seen()) != 1 {
				t.Errorf("%s %s: the cloud was asked %q", c.cloud, c.request, s.seen())
			}
			continue
		}
		got := send(t, addr, request+"\r\n")
		if got[0] != c.want && (c.want == "cloud" || got[0] != "400") || len(s.seen()) > 0 && c.want != "cloud" {
			t.Errorf("%s %s (%s): %q, and the cloud was asked %q; want %q", c.cloud, c.request, c.header, got, s.seen(), c.want)
		}
	}
}

// Every request of a connection is judged, and bodies cannot hide one.
func TestPipelined(t *testing.T) {
	s := newCloud(t)
	addr := front(t, "aws", s, true)
	got := send(t, addr,
		"GET /latest/meta-data/a HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /computeMetadata/v1/ HTTP/1.1\r\nHost: x\r\nMetadata-Flavor: Google\r\n\r\n",
		"GET /latest/meta-data/b HTTP/1.1\r\nHost: x\r\n\r\n")
	if strings.Join(got, " ") != "cloud ours cloud" {
		t.Errorf("three requests on a connection are answered by %q, want cloud, ours, cloud", got)
	}
	inner := "GET /computeMetadata/v1/ HTTP/1.1\r\nHost: x\r\n\r\n"
	send(t, addr, fmt.Sprintf("GET /latest/meta-data/c HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner))
	send(t, addr, fmt.Sprintf("PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(inner), inner))
	for _, asked := range s.seen() {
		if asked != "GET /latest/meta-data/a" && asked != "GET /latest/meta-data/b" {
			t.Errorf("the cloud was asked %q", asked)
		}
	}
}

// What protects the cloud's service reaches it; nothing is added.
func TestHeaders(t *testing.T) {
	s := newCloud(t)
	send(t, front(t, "aws", s, true), "GET /latest/x HTTP/1.1\r\nHost: evil.test\r\nX-aws-ec2-metadata-token: abc\r\n\r\n")
	if s.last == nil {
		t.Fatal("the cloud was not asked")
	}
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "Via"} {
		if v := s.last.Header[name]; v != nil {
			t.Errorf("the cloud got %s: %s", name, v)
		}
	}
	if got := s.last.Header.Get("X-Aws-Ec2-Metadata-Token"); got != "abc" || s.last.Host != strings.TrimPrefix(s.URL, "http://") {
		t.Errorf("the cloud got the session token %q and the host %q", got, s.last.Host)
	}
}

// Who may not is answered by ours, and so is everything while the cloud is away.
func TestCallers(t *testing.T) {
	s := newCloud(t)
	const request = "GET /latest/x HTTP/1.1\r\nHost: x\r\n\r\n"
	if got := send(t, front(t, "aws", s, false), request); got[0] != "ours" || len(s.seen()) > 0 {
		t.Errorf("a caller who may not is answered %q", got)
	}
	addr := front(t, "aws", s, true)
	if got := send(t, addr, "GET /latest/long HTTP/1.1\r\nHost: x\r\n\r\n"); got[0] != "502" && got[0] != "broken off" {
		t.Errorf("a long answer comes as %.20q of %d bytes", got[0], len(got[0]))
	}
	if got := send(t, addr, "GET /latest/endless HTTP/1.1\r\nHost: x\r\n\r\n"); got[0] != "broken off" && got[0] != "no answer" {
		t.Errorf("an endless answer comes as %.20q of %d bytes", got[0], len(got[0]))
	}
	s.Close()
	if got := send(t, addr, request); got[0] != "502" {
		t.Errorf("with the cloud's service away the answer is %q, want 502", got)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   string // part of the error; "": none
	}{
		{Config{Cloud: "aws"}, ""},
		{Config{Cloud: "azure", To: "http://127.0.0.1:80"}, ""},
		{Config{}, "one of aws, azure"},
		{Config{Cloud: "gcp"}, "one of aws, azure"},
		{Config{Cloud: "aws", To: "https://169.254.169.254"}, "of the form"},
		{Config{Cloud: "aws", To: "http://x/path"}, "of the form"},
		{Config{Cloud: "aws", To: "http://u:p@x"}, "of the form"},
	} {
		if err := c.config.Validate(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("Validate of %+v: %v, want %q", c.config, err, c.want)
		}
	}
}

// Whatever bytes a caller sends: what is passed on has no reading, however
// lenient, that is a path of Google's, and says nothing in the name of others.
func FuzzRequests(f *testing.F) {
	for _, target := range []string{"/latest/meta-data/", "/latest/../computeMetadata/v1/", "/latest/%2e%2e/x", "//latest/", "/latest/a?b=c",
		"/latest/x?/../../computeMetadata", "/latest/%252e%252e/computeMetadata", "http://h/latest/x", "*"} {
		f.Add([]byte("GET " + target + " HTTP/1.1\r\nHost: x\r\n\r\n"))
	}
	f.Add([]byte("GET /latest/a HTTP/1.1\r\nHost: x\r\n\r\nGET /computeMetadata/v1/ HTTP/1.1\r\nHost: x\r\nMetadata-Flavor: Google\r\n\r\n"))
	f.Add([]byte("PUT /latest/api/token HTTP/1.0\r\nContent-Length: 3\r\n\r\nabcGET /latest/b HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte("GET /latest/a HTTP/1.1\r\nHost: x\r\nConnection: close, metadata\r\nX-Forwarded-For: y\r\n\r\n"))
	p, err := New(Config{Cloud: "aws"}, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	var passed *http.Request
	p.proxy.Transport = transport(func(r *http.Request) (*http.Response, error) {
		passed = r
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Header: http.Header{}}, nil
	})
	handler := p.Handler(http.NotFoundHandler(), func(*http.Request) bool { return true })
	f.Fuzz(func(t *testing.T, sent []byte) {
		in := bufio.NewReader(bytes.NewReader(sent))
		for range 4 { // requests of a connection
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			passed = nil
			handler.ServeHTTP(httptest.NewRecorder(), r)
			if passed != nil {
				harmless(t, passed)
			}
			io.Copy(io.Discard, r.Body)
		}
	})
}

// TestCircle: where what we pass on is captured and comes back, it is not passed
// again and again.
func TestCircle(t *testing.T) {
	p, err := New(Config{Cloud: "aws"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	refused := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	handler, turns := p.Handler(refused, func(*http.Request) bool { return true }), 0
	p.proxy.Transport = transport(func(r *http.Request) (*http.Response, error) {
		if turns++; turns > 10 {
			return nil, errors.New("without end")
		}
		again, w := r.Clone(r.Context()), httptest.NewRecorder()
		again.RequestURI = r.URL.RequestURI()
		handler.ServeHTTP(w, again)
		return w.Result(), nil
	})
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/latest/meta-data/", nil))
	if turns != 1 || w.Code != http.StatusForbidden {
		t.Errorf("a request that comes back to us is passed on %d times and answered with %d, want once and 403", turns, w.Code)
	}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// harmless fails the test if a request that is passed to AWS could be any that
// must not be.
func harmless(t *testing.T, r *http.Request) {
	t.Helper()
	target := r.URL.RequestURI()
	switch {
	case r.Method != "GET" && r.Method != "HEAD" && (r.Method != "PUT" || r.URL.Path != awsToken):
		t.Fatalf("%s %q is passed", r.Method, target)
	case r.URL.Host != "169.254.169.254" || r.Host != "169.254.169.254" || r.Body != nil || r.ContentLength != 0:
		t.Fatalf("%s %q is passed to %q as %q, with a body of %d bytes", r.Method, target, r.URL.Host, r.Host, r.ContentLength)
	}
	for _, name := range append([]string{"Via", "Upgrade", "Transfer-Encoding"}, google...) {
		if len(r.Header[name]) > 0 && name != passed {
			t.Fatalf("%s %q is passed with %s: %q", r.Method, target, name, r.Header[name])
		}
	}
	reading, _, _ := strings.Cut(target, "?")
	for range 4 {
		low := strings.ToLower(path.Clean("/" + strings.ReplaceAll(reading, "\\", "/")))
		if low != "/latest" && !strings.HasPrefix(low, "/latest/") || strings.Contains(low, "computemetadata") {
			t.Fatalf("%s %q is passed, and can be read as %s", r.Method, target, low)
		}
		next, err := url.PathUnescape(reading)
		if err != nil {
			break
		}
		reading = next
	}
}
