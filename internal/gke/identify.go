package gke

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/gcemds/gcemds/internal/fleet"
)

// identify says which Pod a caller is, and waits for one that is not known
// yet. The context ends the waiting.
func (c *Cluster) identify(ctx context.Context, caller *fleet.Caller) (*tenant, error) {
	if !caller.Remote.IsValid() {
		return nil, refusal(reasonOutside, "the other end of a socket file")
	}
	ip := caller.Remote.Addr().Unmap().WithZone("")
	if c.pods.Load().claims[ip].tenant == nil {
		c.own.refresh()
	}
	if c.config.Attest == AttestAll || c.isHost(c.pods.Load(), caller, ip) {
		return c.attest(ctx, caller, ip)
	}
	t, err := await(ctx, c, func(x *index) (*tenant, reason) {
		t, why := x.at(ip)
		if why == reasonUnknown && (!x.synced || x.expected > 0) {
			why = reasonPending // one of those that wait for an address may have it
		}
		return t, why
	}, ip.String())
	if err == nil {
		c.counts.identified[byAddress].Add(1)
	}
	return t, err
}

// attest asks the kernel.
func (c *Cluster) attest(ctx context.Context, caller *fleet.Caller, ip netip.Addr) (*tenant, error) {
	where := caller.Remote.String()
	if c.config.Attest == AttestNone || caller.Peer == nil {
		return nil, refusal(reasonHost, ip.String())
	}
	peer, err := caller.Peer(ctx)
	switch {
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		return nil, ctx.Err()
	case err != nil:
		r := refusal(reasonUnattested, where)
		r.Err = errors.Join(r.Err, err)
		return nil, r
	case peer.PodUID == "":
		return nil, refusal(reasonOutside, where)
	}
	t, err := await(ctx, c, func(x *index) (*tenant, reason) {
		t := x.tenants[peer.PodUID]
		switch {
		case t == nil && x.synced:
			return nil, reasonOutside
		case t == nil:
			return nil, reasonStarting
		}
		return t, reasonNone
	}, where)
	if err != nil {
		return nil, err
	}
	x := c.pods.Load()
	if other, why := x.at(ip); !c.isHost(x, caller, ip) && why == reasonNone && other != t && !slices.Contains(t.pod().IPs, ip) {
		return nil, refusal(reasonMismatch, where)
	}
	c.counts.identified[byKernel].Add(1)
	return t, nil
}

// await looks at the index, and at each newer one, until it is found out who a
// caller is or the context ends; then it is refused for the last reason.
func await(ctx context.Context, c *Cluster, look func(*index) (*tenant, reason), who string) (*tenant, error) {
	for {
		x := c.pods.Load()
		t, why := look(x)
		if why == reasonNone {
			return t, nil
		}
		select {
		case <-x.changed:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, ctx.Err()
			}
			return nil, refusal(why, who)
		}
	}
}
