package fleet

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
)

// A Router is the Resolver for virtual machines: an ordered table of routes,
// of which the first that fits decides. The zero Router knows nobody.
type Router struct {
	routes atomic.Pointer[[]Route]
}

// A Route leads callers to an instance. Empty fields fit every caller.
type Route struct {
	Listener string       // name of the listener
	Host     string       // Host header without port, any letter case
	Local    netip.Addr   // address that the caller dialled
	Source   netip.Prefix // address that the caller has
	Instance *Instance
}

// Set replaces the whole table at once. The caller must not change it afterwards.
func (r *Router) Set(routes ...Route) { r.routes.Store(&routes) }

// Resolve implements Resolver.
func (r *Router) Resolve(_ context.Context, c *Caller, a Ask) (*Instance, error) {
	if routes := r.routes.Load(); routes != nil {
		for i := range *routes {
			if route := &(*routes)[i]; route.fits(c, a.Host) {
				if i := route.Instance; i == nil || i.Absent == nil {
					return i, nil
				} else if err := i.Absent(); err != nil {
					return nil, err
				}
				return route.Instance, nil
			}
		}
	}
	return nil, ErrNoInstance
}

func (r *Route) fits(c *Caller, host string) bool {
	return (r.Listener == "" || r.Listener == c.Listener) &&
		(r.Host == "" || strings.EqualFold(r.Host, HostName(host))) &&
		(!r.Local.IsValid() || r.Local == c.Local.Addr().Unmap()) &&
		(!r.Source.IsValid() || r.Source.Contains(c.Remote.Addr().Unmap()))
}

// HostName is a Host header without its port, brackets and final dot.
func HostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.TrimSuffix(host, ".")
}
