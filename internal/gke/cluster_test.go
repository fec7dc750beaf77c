package gke

import (
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/token"
)

var testNode = Node{Name: "node-1", UID: "11111111-2222-3333-4444-555555555555", Labels: map[string]string{
	labelHostname: "node-1.example", labelRegion: "europe-west1", labelZone: "europe-west1-b"}}

// pod makes a Pod that runs. Its name is its uid.
func pod(name, account string, ips ...string) Pod {
	p := Pod{Namespace: "ns", Name: name, UID: name, ServiceAccount: account, Phase: "Running"}
	for _, ip := range ips {
		p.IPs = append(p.IPs, netip.MustParseAddr(ip))
	}
	return p
}

func terminating(p Pod) Pod     { p.Terminating = true; return p }
func ended(p Pod) Pod           { p.Ended = true; return p }
func phase(p Pod, s string) Pod { p.Phase = s; return p }
func hosted(p Pod) Pod          { p.HostNetwork = true; return p }

func ksa(name string, annotations ...string) ServiceAccount {
	sa := ServiceAccount{Namespace: "ns", Name: name, UID: "uid-of-" + name, Annotations: map[string]string{}}
	for i := 0; i < len(annotations); i += 2 {
		sa.Annotations[annotations[i]] = annotations[i+1]
	}
	return sa
}

// know makes the world known: the node, these Pods, and the accounts default,
// robot (which acts as a Google service account), of each of them.
func (w *world) know(pods ...Pod) {
	w.api.node <- Change[Node]{All: true, Items: []Node{testNode}}
	w.learn(ksa("default"))
	w.learn(ksa("robot", annotationGSA, testGSA))
	w.api.pods <- Change[Pod]{All: true, Items: pods}
	synctest.Wait()
}

func (w *world) learn(sa ServiceAccount) {
	w.api.account(sa.Namespace, sa.Name) <- Change[ServiceAccount]{All: true, Items: []ServiceAccount{sa}}
}

func (w *world) change(pods ...Pod) { w.api.pods <- Change[Pod]{Items: pods}; synctest.Wait() }
func (w *world) gone(pods ...Pod) {
	w.api.pods <- Change[Pod]{Gone: true, Items: pods}
	synctest.Wait()
}

// caller is a connection that was accepted.
func (w *world) caller(ip string) *fleet.Caller {
	c := &fleet.Caller{Remote: netip.AddrPortFrom(netip.MustParseAddr(ip), 40000), Local: netip.MustParseAddrPort("169.254.169.252:988")}
	w.Accept(c)
	return c
}

var askToken = fleet.Ask{Host: "metadata", Key: "instance/service-accounts/default/token"}

// who resolves and returns the name of the Pod, or the status and what begins
// the text of a refusal, and how long that took.
func (w *world) who(t *testing.T, c *fleet.Caller) (string, time.Duration) {
	t.Helper()
	begin := time.Now()
	i, err := w.Resolve(t.Context(), c, askToken)
	took := time.Since(begin)
	var r *fleet.Refusal
	switch {
	case errors.As(err, &r):
		why, _ := errors.AsType[reason](r)
		if (r.Status == 503) != (r.RetryAfter == time.Second) {
			t.Errorf("a refusal with status %d says to ask again after %v", r.Status, r.RetryAfter)
		}
		if r.Text == "" || strings.Contains(r.Text, "%!") {
			t.Errorf("the refusal %v has the text %q", r, r.Text)
		}
		return fmt.Sprint(r.Status, " ", refusals[why].name), took
	case err != nil:
		return err.Error(), took
	}
	return strings.TrimPrefix(i.Name, "ns/"), took
}

// bubble runs a test with its own time.
func bubble(t *testing.T, change func(*Config), test func(t *testing.T, w *world)) {
	t.Helper()
	clusterKey()           // outside
	if fips140.Enabled() { // its source of entropy times the CPU by the clock that is faked here
		cryptotest.SetGlobalRandom(t, 1)
	}
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t, change)) })
}

