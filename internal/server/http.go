package server

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
)

// What a client may take its time for. Hanging requests are not bounded by
// any of these.
const (
	headerTimeout = 10 * time.Second
	bodyTimeout   = 10 * time.Second
	idleTimeout   = 10 * time.Minute
	writeTimeout  = 30 * time.Second
	maxHeader     = 64 << 10 // request line and headers: scopes and audiences can be long
)

// HTTP returns an http.Server for one listener, named as in the configuration.
// When ctx ends, hanging requests do, with its cause.
func (s *Server) HTTP(ctx context.Context, listener string, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:                      s,
		ReadHeaderTimeout:            headerTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			p := &peer{Caller: fleet.Caller{
				Listener: listener,
				Local:    addrPort(c.LocalAddr()),
				Remote:   addrPort(c.RemoteAddr()),
			}}
			p.conn, _ = c.(*boundConn)
			if s.Peer != nil {
				p.Peer = s.Peer(&p.Caller)
			}
			if r, ok := s.instances.(interface{ Accept(*fleet.Caller) }); ok {
				r.Accept(&p.Caller)
			}
			return context.WithValue(ctx, peerKey{}, p)
		},
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{} // a Unix socket
}

// Bound wraps a listener for HTTP: it accepts at most Limits.Connections at a
// time, closes what one address has beyond Limits.PerSource, and ends a
// connection whose client does not read what it asked for.
func (s *Server) Bound(l net.Listener) net.Listener {
	return newBoundListener(l, s.limits.Connections, s.limits.PerSource)
}
