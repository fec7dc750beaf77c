package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/gcemds/gcemds"
)

// TestDoctor: each file of testdata/doctor is a place and what doctor says of
// it. Its files are env (a variable on a line), net (an address or, after dns, a
// name, and what is there), want, and those of the place, below root/. With
// -update the tests write want. In net, gcemds says where the one of this user
// listens.
//
// Nothing is dialled, and time is not real.
func TestDoctor(t *testing.T) {
	names, err := filepath.Glob("testdata/doctor/*.txtar")
	if err != nil || len(names) < 10 {
		t.Fatalf("there are %d places, %v; want ten or more", len(names), err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var text, asJSON bytes.Buffer
			var d diagnosis
			synctest.Test(t, func(t *testing.T) {
				d = diagnose(t.Context(), placeOf(t, a))
			})
			if err := d.print(&text, false); err != nil {
				t.Fatal(err)
			}
			if err := d.print(&asJSON, true); err != nil || !json.Valid(asJSON.Bytes()) {
				t.Errorf("JSON: %v\n%s", err, &asJSON)
			}
			for _, secret := range []string{"s3cr3t", "eyJ"} {
				if strings.Contains(text.String()+asJSON.String(), secret) {
					t.Errorf("there is a secret in what is printed:\n%s", &text)
				}
			}
			last := &a.Files[len(a.Files)-1]
			if last.Name != "want" {
				t.Fatal("the last file of a place is want")
			}
			if *update {
				last.Data = text.Bytes()
				if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(last.Data), text.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", strings.TrimSpace(string(a.Comment)), diff)
			}
		})
	}
}

// placeOf is the place that a file describes.
func placeOf(t *testing.T, a *txtar.Archive) *place {
	t.Helper()
	running := ""
	env, hosts, names, files := map[string]string{}, map[string]string{}, map[string]string{}, fstest.MapFS{}
	for _, f := range a.Files {
		for line := range strings.Lines(string(f.Data)) {
			line = strings.TrimSuffix(line, "\n")
			switch f.Name {
			case "env":
				name, value, _ := strings.Cut(line, "=")
				env[name] = value
			case "net":
				if addr, is := strings.CutPrefix(line, "gcemds "); is {
					running = addr
				} else if name, is := strings.CutPrefix(line, "dns "); is {
					name, addresses, _ := strings.Cut(name, " ")
					names[name] = addresses
				} else {
					addr, what, _ := strings.Cut(line, " ")
					hosts[addr] = what
				}
			}
		}
		if name, is := strings.CutPrefix(f.Name, "root/"); is {
			files[name] = &fstest.MapFile{Data: f.Data}
		}
	}
	servers := map[string]*pipes{}
	for addr, what := range hosts {
		if h := handler(t, what); h != nil {
			servers[addr] = &pipes{make(chan net.Conn), make(chan struct{})}
			s := &http.Server{Handler: h}
			go s.Serve(servers[addr])
			t.Cleanup(func() { s.Close() })
		}
	}
	return &place{
		getenv: func(name string) string { return env[name] },
		gcemds: func(context.Context) string { return running },
		files:  files,
		home:   "users/ann",
		system: "linux",
		lookup: func(ctx context.Context, host string) ([]string, error) {
			switch found := names[strings.TrimSuffix(host, ".")]; found {
			case "":
				return nil, &net.DNSError{Name: host, IsNotFound: true}
			case "silent":
				<-ctx.Done()
				return nil, ctx.Err()
			default:
				return strings.Fields(found), nil
			}
		},
		dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
			addr = strings.TrimSuffix(addr, ":80")
			if s := servers[addr]; s != nil {
				return s.dial()
			}
			switch hosts[addr] {
			case "refused":
				return nil, syscall.ECONNREFUSED
			case "silent":
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return nil, syscall.ENETUNREACH
		},
	}
}

// pipes are a listener in memory.
type pipes struct {
	made   chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.made:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) dial() (net.Conn, error) {
	client, server := net.Pipe()
	p.made <- server
	return client, nil
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

type sourceFunc func() (gcemds.Token, error)

func (f sourceFunc) Mint(context.Context, gcemds.Request) (gcemds.Token, error) { return f() }

// handler is what is at an address; nil if nobody answers.
func handler(t *testing.T, what string) http.Handler {
	var o gcemds.Options
	account := func(mint sourceFunc) {
		o.Accounts = []gcemds.Account{{Email: "sa@p.test", Aliases: []string{"default"}, Scopes: []string{"a"}, Source: mint}}
	}
	switch what {
	case "no-account":
		o.Accounts = []gcemds.Account{}
	case "denied":
		account(func() (gcemds.Token, error) { return gcemds.Token{}, &gcemds.Error{Kind: gcemds.Denied} })
	case "short":
		account(func() (gcemds.Token, error) {
			return gcemds.Token{Value: "eyJ.s3cr3t.x", Expiry: time.Now().Add(time.Minute)}, nil
		})
	case "ec2":
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Server", "EC2ws")
			w.WriteHeader(http.StatusUnauthorized)
		})
	case "sloppy": // what somebody writes in an afternoon
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Metadata-Flavor", "Google")
			switch {
			case strings.HasSuffix(r.URL.Path, "/token"):
				w.Write([]byte(`{"access_token": "s3cr3t", "token_type": "Bearer", "expires_in": "3600"}`))
			default:
				w.Write([]byte("x"))
			}
		})
	}
	s, err := gcemds.New(o)
	if err != nil {
		t.Fatal(err)
	}
	switch what {
	case "gcemds", "no-account", "denied", "short":
		return s.Handler()
	case "slow":
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(700 * time.Millisecond)
			s.Handler().ServeHTTP(w, r)
		})
	case "late":
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/" {
				s.Handler().ServeHTTP(w, r)
				return
			}
			w.Header().Set("Metadata-Flavor", "Google")
			w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
		})
	}
	return nil
}
