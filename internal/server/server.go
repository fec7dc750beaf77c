// Package server is the metadata protocol over HTTP: it turns a request into
// a reply. What is served comes from a document (package tree); the few leaves
// that are computed per request (tokens, identities, OS Login) are the rows of
// the table live. It does not know where instances or tokens come from.
//
// Facts are those of the protocol specification; section numbers refer to it.
package server

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/tree"
)

// Limits bound what clients can make the server hold. Zero fields have the
// documented default.
type Limits struct {
	HangingGets     int // waiting requests at a time; default 16384
	Connections     int // open connections at a time, per listener; default 20480
	GuestAttributes int // bytes of all guest attributes of an instance; default 1 MiB
	PerSource       int // open connections at a time of one address, per listener; default no limit
}

func (l Limits) withDefaults() Limits {
	set := func(field *int, value int) {
		if *field <= 0 {
			*field = value
		}
	}
	set(&l.HangingGets, 16384)
	set(&l.Connections, 20480)
	set(&l.GuestAttributes, 1<<20)
	return l
}

// A Server answers metadata requests. It is an http.Handler; Listen and HTTP
// give it listeners and timeouts that suit it.
type Server struct {
	// ClientCertificate makes the certificate with which an instance connects
	// to an HTTPS listener, and the root it is of, both PEM; nil: none is
	// made. It is set before the first request.
	ClientCertificate func(*fleet.Instance) (client, root []byte, err error)

	// Peer makes the Peer of a caller, at accept; it must not block. nil: the
	// kernel is not asked. It is set before the first request.
	Peer func(*fleet.Caller) func(context.Context) (fleet.Peer, error)

	// NoLegacy says that there are no old trees, as on GKE; else they are there
	// and switched off. It is set before the first request.
	NoLegacy bool

	instances fleet.Resolver
	journal   *journal.Journal
	limits    Limits
	waiting   atomic.Int64
	hosts     atomic.Pointer[hosts]
	sent      atomic.Pointer[packet] // the last one
	mark      string                 // see Mark
}

// New returns a server of these instances. The journal may be nil.
func New(instances fleet.Resolver, journal *journal.Journal, limits Limits) *Server {
	s := &Server{instances: instances, journal: journal, limits: limits.withDefaults(), mark: rand.Text()}
	s.SetHosts()
	return s
}

// Waiting returns the number of hanging requests.
func (s *Server) Waiting() int { return int(s.waiting.Load()) }

// A request is what the functions below ServeHTTP see.
type request struct {
	target
	http     *http.Request
	server   *Server
	peer     *peer
	start    time.Time
	instance *fleet.Instance
	key      string // the path below /computeMetadata/v1/, without a slash at its end
	data     bool   // it is below that
	query    query
	awaited  *tree.Node // set: the answer is due when this node has changed
	found    found
}

// found is what the target was when it was last read: programs ask the same
// again and again, and as long as it is the same instance with the same
// document, the way to the answer need not be gone again.
type found struct {
	instance *fleet.Instance
	tree     *tree.Tree // all that a read answers comes from this version
	node     *tree.Node
	err      error
	printed  reply // of a plain node; none if its status is 0
	account  account
	minted   minted
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	start := time.Now()
	if hr.ContentLength != 0 {
		hurry(w, start)
	}
	if hr.ProtoMajor == 1 && hr.ProtoMinor == 0 && hr.Header["Connection"] == nil {
		w.Header()["Connection"] = closing // net/http closes, but does not say so (section 1.2)
	}
	r := s.request(hr, start)
	a, err := r.answer()
	if r.awaited != nil && hr.ContentLength != 0 {
		linger(w)
	}
	if r.awaited != nil { // waiting here, not below, keeps the stacks of thousands small
		a, err = r.wait()
	}
	if err != nil {
		a = r.explain(err)
	}
	end := start.Add(time.Since(start)) // by one clock; time.Now reads two
	if r.awaited != nil {
		r.deliver(w, a, end)
	} else {
		a.write(w, end, hr.Method == http.MethodHead)
	}
	r.record(end, a, err)
	r.forget()
}