// TestWho: each race of section 3.4 ends with the right Pod or with none.
func TestWho(t *testing.T) {
	const a, b = "10.1.0.5", "fd00::5"
	for _, test := range []struct {
		name   string
		pods   []Pod
		during func(w *world) // a second after the request came
		from   string
		want   string
		took   time.Duration
	}{
		{"running", []Pod{pod("p", "default", a)}, nil, a, "p", 0},
		{"dual stack, second address", []Pod{pod("p", "default", a, b)}, nil, b, "p", 0},
		{"an IPv4 address in IPv6", []Pod{pod("p", "default", a)}, nil, "::ffff:" + a, "p", 0},
		{"pending, as while init containers run", []Pod{phase(pod("p", "default", a), "Pending")}, nil, a, "p", 0},
		{"succeeded", []Pod{phase(pod("p", "default", a), "Succeeded")}, nil, a, "403 unknown", patience},
		{"failed", []Pod{phase(pod("p", "default", a), "Failed")}, nil, a, "403 unknown", patience},
		{"terminating, in its grace period", []Pod{terminating(pod("p", "default", a))}, nil, a, "p", 0},
		{"terminating, and its address has a successor", []Pod{terminating(pod("old", "default", a)), pod("new", "default", a)}, nil, a, "new", 0},
		{"finished, and its address has a successor", []Pod{phase(pod("old", "default", a), "Succeeded"), pod("new", "default", a)}, nil, a, "new", 0},
		{"terminating, and another waits for an address", []Pod{terminating(pod("old", "default", a)), phase(pod("new", "default"), "Pending")}, nil, a, "503 reuse", patience},
		{"terminating, and another gets its address", []Pod{terminating(pod("old", "default", a)), phase(pod("new", "default"), "Pending")},
			func(w *world) { w.change(pod("new", "default", a)) }, a, "new", time.Second},
		{"terminating, and another gets another address", []Pod{terminating(pod("old", "default", a)), phase(pod("new", "default"), "Pending")},
			func(w *world) { w.change(pod("new", "default", "10.1.0.6")) }, a, "old", time.Second},
		{"two live ones", []Pod{pod("p", "default", a), pod("q", "default", a)}, nil, a, "403 ambiguous", patience},
		{"two live ones, and one finishes in time", []Pod{pod("p", "default", a), pod("q", "default", a)},
			func(w *world) { w.change(phase(pod("p", "default", a), "Succeeded")) }, a, "q", time.Second},
		{"its containers have ended", []Pod{ended(pod("p", "default", a))}, nil, a, "p", 0},
		{"its containers have ended, and another waits for an address", []Pod{ended(pod("old", "default", a)), phase(pod("new", "default"), "Pending")}, nil, a, "503 reuse", patience},
		{"ended, and its next address is not published yet", []Pod{ended(pod("p", "default"))}, nil, a, "503 pending", patience},
		{"terminating, and one that has ended waits for an address", []Pod{terminating(pod("old", "default", a)), ended(pod("new", "default"))}, nil, a, "503 reuse", patience},
		{"its containers have ended, and its address has a successor", []Pod{ended(pod("old", "default", a)), pod("new", "default", a)}, nil, a, "new", 0},
		{"two that are terminating", []Pod{terminating(pod("p", "default", a)), terminating(pod("q", "default", a))}, nil, a, "403 ambiguous", patience},
		{"one of two finishes", []Pod{pod("p", "default", a), phase(pod("q", "default"), "Pending")},
			func(w *world) { w.change(phase(pod("p", "default", a), "Succeeded"), pod("q", "default", a)) }, a, "p", 0},
		{"address not published yet", []Pod{phase(pod("p", "default"), "Pending")}, nil, a, "503 pending", patience},
		{"address published in time", []Pod{phase(pod("p", "default"), "Pending")},
			func(w *world) { w.change(pod("p", "default", a)) }, a, "p", time.Second},
		{"the Pod appears in time", nil, func(w *world) { w.change(pod("p", "default", a)) }, a, "p", time.Second},
		{"certainly nobody", []Pod{pod("p", "default", "10.1.0.9")}, nil, a, "403 unknown", patience},
		{"a Pod of the host's network has no address of its own", []Pod{hosted(pod("p", "default", a))}, nil, a, "403 host", 0},
		{"loopback", []Pod{pod("p", "default", a)}, nil, "127.0.0.1", "403 host", 0},
		{"loopback in IPv6", []Pod{pod("p", "default", a)}, nil, "::1", "403 host", 0},
		{"link-local", []Pod{pod("p", "default", a)}, nil, "169.254.169.252", "403 host", 0},
		{"the account comes in time", []Pod{pod("p", "late", a)}, func(w *world) { w.learn(ksa("late")) }, a, "p", time.Second},
		{"the account does not come", []Pod{pod("p", "late", a)}, nil, a, "503 account_pending", patience},
		{"the account does not exist", []Pod{pod("p", "none", a)}, func(w *world) {
			w.api.account("ns", "none") <- Change[ServiceAccount]{All: true}
		}, a, "403 no_account", time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, w *world) {
				w.know(test.pods...)
				if test.during != nil {
					go func() { time.Sleep(time.Second); test.during(w) }()
				}
				if got, took := w.who(t, w.caller(test.from)); got != test.want || took != test.took {
					t.Errorf("the caller is %s after %v, want %s after %v", got, took, test.want, test.took)
				}
				time.Sleep(2 * time.Second) // during is over
			})
		})
	}
}

