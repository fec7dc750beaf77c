package intercept

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tableName is that of our tables, one for each family.
const tableName = "gcemds"

// The names of our chains.
const (
	guard       = "guard"        // what comes from outside does not reach the server
	capture     = "capture"      // what comes from Pods does
	captureHost = "capture_host" // and what comes from this machine
)

// A chain is one of our table.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     nftables.ChainHook
	priority nftables.ChainPriority
	rules    []rule
}

type rule struct {
	comment string
	exprs   []expr.Any
}

// chains are the table for connections to metadata, port 80, that shall reach
// the server at to.
func chains(to netip.AddrPort, metadata netip.Addr, outside []string, nat, host bool) []chain {
	g := chain{name: guard, kind: nftables.ChainTypeFilter, hook: *nftables.ChainHookPrerouting, priority: *nftables.ChainPriorityRaw}
	// Before everybody else who translates destinations.
	c := chain{name: capture, kind: nftables.ChainTypeNAT, hook: *nftables.ChainHookPrerouting, priority: *nftables.ChainPriorityNATDest - 10}
	for _, name := range outside {
		g.rules = append(g.rules, rule{"for this machine and its Pods only", concat(from(name), tcpTo(to), verdict(expr.VerdictDrop))})
		c.rules = append(c.rules, rule{"not from Pods", concat(from(name), verdict(expr.VerdictReturn))})
	}
	all := []chain{g}
	translate := rule{"the metadata server", concat(tcpTo(netip.AddrPortFrom(metadata, 80)), dnat(to))}
	if nat {
		c.rules = append(c.rules, translate)
		all = append(all, c)
	}
	if host {
		all = append(all, chain{name: captureHost, kind: nftables.ChainTypeNAT, hook: *nftables.ChainHookOutput,
			priority: *nftables.ChainPriorityNATDest - 10, rules: []rule{translate}})
	}
	return all
}

func concat(parts ...[]expr.Any) (all []expr.Any) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// from matches packets that come in by an interface.
func from(name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded},
	}
}

// tcpTo matches TCP to an address and a port.
func tcpTo(to netip.AddrPort) []expr.Any {
	offset := uint32(16)
	if to.Addr().Is6() {
		offset = 24
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(to.Addr().BitLen() / 8)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: to.Addr().AsSlice()},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: bigEndian16(to.Port())},
	}
}

func bigEndian16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func dnat(to netip.AddrPort) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: bigEndian16(to.Port())},
		// All that the kernel fills in is said, so that it can be compared.
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(protocolOf(to.Addr())), RegAddrMin: 1, RegAddrMax: 1, RegProtoMin: 2, RegProtoMax: 2, Specified: true},
	}
}

func protocolOf(a netip.Addr) int {
	if a.Is6() {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// to is where a chain leads; zero if it leads nowhere.
func (c chain) to() netip.AddrPort {
	for _, r := range c.rules {
		n := len(r.exprs)
		if n < 3 {
			continue
		}
		address, ok1 := r.exprs[n-3].(*expr.Immediate)
		port, ok2 := r.exprs[n-2].(*expr.Immediate)
		if _, ok := r.exprs[n-1].(*expr.NAT); !ok || !ok1 || !ok2 || len(port.Data) < 2 {
			continue
		}
		if a, ok := netip.AddrFromSlice(address.Data); ok {
			return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port.Data))
		}
	}
	return netip.AddrPort{}
}

// equal compares chains as the kernel sees them.
func (c chain) equal(other chain, family int) bool {
	if c.name != other.name || c.kind != other.kind || c.hook != other.hook || c.priority != other.priority || len(c.rules) != len(other.rules) {
		return false
	}
	for i, r := range c.rules {
		if len(r.exprs) != len(other.rules[i].exprs) {
			return false
		}
		for k, e := range r.exprs {
			one, err1 := expr.Marshal(byte(family), e)
			two, err2 := expr.Marshal(byte(family), other.rules[i].exprs[k])
			if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
				return false
			}
		}
	}
	return true
}

