package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	notPinned = -1
	patience  = 30 * time.Second // for whatever should take much less
)

// A process is a server that we started.
type process struct {
	cmd   *exec.Cmd
	addr  string
	admin string        // socket of the admin API, for gcemds
	log   *os.File      // what it said
	done  chan struct{} // closed when it has ended
}

// startGCEMDS starts the server under test as people do: without a file, a key or
// any setting but its addresses.
func (b *bench) startGCEMDS(ctx context.Context) (*process, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	b.sockets++
	admin := filepath.Join(b.dir, fmt.Sprintf("admin-%d.sock", b.sockets))
	p, err := b.start(ctx, b.gcemds, addr, nil, "serve", "--listen", addr, "--admin", admin, "--issuer-listen", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.admin = admin
	return p, nil
}

// startFloor starts a bare net/http server that gives this reply to everyone,
// or that gives it once released.
func (b *bench) startFloor(ctx context.Context, reply []byte, hold bool) (*process, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	args := []string{floorCommand, addr}
	if hold {
		args = append(args, "hold")
	}
	p, err := b.start(ctx, b.self, addr, bytes.NewReader(reply), args...)
	if err != nil {
		return nil, err
	}
	if err := p.ready(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// start runs a program on the core of the servers. Its environment is the same
// on every machine, so that it finds no settings and leaves no files.
func (b *bench) start(ctx context.Context, program, addr string, stdin io.Reader, args ...string) (*process, error) {
	log, err := os.CreateTemp(b.dir, "log-")
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.CommandContext(ctx, program, args...), addr: addr, log: log, done: make(chan struct{})}
	p.cmd.Env = b.env()
	p.cmd.Dir = b.dir
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, log, log
	if err := onCore(b.serving, p.cmd.Start); err != nil {
		log.Close()
		return nil, err
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (b *bench) env() []string {
	env := []string{"HOME=" + b.dir, "TMPDIR=" + b.dir, "XDG_RUNTIME_DIR=" + b.dir, "SOFTHSM2_CONF=" + b.softHSMConf()}
	for _, name := range []string{"PATH", "SYSTEMROOT"} { // Windows opens no socket without the second
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func (p *process) stop() {
	p.cmd.Process.Kill()
	<-p.done
	p.log.Close()
}

// ready waits until connections are accepted.
func (p *process) ready(ctx context.Context) error {
	for deadline := time.Now().Add(patience); ; {
		c, err := net.Dial("tcp", p.addr)
		if err == nil {
			return c.Close()
		}
		if err := p.pause(ctx, 200*time.Microsecond, deadline); err != nil {
			return err
		}
	}
}

// pause lets time pass while a process does something. It fails if that ends,
// or if it takes longer than the deadline.
func (p *process) pause(ctx context.Context, d time.Duration, deadline time.Time) error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended: %v%s", filepath.Base(p.cmd.Path), p.cmd.ProcessState, p.lastWords())
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
	}
	if time.Now().After(deadline) {
		return fmt.Errorf("%s is not where it should be after %v%s", filepath.Base(p.cmd.Path), patience, p.lastWords())
	}
	return nil
}

func (p *process) lastWords() string {
	const most = 1000
	words, err := os.ReadFile(p.log.Name())
	if err != nil || len(words) == 0 {
		return ""
	}
	return "; it said:\n" + string(words[max(0, len(words)-most):])
}

// get asks for a path on a connection of its own and returns the whole answer,
// which must be a 200.
func (p *process) get(path string) ([]byte, error) {
	c, err := net.DialTimeout("tcp", p.addr, patience)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(p.request(path)); err != nil {
		return nil, err
	}
	return readReply(c, make([]byte, maxReply))
}

const dataPath = "/computeMetadata/v1/"

// request is what the load sends: no header that could be left out.
func (p *process) request(path string) []byte {
	return []byte("GET " + dataPath + path + " HTTP/1.1\r\nHost: " + p.addr + "\r\nMetadata-Flavor: Google\r\n\r\n")
}

// firstReply asks until the process answers.
func (p *process) firstReply(ctx context.Context, path string) ([]byte, error) {
	for deadline := time.Now().Add(patience); ; {
		reply, err := p.get(path)
		var refused *net.OpError
		if !errors.As(err, &refused) {
			return reply, err
		}
		if err := p.pause(ctx, 100*time.Microsecond, deadline); err != nil {
			return nil, err
		}
	}
}

// freeAddr returns an address of loopback that nobody listens on. It is not of
// those that the system gives to whoever asks for port 0 or dials, so nobody
// takes it until the process that we start does.
func freeAddr() (string, error) {
	const lowest, count = 20000, 10000
	first := rand.IntN(count)
	for i := range count {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lowest+(first+i)%count))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", errors.New("no port from 20000 to 29999 is free on 127.0.0.1")
}
