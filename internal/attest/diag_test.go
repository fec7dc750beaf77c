package attest

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// told is the kernel's answer about a socket.
func told(s socket, family byte) []byte {
	b := make([]byte, headerSize+messageLen+12)
	ne := binary.NativeEndian
	ne.PutUint32(b, uint32(len(b)))
	ne.PutUint16(b[4:], typeByAddr)
	m := b[headerSize:]
	m[0] = family
	put := func(port, addr []byte, a netip.AddrPort) {
		binary.BigEndian.PutUint16(port, a.Port())
		if family == familyIPv4 {
			copy(addr, a.Addr().AsSlice())
		} else {
			b := a.Addr().As16()
			copy(addr, b[:])
		}
	}
	put(m[4:], m[8:], s.own)
	put(m[6:], m[24:], s.peer)
	ne.PutUint32(m[64:], s.uid)
	ne.PutUint32(m[68:], s.inode)
	ne.PutUint16(m[72:], 12)
	ne.PutUint16(m[74:], attrCgroup)
	ne.PutUint64(m[76:], s.cgroup)
	return b
}

func TestAnswer(t *testing.T) {
	v4 := socket{netip.MustParseAddrPort("10.0.0.7:40000"), netip.MustParseAddrPort("169.254.169.254:80"), 7, 1000, 1 << 40}
	v6 := socket{netip.MustParseAddrPort("[2001:db8::7]:40000"), netip.MustParseAddrPort("[fd20:ce::254]:80"), 8, 0, 0}
	for _, c := range []struct {
		name   string
		socket socket
		family byte
	}{{"IPv4", v4, familyIPv4}, {"IPv4 inside IPv6", v4, familyIPv6}, {"IPv6", v6, familyIPv6}} {
		if got, err := answer(told(c.socket, c.family)); err != nil || got != c.socket {
			t.Errorf("%s: answer = %+v, %v; want %+v", c.name, got, err, c.socket)
		}
	}
}

// No answer makes it panic, or say anything of a socket together with a fault;
// and what is behind the message changes nothing.
func FuzzAnswer(f *testing.F) {
	ok := told(socket{netip.MustParseAddrPort("10.0.0.7:40000"), netip.MustParseAddrPort("10.0.0.8:80"), 7, 1000, 9}, familyIPv4)
	f.Add(ok)
	f.Add(ok[:headerSize+messageLen+4])
	f.Add(ok[:30])
	refused := make([]byte, headerSize+4)
	binary.NativeEndian.PutUint32(refused, headerSize+4)
	binary.NativeEndian.PutUint16(refused[4:], typeError)
	binary.NativeEndian.PutUint32(refused[headerSize:], 0xfffffffe) // ENOENT
	f.Add(refused)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := answer(b)
		if err != nil && s != (socket{}) {
			t.Errorf("answer(%x) = %+v, together with %v", b, s, err)
		}
		if err == nil && (!s.own.IsValid() || !s.peer.IsValid() || len(b) < headerSize+messageLen) {
			t.Errorf("answer(%x) = %+v, without a fault", b, s)
		}
		if again, err2 := answer(append(b[:len(b):len(b)], 12, 0, attrCgroup, 0, 1, 1, 1, 1, 1, 1, 1, 1)); err == nil && (err2 != nil || again != s) {
			t.Errorf("answer(%x) = %+v, and with more behind it %+v, %v", b, s, again, err2)
		}
	})
}
