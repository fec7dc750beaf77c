package daemon

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/credential"
)

// resolving bounds the search for the addresses of a name.
const resolving = 2 * time.Second

// ownAddresses are those of our listeners by name: where we listen, or else
// where the configuration says so.
func (d *Daemon) ownAddresses(c *config.Config) map[string]netip.AddrPort {
	own := map[string]netip.AddrPort{}
	for _, l := range d.listeners {
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			own[l.name] = tcp.AddrPort()
		}
	}
	if len(d.listeners) > 0 {
		return own
	}
	for _, l := range c.Listen {
		if tcp, err := net.ResolveTCPAddr("tcp", l.TCP); err == nil && l.TCP != "" {
			own[l.Name] = tcp.AddrPort()
		}
	}
	return own
}

// checkCircle refuses the address of a metadata server that is one of our own
// listeners: that would ask itself. What a redirection on the way leads back to
// us is found by its mark when it arrives.
func checkCircle(ctx context.Context, address string, own map[string]netip.AddrPort) error {
	base, err := credential.MetadataServer(address)
	if err != nil {
		return err
	}
	u, err := url.Parse(base)
	if err != nil {
		return err
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Errorf("%s: %q is not a port", address, port)
	}
	near := func(a netip.AddrPort) bool { return a.Port() == uint16(number) && number != 0 }
	if !slices.ContainsFunc(slices.Collect(maps.Values(own)), near) {
		return nil // nobody need be asked who that is
	}
	ctx, cancel := context.WithTimeout(ctx, resolving)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return nil // it may have a name later
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		for _, ip := range found {
			if near(own[name]) && reaches(ip.Unmap(), own[name].Addr().Unmap()) {
				return fmt.Errorf("%s is our own listener %s: gcemds would ask itself; give the address of the other metadata server", u.Host, name)
			}
		}
	}
	return nil
}

// reaches reports whether who dials one address comes to a listener at the other.
func reaches(ip, listening netip.Addr) bool {
	if !listening.IsUnspecified() {
		return ip == listening
	}
	if ip.IsLoopback() || ip.IsUnspecified() {
		return true
	}
	addresses, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addresses, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		own, valid := netip.AddrFromSlice(n.IP)
		return ok && valid && own.Unmap() == ip
	})
}
