package server_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/server"
)

// TestOneAddressHasItsShare: what an address has beyond its share is closed,
// others are served, and what it closes it may open again.
func TestOneAddressHasItsShare(t *testing.T) {
	const share = 3
	s := serverOf(plain(t), nil, server.Limits{PerSource: share})
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := s.HTTP(t.Context(), "main", slog.New(slog.DiscardHandler))
	go h.Serve(s.Bound(inner))
	t.Cleanup(func() { h.Close() })

	dial := func(from string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
		c, err := d.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Skipf("no connection from %s, which not every system has: %v", from, err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	served := func(c net.Conn) bool {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return false
		}
		_, err = io.Copy(io.Discard, res.Body)
		return err == nil && res.StatusCode == http.StatusOK
	}
	var flood []net.Conn
	for i := range share {
		c := dial("127.0.0.1")
		if !served(c) {
			t.Fatalf("connection %d of %d is not served", i+1, share)
		}
		flood = append(flood, c)
	}
	for range 5 {
		if served(dial("127.0.0.1")) {
			t.Fatalf("more than %d connections of one address are served", share)
		}
	}
	if !served(dial("127.0.0.2")) {
		t.Error("another address is not served while one floods")
	}
	flood[0].Close()
	deadline := time.Now().Add(10 * time.Second)
	for !served(dial("127.0.0.1")) {
		if time.Now().After(deadline) {
			t.Fatal("an address that closed a connection cannot open another")
		}
		time.Sleep(5 * time.Millisecond)
	}
}
