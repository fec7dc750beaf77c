package fleet_test

import (
	"errors"
	"net/netip"
	"sync"
	"testing"

	"github.com/gcemds/gcemds/internal/fleet"
)

func TestHostName(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"":                             "",
		"metadata":                     "metadata",
		"metadata.google.internal":     "metadata.google.internal",
		"metadata.google.internal.":    "metadata.google.internal",
		"metadata.google.internal:80":  "metadata.google.internal",
		"metadata.google.internal.:80": "metadata.google.internal",
		"Metadata:80":                  "Metadata",
		"169.254.169.254":              "169.254.169.254",
		"169.254.169.254:80":           "169.254.169.254",
		"[fd20:ce::254]":               "fd20:ce::254",
		"[fd20:ce::254]:80":            "fd20:ce::254",
		"fd20:ce::254":                 "fd20:ce::254",
		"[::1]:":                       "::1",
		"host:":                        "host",
		":80":                          "",
		".":                            "",
	} {
		if got := fleet.HostName(host); got != want {
			t.Errorf("HostName(%q) = %q, want %q", host, got, want)
		}
	}
}

// The first route that fits decides; the empty one fits everybody.
func TestRouter(t *testing.T) {
	t.Parallel()
	a, b, c, d, rest := &fleet.Instance{}, &fleet.Instance{}, &fleet.Instance{}, &fleet.Instance{}, &fleet.Instance{}
	routes := []fleet.Route{
		{Listener: "main", Host: "vm-1.example.test", Instance: a},
		{Local: netip.MustParseAddr("127.0.0.2"), Instance: b},
		{Source: netip.MustParsePrefix("10.1.0.0/16"), Instance: c},
		{Source: netip.MustParsePrefix("10.0.0.0/8"), Instance: d},
		{Instance: rest},
	}
	var router fleet.Router
	router.Set(routes...)
	for _, test := range []struct {
		listener, host, local, remote string
		want                          *fleet.Instance
	}{
		{"main", "vm-1.example.test", "127.0.0.2:80", "10.1.0.1:1", a},
		{"main", "VM-1.example.test.:80", "127.0.0.1:80", "127.0.0.1:1", a},
		{"other", "vm-1.example.test", "127.0.0.2:80", "10.1.0.1:1", b},
		{"other", "vm-1.example.test", "[::ffff:127.0.0.2]:80", "10.1.0.1:1", b},
		{"main", "x.vm-1.example.test", "127.0.0.1:80", "10.1.0.1:1", c},
		{"main", "x", "127.0.0.1:80", "[::ffff:10.1.0.1]:1", c},
		{"main", "x", "127.0.0.1:80", "10.2.0.1:1", d},
		{"main", "x", "127.0.0.1:80", "192.0.2.1:1", rest},
		{"main", "", "[::1]:80", "[::1]:1", rest},
	} {
		caller := &fleet.Caller{Listener: test.listener, Local: netip.MustParseAddrPort(test.local), Remote: netip.MustParseAddrPort(test.remote)}
		got, err := router.Resolve(t.Context(), caller, fleet.Ask{Host: test.host})
		if err != nil || got != test.want {
			t.Errorf("Resolve(%+v) = %p, %v; want %p", test, got, err, test.want)
		}
	}
	nowhere := &fleet.Caller{Listener: "main"} // a socket file
	if got, err := router.Resolve(t.Context(), nowhere, fleet.Ask{Host: "x"}); err != nil || got != rest {
		t.Errorf("a caller without addresses gets %p, %v; want the last route", got, err)
	}

	router.Set(routes[:4]...)
	for _, host := range []string{"x", "", "vm-2.example.test"} {
		if got, err := router.Resolve(t.Context(), nowhere, fleet.Ask{Host: host}); got != nil || !errors.Is(err, fleet.ErrNoInstance) {
			t.Errorf("without a route for everybody, %q gets %v, %v; want ErrNoInstance", host, got, err)
		}
	}
	router.Set()
	if got, err := router.Resolve(t.Context(), &fleet.Caller{}, fleet.Ask{Host: ""}); got != nil || !errors.Is(err, fleet.ErrNoInstance) {
		t.Errorf("an empty table gives %v, %v; want ErrNoInstance", got, err)
	}
}

func TestZeroRouter(t *testing.T) {
	t.Parallel()
	var router fleet.Router
	if got, err := router.Resolve(t.Context(), &fleet.Caller{}, fleet.Ask{Host: "metadata"}); got != nil || !errors.Is(err, fleet.ErrNoInstance) {
		t.Errorf("the zero router gives %v, %v; want ErrNoInstance", got, err)
	}
}

// The table is replaced as a whole: nobody sees half of one.
func TestRouterReplaced(t *testing.T) {
	t.Parallel()
	old, new := &fleet.Instance{Name: "old"}, &fleet.Instance{Name: "new"}
	var router fleet.Router
	router.Set(fleet.Route{Listener: "a", Instance: old}, fleet.Route{Instance: old})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 1000 {
				if got, err := router.Resolve(t.Context(), &fleet.Caller{Listener: "b"}, fleet.Ask{Host: ""}); err != nil || got != old && got != new {
					t.Errorf("Resolve = %v, %v", got, err)
					return
				}
			}
		})
	}
	for range 1000 {
		router.Set(fleet.Route{Listener: "a", Instance: new}, fleet.Route{Instance: new})
		router.Set(fleet.Route{Listener: "a", Instance: old}, fleet.Route{Instance: old})
	}
	all.Wait()
}
