package intercept

import (
	"encoding/binary"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Our programs share three maps. Their form is known to nobody else: Callers
// reads them.
var mapSpecs = []*ebpf.MapSpec{
	// target has one entry, the wanted one. An update of an entry of this kind
	// of map is one step for those who read it.
	{Name: "target", Type: ebpf.Hash, KeySize: 4, ValueSize: sizeofTarget, MaxEntries: 1, Flags: noPrealloc},
	// sockets are those that have connected to the server, by cookie.
	{Name: "sockets", Type: ebpf.LRUHash, KeySize: 8, ValueSize: sizeofSocket, MaxEntries: maxCallers},
	// callers are the same by address and port of the caller, while they are
	// connected.
	{Name: "callers", Type: ebpf.LRUHash, KeySize: sizeofAddress, ValueSize: sizeofCaller, MaxEntries: maxCallers},
}

const (
	maxCallers = 16384
	noPrealloc = 1 // BPF_F_NO_PREALLOC

	// A target is: where the server listens (u32 address and u32 port, both as
	// on the wire), the id of the cgroup that is left alone (u64; 0: none), and
	// whether fd20:ce::254 is ours, too (u32).
	sizeofTarget = 24

	// A caller is: the id of its cgroup (u64), its process in the first
	// namespace (u32), its user there (u32).
	sizeofCaller = 16

	// A socket is a caller, and what it is connected to (u32 address, u32
	// port), 0 if it has asked for that itself.
	sizeofSocket = sizeofCaller + 8

	// An address is 16 bytes, those of IPv4 mapped, and the port (u32).
	sizeofAddress = 20
)

// wire returns four bytes as the programs hold them in a register.
func wire(b []byte) int32 { return int32(binary.NativeEndian.Uint32(b)) }

func wireAddr(a netip.Addr) int32 { b := a.As4(); return wire(b[:]) }

func wirePort(port uint16) int32 { return wire([]byte{byte(port >> 8), byte(port), 0, 0}) }

var mappedPrefix = wire([]byte{0, 0, 0xff, 0xff})

// Where the fields of struct bpf_sock_addr and bpf_sock_ops are.
const (
	addrIP4, addrIP6, addrPort, addrType = 4, 8, 24, 32

	opsOp, opsState, opsFamily, opsIP4, opsIP6, opsPort, opsFlags = 0, 8, 20, 28, 48, 68, 84
)

// A program is one of ours, and where it is attached.
type program struct {
	name   string // of the pin, too
	kind   ebpf.ProgramType
	attach ebpf.AttachType
	code   func(fds map[string]int) asm.Instructions
}

var programs = []program{
	{"connect4", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect, connect4},
	{"connect6", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet6Connect, connect6},
	{"getpeername4", ebpf.CGroupSockAddr, ebpf.AttachCgroupInet4GetPeername, getpeername4},
	{"getpeername6", ebpf.CGroupSockAddr, ebpf.AttachCgroupInet6GetPeername, getpeername6},
	{"sockops", ebpf.SockOps, ebpf.AttachCGroupSockOps, sockops},
}

var (
	yes = asm.Instructions{asm.Mov.Imm(asm.R0, 1).WithSymbol("yes"), asm.Return()}
	no  = asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("no"), asm.Return()}
)

// isNative is where on the stack there is 1 if the caller has asked for
// fd20:ce::254.
const isNative = -48

// connect4 changes where a socket connects to. R6 is the context, R8 and R9
// are the address and the port.
func connect4(fds map[string]int) asm.Instructions {
	return concatCode(
		asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.StoreImm(asm.RFP, isNative, 0, asm.Word),
			asm.LoadMem(asm.R8, asm.R6, addrIP4, asm.Word),
			asm.LoadMem(asm.R9, asm.R6, addrPort, asm.Word),
		},
		judge(fds),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R7, 0, asm.Word), asm.StoreMem(asm.R6, addrIP4, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.R7, 4, asm.Word), asm.StoreMem(asm.R6, addrPort, asm.R1, asm.Word),
		}, yes, no)
}

