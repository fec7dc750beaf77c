package gke

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tree"
)

// Options of a Cluster. API and Tokens are needed.
type Options struct {
	Config  Config
	API     API
	Tokens  *token.Cache
	Google  Google
	Journal *journal.Journal // gets an entry for each token that a Pod is given or refused
	Log     *slog.Logger     // nil: silent
}

// Google says how Google is called. Its zero value does.
type Google struct {
	Client   *exchange.Client // nil: one of its own
	STS, IAM string           // addresses, as in the section endpoints of the configuration; "": Google's
}

// account is the address of a service account, without a method.
func (g Google) account(email string) string {
	return strings.TrimSuffix(cmp.Or(g.IAM, exchange.GoogleIAM), "/") + "/v1/" + exchange.DelegatePrefix + url.PathEscape(email)
}

// A Cluster is the resolver of callers that are Pods of one node. It is filled
// by Run. What it knows it keeps when Kubernetes goes away; identity never
// comes from a value that may have grown old unseen.
//
// Its methods may be called concurrently.
type Cluster struct {
	config Config
	api    API
	tokens *token.Cache
	google Google
	log    *slog.Logger
	audit  *journal.Journal
	limits *limits
	counts counts
	own    own
	warned warnings // Events
	logged warnings

	metPods, metNode atomic.Pointer[error] // what these watches have met last; nil: they have seen something since

	pods atomic.Pointer[index] // never nil
	node atomic.Pointer[node]  // never nil

	mu       sync.Mutex // of writers of pods, node and accounts
	accounts map[key]*account
	work     background      // watches of accounts, and events under way
	ctx      context.Context // of Run

	proof atomic.Pointer[proof]
}

// New returns a cluster that knows nobody yet.
func New(o Options) (*Cluster, error) {
	config, err := o.Config.complete()
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		config: config, api: o.API, tokens: o.Tokens, google: o.Google, log: o.Log, audit: o.Journal,
		limits: newLimits(), accounts: map[key]*account{},
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if config.Projected != nil {
		c.api = projected{c.api, *config.Projected}
	}
	n, err := c.makeNode(Node{}, config.Cluster.UID)
	if err != nil {
		return nil, err
	}
	n.instance = &fleet.Instance{Name: config.Node, Metadata: tree.NewStore(n.shown)}
	c.node.Store(n)
	c.own.refresh()
	c.pods.Store(&index{changed: make(chan struct{})})
	c.proof.Store(&proof{errUnknown})
	return c, nil
}

// Node is the name of the node whose Pods are served.
func (c *Cluster) Node() string { return c.config.Node }

// Run watches until the context ends. It is called once.
func (c *Cluster) Run(ctx context.Context) {
	c.ctx = ctx
	var running sync.WaitGroup
	running.Go(func() { follows(c, "Pods", c.api.Pods(ctx, c.config.Node), &c.metPods, c.applyPods) })
	running.Go(func() { follows(c, "the node", c.api.Node(ctx, c.config.Node), &c.metNode, c.applyNode) })
	running.Go(func() { c.learnUID(ctx) })
	running.Go(func() { c.prove(ctx) })
	running.Wait()
	c.work.Wait()
}

// patience is how long a caller is kept waiting for what Kubernetes is about
// to tell us (section 9, question 19).
const patience = 2 * time.Second

// Accept implements fleet.Resolver: who a caller with an address of its own is,
// is settled when the connection is accepted, before that can have passed to
// another Pod. The kernel is asked at the first request: it answers for the
// connection, and who opened that does not change.
func (c *Cluster) Accept(caller *fleet.Caller) {
	if c.config.Attest == AttestAll || !caller.Remote.IsValid() {
		return
	}
	ip := caller.Remote.Addr().Unmap().WithZone("")
	index := c.pods.Load()
	if c.isHost(index, caller, ip) {
		return
	}
	if t, why := index.at(ip); why == reasonNone {
		c.counts.identified[byAddress].Add(1)
		caller.Pin = t
	}
}

// Resolve implements fleet.Resolver.
func (c *Cluster) Resolve(ctx context.Context, caller *fleet.Caller, ask fleet.Ask) (*fleet.Instance, error) {
	if shared(ask) {
		return c.node.Load().answer(ask)
	}
	t, _ := caller.Pin.(*tenant)
	if t != nil && !t.gone.Load() {
		if i := t.current(c.node.Load()); i != nil {
			return i, nil
		}
	}
	i, err := c.resolve(ctx, caller, t)
	var refusal *fleet.Refusal
	if errors.As(err, &refusal) {
		c.refused(caller, refusal)
	}
	return i, err
}

// resolve takes its time.
func (c *Cluster) resolve(ctx context.Context, caller *fleet.Caller, t *tenant) (*fleet.Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if t == nil {
		var err error
		if t, err = c.identify(ctx, caller); err != nil {
			return nil, err
		}
		caller.Pin = t
	}
	if t.gone.Load() {
		return nil, refusal(reasonGone, t.pod().String())
	}
	return c.instance(ctx, t)
}
