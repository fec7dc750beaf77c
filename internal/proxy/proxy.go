// Package proxy is an HTTPS proxy for programs that cannot be pointed
// elsewhere: it ends TLS for the few hosts that it stands for, with
// certificates of an authority of its own, and hands the requests to a
// handler. The program needs HTTPS_PROXY and trust in that authority, and no
// change.
//
// It forwards nothing: what is not for one of its hosts is refused. It is for
// tests and closed systems, where a fake answers for Google.
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// The bounds of a connection.
const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = time.Minute
	maxConnections = 512
)

// A Proxy stands for some hosts. Make one with New; one Serve at a time.
type Proxy struct {
	authority *Authority
	handler   http.Handler
	log       *slog.Logger
}

// New returns a proxy for the hosts of the authority. Requests come to the
// handler as if it were that host: r.Host is it, and r.TLS has the client's
// certificate if it sent one, unverified. A nil log is silent.
func New(a *Authority, h http.Handler, log *slog.Logger) *Proxy {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Proxy{authority: a, handler: h, log: log}
}

// Serve serves until the context ends, and returns nil then. It closes the
// listener, and its tunnels with it.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	quiet := slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)
	t := &tunnels{addr: l.Addr(), conns: make(chan net.Conn), closed: make(chan struct{}), slots: make(chan struct{}, maxConnections)}
	inside := &http.Server{
		Handler: p.handler, TLSConfig: p.authority.serverConfig(), ErrorLog: quiet,
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	outside := &http.Server{
		Handler: p.front(t), ErrorLog: quiet, // HTTP/1.1, in which a connection can be taken over
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
	}
	var serving sync.WaitGroup
	serving.Go(func() { inside.ServeTLS(t, "", "") })
	stop := context.AfterFunc(ctx, func() { outside.Close() })
	err := outside.Serve(l)
	stop()
	outside.Close()
	inside.Close() // also t
	serving.Wait()
	if errors.Is(err, http.ErrServerClosed) && ctx.Err() != nil {
		return nil
	}
	return err
}

// front answers what is said to the proxy itself: CONNECT to a host that it
// stands for.
func (p *Proxy) front(t *tunnels) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, port, err := net.SplitHostPort(r.Host)
		switch {
		case r.Method != http.MethodConnect:
			p.refuse(w, r, http.StatusForbidden, "this proxy forwards nothing; it only ends TLS (CONNECT) for the hosts that it stands for")
			return
		case err != nil || port != "443" || !p.authority.standsFor(host):
			p.refuse(w, r, http.StatusForbidden, "this proxy does not stand for "+r.Host)
			return
		}
		if !t.acquire() {
			p.refuse(w, r, http.StatusServiceUnavailable, "too many connections")
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.release()
			p.refuse(w, r, http.StatusInternalServerError, "the connection cannot be taken over")
			return
		}
		conn.SetDeadline(time.Now().Add(headerTimeout))
		tunnel := &tunnel{Conn: conn, tunnels: t}
		if _, err := conn.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil || buffered.Reader.Buffered() > 0 {
			tunnel.Close() // nothing may come before our answer
			return
		}
		conn.SetDeadline(time.Time{})
		p.log.Debug("tunnel", "host", host)
		t.hand(tunnel)
	})
}

func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, status int, why string) {
	p.log.Warn("proxy refused", "method", r.Method, "host", r.Host, "why", why)
	http.Error(w, "gcemds: "+why, status)
}

// tunnels are the connections that were taken over, as a listener.
type tunnels struct {
	addr   net.Addr
	conns  chan net.Conn
	slots  chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (t *tunnels) acquire() bool {
	select {
	case t.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (t *tunnels) release() { <-t.slots }

// hand gives a connection to the server inside, or closes it with the rest.
func (t *tunnels) hand(c net.Conn) {
	select {
	case t.conns <- c:
	case <-t.closed:
		c.Close()
	}
}

func (t *tunnels) Accept() (net.Conn, error) {
	select {
	case c := <-t.conns:
		return c, nil
	case <-t.closed:
		return nil, net.ErrClosed
	}
}

func (t *tunnels) Close() error {
	t.once.Do(func() { close(t.closed) })
	return nil
}

func (t *tunnels) Addr() net.Addr { return t.addr }

// A tunnel is one of them. Closing it, at least once, frees its slot.
type tunnel struct {
	net.Conn
	tunnels *tunnels
	once    sync.Once
}

func (c *tunnel) Close() error {
	c.once.Do(c.tunnels.release)
	return c.Conn.Close()
}
