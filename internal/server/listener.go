package server

import (
	"net"
	"sync"
	"time"
)

// A boundListener accepts as many connections as there are places in free;
// further ones wait in the kernel's queue.
type boundListener struct {
	net.Listener
	free   chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (l *boundListener) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &boundConn{Conn: c, free: l.free}, nil
}

func (l *boundListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// A boundConn gives up its place when it is closed, and never lets a write
// hang: the deadline moves with the writes, at most once in a third of its
// time, because moving it at each would cost a busy connection.
type boundConn struct {
	net.Conn
	free chan struct{}
	once sync.Once
	next time.Time // when the deadline moves; net/http writes from one goroutine at a time
}

func (c *boundConn) Write(p []byte) (int, error) {
	if now := time.Now(); now.After(c.next) {
		if err := c.SetWriteDeadline(now.Add(writeTimeout)); err != nil {
			return 0, err
		}
		c.next = now.Add(writeTimeout / 3)
	}
	return c.Conn.Write(p)
}

func (c *boundConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.free })
	return err
}