// TestStart: before anything is known nobody is anybody, and who waits is
// served as soon as that changes.
func TestStart(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		c := w.caller("10.1.0.5")
		if got, took := w.who(t, c); got != "503 pending" || took != patience {
			t.Errorf("before the Pods are known the caller is %s after %v", got, took)
		}
		go func() { time.Sleep(time.Second); w.know(pod("p", "default", "10.1.0.5")) }()
		if got, took := w.who(t, c); got != "p" || took != time.Second {
			t.Errorf("the caller is %s after %v, want p as soon as it is known", got, took)
		}
	})
}

// TestOfHost: what only programs of the node may have, no Pod gets by an address
// that is not the node's.
func TestOfHost(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.know(pod("p", "default", "10.1.0.5"), hosted(pod("h", "default", "10.9.0.1")))
		for from, want := range map[string]bool{
			"127.0.0.1": true, "::1": true, "::ffff:127.0.0.1": true,
			"10.1.0.5": false, "10.1.0.6": false, "fe80::99": false, "169.254.7.7": false,
		} {
			if got := w.OfHost(netip.MustParseAddr(from)); got != want {
				t.Errorf("%s is of the host: %v, want %v", from, got, want)
			}
		}
	})
}

// TestPinned: a connection is the Pod that opened it. When that is gone, or its
// address is another's, the connection is nobody's.
func TestPinned(t *testing.T) {
	const ip = "10.1.0.5"
	for name, leave := range map[string]func(w *world){
		"deleted":                  func(w *world) { w.gone(pod("old", "default", ip)) },
		"finished":                 func(w *world) { w.change(phase(pod("old", "default", ip), "Failed")) },
		"deleted, and nobody saw":  func(w *world) { w.know(pod("other", "default", "10.1.0.6")) },
		"replaced under its name":  func(w *world) { w.know(pod("new", "robot", ip)) },
		"replaced at its address":  func(w *world) { w.gone(pod("old", "default", ip)); w.change(pod("new", "robot", ip)) },
		"deleted, then seen again": func(w *world) { w.gone(pod("old", "default", ip)); w.change(pod("old", "default", ip)) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, w *world) {
				w.know(pod("old", "default", ip))
				c := w.caller(ip)
				i, err := w.Resolve(t.Context(), c, askToken)
				if err != nil {
					t.Fatal(err)
				}
				leave(w)
				if got, took := w.who(t, c); got != "403 gone" || took != 0 {
					t.Errorf("the connection of a Pod that is gone is %s after %v, want it refused at once", got, took)
				}
				if _, err := i.Accounts[0].Source.Mint(t.Context(), token.Request{Scopes: scopes}); err == nil {
					t.Error("a request that was resolved before still gets a token")
				}
			})
		})
	}
	t.Run("accepted before the address passed on", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, w *world) {
			w.know(pod("old", "default", ip))
			c := w.caller(ip) // and only now
			w.change(terminating(pod("old", "default", ip)), pod("new", "robot", ip))
			if got, _ := w.who(t, c); got != "old" {
				t.Errorf("a connection of the old Pod is %s, because its first request came late", got)
			}
			if got, _ := w.who(t, w.caller(ip)); got != "new" {
				t.Errorf("a new connection is %s, want the new Pod", got)
			}
		})
	})
}

