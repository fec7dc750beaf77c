// Package gcemds is a Google metadata server inside a Go program: what
// programs on Google Cloud ask at metadata.google.internal, answered by yours,
// with identities from any token source.
//
//	s, err := gcemds.New(gcemds.Options{})
//	…
//	err = s.Start("127.0.0.1:0")
//	cmd.Env = append(os.Environ(), "GCE_METADATA_HOST="+s.Addr())
//
// It is not a client of metadata servers, and it reads no configuration file;
// the gcemds command does that. For tests, package mdstest is shorter.
package gcemds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/server"
	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tree"
)

// A Source mints tokens for one identity. It need not cache, retry or limit
// itself: the server does that. It may be called from several goroutines.
type Source = token.Source

// A Request says which token is wanted.
type Request = token.Request

// A Token is what a Source mints.
type Token = token.Token

// A Federation is the Source of a program that can prove who it is to another
// identity provider: it exchanges what Subject returns for access tokens of
// Google, by workload or workforce identity federation. Those are of a federated
// principal, and there are no ID tokens of one; an Impersonation over it has
// both kinds, of a service account. Its fields must not change once it is used.
type Federation = exchange.Federation

// An Impersonation is the Source of a service account that the identity of
// another Source may impersonate. Its fields must not change once it is used.
type Impersonation = exchange.Impersonation

// A GoogleClient is how a Federation or an Impersonation calls Google. The
// default is one for all, with the proxy of the environment; it has 10 s for a
// token, with all tries.
type GoogleClient = exchange.Client

// An Error from a Source decides what the workload is told; any other error
// reads "unavailable" there.
type Error = token.Error

// The kinds of an Error.
const (
	Unavailable    = token.Unavailable
	Throttled      = token.Throttled
	Denied         = token.Denied
	Misconfigured  = token.Misconfigured
	Clock          = token.Clock
	Unsupported    = token.Unsupported
	InvalidRequest = token.InvalidRequest
)

// An Account is a service account that the machine has.
type Account = fleet.Account

// Limits bound what clients can make the server hold.
type Limits = server.Limits

// Options of a Server. The zero value is a small virtual machine with one
// account, whose tokens come from an offline issuer.
type Options struct {
	// Document is the metadata, in the form that a real machine prints for
	// GET /computeMetadata/v1/?recursive=true. Default: a built-in machine.
	Document []byte

	// Accounts replace those of the document. An account without a Source
	// gets tokens from the offline issuer. A non-nil empty slice means none.
	Accounts []Account

	// Set are changes of the document: path to value. A value is a string, or
	// anything that encoding/json marshals.
	Set map[string]any

	// Created is when the machine was made, for full identity tokens.
	// Default: a fixed day in 2025.
	Created time.Time

	// Hosts are further names that requests may carry in their Host header.
	Hosts []string

	// Limits; zero fields have their defaults.
	Limits Limits

	// Logger gets what goes wrong. Default: nowhere.
	Logger *slog.Logger
}

// A Server is a metadata server. Several may run in one process. Its methods
// may be called concurrently.
type Server struct {
	metadata *tree.Store
	server   *server.Server
	issuer   *issuer.Issuer
	cache    *token.Cache
	log      *slog.Logger

	ctx  context.Context // ends hanging requests
	stop context.CancelCauseFunc

	mu      sync.Mutex
	serving []*http.Server
	addr    net.Addr
}

