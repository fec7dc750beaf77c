package gke

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/token"
)

// A grant is the source of a Pod's tokens: it hands them out and keeps the
// books.
type grant struct {
	cluster  *Cluster
	tenant   *tenant
	identity *identity
	source   token.Source
}

func (c *Cluster) grant(t *tenant, id *identity) token.Source {
	g := &grant{c, t, id, failed{id.fault}}
	if id.fault == nil {
		g.source = c.source(t, id)
	}
	return g
}

// Mint implements token.Source.
func (g *grant) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	if err := g.left(); err != nil { // since the request was resolved
		return token.Token{}, err
	}
	tok, err := g.source.Mint(ctx, req)
	if err := g.left(); err != nil { // Kubernetes has just said so
		return token.Token{}, err
	}
	e, failed := errors.AsType[*token.Error](err)
	switch {
	case err == nil:
		if g.tenant.grants.first(tok) {
			g.record(req, tok.Expiry, nil)
		}
	case failed && g.tenant.grants.look(e.Kind.String()+e.Text, time.Now().Add(againAfter)):
		g.record(req, time.Time{}, err)
		if e.Kind != token.Unavailable && e.Kind != token.Throttled && e.Kind != token.InvalidRequest {
			g.cluster.warn(g.tenant, "TokenRefused", e.Text)
		}
	}
	return tok, err
}

// left is the refusal of a Pod that is gone.
func (g *grant) left() error {
	if !g.tenant.gone.Load() {
		return nil
	}
	r := refusal(reasonGone, g.tenant.pod().String())
	return &token.Error{Kind: token.Denied, Text: r.Text, Err: r.Err}
}

// record writes the line of the audit.
func (g *grant) record(req token.Request, expiry time.Time, err error) {
	what := "access token"
	asked := strings.Join(req.Scopes, " ")
	if req.Audience != "" {
		what, asked = "ID token", req.Audience
	}
	sum := sha256.Sum256([]byte(asked))
	g.cluster.audit.Add(journal.Entry{
		Kind: journal.Token, Instance: g.tenant.pod().String(), Err: err,
		Grant: &journal.Grant{
			Account: g.identity.account.String(), Email: g.identity.gsa, Token: what,
			For: hex.EncodeToString(sum[:4]), Expiry: expiry,
		},
	})
}

// grants is what a Pod was told, so that a token that it gets again and again
// has one line in the audit.
type grants struct {
	last atomic.Pointer[string] // the token that was given before: mostly the same, and then nothing is locked
	mu   sync.Mutex
	told map[[8]byte]time.Time // until when
}

const maxGrants = 256 // of a Pod

// againAfter is when a refusal is recorded again.
const againAfter = 10 * time.Minute

// first reports whether a token was not given before.
func (g *grants) first(tok token.Token) bool {
	if last := g.last.Load(); last != nil && *last == tok.Value {
		return false
	}
	value := tok.Value
	g.last.Store(&value)
	return g.look(value, tok.Expiry)
}

// look reports whether something was not told before.
func (g *grants) look(what string, until time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	sum := sha256.Sum256([]byte(what))
	k := [8]byte(sum[:8])
	now := time.Now()
	end, known := g.told[k]
	if known && now.Before(end) {
		return false
	}
	if len(g.told) >= maxGrants {
		clear(g.told)
	}
	if g.told == nil {
		g.told = map[[8]byte]time.Time{}
	}
	g.told[k] = until
	return true
}

// refused counts a refusal, and tells the owner of the Pod if it is known.
func (c *Cluster) refused(caller *fleet.Caller, f *fleet.Refusal) {
	why, ok := errors.AsType[reason](f)
	if !ok {
		return
	}
	c.counts.refused[why].Add(1)
	if c.logged.first(refusals[why].name+" "+caller.Remote.Addr().String(), time.Now()) {
		c.log.Warn("a caller gets no identity", "remote", caller.Remote.Addr().String(), "reason", refusals[why].name, "error", f.Err)
	}
	if t, ok := caller.Pin.(*tenant); ok && why == reasonAccount {
		c.warn(t, "NoServiceAccount", f.Text)
	}
}
