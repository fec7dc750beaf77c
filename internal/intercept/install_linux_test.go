package intercept

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const metadata = "169.254.169.254:80"

// TestNFTables: Pods reach the server with the address they have, and nothing
// else changes.
func TestNFTables(t *testing.T) {
	w := newWorld(t)
	w.needs(NFTables)
	w.serve(w.cloud, "cloud", "169.254.169.254:53")
	w.serve(w.cloud, "cloud", "169.254.169.254:8080")
	dns := w.udp(w.cloud, "169.254.169.254:53")
	open := w.connect(w.pod1, metadata)

	s := w.install(Plan{Mode: NFTables})
	if len(s.Changed) == 0 || s.To != netip.MustParseAddrPort("169.254.169.252:988") || len(s.Notes) > 0 {
		t.Errorf("Install = %+v", s)
	}
	if answer := open(); strings.HasPrefix(answer, "cloud") {
		t.Errorf("a connection that was open before goes on: %q", answer)
	}
	w.want("a Pod, without a server,", w.pod1, metadata, "connection refused")

	stop := w.serve(w.node, "ours", "169.254.169.252:988")
	w.want("a Pod", w.pod1, metadata, "ours: 10.244.1.11")
	w.want("another Pod", w.pod2, metadata, "ours: 10.244.1.12")
	w.want("a Pod with a socket of IPv6", w.pod1, "[::ffff:169.254.169.254]:80", "ours: 10.244.1.11")
	w.want("a Pod, for DNS,", w.pod1, "169.254.169.254:53", "cloud: 10.244.1.11")
	w.want("a Pod, for another port,", w.pod1, "169.254.169.254:8080", "cloud: 10.244.1.11")
	if got := dns(w.pod1); got != "cloud" {
		t.Errorf("a Pod that asks for DNS by UDP gets %q", got)
	}
	w.want("the node itself", w.node, metadata, "cloud: 192.0.2.1")
	w.want("another machine", w.cloud, "169.254.169.252:988", noAnswer)

	if again := w.install(Plan{Mode: NFTables}); len(again.Changed) > 0 {
		t.Errorf("the second time Install does %q", again.Changed)
	}
	if s := w.read(); s.Mode != NFTables || s.To != NFTables.Listener() || len(s.Faults) > 0 || s.HostNetwork {
		t.Errorf("Read = %+v", s)
	}
	still := w.connect(w.pod1, metadata)
	w.install(Plan{Mode: NFTables, To: netip.MustParseAddrPort("169.254.169.252:989")})
	w.want("a Pod, led to another port,", w.pod1, metadata, "connection refused")
	w.install(Plan{Mode: NFTables})
	if answer := still(); answer != "ours: 10.244.1.11" {
		t.Errorf("a connection to our server does not outlive a change of the plan: %q", answer)
	}

	stop()
	w.want("a Pod, when the server is gone,", w.pod1, metadata, "connection refused")
	w.remove()
	w.want("a Pod, at the end,", w.pod1, metadata, "cloud: 10.244.1.11")
	w.nothing()
}

// TestHostNetwork: callers of the node are led to the server if the plan says
// so, with a route to the address and without.
func TestHostNetwork(t *testing.T) {
	for _, uplink := range []bool{true, false} {
		t.Run(fmt.Sprintf("uplink %v", uplink), func(t *testing.T) {
			w := newWorld(t)
			w.needs(NFTables)
			from := "192.0.2.1"
			if !uplink {
				from = "169.254.169.252"
				w.node.in(func() {
					l, err := netlink.LinkByName("eth0")
					check(err)
					check(netlink.LinkDel(l))
				})
			}
			p := Plan{Mode: NFTables, HostNetwork: true}
			w.install(p)
			w.want("the node, without a server,", w.node, metadata, "connection refused")
			w.serve(w.node, "ours", "169.254.169.252:988")
			w.want("the node", w.node, metadata, "ours: "+from)
			w.want("the node with a socket of IPv6", w.node, "[::ffff:169.254.169.254]:80", "ours: "+from)
			w.want("a Pod", w.pod1, metadata, "ours: 10.244.1.11")
			if again := w.install(p); len(again.Changed) > 0 {
				t.Errorf("the second time Install does %q", again.Changed)
			}
			if s := w.read(); !s.HostNetwork || len(s.Faults) > 0 {
				t.Errorf("Read = %+v", s)
			}
			w.remove()
			w.nothing()
		})
	}
}

