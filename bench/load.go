package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// maxReply is the size of the largest answer that the load can read.
const maxReply = 256 << 10

// A load is clients that ask one server, each with one request at a time.
type load struct {
	server  *process
	request []byte
	fresh   bool // a connection for each request
	clients []client
}

type client struct {
	conn   net.Conn // nil: none open
	source *net.TCPAddr
	buf    []byte
}

// newLoad returns a load of n clients, which connect when first needed.
func newLoad(p *process, path string, n int, fresh bool) *load {
	l := &load{server: p, request: p.request(path), fresh: fresh}
	for i := range n {
		l.clients = append(l.clients, client{source: source(i), buf: make([]byte, maxReply)})
	}
	return l
}

func (l *load) close() {
	for i := range l.clients {
		l.clients[i].close()
	}
}

// A sample is what a server did in some time.
type sample struct {
	answers   int64
	cpu, took time.Duration
}

func (s sample) plus(t sample) sample {
	return sample{s.answers + t.answers, s.cpu + t.cpu, s.took + t.took}
}

// cost is the CPU time of a request in nanoseconds, speed the requests per
// second. There must be answers.
func (s sample) cost() float64  { return float64(s.cpu) / float64(s.answers) }
func (s sample) speed() float64 { return float64(s.answers) / s.took.Seconds() }

// run lets the clients ask for that long, and measures the server until the
// last answer.
func (l *load) run(ctx context.Context, length time.Duration) (sample, error) {
	before, err := l.server.cpu()
	if err != nil {
		return sample{}, err
	}
	start := time.Now()
	asking, stop := context.WithTimeout(ctx, length)
	defer stop()
	var answers atomic.Int64
	var failed atomic.Pointer[error]
	var clients sync.WaitGroup
	for i := range l.clients {
		clients.Go(func() {
			n, err := l.ask(asking, &l.clients[i])
			answers.Add(n)
			if err != nil {
				failed.Store(&err)
				stop()
			}
		})
	}
	clients.Wait()
	took := time.Since(start)
	after, err := l.server.cpu()
	if failure := failed.Load(); failure != nil {
		err = *failure
	}
	if err == nil {
		err = ctx.Err()
	}
	return sample{answers.Load(), after - before, took}, err
}

// ask sends the request and reads the answer, again and again.
func (l *load) ask(ctx context.Context, c *client) (answers int64, err error) {
	if c.conn != nil {
		c.conn.SetDeadline(time.Now().Add(patience))
	}
	for ; ctx.Err() == nil; answers++ {
		if c.conn == nil {
			if err := c.dial(l.server.addr); err != nil {
				return answers, err
			}
		}
		if _, err := c.conn.Write(l.request); err != nil {
			return answers, err
		}
		if _, err := readReply(c.conn, c.buf); err != nil {
			return answers, err
		}
		if l.fresh {
			c.close()
		}
	}
	return answers, nil
}

func (c *client) dial(addr string) error {
	d := net.Dialer{LocalAddr: c.source, Timeout: patience, KeepAlive: -1}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return err
	}
	c.conn = conn
	return conn.SetDeadline(time.Now().Add(patience))
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// source spreads the clients over addresses of loopback, each of which has
// ports of its own: tens of thousands of connections a round stay in TIME_WAIT.
// Only Linux has all of 127.0.0.0/8 on the interface.
func source(i int) *net.TCPAddr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + i%250)}), 0))
}

// readReply reads one answer of status 200 into buf and returns it.
func readReply(r io.Reader, buf []byte) ([]byte, error) {
	for n := 0; n < len(buf); {
		m, err := r.Read(buf[n:])
		n += m
		size, problem := replySize(buf[:n])
		switch {
		case problem != nil:
			return nil, problem
		case size > 0 && n >= size:
			return buf[:size], nil
		case err != nil:
			return nil, fmt.Errorf("%w after %d bytes of an answer", err, n)
		}
	}
	return nil, fmt.Errorf("an answer has more than %d bytes", len(buf))
}

var (
	statusOK   = []byte("HTTP/1.1 200 ")
	headEnd    = []byte("\r\n\r\n")
	lengthName = []byte("\r\nContent-Length: ")
)

// replySize returns how long the answer that b begins is, 0 if b does not say
// yet.
func replySize(b []byte) (int, error) {
	head := bytes.Index(b, headEnd)
	if head < 0 {
		return 0, nil
	}
	if !bytes.HasPrefix(b, statusOK) {
		line, _, _ := bytes.Cut(b, headEnd[:2])
		return 0, fmt.Errorf("an answer is %.100q, not 200", line)
	}
	_, rest, ok := bytes.Cut(b[:head+2], lengthName)
	if !ok {
		return 0, errors.New("an answer has no Content-Length")
	}
	digits, _, _ := bytes.Cut(rest, headEnd[:2])
	length, err := strconv.Atoi(string(digits))
	if err != nil || length < 0 {
		return 0, fmt.Errorf("an answer has Content-Length %.100q", digits)
	}
	return head + len(headEnd) + length, nil
}
