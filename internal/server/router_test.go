package server_test

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/server"
	"github.com/gcemds/gcemds/internal/tree"
)

// A placed conn is a connection from one address to another.
type placed struct {
	net.Conn
	local, remote net.Addr
}

func (p placed) LocalAddr() net.Addr  { return p.local }
func (p placed) RemoteAddr() net.Addr { return p.remote }

// Several machines behind several listeners: who asks decides.
func TestInstances(t *testing.T) {
	t.Parallel()
	var router fleet.Router
	named := func(name string) *fleet.Instance {
		i := plain(t, tree.Edit{Path: "instance/name", Value: name})
		i.Name = name
		return i
	}
	router.Set(
		fleet.Route{Listener: "socket", Instance: named("by-listener")},
		fleet.Route{Host: "vm-7.example.test", Instance: named("by-host")},
		fleet.Route{Local: netip.MustParseAddr("127.0.0.7"), Instance: named("by-local")},
		fleet.Route{Local: netip.MustParseAddr("::7"), Instance: named("by-local-6")},
		fleet.Route{Source: netip.MustParsePrefix("10.7.0.0/16"), Instance: named("by-source")},
		fleet.Route{Source: netip.MustParsePrefix("fd07::/64"), Instance: named("by-source-6")},
		fleet.Route{Listener: "main", Host: "both", Source: netip.MustParsePrefix("10.8.0.0/16"), Instance: named("by-three")},
	)
	j := journal.New(1)
	s := server.New(&router, j, server.Limits{})
	s.SetHosts("vm-7.example.test")
	for _, test := range []struct {
		listener, host, local, remote, instance string
	}{
		{"socket", "x", "", "", "by-listener"},
		{"socket", "vm-7.example.test", "127.0.0.7:80", "10.7.0.1:1", "by-listener"}, // the first that fits
		{"main", "vm-7.example.test", "127.0.0.7:80", "10.7.0.1:1", "by-host"},
		{"main", "VM-7.Example.Test.:8080", "127.0.0.1:80", "127.0.0.1:1", "by-host"},
		{"main", "x", "127.0.0.7:80", "10.7.0.1:1", "by-local"},
		{"main", "x", "[::ffff:127.0.0.7]:80", "[::1]:1", "by-local"},
		{"main", "x", "[::7]:80", "[::1]:1", "by-local-6"},
		{"main", "x", "127.0.0.1:80", "10.7.255.255:1", "by-source"},
		{"main", "x", "127.0.0.1:80", "[::ffff:10.7.0.1]:1", "by-source"},
		{"main", "x", "[::1]:80", "[fd07::1]:1", "by-source-6"},
		{"main", "both", "127.0.0.1:80", "10.8.0.1:1", "by-three"},
		{"other", "both", "127.0.0.1:80", "10.8.0.1:1", ""},
		{"main", "x", "127.0.0.1:80", "10.8.0.1:1", ""},
		{"main", "both", "127.0.0.1:80", "10.9.0.1:1", ""},
		{"main", "x", "127.0.0.1:80", "127.0.0.1:1", ""},
		{"main", "x", "", "", ""}, // a socket file has no addresses
	} {
		c := placed{local: &net.UnixAddr{}, remote: &net.UnixAddr{}}
		if test.local != "" {
			c.local = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(test.local))
			c.remote = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(test.remote))
		}
		r := request("GET", "instance/name", "")
		r.Host = test.host
		r = r.WithContext(s.HTTP(t.Context(), test.listener, slog.New(slog.DiscardHandler)).ConnContext(r.Context(), c))
		w := do(s, r)
		if test.instance == "" {
			want(t, test.listener+" "+test.remote, w, 403, "No instance is served to this caller.")
		} else {
			want(t, test.listener+" "+test.remote, w, 200, "")
			if got := w.Body.String(); got != test.instance {
				t.Errorf("%+v gets %q", test, got)
			}
		}
		if e := j.Entries(0); len(e) != 1 || e[0].Listener != test.listener || e[0].Instance != test.instance {
			t.Errorf("%+v: the journal has %+v", test, e)
		}
	}
}

// What one machine's guest writes, no other machine sees.
func TestInstancesAreApart(t *testing.T) {
	t.Parallel()
	var router fleet.Router
	router.Set(fleet.Route{Host: "a", Instance: plain(t)}, fleet.Route{Host: "b", Instance: plain(t)})
	s := server.New(&router, nil, server.Limits{})
	put := request("PUT", guest+"ns/k", "v")
	put.Host = "a"
	want(t, "a write", do(s, put), 200, "")
	for host, status := range map[string]int{"a": 200, "b": 404, "c": 403} {
		r := request("GET", guest+"ns/k", "")
		r.Host = host
		want(t, host, do(s, r), status, "")
	}
}
