package server_test

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/server"
)

// TestWaiterStack: the goroutine of a request that hangs has no larger a stack
// than that of a bare handler which waits. Stacks come in powers of two, so a
// frame too many on the way to the wait would cost each waiter several KiB.
//
// Each is measured in a process of its own, which has no other stacks than those.
func TestWaiterStack(t *testing.T) {
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("the race detector makes all frames larger; make test runs this without it, too")
	}
	const variable = "TEST_WAITER_STACK"
	switch os.Getenv(variable) {
	case "gcemds":
		s := serverOf(plain(t), nil, server.Limits{})
		fmt.Println("took", stackOf(t, s.HTTP(t.Context(), "", slog.New(slog.DiscardHandler)), s.Waiting))
		return
	case "bare":
		var waiting atomic.Int64
		s := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			waiting.Add(1)
			<-r.Context().Done()
		})}
		fmt.Println("took", stackOf(t, s, func() int { return int(waiting.Load()) }))
		return
	}
	measure := func(which string) (bytes float64) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWaiterStack$")
		cmd.Env = append(os.Environ(), variable+"="+which, "GODEBUG=adaptivestackstart=0") // a stack starts small
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", which, err, out)
		}
		if _, err := fmt.Sscanf(string(out), "took %g", &bytes); err != nil {
			t.Fatalf("%s: %v\n%s", which, err, out)
		}
		return bytes
	}
	ours, bare := measure("gcemds"), measure("bare")
	if ours > 1.15*bare {
		t.Errorf("a request that hangs takes %.0f bytes of stack, %.2f times as much as that of a bare handler (%.0f); at most 1.15 is promised",
			ours, ours/bare, bare)
	}
}

// waiters are enough that what else the process does with stacks is little.
const waiters = 500

// stackOf is how many bytes of stack each of many requests takes that wait.
func stackOf(t *testing.T, s *http.Server, waiting func() int) float64 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	before := stack()
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conns := make([]net.Conn, waiters)
	for n := range conns {
		if conns[n], err = net.Dial("tcp", l.Addr().String()); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conns[n], "GET %s%s HTTP/1.1\r\nHost: metadata\r\nMetadata-Flavor: Google\r\n\r\n", v1, event+"?wait_for_change=true")
	}
	for limit := time.Now().Add(20 * time.Second); waiting() < waiters; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%d of %d requests wait", waiting(), waiters)
		}
	}
	after := stack()
	for _, c := range conns {
		c.Close()
	}
	s.Close()
	<-served
	return float64(after-before) / waiters
}

// stack is what all stacks of the process take once they are as small as they
// can be.
func stack() uint64 {
	var m runtime.MemStats
	runtime.GC() // each makes what is too large for its use half as large
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.StackInuse
}
