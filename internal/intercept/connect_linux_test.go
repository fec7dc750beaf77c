package intercept

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// sockaddr is an address as a program gives it to connect.
func sockaddr(to netip.AddrPort) []byte {
	raw := make([]byte, unix.SizeofSockaddrInet4, unix.SizeofSockaddrInet6)
	family, at := uint16(unix.AF_INET), 4
	if to.Addr().Is6() {
		raw, family, at = raw[:unix.SizeofSockaddrInet6], unix.AF_INET6, 8
	}
	binary.NativeEndian.PutUint16(raw, family)
	binary.BigEndian.PutUint16(raw[2:], to.Port())
	copy(raw[at:], to.Addr().AsSlice())
	return raw
}

// TestParseSockaddr: an address is read as the kernel would, and what is no IP
// address is not one.
func TestParseSockaddr(t *testing.T) {
	for _, s := range []string{"169.254.169.254:80", "[fd20:ce::254]:443", "[::ffff:169.254.169.254]:80"} {
		want := netip.MustParseAddrPort(s)
		if got, ok := parseSockaddr(sockaddr(want)); !ok || got != want {
			t.Errorf("%s is read as %v, %v", s, got, ok)
		}
	}
	local := make([]byte, unix.SizeofSockaddrInet6)
	binary.NativeEndian.PutUint16(local, unix.AF_UNIX)
	for name, raw := range map[string][]byte{
		"nothing": nil, "a Unix socket": local, "half an IPv6 address": sockaddr(netip.MustParseAddrPort("[::1]:1"))[:20],
	} {
		if got, ok := parseSockaddr(raw); ok {
			t.Errorf("%s is read as %v", name, got)
		}
	}
}

func FuzzParseSockaddr(f *testing.F) {
	for _, s := range []string{"169.254.169.254:80", "[fd20:ce::254]:443"} {
		f.Add(sockaddr(netip.MustParseAddrPort(s)))
	}
	f.Add([]byte{unix.AF_INET6, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if to, ok := parseSockaddr(raw); ok {
			if again, ok := parseSockaddr(sockaddr(to)); !ok || again != to {
				t.Errorf("%v is read as %v the second time", to, again)
			}
		}
	})
}
