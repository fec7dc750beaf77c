// Package intercept is how 169.254.169.254 reaches us: it makes programs find
// our metadata server where Google has its own.
//
// There are two extents. A [View] is for one program and its children: every
// connect(2) of theirs is held by a seccomp filter until we have looked at
// where it goes; one to the metadata server is made to ours, and the kernel
// goes on with the others as if nothing had been. The name
// metadata.google.internal is in a hosts file that only they see. Nothing on
// the machine changes, so there is nothing to take back. It is no sandbox: what
// is not a connect(2) gets past it, as io_uring and datagrams do.
//
// [Install] is for the Pods of a node, or for a whole machine, in one of the
// ways that [Mode] lists. What it installs is in the kernel and needs no process:
// while our server is down, connections to the metadata server are refused, and
// do not reach that of a cloud. It is taken away by [Remove] alone, and by the
// end of the machine.
//
// Only TCP port 80 of the address is ours, in every mode but [Loopback]: on
// Google Cloud port 53 is the resolver.
//
// The package serves nothing and does not know who calls. [Callers] only hands
// on what the kernel has noted of them.
package intercept

import (
	"context"
	"encoding"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A View is what a program sees.
type View struct {
	// Server is where connections to 169.254.169.254:80 lead: an IPv4 address.
	Server netip.AddrPort

	// Dir is an empty directory for files of the view. It must last as long
	// as the program.
	Dir string

	// Hide are directories that are empty in the view.
	Hide []string
}

var linkLocal = netip.MustParseAddr("169.254.169.254")

// linkLocal6 is the address of Google's server for machines without IPv4.
var linkLocal6 = netip.MustParseAddr("fd20:ce::254")

// beside and beside6 are where a server listens that gets the connections to
// the metadata addresses by translation: on lo, so that only this machine and
// what it forwards for can reach them. The first is where GKE's server is.
var (
	beside  = netip.MustParseAddr("169.254.169.252")
	beside6 = netip.MustParseAddr("fd20:ce::252")
)

// A Mode is a way in.
type Mode string

const (
	// Auto takes the first of the next three that this machine can have, in an
	// order that fits it; Status.Why says why. It never is Environment, which
	// would leave programs that do not read variables to the server of a cloud.
	Auto Mode = "auto"

	// NFTables translates the destination of what the node forwards for its
	// Pods, and puts 169.254.169.252 on lo. It works for every runtime.
	NFTables Mode = "nftables"

	// Loopback puts the metadata address itself on lo. Nothing is translated,
	// and processes of the machine use it like everybody else. All ports of the
	// address are the machine's then.
	Loopback Mode = "loopback"

	// EBPF changes the destination when a process below a cgroup connects. It
	// works where packets of Pods pass nftables by, and notes who calls. What
	// is not connected by this kernel it does not see: raw sockets, and
	// sandboxes with a network stack of their own (gVisor, Kata). If the cgroup
	// is that of all Pods, those are led to the server as with NFTables.
	EBPF Mode = "ebpf"

	// Environment installs nothing: variables lead programs to the server.
	Environment Mode = "environment"
)

// Modes are all there are.
var Modes = []Mode{Auto, NFTables, Loopback, EBPF, Environment}

var _ encoding.TextUnmarshaler = (*Mode)(nil)

// UnmarshalText refuses what is not one of Modes.
func (m *Mode) UnmarshalText(text []byte) error {
	if !slices.Contains(Modes, Mode(text)) {
		var names []string
		for _, m := range Modes {
			names = append(names, string(m))
		}
		return fmt.Errorf("there is no mode %q (%s)", text, strings.Join(names, ", "))
	}
	*m = Mode(text)
	return nil
}

// A Plan says what to install.
type Plan struct {
	Mode Mode // "": Auto

	// To is where our server listens: an IPv4 address and port. The zero value
	// is 169.254.169.252:988, with Loopback 169.254.169.254:80 (which is the
	// only one possible), with Environment 127.0.0.1:8080.
	To netip.AddrPort

	// HostNetwork captures the processes of the machine itself, too, with
	// NFTables; other modes do so anyway. The connections of our own server are
	// among them.
	HostNetwork bool

	// IPv6 captures fd20:ce::254, too, which leads to the same port of
	// fd20:ce::252 (with Loopback, to itself; with EBPF, to To). A machine that
	// cannot is no error: Status.Notes says so.
	IPv6 bool

	// Cgroup is below which directory EBPF captures. "": that of the Pods; on a
	// machine without Pods, the whole of cgroup2, unless the machine is in a
	// cloud that has its own metadata server at the address.
	Cgroup string

	exclude uint64 // of what is installed: the cgroup that is left alone
}

// A Status is what is installed.
type Status struct {
	Mode        Mode           `json:"mode"` // "": nothing
	To          netip.AddrPort `json:"to,omitzero"`
	To6         netip.AddrPort `json:"to6,omitzero"`
	HostNetwork bool           `json:"host_network,omitzero"`
	Cgroup      string         `json:"cgroup,omitzero"`
	Why         string         `json:"why,omitzero"`      // this mode, if Auto took it
	Changed     []string       `json:"changed,omitempty"` // what Install or Remove had to do
	Faults      []string       `json:"faults,omitempty"`  // what is not as Install leaves it; it would mend that
	Notes       []string       `json:"notes,omitempty"`   // what could not be had, and can be done without
}

// Probe returns nil if this machine can have the mode, else a sentence that says
// why not. It changes nothing, and dials nothing.
func (m Mode) Probe() error {
	if m == Environment {
		return nil
	}
	return m.probe()
}

// Install makes the machine as the plan says: what is there already stays, what
// is missing or different is put right, and what another plan left is taken
// away. Connections that were open before and lead elsewhere are cut, but not
// with Loopback, nor with EBPF below a cgroup that is not that of all Pods. It
// acts on the network namespace of the calling thread, and must not be called
// twice at a time.
func Install(ctx context.Context, p Plan) (Status, error) {
	if p.Mode == "" {
		p.Mode = Auto
	}
	why := ""
	if p.Mode == Auto {
		var err error
		if p.Mode, why, err = choose(p); err != nil {
			return Status{}, err
		}
	} else if err := p.Mode.Probe(); err != nil {
		return Status{}, fmt.Errorf("cannot intercept with %s: %w", p.Mode, err)
	}
	if p.To == (netip.AddrPort{}) {
		p.To = p.Mode.Listener()
	}
	if !p.To.Addr().Is4() || p.To.Port() == 0 {
		return Status{}, fmt.Errorf("connections cannot be led to %v: that must be an IPv4 address and a port", p.To)
	}
	if p.Mode == Loopback && p.To != p.Mode.Listener() {
		return Status{}, fmt.Errorf("with loopback the server listens on %v, so connections cannot be led to %v", p.Mode.Listener(), p.To)
	}
	p.HostNetwork = p.HostNetwork && p.Mode == NFTables
	s := Status{Mode: p.Mode, To: p.To}
	if p.Mode != Environment {
		var err error
		if s, err = install(ctx, p); err != nil {
			return s, fmt.Errorf("cannot intercept with %s: %w", p.Mode, err)
		}
	}
	s.Why = why
	return s, nil
}

// Listener is where our server listens unless the plan says otherwise.
func (m Mode) Listener() netip.AddrPort {
	switch m {
	case Loopback:
		return netip.AddrPortFrom(linkLocal, 80)
	case Environment:
		return netip.MustParseAddrPort("127.0.0.1:8080")
	}
	return netip.AddrPortFrom(beside, 988)
}
