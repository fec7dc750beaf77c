// Package mdstest gives a test its own Google metadata server.
//
//	func TestUpload(t *testing.T) {
//		mds := mdstest.NewServer(t)
//		mds.Set("instance/attributes/bucket", "test-bucket")
//		upload() // finds the server through GCE_METADATA_HOST
//	}
//
// It needs no network, no key and no file. It is not for production: package
// gcemds is.
package mdstest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gcemds/gcemds"
)

// A Server is a metadata server that lives as long as its test.
type Server struct {
	*gcemds.Server
	t    testing.TB
	http *httptest.Server

	mu       sync.Mutex
	requests []Request
	expected []string
}

// A Request is one that the server has answered.
type Request struct {
	Method string
	Path   string     // below /computeMetadata/v1/; elsewhere the whole path
	Query  url.Values // scopes, audience …
	Header http.Header
	Status int
}

// An Option changes how NewServer starts.
type Option func(*config)

type config struct {
	gcemds.Options
	expected []string
	noEnv    bool
}

// Options start the server with these options.
func Options(o gcemds.Options) Option { return func(c *config) { c.Options = o } }

// Expect makes every request fail the test whose path, below
// /computeMetadata/v1/, matches none of the patterns (those of path.Match; a
// pattern that ends in / covers everything below). Without patterns, every
// request does.
func Expect(patterns ...string) Option {
	return func(c *config) { c.expected = append(append([]string{}, c.expected...), patterns...) } // not nil
}

// WithoutEnv leaves the environment alone, as parallel tests must; use Addr.
func WithoutEnv() Option { return func(c *config) { c.noEnv = true } }

// NewServer starts a server on a free port of the loopback address and sets
// the environment of the test, so that Google's client libraries find it. It
// ends with the test.
func NewServer(t testing.TB, options ...Option) *Server {
	t.Helper()
	var c config
	for _, option := range options {
		option(&c)
	}
	mds, err := gcemds.New(c.Options)
	if err != nil {
		t.Fatalf("mdstest: %v", err)
	}
	s := &Server{Server: mds, t: t, expected: c.expected}
	s.http = httptest.NewServer(s)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.http.CloseClientConnections() // ends hanging requests
		s.http.Close()
		mds.Shutdown(ctx)
	})
	if !c.noEnv {
		s.Setenv(t)
	}
	return s
}

// Addr is the server's host and port, in the form of GCE_METADATA_HOST.
func (s *Server) Addr() string { return s.http.Listener.Addr().String() }

// URL is the root of the metadata, with a slash at its end.
func (s *Server) URL() string { return s.http.URL + "/computeMetadata/v1/" }

// Setenv points the client libraries of all languages here for the duration
// of a test, and keeps them from finding other credentials. Those of Go and of
// Node would take the ones that "gcloud auth application-default login" left
// in the home directory, so where there are any, HOME (on Windows APPDATA) is
// an empty folder for as long.
func (s *Server) Setenv(t testing.TB) {
	t.Helper()
	empty := t.TempDir()
	for name, value := range gcemds.Environ(s.Addr(), empty) {
		t.Setenv(name, value)
		if value == "" {
			os.Unsetenv(name) // until t puts it back
		}
	}
	for name, config := range map[string]string{"HOME": ".config", "APPDATA": ""} {
		file := filepath.Join(os.Getenv(name), config, "gcloud", "application_default_credentials.json")
		if _, err := os.Stat(file); err == nil {
			t.Setenv(name, empty)
		}
	}
}

// Set gives a path a value, or fails the test. See gcemds.Server.Set.
func (s *Server) Set(path string, value any) {
	s.t.Helper()
	if err := s.Server.Set(path, value); err != nil {
		s.t.Fatalf("mdstest: Set(%q): %v", path, err)
	}
}

// Delete removes a path, or fails the test.
func (s *Server) Delete(path string) {
	s.t.Helper()
	if err := s.Server.Delete(path); err != nil {
		s.t.Fatalf("mdstest: Delete(%q): %v", path, err)
	}
}

// Requests returns what has been answered so far, oldest first.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// ServeHTTP answers and keeps a record.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	below, data := strings.CutPrefix(r.URL.Path, "/computeMetadata/v1/")
	if !data {
		below = r.URL.Path
	}
	if data && s.expected != nil && !slices.ContainsFunc(s.expected, func(pattern string) bool { return matches(pattern, below) }) {
		s.t.Errorf("mdstest: unexpected request: %s %s", r.Method, r.URL.RequestURI())
	}
	s.Handler().ServeHTTP(&recorder{ResponseWriter: w, answered: func(status int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.requests = append(s.requests, Request{r.Method, below, r.URL.Query(), r.Header.Clone(), status})
	}}, r)
}

func matches(pattern, name string) bool {
	if strings.HasSuffix(pattern, "/") && strings.HasPrefix(name, pattern) {
		return true
	}
	ok, _ := path.Match(pattern, name)
	return ok
}

// A recorder tells the status of an answer before the client can see it.
type recorder struct {
	http.ResponseWriter
	answered func(status int)
}

func (r *recorder) WriteHeader(status int) {
	r.answered(status)
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