// connect6 does the same for sockets of IPv6 that connect to an address of
// IPv4, as Java has them, and to fd20:ce::254.
func connect6(fds map[string]int) asm.Instructions {
	native := linkLocal6.As16()
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.RFP, isNative, 0, asm.Word),
		asm.LoadMem(asm.R9, asm.R6, addrPort, asm.Word),
		asm.LoadMem(asm.R1, asm.R6, addrIP6, asm.Word), asm.JNE.Imm32(asm.R1, 0, "native"),
		asm.LoadMem(asm.R1, asm.R6, addrIP6+4, asm.Word), asm.JNE.Imm32(asm.R1, 0, "native"),
		asm.LoadMem(asm.R1, asm.R6, addrIP6+8, asm.Word), asm.JNE.Imm32(asm.R1, mappedPrefix, "native"),
		asm.LoadMem(asm.R8, asm.R6, addrIP6+12, asm.Word),
		asm.Ja.Label("judge"),
	}
	for i := int16(0); i < 16; i += 4 {
		word := asm.LoadMem(asm.R1, asm.R6, addrIP6+i, asm.Word)
		if i == 0 {
			word = word.WithSymbol("native")
		}
		code = append(code, word, asm.JNE.Imm32(asm.R1, wire(native[i:]), "yes"))
	}
	code = append(code,
		asm.StoreImm(asm.RFP, isNative, 1, asm.Word),
		asm.Mov.Imm32(asm.R8, wireAddr(linkLocal)))
	return concatCode(code, judge(fds),
		asm.Instructions{
			asm.Mov.Imm(asm.R1, 0), asm.StoreMem(asm.R6, addrIP6, asm.R1, asm.Word), asm.StoreMem(asm.R6, addrIP6+4, asm.R1, asm.Word),
			asm.Mov.Imm32(asm.R1, mappedPrefix), asm.StoreMem(asm.R6, addrIP6+8, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.R7, 0, asm.Word), asm.StoreMem(asm.R6, addrIP6+12, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.R7, 4, asm.Word), asm.StoreMem(asm.R6, addrPort, asm.R1, asm.Word),
		}, yes, no)
}

// judge goes on with the target in R7 if the connection is one to the server,
// and has noted who makes it; else it ends the program. Who asks for the server
// by its own address is noted, too, so that no note of somebody else who had
// the same port stands for them.
func judge(fds map[string]int) asm.Instructions {
	const record, cookie = -40, -8
	code := asm.Instructions{
		asm.LoadMem(asm.R1, asm.R6, addrType, asm.Word).WithSymbol("judge"), asm.JNE.Imm(asm.R1, 1, "yes"), // SOCK_STREAM
		asm.StoreImm(asm.RFP, -8, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, fds["target"]),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8),
		asm.FnMapLookupElem.Call(),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.JNE.Imm(asm.R7, 0, "target"),
		// Nobody has said where to: the server of a cloud must not be reached.
		asm.JNE.Imm32(asm.R8, wireAddr(linkLocal), "yes"), asm.JNE.Imm(asm.R9, wirePort(80), "yes"), asm.Ja.Label("no"),

		asm.JNE.Imm32(asm.R8, wireAddr(linkLocal), "direct").WithSymbol("target"), asm.JNE.Imm(asm.R9, wirePort(80), "direct"),
		asm.LoadMem(asm.R1, asm.RFP, isNative, asm.Word), asm.JEq.Imm(asm.R1, 0, "ours"),
		asm.LoadMem(asm.R1, asm.R7, 16, asm.Word), asm.JEq.Imm(asm.R1, 0, "yes"), asm.Ja.Label("ours"),
		asm.LoadMem(asm.R1, asm.R7, 0, asm.Word).WithSymbol("direct"), asm.JNE.Reg(asm.R1, asm.R8, "yes"),
		asm.LoadMem(asm.R1, asm.R7, 4, asm.Word), asm.JNE.Reg(asm.R1, asm.R9, "yes"),

		asm.LoadMem(asm.R9, asm.R7, 8, asm.DWord).WithSymbol("ours"), asm.JEq.Imm(asm.R9, 0, "note"), // R9 is free from here on
	}
	// How deep it is cannot be told in a namespace of cgroups.
	for level := int32(1); level <= 12; level++ {
		code = append(code,
			asm.Mov.Imm(asm.R1, level), asm.FnGetCurrentAncestorCgroupId.Call(), asm.JEq.Reg(asm.R0, asm.R9, "yes"))
	}
	return append(code,
		asm.FnGetCurrentCgroupId.Call().WithSymbol("note"), asm.StoreMem(asm.RFP, record, asm.R0, asm.DWord),
		asm.FnGetCurrentPidTgid.Call(), asm.RSh.Imm(asm.R0, 32), asm.StoreMem(asm.RFP, record+8, asm.R0, asm.Word),
		asm.FnGetCurrentUidGid.Call(), asm.StoreMem(asm.RFP, record+12, asm.R0, asm.Word),
		asm.StoreImm(asm.RFP, record+16, 0, asm.Word), asm.StoreImm(asm.RFP, record+20, 0, asm.Word),
		asm.JNE.Imm32(asm.R8, wireAddr(linkLocal), "put"),
		asm.LoadMem(asm.R1, asm.R7, 0, asm.Word), asm.StoreMem(asm.RFP, record+16, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R7, 4, asm.Word), asm.StoreMem(asm.RFP, record+20, asm.R1, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("put"), asm.FnGetSocketCookie.Call(), asm.StoreMem(asm.RFP, cookie, asm.R0, asm.DWord),
		asm.LoadMapPtr(asm.R1, fds["sockets"]),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, cookie),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, record),
		asm.Mov.Imm(asm.R4, 0), asm.FnMapUpdateElem.Call(),
	)
}

