package server

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A boundListener accepts as many connections as there are places in free;
// further ones wait in the kernel's queue. Those that one address has beyond
// its share are closed, so that they keep nobody else waiting. It also keeps the time of all of
// them: net/http moves a deadline four times in each request, and a timer of
// the runtime for each of these would be a good part of what a leaf costs.
type boundListener struct {
	net.Listener
	free   chan struct{}
	once   sync.Once
	closed chan struct{}

	tick  atomic.Int64 // of sweeps
	mu    sync.Mutex
	conns map[*boundConn]struct{}
	share int                // connections of one address; 0: no limit
	held  map[netip.Addr]int // by each, if there is a limit
	sweep *time.Timer        // runs while there are connections
}

// sweepEvery is how late a deadline may be.
const sweepEvery = time.Second

func newBoundListener(l net.Listener, places, share int) *boundListener {
	return &boundListener{
		Listener: l,
		free:     make(chan struct{}, places),
		closed:   make(chan struct{}),
		conns:    map[*boundConn]struct{}{},
		share:    share,
		held:     map[netip.Addr]int{},
	}
}

// take counts a connection of an address, unless that has its share.
func (l *boundListener) take(from netip.Addr) bool {
	if l.share == 0 || !from.IsValid() {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[from] >= l.share {
		return false
	}
	l.held[from]++
	return true
}

// drop is the end of what take counted. The lock is held.
func (l *boundListener) drop(from netip.Addr) {
	if l.share == 0 || !from.IsValid() {
		return
	}
	if l.held[from]--; l.held[from] == 0 {
		delete(l.held, from)
	}
}

func (l *boundListener) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	for err == nil && !l.take(addrPort(conn.RemoteAddr()).Addr().Unmap()) {
		conn.Close()
		conn, err = l.Listener.Accept()
	}
	if err != nil {
		<-l.free
		return nil, err
	}
	c := &boundConn{Conn: conn, listener: l, from: addrPort(conn.RemoteAddr()).Addr().Unmap()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
	switch {
	case l.sweep == nil:
		l.sweep = time.AfterFunc(sweepEvery, l.sweepAll)
	case len(l.conns) == 1:
		l.sweep.Reset(sweepEvery)
	}
	return c, nil
}

func (l *boundListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// sweepAll ends the reads and writes whose time is over.
func (l *boundListener) sweepAll() {
	now, tick := time.Now().UnixNano(), l.tick.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.end(now, tick)
	}
	if len(l.conns) > 0 {
		l.sweep.Reset(sweepEvery)
	}
}

// A boundConn gives up its place when it is closed, and never lets a write
// hang. Its read deadline is kept by the listener.
type boundConn struct {
	net.Conn
	listener *boundListener
	from     netip.Addr
	once     sync.Once
	drop     bool         // writes are dropped; for the goroutine that writes
	writing  atomic.Int64 // since that tick, plus one; 0: no write is under way

	mu       sync.Mutex
	deadline int64 // of reads, nanoseconds of the wall clock; 0: none
	ended    bool  // reads fail until the deadline moves
	reading  int   // reads under way
	told     bool  // the deadline of Conn is over, for a read that was under way
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// Read implements net.Conn.
func (c *boundConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return 0, os.ErrDeadlineExceeded
	}
	c.reading++
	c.mu.Unlock()
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	c.reading--
	c.mu.Unlock()
	return n, err
}

// SetReadDeadline implements net.Conn. What net/http sets to stop a read that
// it does not want any more holds at once, every other deadline within a second.
func (c *boundConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = 0
	switch {
	case t.IsZero():
	case t.After(past):
		c.deadline = t.UnixNano()
	default:
		return c.stop()
	}
	c.ended = false
	if !c.told {
		return nil
	}
	c.told = false
	return c.Conn.SetReadDeadline(time.Time{})
}

// stop makes reads fail. The lock is held.
func (c *boundConn) stop() error {
	c.ended = true
	if c.reading == 0 || c.told {
		return nil
	}
	c.told = true
	return c.Conn.SetReadDeadline(past)
}

func (c *boundConn) end(now, tick int64) {
	c.mu.Lock()
	if c.deadline != 0 && c.deadline <= now {
		c.stop()
	}
	c.mu.Unlock()
	if began := c.writing.Load(); began != 0 && tick-(began-1) >= int64(writeTimeout/sweepEvery) {
		c.SetWriteDeadline(past)
	}
}

func (c *boundConn) Write(p []byte) (int, error) {
	if c.drop {
		return len(p), nil
	}
	c.writing.Store(c.listener.tick.Load() + 1)
	n, err := c.Conn.Write(p)
	c.writing.Store(0)
	return n, err
}

func (c *boundConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		l := c.listener
		l.mu.Lock()
		delete(l.conns, c)
		l.drop(c.from)
		l.mu.Unlock()
		<-l.free
	})
	return err
}