// TestLoopback: the address on lo serves Pods and the node, is not taken in a
// cloud, and not reached from outside.
func TestLoopback(t *testing.T) {
	w := newWorld(t)
	w.needs(Loopback)
	s := w.install(Plan{Mode: Loopback})
	if s.To != netip.MustParseAddrPort(metadata) {
		t.Errorf("Install = %+v", s)
	}
	w.want("a Pod, without a server,", w.pod1, metadata, "connection refused")
	w.serve(w.node, "ours", metadata)
	w.want("a Pod", w.pod1, metadata, "ours: 10.244.1.11")
	w.want("a Pod with a socket of IPv6", w.pod1, "[::ffff:169.254.169.254]:80", "ours: 10.244.1.11")
	w.want("the node", w.node, metadata, "ours: 169.254.169.254")
	w.cloud.in(func() {
		lo, err := netlink.LinkByName("lo")
		check(err)
		check(netlink.AddrDel(lo, &netlink.Addr{IPNet: hostNet(linkLocal)}))
		route("192.0.2.1", "169.254.169.254/32")
	})
	w.want("another machine", w.cloud, metadata, noAnswer)
	if again := w.install(Plan{Mode: Loopback}); len(again.Changed) > 0 {
		t.Errorf("the second time Install does %q", again.Changed)
	}
	if s := w.read(); s.Mode != Loopback || len(s.Faults) > 0 {
		t.Errorf("Read = %+v", s)
	}
	w.remove()
	w.nothing()

	w.node.in(func() { route("192.0.2.2", "169.254.169.254/32") }) // as a cloud hands it out
	var err error
	w.node.in(func() { _, err = Install(context.Background(), Plan{Mode: Loopback}) })
	if err == nil || !strings.Contains(err.Error(), "eth0, which has a route to it") {
		t.Errorf("where a cloud has its server, loopback gives %v", err)
	}
	w.nothing()
}

// TestTheirAddress: an address that somebody else has put on lo serves, and
// stays.
func TestTheirAddress(t *testing.T) {
	w := newWorld(t)
	w.needs(Loopback)
	w.node.in(func() { address("lo", "169.254.169.254/32") })
	w.install(Plan{Mode: Loopback})
	w.serve(w.node, "ours", metadata)
	w.want("a Pod", w.pod1, metadata, "ours: 10.244.1.11")
	w.remove()
	w.want("a Pod, at the end,", w.pod1, metadata, "ours: 10.244.1.11")
}

// TestIPv6: the address of IPv6 is an extra, and a machine without IPv6 is no
// error.
func TestIPv6(t *testing.T) {
	const metadata6 = "[fd20:ce::254]:80"
	for mode, at := range map[Mode]string{NFTables: "[fd20:ce::252]:988", Loopback: metadata6} {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t)
			w.needs(mode)
			p := Plan{Mode: mode, IPv6: true}
			if s := w.install(p); len(s.Notes) > 0 || s.To6 != netip.MustParseAddrPort(at) {
				t.Skipf("there is no IPv6 here: %q", s.Notes)
			}
			w.serve(w.node, "six", at)
			w.want("a Pod", w.pod1, metadata6, "six: fd00:1::11")
			if again := w.install(p); len(again.Changed) > 0 {
				t.Errorf("the second time Install does %q", again.Changed)
			}
			if s := w.read(); s.To6 != netip.MustParseAddrPort(at) || len(s.Faults) > 0 {
				t.Errorf("Read = %+v", s)
			}
			if s := w.install(Plan{Mode: mode}); len(s.Changed) != 2 || s.To6.IsValid() {
				t.Errorf("without IPv6 Install = %+v, want the address and the table taken away", s)
			}
			w.remove()
			w.nothing()
		})
	}
	w := newWorld(t)
	w.needs(NFTables)
	w.node.in(func() { check(os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)) })
	s := w.install(Plan{Mode: NFTables, IPv6: true})
	if len(s.Notes) != 1 || s.To6.IsValid() {
		t.Errorf("without IPv6 Install = %+v, want a note and no address", s)
	}
	w.serve(w.node, "ours", "169.254.169.252:988")
	w.want("a Pod", w.pod1, metadata, "ours: 10.244.1.11")
}