// lookupSocket goes on with the socket of the context R6 in R7, if it has
// connected to the server; else it ends the program.
func lookupSocket(fds map[string]int) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6), asm.FnGetSocketCookie.Call(), asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
		asm.LoadMapPtr(asm.R1, fds["sockets"]),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "yes"),
		asm.Mov.Reg(asm.R7, asm.R0),
	}
}

// getpeername4 tells callers that they talk to whom they have asked for.
func getpeername4(fds map[string]int) asm.Instructions { return getpeername(fds, addrIP4) }

// getpeername6 does the same. Who has asked for fd20:ce::254 gets the other
// address.
func getpeername6(fds map[string]int) asm.Instructions { return getpeername(fds, addrIP6+12) }

func getpeername(fds map[string]int, at int16) asm.Instructions {
	return concatCode(
		asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)},
		lookupSocket(fds),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R7, sizeofCaller, asm.Word), asm.JEq.Imm(asm.R1, 0, "yes"),
			asm.LoadMem(asm.R2, asm.R6, at, asm.Word), asm.JNE.Reg(asm.R1, asm.R2, "yes"),
			asm.LoadMem(asm.R1, asm.R7, sizeofCaller+4, asm.Word),
			asm.LoadMem(asm.R2, asm.R6, addrPort, asm.Word), asm.JNE.Reg(asm.R1, asm.R2, "yes"),
			asm.Mov.Imm32(asm.R1, wireAddr(linkLocal)), asm.StoreMem(asm.R6, at, asm.R1, asm.Word),
			asm.Mov.Imm(asm.R1, wirePort(80)), asm.StoreMem(asm.R6, addrPort, asm.R1, asm.Word),
		}, yes)
}

// sockops keeps the callers by address: from before the server can accept the
// connection, until it is closed.
func sockops(fds map[string]int) asm.Instructions {
	const key = -32
	const established, state, closed, stateFlag = 4, 10, 7, 1 << 2
	return concatCode(
		asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadMem(asm.R1, asm.R6, opsOp, asm.Word), asm.JEq.Imm(asm.R1, established, "known"),
			asm.JNE.Imm(asm.R1, state, "yes"),
			asm.LoadMem(asm.R1, asm.R6, opsState, asm.Word), asm.JNE.Imm(asm.R1, closed, "yes"),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("known"),
		},
		lookupSocket(fds),
		asm.Instructions{
			asm.LoadMem(asm.R1, asm.R6, opsPort, asm.Word), asm.StoreMem(asm.RFP, key+16, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.R6, opsFamily, asm.Word), asm.JEq.Imm(asm.R1, 10, "six"), // AF_INET6
			asm.StoreImm(asm.RFP, key, 0, asm.Word), asm.StoreImm(asm.RFP, key+4, 0, asm.Word),
			asm.StoreImm(asm.RFP, key+8, int64(mappedPrefix), asm.Word),
			asm.LoadMem(asm.R1, asm.R6, opsIP4, asm.Word), asm.StoreMem(asm.RFP, key+12, asm.R1, asm.Word),
			asm.Ja.Label("keyed"),
			asm.LoadMem(asm.R1, asm.R6, opsIP6, asm.Word).WithSymbol("six"), asm.StoreMem(asm.RFP, key, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.R6, opsIP6+4, asm.Word), asm.StoreMem(asm.RFP, key+4, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.R6, opsIP6+8, asm.Word), asm.StoreMem(asm.RFP, key+8, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.R6, opsIP6+12, asm.Word), asm.StoreMem(asm.RFP, key+12, asm.R1, asm.Word),

			asm.LoadMapPtr(asm.R1, fds["callers"]).WithSymbol("keyed"),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, key),
			asm.LoadMem(asm.R3, asm.R6, opsOp, asm.Word), asm.JEq.Imm(asm.R3, state, "close"),
			asm.Mov.Reg(asm.R3, asm.R7), asm.Mov.Imm(asm.R4, 0), asm.FnMapUpdateElem.Call(),
			asm.LoadMem(asm.R2, asm.R6, opsFlags, asm.Word), asm.Or.Imm(asm.R2, stateFlag), // those of other programs stay
			asm.Mov.Reg(asm.R1, asm.R6), asm.FnSockOpsCbFlagsSet.Call(),
			asm.Ja.Label("yes"),

			asm.FnMapDeleteElem.Call().WithSymbol("close"),
			asm.LoadMapPtr(asm.R1, fds["sockets"]),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8),
			asm.FnMapDeleteElem.Call(),
		}, yes)
}

// concatCode makes one program of parts.
func concatCode(parts ...asm.Instructions) (all asm.Instructions) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}
