package intercept

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A layout is all that can be installed. Each part is compared with the
// machine, and put right if asked to; the zero value is that nothing is there.
type layout struct {
	addrs  []netip.Addr // on lo
	table  []chain
	route  netip.Addr // from which there is a route to the metadata address, if there is no other
	hook   *hook
	addrs6 []netip.Addr
	table6 []chain
}

// layout is what the plan, whose fields are set, makes of a machine.
func (p Plan) layout() (l layout, err error) {
	outside, err := outside()
	if err != nil {
		return l, err
	}
	nat := p.translates()
	if p.To.Addr() == beside || p.To.Addr() == linkLocal {
		l.addrs = []netip.Addr{p.To.Addr()}
	}
	if !p.To.Addr().IsLoopback() { // nobody reaches those from outside
		l.table = chains(p.To, linkLocal, outside, nat, p.HostNetwork)
	}
	if p.HostNetwork {
		l.route = p.To.Addr()
	}
	if p.IPv6 && p.Mode != EBPF {
		to6 := p.to6()
		l.addrs6 = []netip.Addr{to6.Addr()}
		l.table6 = chains(to6, linkLocal6, outside, nat, p.HostNetwork)
	}
	if p.Mode == EBPF {
		l.hook = &hook{to: p.To, ipv6: p.IPv6, cgroup: p.Cgroup}
		if l.hook.exclude = ownCgroup(p.Cgroup); l.hook.exclude == 0 && cgroupPath(p.exclude) != "" {
			l.hook.exclude = p.exclude // that of the server, if we are not in its Pod
		}
	}
	return l, nil
}

// translates reports whether what the node forwards is translated. With EBPF
// and all Pods that is for what no connect(2) has made: raw sockets, which would
// get past us to the server of a cloud, and sandboxes with a network of their
// own.
func (p Plan) translates() bool {
	return p.Mode == NFTables || p.Mode == EBPF && ofPods(filepath.Base(p.Cgroup))
}

// to6 is where the server listens for those who call fd20:ce::254.
func (p Plan) to6() netip.AddrPort {
	switch {
	case !p.IPv6:
		return netip.AddrPort{}
	case p.Mode == Loopback:
		return netip.AddrPortFrom(linkLocal6, 80)
	case p.Mode == NFTables:
		return netip.AddrPortFrom(beside6, p.To.Port())
	}
	return p.To
}

// compare returns what is not as in the layout. With fix it is afterwards. What
// is added comes in an order in which nothing is captured before the rest is
// ready, and what is taken away goes the other way round.
func (l layout) compare(fix bool) (differences, notes []string, err error) {
	parts := []func() ([]string, error){
		func() ([]string, error) { return compareAddrs(unix.AF_INET, l.addrs, fix) },
		func() ([]string, error) { return compareRoute(l.route, fix) },
		func() ([]string, error) { return compareTable(unix.NFPROTO_IPV4, l.table, fix) },
		func() ([]string, error) { return compareHook(l.hook, fix) },
	}
	if len(l.addrs) == 0 {
		slices.Reverse(parts)
	}
	for _, part := range parts {
		d, err := part()
		differences = append(differences, d...)
		if err != nil {
			return differences, notes, err
		}
	}
	six := []func() ([]string, error){
		func() ([]string, error) { return compareAddrs(unix.AF_INET6, l.addrs6, fix) },
		func() ([]string, error) { return compareTable(unix.NFPROTO_IPV6, l.table6, fix) },
	}
	if l.table6 == nil {
		slices.Reverse(six)
	}
	for _, part := range six {
		d, err := part()
		if err != nil {
			if l.table6 != nil {
				notes = append(notes, fmt.Sprintf("IPv6 is left out: %v", err))
			}
			break
		}
		differences = append(differences, d...)
	}
	return differences, notes, nil
}

func install(ctx context.Context, p Plan) (s Status, err error) {
	if p.Mode == EBPF {
		if p.Cgroup, err = p.cgroup(); err != nil {
			return s, err
		}
		if h, err := readHook(); err == nil && h != nil {
			p.exclude = h.exclude
		}
	} else {
		p.Cgroup = ""
	}
	l, err := p.layout()
	if err != nil {
		return s, err
	}
	if err := ctx.Err(); err != nil {
		return s, err
	}
	s = p.status()
	if s.Changed, s.Notes, err = l.compare(true); err != nil {
		return s, err
	}
	if len(s.Notes) > 0 {
		s.To6 = netip.AddrPort{}
	}
	if p.translates() {
		if err := cut(p); err != nil {
			s.Notes = append(s.Notes, fmt.Sprintf("connections to the metadata server that were open before may go on: %v", err))
		}
	}
	return s, nil
}

func (p Plan) status() Status {
	return Status{Mode: p.Mode, To: p.To, To6: p.to6(), HostNetwork: p.HostNetwork, Cgroup: p.Cgroup}
}

