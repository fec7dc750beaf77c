package server_test

import (
	"context"
	"flag"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/gcemds/gcemds/internal/conformance"
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

func TestCorpus(t *testing.T) {
	cases, err := conformance.Cases()
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) < 900 {
		t.Errorf("the corpus has %d cases; it had more than 900", len(cases))
	}
	var foreign conformance.Server
	if *against != "" {
		if foreign, err = conformance.Open(t.Context(), *against); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range cases {
		t.Run(c.ID, func(t *testing.T) {
			t.Parallel()
			s := foreign
			if *against == "" {
				s, _ = start(t)
			}
			r, err := s.Try(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if r.NotRun != "" {
				t.Skipf("not done to a server elsewhere: cases that %s", r.NotRun)
			}
			for _, f := range r.Faults {
				t.Errorf("%s %s: %v (case %s)", c.Method, c.Path, f, c.ID)
			}
		})
	}
}

// theIssuer is shared: its keys take a moment to make.
var theIssuer = sync.OnceValues(func() (*issuer.Issuer, error) { return issuer.New(issuer.Options{}) })

// start serves the built-in instance on a free port.
func start(t *testing.T) (conformance.Server, *tree.Store) {
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
	return conformance.Server{
		Addr: l.Addr().String(),
		Edit: func(_ context.Context, set map[string]any, deleted []string) error {
			var edits []tree.Edit
			for path, value := range set {
				edits = append(edits, tree.Edit{Path: path, Value: value})
			}
			for _, path := range deleted {
				edits = append(edits, tree.Edit{Path: path})
			}
			return instance.Metadata.Edit(edits...)
		},
		Waiting: func(context.Context) (int, error) { return s.Waiting(), nil },
	}, instance.Metadata
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