// TestPutRight: what others have done to our table, address and programs is
// seen, and undone by the next Install.
func TestPutRight(t *testing.T) {
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv4}
	with := func(f func(c *nftables.Conn)) func() {
		return func() {
			c, err := nftables.New()
			check(err)
			f(c)
			check(c.Flush())
		}
	}
	for name, spoil := range map[string]func(){
		"a foreign rule": with(func(c *nftables.Conn) {
			c.InsertRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: capture}, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}})
		}),
		"a foreign chain": with(func(c *nftables.Conn) { c.AddChain(&nftables.Chain{Name: "theirs", Table: table}) }),
		"no guard":        with(func(c *nftables.Conn) { c.FlushChain(&nftables.Chain{Name: guard, Table: table}) }),
		"no capture":      with(func(c *nftables.Conn) { c.FlushChain(&nftables.Chain{Name: capture, Table: table}) }),
		"another table of that name": with(func(c *nftables.Conn) {
			c.DelTable(table)
			c.AddTable(table)
			c.AddChain(&nftables.Chain{Name: capture, Table: table})
		}),
		"no address": func() {
			lo, err := netlink.LinkByName("lo")
			check(err)
			check(netlink.AddrDel(lo, addrOf(beside)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.needs(NFTables)
			w.install(Plan{Mode: NFTables})
			w.serve(w.node, "ours", "169.254.169.252:988")
			w.node.in(spoil)
			if s := w.read(); len(s.Faults) == 0 {
				t.Errorf("Read finds no fault: %+v", s)
			}
			if s := w.install(Plan{Mode: NFTables}); len(s.Changed) == 0 {
				t.Error("Install changes nothing")
			}
			w.want("a Pod", w.pod1, metadata, "ours: 10.244.1.11")
			w.want("another machine", w.cloud, "169.254.169.252:988", noAnswer)
			if s := w.read(); len(s.Faults) > 0 {
				t.Errorf("Read = %+v", s)
			}
			w.remove()
			w.nothing()
		})
	}
}

// TestChangeOfMode: one mode takes the place of another, and leaves nothing of
// it.
func TestChangeOfMode(t *testing.T) {
	w := newWorld(t)
	for _, m := range []Mode{NFTables, Loopback, EBPF} {
		w.needs(m)
	}
	top := w.cgroups("kubepods")
	for _, m := range []Mode{NFTables, Loopback, EBPF, Loopback, NFTables, EBPF, NFTables} {
		w.install(Plan{Mode: m, Cgroup: top + "/kubepods"})
		if s := w.read(); s.Mode != m || len(s.Faults) > 0 {
			t.Errorf("after a change to %s Read = %+v", m, s)
		}
	}
	w.remove()
	w.nothing()
}

