// Package attest says who is at the other end of a connection, according to
// the kernel: which user, which control group, and so which Pod. It knows
// nothing of Kubernetes but how the kubelet names control groups.
//
// A connection belongs to the process that opened it. One that has passed the
// socket on, or has moved to another control group since, is still that one.
package attest

import (
	"context"
	"errors"
	"net/netip"

	"github.com/gcemds/gcemds/internal/fleet"
)

// ErrElsewhere: the caller's end of the connection is not in this network
// namespace, so its kernel side cannot be asked for. That is so for Pods with a
// network of their own.
var ErrElsewhere = errors.New("the caller's socket is not in the network of this host")

// ErrUnsupported: the kernel of this system cannot be asked.
var ErrUnsupported = errors.New("asking the kernel who a caller is works on Linux only")

// An Attestor asks the kernel. Its methods may be called concurrently.
type Attestor struct {
	// Dialled are the addresses that callers may have dialled to get here. To
	// the caller's kernel its connection goes there, whatever the address was
	// translated to on the way.
	Dialled []netip.AddrPort

	// Callers knows connections by other means; nil: nothing does.
	Callers Callers

	// Root is where the control groups of version 2 are; "": where systemd and
	// the kubelet have them.
	Root string
}

// Callers knows who opened connections, by the address of the caller: the
// control group, and the process if that is known.
type Callers interface {
	Lookup(caller netip.AddrPort) (cgroup uint64, pid uint32, ok bool)
}

// Attest returns who opened the connection between two addresses, as we see
// them. It takes some 100 µs, so callers keep the answer. It never waits.
//
// The Pod of the answer is empty for a process that is in none. What is known
// of the connection but does not say which Pod it is, is an error.
func (a *Attestor) Attest(_ context.Context, remote, local netip.AddrPort) (fleet.Peer, error) {
	return a.attest(unmap(remote), unmap(local))
}

// Peer makes the question for a caller, which asks at most once.
func (a *Attestor) Peer(c *fleet.Caller) func(context.Context) (fleet.Peer, error) {
	var peer fleet.Peer
	var err error
	asked := false // by one request at a time
	return func(ctx context.Context) (fleet.Peer, error) {
		if !asked {
			asked = true
			peer, err = a.Attest(ctx, c.Remote, c.Local)
		}
		return peer, err
	}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