// longTarget is what a connection may remember while it is idle, in bytes.
const longTarget = 1 << 10

// forget drops what a connection that may be idle for long should not hold: the
// request, and all of it if it was large or has waited. Inlined, its frame would
// be part of the stack of everyone who waits, and that would be of the next size.
//
//go:noinline
func (r *request) forget() {
	r.http = nil
	if p := r.peer; len(p.asked) > longTarget || r.awaited != nil {
		p.asked, p.request = "", request{}
	}
}

// request returns the request of a connection. If it has the target of the one
// before, much of that still holds.
func (s *Server) request(hr *http.Request, start time.Time) *request {
	p := peerOf(hr)
	r := &p.request
	if p.asked == "" || p.asked != hr.RequestURI {
		p.asked = hr.RequestURI
		*r = request{target: newTarget(hr), server: s, peer: p}
		r.key, r.data = r.below()
		r.query = parseQuery(r.target.query)
	}
	r.http, r.start, r.instance, r.awaited = hr, start, nil, nil
	return r
}

// maxIgnored bounds the body of a request that waits, in bytes.
const maxIgnored = 64 << 10

// hurry lets nobody send a body slowly.
func hurry(w http.ResponseWriter, now time.Time) {
	http.NewResponseController(w).SetReadDeadline(now.Add(bodyTimeout))
}

// linger takes hurry back, once the body is there and the client only waits.
func linger(w http.ResponseWriter) {
	http.NewResponseController(w).SetReadDeadline(time.Time{})
}

func (r *request) record(end time.Time, a reply, err error) {
	e := journal.Entry{
		Time: r.start, Kind: journal.Request, Listener: r.peer.Listener, Method: r.http.Method, Path: r.path,
		Class: a.class.String(), Status: a.status, Took: end.Sub(r.start), Err: err,
	}
	if r.instance != nil {
		e.Instance = r.instance.Name
	}
	r.server.journal.Add(e)
}

// answer checks the request and routes it. The flavor header comes before
// everything that depends on the path (section 1.3), but for the old trees:
// those never needed it.
func (r *request) answer() (reply, error) {
	header := r.http.Header
	switch {
	case !r.peer.allows(r.server, r.http.Host):
		return reply{}, errHost
	case forwarded(header):
		return reply{}, errForwarded
	case r.server.circular(header):
		return reply{}, errCircle
	case r.legacy() && r.server.NoLegacy:
		return reply{}, errNotFound
	case r.legacy():
		return reply{}, errLegacy
	case r.path != "/" && !flavored(header):
		return reply{}, errFlavor
	}
	if !r.data {
		return r.above()
	}
	var err error
	if r.instance, err = r.server.instances.Resolve(r.http.Context(), &r.peer.Caller, fleet.Ask{Host: r.http.Host, Key: r.key, Recursive: r.query.recursive}); err != nil {
		return reply{}, err
	}
	return r.route()
}

// above answers for what lies above the data (section 2.1).
func (r *request) above() (reply, error) {
	if r.http.Method != http.MethodGet && r.http.Method != http.MethodHead {
		return reply{}, notAllowed("GET, HEAD")
	}
	switch r.path {
	case "/":
		return answer(http.StatusOK, classRoot, typeText, []byte("computeMetadata/\n")), nil
	case "/computeMetadata/":
		return answer(http.StatusOK, classRoot, typeText, []byte("v1/\n")), nil
	case "/computeMetadata", "/computeMetadata/v1":
		return r.redirect(), nil
	}
	return reply{}, errNotFound
}

// route answers for the data. Below it nobody sees the ResponseWriter.
func (r *request) route() (reply, error) {
	switch r.http.Method {
	case http.MethodGet, http.MethodHead:
		return r.read()
	case http.MethodPut, http.MethodDelete:
		if name, ok := guestAttribute(r.key); ok {
			return r.write(name)
		}
	case http.MethodPost:
		if name, ok := loginSession(r.key); ok {
			return r.loginSession(name)
		}
	}
	return reply{}, notAllowed(allowedMethods(r.key))
}

