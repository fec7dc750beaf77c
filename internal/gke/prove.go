package gke

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// A proof is whether tokens can be made.
type proof struct{ err error }

// Ready returns nil once the Pods of this node are known and the chain was
// seen to work: Kubernetes has made a token, and Google has exchanged it.
// Later outages do not take that back, since what is known still serves.
func (c *Cluster) Ready() error { return c.proof.Load().err }

var errUnknown = errors.New("the node, its Pods and their service accounts are not known yet")

// prove tries the chain until it works.
func (c *Cluster) prove(ctx context.Context) {
	var synced time.Time
	for pause := time.Second; ctx.Err() == nil; {
		x := c.pods.Load()
		if x.synced && synced.IsZero() {
			synced = time.Now()
		}
		err := errUnknown
		if met := cmp.Or(c.metPods.Load(), c.metNode.Load()); met != nil {
			err = fmt.Errorf("%w: %w", errUnknown, *met)
		}
		if x.synced && c.node.Load().UID != "" {
			err = c.try(ctx, x, time.Since(synced) < patience)
		}
		if said := c.proof.Load(); err == nil || said.err.Error() != err.Error() {
			c.proof.Store(&proof{err})
			if err == nil {
				c.untaint(ctx)
				return
			}
			c.log.Info("not ready yet", "reason", err)
		}
		changed := x.changed
		if !errors.Is(err, errUnknown) { // news of Pods do not mend it
			changed = nil
			pause = min(2*pause, 30*time.Second)
		}
		select {
		case <-changed:
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// untaint lets Pods come to the node that wait for us to be ready.
func (c *Cluster) untaint(ctx context.Context) {
	if c.config.StartTaint == "" {
		return
	}
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		err := c.api.Untaint(ctx, c.config.Node, c.config.StartTaint)
		if err == nil {
			c.log.Info("the node has its start taint no more", "taint", c.config.StartTaint)
			return
		}
		c.log.Warn("the start taint cannot be taken off the node", "taint", c.config.StartTaint, "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// try makes a token of a service account of this node, of a few if the first
// do not work. It has no effect but to be kept for who asks next.
//
// It waits for all accounts to be known, so that it is the same ones each time,
// but not for long: a watch of one may not be allowed.
func (c *Cluster) try(ctx context.Context, x *index, patient bool) error {
	byName := func(a, b *tenant) int { return strings.Compare(a.pod().String(), b.pod().String()) }
	seen := map[*account]bool{}
	tenants := slices.DeleteFunc(slices.SortedFunc(maps.Values(x.tenants), byName), func(t *tenant) bool {
		pod := t.pod()
		if seen[t.account] || pod.Terminating || c.config.Projected != nil && !slices.Contains(pod.Volumes, c.config.Projected.Volume) {
			return true
		}
		seen[t.account] = true
		return false
	})
	var first error
	tried := 0
	for _, t := range tenants {
		id := t.account.identity.Load()
		if id == nil && patient {
			return errUnknown
		}
		if id == nil || id.missing || id.fault != nil {
			continue
		}
		if tried++; tried > 3 {
			break
		}
		_, view := c.federated(t, id)
		_, err := c.vouched(t, id, view).Mint(ctx, token.Request{Scopes: scopesOf(id)})
		if f, ok := errors.AsType[*exchange.Failure](err); ok && f.Code == "unauthorized_client" {
			return nil // it works, but not for this account
		}
		if err == nil {
			return nil
		}
		if first == nil {
			first = fmt.Errorf("no token of %s: %w", id.account, err)
		}
	}
	if tried == 0 && len(tenants) > 0 && slices.ContainsFunc(tenants, func(t *tenant) bool { return t.account.identity.Load() == nil }) {
		return errUnknown
	}
	return first
}

// scopesOf are those of the federated token that its Pods will want.
func scopesOf(id *identity) []string {
	if id.gsa != "" {
		return []string{cloudPlatform}
	}
	return scopes
}