// TestEBPF: callers below the cgroup reach the server, and the kernel notes who
// they are; others are left alone.
func TestEBPF(t *testing.T) {
	w := newWorld(t)
	w.needs(EBPF)
	const pod = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod88258953_baa7_42d0_9f5a_f97fde44fc4c.slice/cri-containerd-1.scope"
	top := w.cgroups(pod, "system.slice")
	pods, caller := filepath.Join(top, "kubepods.slice"), filepath.Join(top, pod)

	p := Plan{Mode: EBPF, Cgroup: pods, IPv6: true}
	s := w.install(p)
	if len(s.Changed) == 0 || s.To != EBPF.Listener() || s.Cgroup != pods {
		t.Errorf("Install = %+v", s)
	}
	asks := func(who string, n namespace, cgroup, to, want string) (pid int) {
		t.Helper()
		got, pid := askIn(n, cgroup, to)
		if got != want {
			t.Errorf("%s asks %s and gets %q, want %q", who, to, got, want)
		}
		return pid
	}
	asks("a Pod, without a server,", w.pod1, caller, metadata, "connection refused")

	// The server keeps the callers as they come.
	type note struct {
		cgroup uint64
		pid    uint32
		ok     bool
	}
	notes := make(chan note, 10)
	w.node.in(func() {
		callers, err := OpenCallers()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { callers.Close() })
		l, err := net.Listen("tcp", "169.254.169.252:988")
		check(err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
				var n note
				n.cgroup, n.pid, n.ok = callers.Lookup(from)
				notes <- n
				fmt.Fprintf(c, "ours: %s\n", from.Addr().Unmap())
				c.Read(make([]byte, 1)) // until the caller has closed it
				c.Close()
			}
		}()
		id, err := cgroupID(caller)
		check(err)
		for _, ask := range []struct{ to, want string }{
			{metadata, "ours: 10.244.1.11"},
			{"[::ffff:169.254.169.254]:80", "ours: 10.244.1.11"},
			{"[fd20:ce::254]:80", "ours: 10.244.1.11 (the caller sees [::ffff:169.254.169.254]:80)"},
			{"169.254.169.252:988", "ours: 10.244.1.11"}, // by its own address: noted, so that nobody else's note stands
		} {
			pid := asks("a Pod", w.pod1, caller, ask.to, ask.want)
			want := note{id, uint32(pid), true}
			if got := <-notes; got != want {
				t.Errorf("of a caller of %s the kernel has noted %+v, want %+v", ask.to, got, want)
			}
		}
		// What is closed is forgotten.
		deadline := time.Now().Add(5 * time.Second)
		for n := -1; n != 0; {
			n = 0
			var key [sizeofAddress]byte
			var value [sizeofCaller]byte
			for i := callers.m.Iterate(); i.Next(&key, &value); {
				n++
			}
			if n > 0 && time.Now().After(deadline) {
				t.Fatalf("%d callers are known after all have gone", n)
			}
		}
	})
	asks("a Pod on the network of the node", w.node, caller, metadata, "ours: 169.254.169.252")
	<-notes
	w.serve(w.cloud, "cloud", "169.254.169.254:53")
	dns := w.udp(w.cloud, "169.254.169.254:53")
	asks("a Pod, for DNS,", w.pod1, caller, "169.254.169.254:53", "cloud: 10.244.1.11")
	if got := dns(w.pod1); got != "cloud" {
		t.Errorf("a Pod that asks for DNS by UDP gets %q", got)
	}
	asks("a process beside the Pods", w.node, filepath.Join(top, "system.slice"), metadata, "cloud: 192.0.2.1")
	if mptcp := "mptcp:" + metadata; !strings.Contains(ask(w.pod2, mptcp), "protocol not") { // this kernel has it
		<-notes
		// Its sockets are of several others, and only those have connected.
		asks("a Pod with Multipath TCP", w.pod1, caller, mptcp, "ours: 10.244.1.11 (the caller sees 169.254.169.252:988)")
		if got := <-notes; !got.ok {
			t.Error("the kernel has not noted who calls with Multipath TCP")
		}
	}
	w.want("a Pod without connect(2) of this kernel", w.pod1, metadata, "ours: 10.244.1.11")
	if got := <-notes; got.ok {
		t.Errorf("of a caller that has not connected here the kernel has noted %+v", got)
	}
	w.want("another machine", w.cloud, "169.254.169.252:988", noAnswer)

	if again := w.install(p); len(again.Changed) > 0 {
		t.Errorf("the second time Install does %q", again.Changed)
	}
	if s := w.read(); s.Mode != EBPF || s.To != EBPF.Listener() || s.Cgroup != pods || len(s.Faults) > 0 {
		t.Errorf("Read = %+v", s)
	}

	w.serve(w.node, "next", "169.254.169.252:989")
	p.To = netip.MustParseAddrPort("169.254.169.252:989")
	if s := w.install(p); !slices.Contains(s.Changed, "eBPF programs led to 169.254.169.252:989") {
		t.Errorf("a switch of the target does %q", s.Changed)
	}
	asks("a Pod, after the switch,", w.pod1, caller, metadata, "next: 10.244.1.11")

	w.remove()
	asks("a Pod, at the end,", w.pod1, caller, metadata, "cloud: 10.244.1.11")
	w.nothing()
}

