package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// maxSocketName is what the name of a socket can have, on the system that
// allows least; package config refuses longer ones.
const maxSocketName = 103

// listenUnix listens on a Unix socket with these permissions. A socket that a
// crashed process left is replaced; one that somebody answers on is not.
func listenUnix(path string, mode os.FileMode) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("cannot listen on %s: there is a file of that name that is not a socket", path)
		}
		c, err := net.DialTimeout("unix", path, time.Second)
		switch {
		case err == nil:
			c.Close()
			return nil, fmt.Errorf("cannot listen on %s: another gcemds answers there; stop it, or give this one a socket of its own", path)
		case !errors.Is(err, syscall.ECONNREFUSED): // it may be busy, or somebody else's
			return nil, fmt.Errorf("cannot listen on %s: it is in use: %w", path, err)
		}
		os.Remove(path)
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return c.Control(restrict) }}
	l, err := config.Listen(context.Background(), "unix", path)
	switch {
	case errors.Is(err, syscall.EINVAL):
		return nil, fmt.Errorf("cannot listen on %s: the name of a socket has at most %d bytes, this one has %d", path, maxSocketName, len(path))
	case err != nil:
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	return l, nil
}

// errNotHere: the address is of another machine, or of a family that this one
// does not have.
var errNotHere = errors.New("this machine does not have that address")

// listenTCP explains the errors that people make. A port that is shared may be
// listened on by others too, if they are of the same user and share it: the
// oldest gets all connections until it leaves. So a daemon can take over from
// another with no moment in which nobody listens, and need not be ready before.
func listenTCP(addr string, shared bool) (net.Listener, error) {
	var config net.ListenConfig
	if shared {
		config.SetMultipathTCP(false) // it cannot be steered
		config.Control = func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) { err = reusePort(fd) }), err)
		}
	}
	l, err := config.Listen(context.Background(), "tcp", addr)
	if err == nil && shared {
		steer(l.(*net.TCPListener), oldest)
	}
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("cannot listen on %s: the port is in use; stop who has it, or choose another with --listen (port 0 picks a free one)", addr)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("cannot listen on %s: ports below 1024 need root or the capability CAP_NET_BIND_SERVICE", addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT):
		if strings.HasPrefix(addr, "169.254.169.") || strings.HasPrefix(addr, "[fd20:ce::") {
			return nil, fmt.Errorf("cannot listen on %s: %w; gcemds intercept install puts it there", addr, errNotHere)
		}
		return nil, fmt.Errorf("cannot listen on %s: %w", addr, errNotHere)
	}
	return nil, fmt.Errorf("cannot listen on %s: %w", addr, err)
}

// Listen binds a TCP address. Unless remote is allowed, it must be one that
// can be reached from this machine only.
func Listen(addr string, allowRemote bool) (net.Listener, error) {
	l, err := listenTCP(addr, false)
	if err == nil && !allowRemote && !loopback(l.Addr()) {
		l.Close()
		return nil, tooOpen(l.Addr())
	}
	return l, err
}

func tooOpen(addr net.Addr) error {
	return fmt.Errorf("%s can be reached from other machines, and whoever reaches it gets tokens; if you want that, say --allow-remote", addr)
}

// loopback reports whether an address can be reached from this machine only.
func loopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}

// every calls f each interval until the context ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f()
		}
	}
}
