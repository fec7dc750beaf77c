package gke

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// own are the addresses of this machine. They are read again now and then,
// when somebody comes whose address is nobody's.
type own struct {
	addrs atomic.Pointer[map[netip.Addr]struct{}]

	mu   sync.Mutex
	read time.Time
}

func (o *own) has(ip netip.Addr) bool {
	addrs := o.addrs.Load()
	if addrs == nil {
		return false
	}
	_, ok := (*addrs)[ip]
	return ok
}

// refresh reads the addresses, at most every 5 seconds.
func (o *own) refresh() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := time.Now(); !o.read.IsZero() && now.Sub(o.read) < 5*time.Second {
		return
	} else {
		o.read = now
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return
	}
	addrs := map[netip.Addr]struct{}{}
	for _, a := range list {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			addrs[prefix.Addr().Unmap().WithZone("")] = struct{}{}
		}
	}
	o.addrs.Store(&addrs)
}