// TestEBPFPutRight: programs and maps that are gone, foreign or elsewhere are
// put right, and without a target nothing passes.
func TestEBPFPutRight(t *testing.T) {
	w := newWorld(t)
	w.needs(EBPF)
	top := w.cgroups("kubepods/pod", "other")
	p := Plan{Mode: EBPF, Cgroup: top + "/kubepods"}
	w.serve(w.node, "elsewhere", "0.0.0.0:988")
	for name, spoil := range map[string]func(){
		"no program":    func() { check(os.Remove(pins + "/connect4")) },
		"no target":     func() { check(os.Remove(pins + "/target")) },
		"a foreign pin": func() { check(os.Link(pins+"/callers", pins+"/theirs")) },
		"another cgroup": func() {
			_, err := Install(context.Background(), Plan{Mode: EBPF, Cgroup: top + "/other"})
			check(err)
		},
		"another map": func() { check(os.Rename(pins+"/callers", pins+"/sockets")) },
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, node: w.node, pod1: w.pod1}
			w.install(p)
			w.node.in(spoil)
			if s := w.read(); name != "another cgroup" && len(s.Faults) == 0 {
				t.Errorf("Read finds no fault: %+v", s)
			}
			if s := w.install(p); len(s.Changed) == 0 {
				t.Error("Install changes nothing")
			}
			if got, _ := askIn(w.pod1, top+"/kubepods/pod", metadata); got != "elsewhere: 10.244.1.11" {
				t.Errorf("a Pod gets %q", got)
			}
			if s := w.read(); len(s.Faults) > 0 || s.Cgroup != p.Cgroup {
				t.Errorf("Read = %+v", s)
			}
		})
	}
	w.node.in(func() {
		h, err := readHook()
		check(err)
		m, err := OpenCallers()
		check(err)
		m.Close()
		if h == nil || h.to != p.Mode.Listener() {
			t.Errorf("readHook = %+v", h)
		}
	})
	w.remove()
	w.nothing()
}

// TestOneCgroup: below a cgroup of one's choice processes are led to the
// server, and everybody else is left alone, whatever they send.
func TestOneCgroup(t *testing.T) {
	w := newWorld(t)
	w.needs(EBPF)
	top := w.cgroups("these", "those")
	w.node.in(func() { // as on machines without systemd
		check(unix.Unmount(bpffs, 0))
		if isBPFFS() { // that of the machine, which is not for us
			check(unix.Mount("bpf", bpffs, "bpf", 0, ""))
		}
	})
	w.serve(w.node, "ours", "0.0.0.0:988")
	p := Plan{Mode: EBPF, Cgroup: top + "/these"}
	w.install(p)
	if s := w.install(p); len(s.Changed) > 0 {
		t.Errorf("the second time Install does %q", s.Changed)
	}
	for cgroup, want := range map[string]string{"these": "ours: 10.244.1.11", "those": "cloud: 10.244.1.11"} {
		if got, _ := askIn(w.pod1, top+"/"+cgroup, metadata); got != want {
			t.Errorf("a process in %s gets %q, want %q", cgroup, got, want)
		}
	}
	w.want("a process that is in neither", w.pod1, metadata, "cloud: 10.244.1.11")
	if s := w.read(); s.Mode != EBPF || len(s.Faults) > 0 {
		t.Errorf("Read = %+v", s)
	}
	w.remove()
	w.nothing()
}

