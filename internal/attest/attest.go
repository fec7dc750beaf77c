// Package attest says who is at the other end of a connection, according to
// the kernel: which user, which control group, and so which Pod. It knows
// nothing of Kubernetes but how the kubelet names control groups.
//
// A connection belongs to the process that opened it. One that has passed the
// socket on, or has moved to another control group since, is still that one;
// but control groups of version 1 only know who has the socket now.
package attest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
)

// ErrElsewhere: the caller's end of the connection is not in this network
// namespace, so its kernel side cannot be asked for. That is so for Pods with a
// network of their own.
var ErrElsewhere = errors.New("the caller's socket is not in the network of this host")

// ErrClosed: the caller has closed its end of the connection, or has ended, and
// the kernel has forgotten whose it was.
var ErrClosed = errors.New("the caller has closed its socket, so nobody knows whose it was")

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
}

// Callers knows who opened connections, by the address of the caller: the
// control group, and the process if that is known.
type Callers interface {
	Lookup(caller netip.AddrPort) (cgroup uint64, pid uint32, ok bool)
}

// Attest returns who opened the connection between two addresses, as we see
// them. It takes some 10 µs, and where control groups are of version 1 as long
// as a look at all open files of this machine; so callers keep the answer. It
// never waits.
//
// The Pod of the answer is empty for a process that is in none. What is known
// of the connection but does not say which Pod it is, is an error.
func (a *Attestor) Attest(_ context.Context, remote, local netip.AddrPort) (fleet.Peer, error) {
	return a.attest(plain(remote), plain(local))
}

// Peer makes the question for a caller, which asks at most once.
func (a *Attestor) Peer(c *fleet.Caller) func(context.Context) (fleet.Peer, error) {
	once := sync.OnceValues(func() (fleet.Peer, error) { return a.Attest(context.Background(), c.Remote, c.Local) })
	return func(context.Context) (fleet.Peer, error) { return once() }
}

// Probe says why the kernel of this machine cannot be asked; nil: it can. It
// asks about a connection with itself, over loopback.
func (a *Attestor) Probe() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.DialTimeout("tcp", l.Addr().String(), time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = a.Attest(context.Background(), c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort())
	if errors.Is(err, ErrElsewhere) {
		return errors.New("the kernel does not tell of sockets: it has no module tcp_diag (modprobe tcp_diag)")
	}
	return err
}

// plain writes an address the way in which it can be compared.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
