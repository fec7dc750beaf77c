package intercept

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ourLabel marks the addresses that are ours. Those of IPv6 have no labels;
// nobody else has ours.
const ourLabel = "lo:gcemds"

// ourProtocol marks the route that is ours; iproute2 knows no other of that
// number.
const ourProtocol = 206

// compareAddrs compares our addresses on lo. One that somebody else has given
// to this machine does as well, and stays theirs.
func compareAddrs(family int, want []netip.Addr, fix bool) (differences []string, err error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("there is no interface lo: %w", err)
	}
	ours, err := ourAddrs(family)
	if err != nil {
		return nil, err
	}
	for _, a := range ours {
		if slices.Contains(want, a) {
			continue
		}
		differences = append(differences, fmt.Sprintf("address %v is on lo", a))
		if fix {
			if err := netlink.AddrDel(lo, addrOf(a)); err != nil {
				return differences, fmt.Errorf("cannot take %v from lo: %w", a, needsRoot(err))
			}
			differences[len(differences)-1] = fmt.Sprintf("address %v taken from lo", a)
		}
	}
	all, err := netlink.AddrList(nil, family)
	if err != nil {
		return differences, fmt.Errorf("cannot list addresses: %w", err)
	}
	for _, a := range want {
		if slices.ContainsFunc(all, func(there netlink.Addr) bool { return addrEqual(there, a) }) {
			continue
		}
		differences = append(differences, fmt.Sprintf("address %v is not on lo", a))
		if fix {
			if err := netlink.AddrAdd(lo, addrOf(a)); err != nil && !errors.Is(err, unix.EEXIST) {
				return differences, fmt.Errorf("cannot put %v on lo: %w", a, needsRoot(err))
			}
			differences[len(differences)-1] = fmt.Sprintf("address %v put on lo", a)
		}
	}
	return differences, nil
}

func addrOf(a netip.Addr) *netlink.Addr {
	out := &netlink.Addr{IPNet: hostNet(a), Scope: int(netlink.SCOPE_HOST)}
	if a.Is4() {
		out.Label = ourLabel
	} else {
		out.Flags = unix.IFA_F_NODAD
	}
	return out
}

func hostNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func addrEqual(there netlink.Addr, a netip.Addr) bool {
	got, ok := netip.AddrFromSlice(there.IP)
	return ok && got.Unmap() == a
}

// ourAddrs are the addresses on lo that Install has put there.
func ourAddrs(family int) (ours []netip.Addr, err error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("there is no interface lo: %w", err)
	}
	all, err := netlink.AddrList(lo, family)
	if err != nil {
		return nil, fmt.Errorf("cannot list the addresses of lo: %w", err)
	}
	for _, a := range []netip.Addr{linkLocal, beside, linkLocal6, beside6} {
		if slices.ContainsFunc(all, func(there netlink.Addr) bool {
			return addrEqual(there, a) && (a.Is6() || there.Label == ourLabel)
		}) {
			ours = append(ours, a)
		}
	}
	return ours, nil
}

// compareRoute compares our route to the metadata address, for programs of
// this machine, who come from the address that is given; the zero address is
// no route. Without any, they would be told that the network is unreachable
// before the table sees what they send.
func compareRoute(from netip.Addr, fix bool) (differences []string, err error) {
	route := netlink.Route{Dst: hostNet(linkLocal), Protocol: ourProtocol}
	ours, err := netlink.RouteListFiltered(unix.AF_INET, &route, netlink.RT_FILTER_DST|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("cannot list routes: %w", err)
	}
	if !from.IsValid() {
		for _, r := range ours {
			differences = append(differences, "a route to 169.254.169.254 is there")
			if fix {
				if err := netlink.RouteDel(&r); err != nil {
					return differences, fmt.Errorf("cannot take away the route to 169.254.169.254: %w", needsRoot(err))
				}
				differences[len(differences)-1] = "route to 169.254.169.254 taken away"
			}
		}
		return differences, nil
	}
	if _, err := netlink.RouteGet(linkLocal.AsSlice()); err == nil {
		return nil, nil
	}
	differences = append(differences, "there is no route to 169.254.169.254")
	if fix {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return differences, fmt.Errorf("there is no interface lo: %w", err)
		}
		route.LinkIndex, route.Scope, route.Src = lo.Attrs().Index, netlink.SCOPE_LINK, from.AsSlice()
		if err := netlink.RouteAdd(&route); err != nil && !errors.Is(err, unix.EEXIST) {
			return differences, fmt.Errorf("cannot add a route to 169.254.169.254: %w", needsRoot(err))
		}
		differences[0] = "route to 169.254.169.254 added"
	}
	return differences, nil
}

// foreignRoute returns the interface of a route that leads to the metadata
// address alone, as networks of clouds hand it out.
func foreignRoute() (string, bool) {
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Dst: hostNet(linkLocal)}, netlink.RT_FILTER_DST)
	if err != nil {
		return "", false
	}
	for _, r := range routes {
		if r.Protocol == ourProtocol {
			continue
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().Name != "lo" {
			return link.Attrs().Name, true
		}
	}
	return "", false
}

// tunnels are the kinds of links that packets of other nodes come from.
var tunnels = []string{"vxlan", "geneve", "ipip", "ip6tnl", "sit", "gre", "gretap", "ip6gre", "ip6gretap", "erspan", "wireguard", "tuntap", "vti", "vti6", "xfrm"}

// outside returns the names of the interfaces behind which there are other
// machines: those of the default routes, hardware, tunnels, and what is made of
// them (bonds, bridges, VLANs). Everything else leads to Pods and containers of
// this machine. Names of those are the CNI's and many (cali*, eni*, lxc*,
// cni0, cbr0), so they cannot be listed.
func outside() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("cannot list the network interfaces: %w", err)
	}
	out := map[int]bool{}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := netlink.RouteList(nil, family) // of the main table
		if err != nil && family == unix.AF_INET {
			return nil, fmt.Errorf("cannot list the routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst != nil && (len(r.Dst.IP) == 0 || !r.Dst.IP.IsUnspecified()) || r.Type != unix.RTN_UNICAST {
				continue
			}
			out[r.LinkIndex] = true
			for _, hop := range r.MultiPath {
				out[hop.LinkIndex] = true
			}
		}
	}
	for _, l := range links {
		a := l.Attrs()
		if l.Type() == "device" || slices.Contains(tunnels, l.Type()) { // hardware is of no kind
			out[a.Index] = true
		}
	}
	delete(out, 0) // of a route over several interfaces
	for more := true; more; {
		more = false
		for _, l := range links {
			a := l.Attrs()
			if out[a.Index] && a.MasterIndex != 0 && !out[a.MasterIndex] {
				out[a.MasterIndex], more = true, true
			}
			// The parent of a veth is the other end of it.
			if l.Type() != "veth" && a.NetNsID < 0 && out[a.ParentIndex] && !out[a.Index] {
				out[a.Index], more = true, true
			}
		}
	}
	var names []string
	for _, l := range links {
		if a := l.Attrs(); out[a.Index] && a.Flags&net.FlagLoopback == 0 {
			names = append(names, a.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func hasCilium() bool {
	_, err := netlink.LinkByName("cilium_host")
	return err == nil
}

// needsRoot says what the kernel does not.
func needsRoot(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (this takes root, in a container the capability NET_ADMIN)", err)
	}
	return err
}