func allowedMethods(path string) string {
	if _, ok := guestAttribute(path); ok {
		return "GET, HEAD, PUT, DELETE"
	}
	if _, ok := loginSession(path); ok {
		return "POST"
	}
	return "GET, HEAD"
}

// read answers a GET (sections 2.2, 3.2 and 6).
func (r *request) read() (reply, error) {
	if t := r.instance.Metadata.Tree(); t != r.found.tree || r.instance != r.found.instance {
		r.found = found{instance: r.instance, tree: t}
		r.found.node, r.found.err = t.Lookup(r.key)
	}
	if r.found.printed.status != 0 {
		return r.found.printed, nil
	}
	n, err := r.found.node, r.found.err
	switch {
	case errors.Is(err, tree.ErrUnset) && r.slash():
		return reply{}, errNotFound
	case err != nil:
		return reply{}, r.missing(err)
	case n.IsDir() && !r.slash():
		return r.redirect(), nil
	case !n.IsDir() && r.slash():
		return reply{}, errNotFound
	case n.Closed():
		return reply{}, errClosed
	case n.Live() != "":
		if r.query.wait {
			return reply{}, badRequest("wait_for_change does not work on this path: its value is computed at each request")
		}
		return live[n.Live()](r, n)
	case n.IsDir() && !r.query.recursive && r.query.wait:
		return reply{}, badRequest("wait_for_change on a directory needs recursive=true")
	case n.IsDir() && !r.query.recursive && r.query.alt != "":
		return reply{}, badRequest("alt on a directory needs recursive=true")
	}
	if r.query.wait {
		// Bodies of a GET are ignored (section 1.2). But while one is on its
		// way, net/http does not notice that the client has gone.
		if n, err := io.CopyN(io.Discard, r.http.Body, maxIgnored); n == maxIgnored || err != io.EOF {
			return reply{}, badRequest("a request that waits cannot have such a body")
		}
		r.awaited = n
		return reply{}, nil
	}
	r.found.printed = nodeReply(n, r.query)
	return r.found.printed, nil
}

// missing refines the error of a lookup: where a machine has no account at
// all, its token leaves say so (section 5.6).
func (r *request) missing(err error) error {
	if errors.Is(err, errNotFound) && isTokenLeaf(r.key) && !r.slash() {
		dir, err := r.found.tree.Lookup("instance/service-accounts")
		if err != nil || dir.Len() == 0 {
			return errNoAccount
		}
	}
	return err
}

// A peer is a connection: who is at its other end, the Host header that was
// last found to be allowed there, which spares judging each request's, and the
// place of the request, since there is one at a time.
type peer struct {
	fleet.Caller
	conn    *boundConn // nil under TLS, and where a foreign http.Server runs our handler
	host    string
	judge   *hosts
	asked   string // RequestURI of request
	request request
}

func (p *peer) allows(s *Server, host string) bool {
	judge := s.hosts.Load()
	if p.judge == judge && p.host == host {
		return true
	}
	if !judge.allow(host) {
		return false
	}
	if len(host) <= longTarget {
		p.host, p.judge = host, judge
	}
	return true
}

type peerKey struct{}

// peerOf returns what ConnContext learned at accept, or what the request says
// where a foreign http.Server runs our handler. The requests of a connection
// come one by one, so a peer needs no lock.
func peerOf(r *http.Request) *peer {
	if p, ok := r.Context().Value(peerKey{}).(*peer); ok {
		p.TLS = r.TLS // the handshake comes after accept
		return p
	}
	p := &peer{Caller: fleet.Caller{TLS: r.TLS}}
	p.Remote, _ = netip.ParseAddrPort(r.RemoteAddr)
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(interface{ AddrPort() netip.AddrPort }); ok {
		p.Local = local.AddrPort()
	}
	return p
}