// Read returns what is installed. It takes the rights that Install takes.
func Read() (Status, error) {
	p, err := readPlan()
	if err != nil {
		return Status{}, fmt.Errorf("cannot find out what intercepts connections: %w", err)
	}
	l, s := layout{}, Status{}
	if p.Mode != "" {
		s = p.status()
		if l, err = p.layout(); err != nil {
			return s, err
		}
		if l.hook != nil {
			l.hook.exclude = p.exclude
		}
	}
	if s.Faults, s.Notes, err = l.compare(false); err != nil {
		return s, fmt.Errorf("cannot find out what intercepts connections: %w", err)
	}
	return s, nil
}

// readPlan finds out which plan has left what is there.
func readPlan() (p Plan, err error) {
	h, err := readHook()
	if err != nil {
		return p, err
	}
	t, err := readTable(unix.NFPROTO_IPV4)
	if err != nil {
		return p, err
	}
	ours, err := ourAddrs(unix.AF_INET)
	if err != nil {
		return p, err
	}
	six, _ := readTable(unix.NFPROTO_IPV6)
	pre := slices.IndexFunc(t, func(c chain) bool { return c.name == capture })
	switch {
	case h != nil:
		p = Plan{Mode: EBPF, To: h.to, Cgroup: h.cgroup, IPv6: h.ipv6, exclude: h.exclude}
	case pre >= 0:
		p = Plan{Mode: NFTables, To: t[pre].to(), IPv6: six != nil}
		p.HostNetwork = slices.ContainsFunc(t, func(c chain) bool { return c.name == captureHost })
	case slices.Contains(ours, linkLocal):
		p = Plan{Mode: Loopback, To: Loopback.Listener(), IPv6: six != nil}
	default:
		return Plan{}, nil
	}
	if !p.To.IsValid() || p.To.Addr().IsUnspecified() {
		p.To = p.Mode.Listener()
	}
	return p, nil
}

// Remove takes away what Install has left, whole or in part, and nothing else.
// Programs reach what they reached before, which in a cloud is the metadata
// server of the machine.
func Remove() (Status, error) {
	removed, _, err := layout{}.compare(true)
	if err != nil {
		err = fmt.Errorf("cannot take away what intercepts connections: %w", err)
	}
	return Status{Changed: removed}, err
}

func (m Mode) probe() error {
	switch m {
	case NFTables:
		return probeTable(true)
	case Loopback:
		if cloud := theCloud(); cloud != "" {
			return fmt.Errorf("this machine has the metadata server of %s at 169.254.169.254, and its own programs would lose it", cloud)
		}
		return probeTable(false)
	case EBPF:
		return probeHook()
	case Auto:
		_, _, err := choose(Plan{})
		return err
	}
	return fmt.Errorf("there is no mode %q", m)
}

// choose picks a mode and says why.
func choose(p Plan) (Mode, string, error) {
	order, because := p.order()
	var why []string
	for _, m := range order {
		err := m.probe()
		if err == nil && m == EBPF {
			_, err = p.cgroup()
		}
		if err == nil {
			if len(why) == 0 {
				return m, because, nil
			}
			return m, strings.Join(why, "; "), nil
		}
		why = append(why, fmt.Sprintf("not %s: %v", m, err))
	}
	return "", "", fmt.Errorf("connections cannot be intercepted here (%s); programs that read variables find the server without: gcemds intercept install --mode environment", strings.Join(why, "; "))
}

// order is the order in which Auto tries, and why the first is first.
func (p Plan) order() (modes []Mode, because string) {
	if p.Cgroup != "" || isNode() {
		if hasCilium() {
			return []Mode{EBPF, NFTables}, "with Cilium, packets of Pods may pass nftables by"
		}
		return []Mode{NFTables, EBPF}, "this is a node with Pods, and nftables works for every runtime"
	}
	because = "this machine has no Pods, and the server listens elsewhere"
	if !p.To.IsValid() || p.To == Loopback.Listener() {
		modes, because = []Mode{Loopback}, "this machine has no Pods and no other metadata server"
	}
	if p.HostNetwork {
		modes = append(modes, NFTables)
	}
	return append(modes, EBPF), because
}

// isNode reports whether there are Pods here, which include us if we are one.
func isNode() bool {
	_, err := podsCgroup()
	return err == nil || errors.Is(err, errManyPods) || os.Getenv("KUBERNETES_SERVICE_HOST") != ""
}

// cgroup is where EBPF captures.
func (p Plan) cgroup() (string, error) {
	if p.Cgroup != "" {
		if info, err := os.Stat(p.Cgroup); err != nil || !info.IsDir() {
			return "", fmt.Errorf("there is no cgroup %s", p.Cgroup)
		}
		return p.Cgroup, nil
	}
	pods, err := podsCgroup()
	if !errors.Is(err, errNoPods) {
		return pods, err
	}
	if cloud := theCloud(); cloud != "" {
		return "", fmt.Errorf("this machine has no Pods, and capturing all of it would take the metadata server of %s from its own programs; name the cgroup of those that shall be captured (--cgroup)", cloud)
	}
	return cgroupRoot()
}