// TestExcluded: our own server, in a Pod, is not led to itself.
func TestExcluded(t *testing.T) {
	w := newWorld(t)
	w.needs(EBPF)
	top := w.cgroups("all/podours/server", "all/podtheirs/app")
	w.serve(w.node, "ours", "0.0.0.0:988")
	own, err := cgroupID(top + "/all/podours")
	check(err)
	w.node.in(func() {
		_, err := Install(context.Background(), Plan{Mode: EBPF, Cgroup: top + "/all"})
		check(err)
		_, err = compareHook(&hook{to: EBPF.Listener(), cgroup: top + "/all", exclude: own}, true)
		check(err)
		s, err := Read() // from elsewhere
		check(err)
		again, err := Install(context.Background(), Plan{Mode: EBPF, Cgroup: top + "/all"})
		check(err)
		if len(s.Faults) > 0 || len(again.Changed) > 0 {
			t.Errorf("who is not in the Pod of the server finds faults (%q) and changes what is right (%q)", s.Faults, again.Changed)
		}
	})
	for cgroup, want := range map[string]string{"podours/server": "cloud: 10.244.1.11", "podtheirs/app": "ours: 10.244.1.11"} {
		if got, _ := askIn(w.pod1, top+"/all/"+cgroup, metadata); got != want {
			t.Errorf("a process in %s gets %q, want %q", cgroup, got, want)
		}
	}
	w.remove()
}

// TestAuto: the mode fits the machine, and is explained.
func TestAuto(t *testing.T) {
	w := newWorldAlone(t)
	w.needs(NFTables)
	s := w.install(Plan{Cgroup: "/sys/fs/cgroup"}) // that of Pods is known, so this is a node
	if s.Mode != NFTables || !strings.Contains(s.Why, "every runtime") {
		t.Errorf("on a node auto = %+v", s)
	}
	if isNode() {
		t.Skip("this machine is a node itself, so what it does without Pods cannot be tried")
	}
	for _, c := range []struct {
		name string
		plan Plan
		do   func()
		want Mode
		why  string
	}{
		{"a machine of its own", Plan{}, func() {}, Loopback, "no other metadata server"},
		{"a server that listens elsewhere", Plan{To: netip.MustParseAddrPort("169.254.169.252:988"), HostNetwork: true}, func() {}, NFTables, "listens elsewhere"},
		{"a machine of a cloud", Plan{HostNetwork: true}, func() { route("192.0.2.2", "169.254.169.254/32") }, NFTables, "not loopback: this machine has the metadata server"},
	} {
		w.node.in(func() {
			c.do()
			if m, why, err := choose(c.plan); err != nil || m != c.want || !strings.Contains(why, c.why) {
				t.Errorf("on %s auto is %s because %q, %v; want %s because %q", c.name, m, why, err, c.want, c.why)
			}
		})
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
	w.node.in(func() {
		if m, why, err := choose(Plan{}); err != nil || m != NFTables {
			t.Errorf("in a Pod auto is %s because %q, %v; want nftables", m, why, err)
		}
		check(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "cilium_host"}, PeerName: "cilium_net"}))
		if m, why, err := choose(Plan{Cgroup: "/sys/fs/cgroup"}); m != EBPF && !strings.Contains(why, "not ebpf") {
			t.Errorf("with Cilium auto is %s because %q, %v; want ebpf", m, why, err)
		}
	})
	w.remove()
}

