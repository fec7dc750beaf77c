package attest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// A socket is what the kernel tells of one (linux/inet_diag.h).
type socket struct {
	own, peer netip.AddrPort // IPv4 inside IPv6 as IPv4; a socket that listens has no peer
	inode     uint32         // 0: no process has it any more
	uid       uint32
	cgroup    uint64 // id of its control group of version 2; 0: the kernel did not say
}

const (
	headerSize = 16 // of struct nlmsghdr
	messageLen = 72 // of struct inet_diag_msg
	requestLen = headerSize + 56
	typeByAddr = 20 // SOCK_DIAG_BY_FAMILY
	typeError  = 2  // NLMSG_ERROR
	attrCgroup = 21 // INET_DIAG_CGROUP_ID
)

var errAnswer = errors.New("the kernel's answer about a socket makes no sense")

// question asks for the socket of a connection, seen from its own end. IPv4
// inside IPv6 is family AF_INET6 to the kernel if the socket is of that family.
func question(family byte, own, peer netip.AddrPort) []byte {
	q := make([]byte, requestLen)
	ne := binary.NativeEndian
	ne.PutUint32(q, requestLen)
	ne.PutUint16(q[4:], typeByAddr)
	ne.PutUint16(q[6:], 1) // NLM_F_REQUEST
	q[16], q[17] = family, 6
	ne.PutUint32(q[20:], 0xffffffff) // any state
	binary.BigEndian.PutUint16(q[24:], own.Port())
	binary.BigEndian.PutUint16(q[26:], peer.Port())
	put := func(to []byte, a netip.Addr) {
		if family == familyIPv6 {
			b := a.As16()
			copy(to, b[:])
		} else {
			copy(to, a.AsSlice())
		}
	}
	put(q[28:44], own.Addr())
	put(q[44:60], peer.Addr())
	ne.PutUint32(q[64:], 0xffffffff) // no cookie
	ne.PutUint32(q[68:], 0xffffffff)
	return q
}

const familyIPv4, familyIPv6 = 2, 10 // AF_INET, AF_INET6

// answer reads the kernel's answer.
func answer(b []byte) (socket, error) {
	ne := binary.NativeEndian
	if len(b) < headerSize+4 {
		return socket{}, errAnswer
	}
	size := ne.Uint32(b)
	if size < headerSize+4 || uint64(size) > uint64(len(b)) {
		return socket{}, errAnswer
	}
	switch typ := ne.Uint16(b[4:]); {
	case typ == typeError:
		no := syscall.Errno(-int32(ne.Uint32(b[headerSize:])))
		return socket{}, fmt.Errorf("sock_diag: %w", no)
	case typ != typeByAddr || size < headerSize+messageLen:
		return socket{}, errAnswer
	}
	m := b[headerSize:size]
	end := func(port, addr []byte) netip.AddrPort {
		a := netip.AddrFrom16([16]byte(addr)).Unmap()
		if m[0] == familyIPv4 {
			a = netip.AddrFrom4([4]byte(addr))
		}
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
	}
	s := socket{own: end(m[4:], m[8:24]), peer: end(m[6:], m[24:40]), uid: ne.Uint32(m[64:]), inode: ne.Uint32(m[68:])}
	for at := m[messageLen:]; len(at) >= 4; {
		size, typ := int(ne.Uint16(at)), ne.Uint16(at[2:])
		if size < 4 || size > len(at) {
			return socket{}, errAnswer
		}
		if typ == attrCgroup && size >= 12 {
			s.cgroup = ne.Uint64(at[4:])
		}
		at = at[min(len(at), (size+3)&^3):]
	}
	return s, nil
}