// New returns a server that is not listening yet. Errors name the part of the
// options that is wrong.
func New(o Options) (*Server, error) {
	doc := fleet.Builtin()
	if o.Document != nil {
		var err error
		if doc, err = tree.Parse(o.Document); err != nil {
			return nil, fmt.Errorf("gcemds: Document: %w", err)
		}
	}
	iss, err := issuer.New(issuer.Options{})
	if err != nil {
		return nil, fmt.Errorf("gcemds: offline issuer: %w", err)
	}
	s := &Server{issuer: iss, cache: token.NewCache(token.Limits{}), log: o.Logger}
	var others func(string) token.Source
	accounts := o.Accounts
	if accounts == nil {
		accounts = fleet.Accounts(doc)
		others = func(email string) token.Source { return s.cache.Source("offline "+email, iss.Source(email)) }
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	owned := make([]Account, len(accounts))
	for i, a := range accounts {
		if a.Source == nil {
			a.Source = iss.Source(a.Email)
		}
		id := fmt.Sprintf("%d %s", i, a.Email)
		if over, ok := a.Source.(*Impersonation); ok && over.Via != nil { // its caller's token is good for many of the target's
			cached := *over
			cached.Via = s.cache.Source("caller of "+id, over.Via)
			a.Source = &cached
		}
		a.Source = s.cache.Source(id, a.Source)
		owned[i] = a
	}
	if doc, err = fleet.Document(doc, owned...); err != nil {
		return nil, fmt.Errorf("gcemds: Accounts: %w", err)
	}
	for _, path := range slices.Sorted(maps.Keys(o.Set)) { // a directory before what is in it
		if doc, err = doc.With(tree.Edit{Path: path, Value: o.Set[path]}); err != nil {
			return nil, fmt.Errorf("gcemds: Set: %w", err)
		}
	}
	s.metadata = tree.NewStore(doc)
	if o.Created.IsZero() {
		o.Created = fleet.BuiltinCreated
	}
	var router fleet.Router
	router.Set(fleet.Route{Instance: &fleet.Instance{
		Name: "instance", Metadata: s.metadata, Accounts: owned, Others: others, Created: o.Created,
	}})
	s.server = server.New(&router, nil, o.Limits)
	s.server.SetHosts(o.Hosts...)
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	return s, nil
}

// Start listens on a TCP address ("127.0.0.1:0" picks a free port) and serves
// in the background until Shutdown. It may be called for several addresses.
func (s *Server) Start(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("gcemds: %w", err)
	}
	h := s.server.HTTP(s.ctx, l.Addr().String(), s.log)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		l.Close()
		return errors.New("gcemds: the server has been shut down")
	}
	s.serving = append(s.serving, h)
	if s.addr == nil {
		s.addr = l.Addr()
	}
	go func() {
		if err := h.Serve(s.server.Bound(l)); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the metadata server stopped", "error", err)
		}
	}()
	return nil
}

// Handler serves the metadata protocol in an http.Server of your own. Hanging
// requests end with that server's request contexts.
func (s *Server) Handler() http.Handler { return s.server }

// Keys serves what verifiers of the offline issuer's tokens need: JWKS, PEM
// certificates, OIDC discovery and tokeninfo, under the paths that Google
// uses ("/oauth2/v3/certs" is the JWK set).
func (s *Server) Keys() http.Handler { return s.issuer.Handler() }

// Addr is the host and port of the first Start, in the form that
// GCE_METADATA_HOST takes; "" before it.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addr == nil {
		return ""
	}
	return s.addr.String()
}

// Set gives one path ("instance/attributes/x") a value: a string, or anything
// that encoding/json marshals. Requests that wait for a change wake.
func (s *Server) Set(path string, value any) error {
	if value == nil {
		return fmt.Errorf("gcemds: %s: nil is not a value; use Delete", path)
	}
	return s.metadata.Edit(tree.Edit{Path: path, Value: value})
}

// Delete removes a path and everything below it.
func (s *Server) Delete(path string) error {
	return s.metadata.Edit(tree.Edit{Path: path})
}

// Shutdown stops listening, ends hanging requests with 503 and waits for the
// others until the context ends; then it returns the context's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop(server.ErrShutdown)
	s.mu.Lock()
	serving := s.serving
	s.mu.Unlock()
	var errs []error
	for _, h := range serving {
		if err := h.Shutdown(ctx); err != nil {
			errs = append(errs, err, h.Close())
		}
	}
	s.cache.Close()
	s.issuer.Close()
	return errors.Join(errs...)
}
