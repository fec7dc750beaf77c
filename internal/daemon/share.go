package daemon

import (
	"net"
	"sync/atomic"
)

// Those who share a port, as steer counts them.
const (
	oldest = 0
	next   = 1
)

// A sharedListener is at a port at which others may be, too.
type sharedListener struct {
	*net.TCPListener
	served atomic.Bool // it had a connection, so it is the oldest, or was
}

func (d *Daemon) share(l net.Listener) net.Listener {
	s := &sharedListener{TCPListener: l.(*net.TCPListener)}
	d.shared = append(d.shared, s)
	return s
}

// Accept implements net.Listener.
func (s *sharedListener) Accept() (net.Conn, error) {
	c, err := s.TCPListener.Accept()
	if err == nil && !s.served.Load() {
		s.served.Store(true)
	}
	return c, err
}

// leave lets the next have the connections that come from now on, unless it
// has them already.
func (s *sharedListener) leave() bool {
	if s.served.Load() {
		steer(s.TCPListener, next)
	}
	return s.served.Load()
}