// TestCloudOf: the firmware says in which cloud a machine is.
func TestCloudOf(t *testing.T) {
	for want, dmi := range map[string]map[string]string{
		"Google Cloud": {"product_name": "Google Compute Engine\n", "sys_vendor": "Google\n"},
		"Amazon EC2":   {"sys_vendor": "Amazon EC2\n", "product_name": "m7i.large\n"},
		"Azure":        {"sys_vendor": "Microsoft Corporation\n", "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77\n"},
		"":             {"sys_vendor": "Microsoft Corporation\n", "product_name": "Virtual Machine\n"}, // Hyper-V at home
	} {
		files := fstest.MapFS{}
		for name, text := range dmi {
			files[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := cloudOf(files); got != want {
			t.Errorf("a machine with %q is in %q, want %q", dmi, got, want)
		}
	}
}

// TestOutside: Pods are not outside, and what other machines come through is.
func TestOutside(t *testing.T) {
	w := newWorld(t)
	w.node.in(func() {
		for _, l := range []netlink.Link{
			&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1"}, VxlanId: 1, Port: 8472},
			&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0"}},
			&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "cali1"}, PeerName: "cali2"},
			&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "macvlan0", ParentIndex: func() int {
				up, err := netlink.LinkByName("eth0")
				check(err)
				return up.Attrs().Index
			}()}},
		} {
			if err := netlink.LinkAdd(l); err != nil {
				t.Logf("without %s: %v", l.Attrs().Name, err)
			}
		}
		got, err := outside()
		check(err)
		for name, want := range map[string]bool{"eth0": true, "cni0": false, "veth1": false, "docker0": false, "cali1": false, "flannel.1": true, "macvlan0": true} {
			if _, err := netlink.LinkByName(name); err == nil && slices.Contains(got, name) != want {
				t.Errorf("outside = %q, which is wrong about %s", got, name)
			}
		}
	})
}

// TestUnmarshalMode: what is no mode is refused with those there are.
func TestUnmarshalMode(t *testing.T) {
	var m Mode
	if err := m.UnmarshalText([]byte("ebpf")); err != nil || m != EBPF {
		t.Errorf("ebpf is %q, %v", m, err)
	}
	if err := m.UnmarshalText([]byte("iptables")); err == nil || !strings.Contains(err.Error(), "nftables, loopback") {
		t.Errorf("iptables gives %v", err)
	}
}

// nothing fails the test if anything of ours is left in the node.
func (w *world) nothing() {
	w.t.Helper()
	if s := w.read(); s.Mode != "" || len(s.Faults) > 0 {
		w.t.Errorf("something is left: %+v", s)
	}
	w.node.in(func() {
		if routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: ourProtocol}, netlink.RT_FILTER_PROTOCOL); err != nil || len(routes) > 0 {
			w.t.Errorf("routes are left: %v, %v", routes, err)
		}
		if _, err := os.Stat(pins); err == nil {
			w.t.Errorf("%s is left", pins)
		}
	})
	if s := w.remove(); len(s.Changed) > 0 {
		w.t.Errorf("a second Remove does %q", s.Changed)
	}
}

// connect opens a connection that the returned function uses again: it returns
// what the server says, or why it says nothing.
func (w *world) connect(n namespace, to string) func() string {
	w.t.Helper()
	var c net.Conn
	var err error
	n.in(func() { c, err = net.DialTimeout("tcp", to, time.Second) })
	if err != nil {
		w.t.Fatalf("cannot connect to %s: %v", to, err)
	}
	w.t.Cleanup(func() { c.Close() })
	line := make([]byte, 100)
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Read(line); err != nil {
		w.t.Fatalf("%s says nothing: %v", to, err)
	}
	return func() string {
		c.SetDeadline(time.Now().Add(2 * time.Second))
		c.Write([]byte("\n"))
		n, err := c.Read(line)
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(line[:n]))
	}
}

// udp answers datagrams; the returned function sends one and returns the
// answer.
func (w *world) udp(n namespace, at string) func(namespace) string {
	w.t.Helper()
	var l net.PacketConn
	var err error
	n.in(func() { l, err = net.ListenPacket("udp", at) })
	if err != nil {
		w.t.Fatalf("cannot listen on %s: %v", at, err)
	}
	w.t.Cleanup(func() { l.Close() })
	go func() {
		for b := make([]byte, 10); ; {
			_, from, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			l.WriteTo([]byte("cloud"), from)
		}
	}()
	return func(from namespace) (answer string) {
		from.in(func() {
			c, err := net.DialTimeout("udp", at, time.Second)
			check(err)
			defer c.Close()
			c.SetDeadline(time.Now().Add(time.Second))
			c.Write([]byte("?"))
			b := make([]byte, 10)
			n, err := c.Read(b)
			if answer = string(b[:n]); err != nil {
				answer = err.Error()
			}
		})
		return answer
	}
}
