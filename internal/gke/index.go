package gke

import (
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/gcemds/gcemds/internal/fleet"
)

// A tenant is a Pod of this node that has containers, or will have. It is
// found by its uid, which never comes again, and kept as long as the Pod is.
type tenant struct {
	data    atomic.Pointer[Pod]
	account *account
	gone    atomic.Bool // deleted or finished: whoever still says to be it, is not

	mu     sync.Mutex // of making the place
	place  atomic.Pointer[place]
	grants grants
}

func (t *tenant) pod() *Pod { return t.data.Load() }

// An index is what is known of the Pods at a time. It does not change.
type index struct {
	synced   bool
	tenants  map[string]*tenant      // by uid
	claims   map[netip.Addr]claim    // who has an address
	host     map[netip.Addr]struct{} // of Pods in the network of the host: addresses of many
	expected int                     // Pods that have no address yet and will have one
	changed  chan struct{}           // closed when there is a newer index, or an account is known
	users    map[*account][]*tenant  // of each service account
}

// A claim is who has an address, or why that cannot be said.
type claim struct {
	tenant *tenant
	live   int // Pods that are there to stay
	going  int // Pods that are leaving
}

// add counts a Pod. One that is there to stay comes before those that are
// going: their address may be its already.
func (c claim) add(t *tenant, leaving bool) claim {
	switch {
	case leaving:
		if c.going++; c.live == 0 {
			c.tenant = t
		}
	default:
		c.live++
		c.tenant = t
	}
	return c
}

func (c claim) ambiguous() bool { return c.live > 1 || c.live == 0 && c.going > 1 }

// at returns the Pod that has an address, or the reason not to say.
//
// An address that a leaving Pod shows may be free already, and the next Pod may
// have got it before its status says so. So it is trusted only while no Pod
// waits for one.
func (x *index) at(ip netip.Addr) (*tenant, reason) {
	c, ok := x.claims[ip]
	switch {
	case !ok:
		return nil, reasonUnknown
	case c.ambiguous():
		return nil, reasonAmbiguous
	case c.live == 0 && x.expected > 0 || c.tenant.gone.Load():
		return nil, reasonReuse
	}
	return c.tenant, reasonNone
}

// ambiguous is the number of addresses that several Pods claim.
func (x *index) ambiguous() (n int) {
	for _, c := range x.claims {
		if c.ambiguous() {
			n++
		}
	}
	return n
}

// next returns the index after a change, of which the tenants are told.
func (x *index) next(tenants map[string]*tenant, synced bool) *index {
	y := &index{
		synced: synced, tenants: tenants, changed: make(chan struct{}),
		claims: make(map[netip.Addr]claim, len(tenants)), host: map[netip.Addr]struct{}{}, users: map[*account][]*tenant{},
	}
	for _, t := range tenants {
		pod := t.pod()
		y.users[t.account] = append(y.users[t.account], t)
		switch {
		case pod.HostNetwork:
			for _, ip := range pod.IPs {
				y.host[ip] = struct{}{}
			}
		case len(pod.IPs) == 0 && !pod.Terminating: // containers that have ended may be started again, with another
			y.expected++
		default:
			for _, ip := range pod.IPs {
				y.claims[ip] = y.claims[ip].add(t, pod.leaving())
			}
		}
	}
	return y
}

// applyPods takes in what the watch has seen.
func (c *Cluster) applyPods(change Change[Pod]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.pods.Load()
	tenants := maps.Clone(old.tenants)
	if tenants == nil {
		tenants = map[string]*tenant{}
	}
	leave := func(uid string) {
		if t := tenants[uid]; t != nil {
			t.gone.Store(true)
			delete(tenants, uid)
			c.release(t.account)
		}
	}
	named := map[string]bool{}
	for i := range change.Items {
		pod := &change.Items[i]
		named[pod.UID] = true
		switch t := tenants[pod.UID]; {
		case pod.UID == "":
		case change.Gone || pod.finished():
			leave(pod.UID)
		case t != nil:
			t.data.Store(pod)
		default:
			t = &tenant{account: c.use(key{pod.Namespace, pod.ServiceAccount})}
			t.data.Store(pod)
			tenants[pod.UID] = t
		}
	}
	if change.All {
		for uid := range old.tenants {
			if !named[uid] {
				leave(uid)
			}
		}
	}
	c.pods.Store(old.next(tenants, old.synced || change.All))
	close(old.changed)
}

// tell wakes those who wait. The lock is held.
func (c *Cluster) tell() {
	old := c.pods.Load()
	next := *old
	next.changed = make(chan struct{})
	c.pods.Store(&next)
	close(old.changed)
}

// isHost reports whether a caller comes from the network of the host: that
// address tells no Pod from another.
func (c *Cluster) isHost(x *index, caller *fleet.Caller, ip netip.Addr) bool {
	if _, ok := x.host[ip]; ok || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip == caller.Local.Addr().Unmap().WithZone("") {
		return true
	}
	return c.own.has(ip)
}

// OfHost reports whether a connection comes from an address of this machine,
// and from no Pod with one of its own. A link-local address of anybody else,
// which isHost takes for one of the host to be careful, is none.
func (c *Cluster) OfHost(remote netip.Addr) bool {
	ip := remote.Unmap().WithZone("")
	if _, pod := c.pods.Load().claims[ip]; pod {
		return false
	}
	c.own.refresh()
	return ip.IsLoopback() || c.own.has(ip)
}