// TestAttest: where addresses say nothing the kernel does, and with attest: all
// both must agree.
func TestAttest(t *testing.T) {
	const ip, node = "10.1.0.5", "192.0.2.1"
	peer := func(uid string, err error) func(context.Context) (fleet.Peer, error) {
		return func(context.Context) (fleet.Peer, error) { return fleet.Peer{PID: 1, PodUID: uid}, err }
	}
	for _, test := range []struct {
		name, attest, from string
		peer               func(context.Context) (fleet.Peer, error)
		want               string
		took               time.Duration
	}{
		{"host network", "host", node, peer("h", nil), "h", 0},
		{"host network over loopback", "host", "127.0.0.1", peer("h", nil), "h", 0},
		{"a Pod of its own over loopback", "host", "127.0.0.1", peer("p", nil), "p", 0},
		{"one of several of the node", "host", node, peer("h2", nil), "h2", 0},
		{"a process of the node", "host", node, peer("", nil), "403 outside", 0},
		{"a Pod that nobody knows", "host", node, peer("x", nil), "403 outside", patience},
		{"the kernel does not know", "host", node, peer("", errors.New("no such socket")), "403 unattested", 0},
		{"nobody to ask", "host", node, nil, "403 host", 0},
		{"not asked", "none", node, peer("h", nil), "403 host", 0},
		{"not asked about addresses of Pods", "host", ip, peer("h", nil), "p", 0},
		{"all: the same", "all", ip, peer("p", nil), "p", 0},
		{"all: another", "all", ip, peer("q", nil), "403 mismatch", 0},
		{"all: a process of the node", "all", ip, peer("", nil), "403 outside", 0},
		{"all: the kernel does not know", "all", ip, peer("", errors.New("no such socket")), "403 unattested", 0},
		{"all: nobody to ask", "all", ip, nil, "403 host", 0},
		{"all: an address that is not published yet", "all", "10.1.0.7", peer("r", nil), "r", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(c *Config) { c.Attest = test.attest }, func(t *testing.T, w *world) {
				w.know(pod("p", "default", ip), pod("q", "robot", "10.1.0.6"), phase(pod("r", "default"), "Pending"), hosted(pod("h", "default", node)), hosted(pod("h2", "robot", node)))
				c := &fleet.Caller{Remote: netip.AddrPortFrom(netip.MustParseAddr(test.from), 40000), Peer: test.peer}
				w.Accept(c)
				if got, took := w.who(t, c); got != test.want || took != test.took {
					t.Errorf("the caller is %s after %v, want %s after %v", got, took, test.want, test.took)
				}
			})
		})
	}
}

// TestImpatient: a caller that goes is not waited for.
func TestImpatient(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, nil)
		defer cancel()
		gone, leave := context.WithCancel(ctx)
		go func() { time.Sleep(time.Second / 2); leave() }()
		begin := time.Now()
		if _, err := w.Resolve(gone, w.caller("10.1.0.5"), askToken); !errors.Is(err, context.Canceled) || time.Since(begin) != time.Second/2 {
			t.Errorf("Resolve = %v after %v, want the end of the context when it comes", err, time.Since(begin))
		}
	})
}
