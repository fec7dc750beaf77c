package gke

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// How fast Pods can make us ask upstream. The node waits for its turn, since
// all its Pods starting at once is no abuse; those of one service account that
// want hundreds of different tokens are refused.
const (
	nodeRate, nodeBurst       = 20, 100 // a second
	accountRate, accountBurst = 1, 100  // a second
)

type limits struct{ node *rate.Limiter }

func newLimits() *limits { return &limits{rate.NewLimiter(nodeRate, nodeBurst)} }

// Lives of the cluster's tokens that are asked for: the federated token does
// not outlive them, that of an impersonated account does (section 1.4).
const (
	lifeToImpersonate = 10 * time.Minute
	lifeToUse         = time.Hour
)

// clusterLife is that of the tokens of the cluster which the identity needs.
func (i *identity) clusterLife() time.Duration {
	if i.gsa != "" {
		return lifeToImpersonate
	}
	return lifeToUse
}

// source returns the source of the tokens of an identity, for a Pod: all that
// the chain of section 1.1 needs is asked for in the name of that Pod. Pods of
// an identity share the tokens.
func (c *Cluster) source(t *tenant, id *identity) token.Source {
	federated, view := c.federated(t, id)
	if id.gsa == "" {
		return direct{c.vouched(t, id, view), id}
	}
	var source token.Source = &exchange.Impersonation{
		Target: id.gsa, Via: view, UserProject: id.quota, Client: c.google.Client,
		Address: c.google.account(id.gsa),
	}
	source = step{source, &c.counts.calls[callIAM], func(e *token.Error, req token.Request) { explainIAM(e, req, id) }}
	return c.vouched(t, id, c.tokens.Source("gke "+strings.Join([]string{id.account.UID, federated, id.gsa, id.quota}, " "), c.bounded(t.account, source)))
}

// federated returns the source of the principal's tokens, and the name that
// they are kept under. One exchange serves both uses of them.
func (c *Cluster) federated(t *tenant, id *identity) (name string, view token.Source) {
	audience, target := id.provider.ClusterAudience(c.config.ProjectID), id.provider.ExchangeAudience(c.config.ProjectID)
	life := id.clusterLife()
	var source token.Source = &exchange.Federation{
		Audience: target,
		TokenURL: cmp.Or(id.provider.STSURL, c.google.STS),
		Client:   c.google.Client,
		Holder:   "token of the service account " + id.account.String(),
		Subject:  func(ctx context.Context) (string, error) { return c.clusterToken(ctx, t, id, audience, life) },
	}
	source = step{source, &c.counts.calls[callSTS], func(e *token.Error, _ token.Request) { explainSTS(e, id, target) }}
	if id.gsa == "" {
		source = c.bounded(t.account, source)
	}
	name = strings.Join([]string{"federated", id.account.UID, audience, target, id.provider.STSURL, life.String()}, " ")
	view = c.tokens.Source("gke "+name, source)
	id.kept.CompareAndSwap(nil, &view)
	return name, view
}

// maxBearers bounds in the names of how many Pods a token of the cluster is
// asked for, one after the other.
const maxBearers = 4

// clusterToken asks for a token of the account, bound to the Pod. That it is
// gone, or has no token of its own to be read, is no reason to let the others
// of its account down: one that is there serves as well. A Pod of which
// Kubernetes says that it is gone gets nothing from here on, whatever the watch
// still says: see grant.
func (c *Cluster) clusterToken(ctx context.Context, t *tenant, id *identity, audience string, life time.Duration) (string, error) {
	bearers := []*tenant{t}
	for _, other := range c.pods.Load().users[t.account] {
		if other != t && !other.gone.Load() && len(bearers) < maxBearers {
			bearers = append(bearers, other)
		}
	}
	var e *token.Error
	for _, t := range bearers {
		if t.gone.Load() {
			continue
		}
		jwt, err := c.api.CreateToken(ctx, id.account, *t.pod(), audience, life)
		if err == nil {
			c.counts.calls[callAPI].count(nil)
			return jwt, nil
		}
		e = explainAPI(err, id, *t.pod())
		c.counts.calls[callAPI].count(e)
		if errors.Is(err, ErrPodGone) {
			t.gone.Store(true)
		} else if !errors.Is(err, errProjected) {
			return "", e
		}
	}
	if e == nil {
		e = &token.Error{Kind: token.Unavailable, RetryAfter: time.Second, Err: ErrPodGone}
	}
	return "", e
}

// bounded limits what reaches a source.
func (c *Cluster) bounded(a *account, source token.Source) token.Source {
	return bounded{c, a, source}
}

type bounded struct {
	*Cluster
	account *account
	source  token.Source
}

// Mint implements token.Source.
func (b bounded) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	if !b.account.mints.Allow() {
		return token.Token{}, &token.Error{
			Kind: token.Throttled, RetryAfter: time.Second, Err: errors.New("too many different tokens are asked for by " + b.account.namespace + "/" + b.account.name),
			Text: "The Pods of this service account ask for too many different tokens. Ask for the same scopes and audiences again: those are kept.",
		}
	}
	if err := b.limits.node.Wait(ctx); err != nil {
		return token.Token{}, &token.Error{
			Kind: token.Unavailable, RetryAfter: time.Second, Err: errors.New("too many tokens are asked for on this node at once"),
			Text: "Too many tokens are asked for on this node at once; ask again.",
		}
	}
	tok, err := b.source.Mint(ctx, req)
	if age := b.config.MaxTokenAge; err == nil && age > 0 {
		if end := time.Now().Add(age).Round(0); end.Before(tok.Expiry) {
			tok.Expiry = end
		}
	}
	return tok, err
}

// direct is the source of a service account that acts as nobody else: its
// principal has access tokens only.
type direct struct {
	token.Source
	identity *identity
}

// Mint implements token.Source.
func (d direct) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	if req.Audience != "" {
		return token.Token{}, faultNoGSA(d.identity.account)
	}
	return d.Source.Mint(ctx, req)
}

// failed is the source of what cannot work.
type failed struct{ err *token.Error }

// Mint implements token.Source.
func (f failed) Mint(context.Context, token.Request) (token.Token, error) {
	return token.Token{}, f.err
}

// A step is one call of the chain: it is counted, and its failure told in
// words for the owner of the Pod. A failure that has words is of an earlier
// step.
type step struct {
	source  token.Source
	calls   *calls
	explain func(*token.Error, token.Request)
}

// Mint implements token.Source.
func (s step) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	tok, err := s.source.Mint(ctx, req)
	if err == nil {
		s.calls.count(nil)
		return tok, nil
	}
	var e *token.Error
	if !errors.As(err, &e) {
		return tok, err
	}
	told := *e
	if told.Text == "" {
		s.calls.count(e)
		s.explain(&told, req)
	}
	return tok, &told
}
