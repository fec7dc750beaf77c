package intercept

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// Callers are the connections to our server that EBPF has led to it, while they
// are open: at most 16384. Its methods may be called concurrently.
type Callers struct{ m *ebpf.Map }

// OpenCallers opens what EBPF notes. It fails if nothing is installed with it,
// and without the right to look at eBPF maps. It must be opened again after
// an installation that had to make the map anew.
func OpenCallers() (*Callers, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(pins, "callers"), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("nobody notes who connects (gcemds intercept install --mode ebpf): %w", err)
	}
	if m.KeySize() != sizeofAddress || m.ValueSize() != sizeofCaller {
		m.Close()
		return nil, fmt.Errorf("what notes who connects is of another version of gcemds (gcemds intercept install --mode ebpf)")
	}
	return &Callers{m}, nil
}

// Lookup returns who made the connection that comes from this address: the
// cgroup and the process (its number in the first namespace) that called
// connect(2). The address of IPv4 may be mapped.
//
// A process that may change its network can connect from an address that is
// another Pod's, though only to a server in a network of its own. So it is
// the cgroup that says who calls, and it must fit the address, where that is
// known.
func (c *Callers) Lookup(from netip.AddrPort) (cgroup uint64, pid uint32, ok bool) {
	var value [sizeofCaller]byte
	if err := c.m.Lookup(addressKey(from), &value); err != nil {
		return 0, 0, false
	}
	return binary.NativeEndian.Uint64(value[:]), binary.NativeEndian.Uint32(value[8:]), true
}

// Close releases the map.
func (c *Callers) Close() error { return c.m.Close() }

func addressKey(a netip.AddrPort) []byte {
	ip := a.Addr().As16()
	return binary.NativeEndian.AppendUint32(ip[:], uint32(a.Port()))
}