// readTable returns the chains of our table, nil if there is no table.
func readTable(family int) ([]chain, error) {
	conn, table, err := openTable(family)
	if err != nil || table == nil {
		return nil, err
	}
	all, err := conn.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return nil, fmt.Errorf("cannot list the chains of nftables: %w", needsRoot(err))
	}
	chains := []chain{}
	for _, c := range all {
		if c.Table.Name != tableName {
			continue
		}
		mine := chain{name: c.Name, kind: c.Type}
		if c.Hooknum != nil && c.Priority != nil && (c.Policy == nil || *c.Policy == nftables.ChainPolicyAccept) {
			mine.hook, mine.priority = *c.Hooknum, *c.Priority
		}
		rules, err := conn.GetRules(table, c)
		if err != nil {
			return nil, fmt.Errorf("cannot list the rules of table %s: %w", tableName, err)
		}
		for _, r := range rules {
			mine.rules = append(mine.rules, rule{exprs: r.Exprs})
		}
		chains = append(chains, mine)
	}
	if table.Flags != 0 { // asleep, or owned by a process
		chains = append(chains, chain{name: "flags"})
	}
	return chains, nil
}

func openTable(family int) (*nftables.Conn, *nftables.Table, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, nil, fmt.Errorf("nftables cannot be used: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamily(family))
	if err != nil {
		return nil, nil, noTables(err)
	}
	for _, t := range tables {
		if t.Name == tableName {
			return conn, t, nil
		}
	}
	return conn, nil, nil
}

// compareTable compares our table. It is replaced as a whole, in one step:
// connections that are translated already stay so.
func compareTable(family int, want []chain, fix bool) (differences []string, err error) {
	got, err := readTable(family)
	if err != nil {
		return nil, err
	}
	name := map[int]string{unix.NFPROTO_IPV4: "ip ", unix.NFPROTO_IPV6: "ip6 "}[family] + tableName
	same := len(got) == len(want) && (got == nil) == (want == nil)
	for i := range min(len(got), len(want)) {
		same = same && got[i].equal(want[i], family)
	}
	if same {
		return nil, nil
	}
	done := ""
	switch {
	case want == nil:
		differences, done = []string{"nftables table " + name + " is there"}, "nftables table "+name+" taken away"
	case got == nil:
		differences, done = []string{"nftables table " + name + " is not there"}, "nftables table "+name+" added"
	default:
		differences, done = []string{"nftables table " + name + " is not as it was installed"}, "nftables table "+name+" put right"
	}
	if !fix {
		return differences, nil
	}
	conn, err := nftables.New()
	if err != nil {
		return differences, fmt.Errorf("nftables cannot be used: %w", err)
	}
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamily(family)}
	if got != nil {
		conn.DelTable(table)
	}
	if want != nil {
		addTable(conn, table, want)
	}
	if err := conn.Flush(); err != nil {
		return differences, fmt.Errorf("cannot change the nftables table %s: %w", name, noTables(err))
	}
	return []string{done}, nil
}

func addTable(conn *nftables.Conn, table *nftables.Table, chains []chain) {
	conn.AddTable(table)
	for _, c := range chains {
		added := conn.AddChain(&nftables.Chain{Name: c.name, Table: table, Type: c.kind, Hooknum: &c.hook, Priority: &c.priority})
		for _, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: added, Exprs: r.exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment)})
		}
	}
}

// probeTable tries a table, in one step that leaves nothing.
func probeTable(nat bool) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables cannot be used: %w", err)
	}
	to := netip.AddrPortFrom(beside, 988)
	table := &nftables.Table{Name: tableName + "-probe", Family: nftables.TableFamilyIPv4}
	addTable(conn, table, chains(to, linkLocal, []string{"lo"}, nat, nat))
	conn.DelTable(table)
	if err := conn.Flush(); err != nil {
		return noTables(err)
	}
	return nil
}

// noTables says what has to change so that nftables can be used.
func noTables(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("nftables: %w", needsRoot(err))
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("this kernel has no nftables, or not all of it: %w (modules nf_tables, nft_nat and nft_chain_nat)", err)
	}
	return fmt.Errorf("nftables: %w", err)
}

// cut makes the kernel forget connections to the metadata address that do not
// lead to us: their next packet is refused.
func cut(p Plan) error {
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, stray{linkLocal, p.To.Addr()})
	if err == nil && p.IPv6 && p.Mode == NFTables {
		_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET6, stray{linkLocal6, p.to6().Addr()})
	}
	return err
}

// A stray is a connection to the first address that is not led to the second.
type stray struct{ metadata, to netip.Addr }

func (s stray) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	dst, _ := netip.AddrFromSlice(f.Forward.DstIP)
	src, _ := netip.AddrFromSlice(f.Reverse.SrcIP)
	return dst.Unmap() == s.metadata && f.Forward.DstPort == 80 && f.Forward.Protocol == unix.IPPROTO_TCP && src.Unmap() != s.to
}
