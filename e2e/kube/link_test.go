package kube

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A link leads from a network that has the addresses of many Pods, but none of
// their processes, to this one, which is that of their node. What is sent from
// there is as real as what Pods send.
type link struct{ pods, node int } // files of the networks

// nodeAddress is what Pods see of the node.
const nodeAddress = "10.0.0.1"

// newLink makes the network of a crowd: 10.SECOND.0.0 and those that follow. It
// changes the network of this process, which must be one of its own.
func newLink(t *testing.T, second, pods int) *link {
	t.Helper()
	if known, err := net.Interfaces(); err != nil || len(known) != 1 {
		t.Fatalf("this network has %d interfaces (%v); run the test in one that has nothing but a loopback device, as make bench-gke does", len(known), err)
	}
	cmd := here(context.Background(), "sleep", "infinity")
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	holder, err := start(t.TempDir(), "pods", cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(holder.kill)
	there := fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
	ip := func(lines string, command ...string) {
		t.Helper()
		cmd := here(t.Context(), command[0], append(command[1:], "-batch", "-")...)
		cmd.Stdin = strings.NewReader(lines)
		if _, err := output(cmd); err != nil {
			t.Fatal(err)
		}
	}
	ip(fmt.Sprintf("link set lo up\nlink add pods type veth peer name eth0 netns %d\naddress add %s/32 dev pods\nlink set pods up\nroute add 10.%d.0.0/16 dev pods\n",
		cmd.Process.Pid, nodeAddress, second), "ip")
	var lines strings.Builder
	fmt.Fprintf(&lines, "link set lo up\nlink set eth0 up\nroute add %s/32 dev eth0\n", nodeAddress)
	for n := range pods {
		fmt.Fprintf(&lines, "address add %s/32 dev eth0\n", podAddress(second, n))
	}
	ip(lines.String(), "nsenter", "--net="+there, "--", "ip")

	l := &link{}
	for name, file := range map[string]*int{there: &l.pods, "/proc/thread-self/ns/net": &l.node} {
		if *file, err = unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			t.Fatal(name, err)
		}
		t.Cleanup(func() { unix.Close(*file) })
	}
	return l
}

// dial connects from the address of a Pod: a socket stays in the network that
// its thread was in.
func (l *link) dial(from, to string) (net.Conn, error) {
	runtime.LockOSThread()
	if err := unix.Setns(l.pods, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience, KeepAlive: -1}
	conn, err := d.Dial("tcp", to)
	if back := unix.Setns(l.node, unix.CLONE_NEWNET); back != nil { // and the thread ends with the goroutine
		return nil, errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return conn, err
}

// tokenRequest is what every client of this node sends.
const tokenRequest = "GET /computeMetadata/v1/instance/service-accounts/default/token HTTP/1.1\r\nHost: metadata.google.internal\r\nMetadata-Flavor: Google\r\n\r\n"

// get asks for a token on a connection of its own, which it returns with the
// answer as it was on the wire.
func (l *link) get(from, to string) (net.Conn, []byte, error) {
	conn, err := l.dial(from, to)
	if err != nil {
		return nil, nil, err
	}
	raw := &bytes.Buffer{}
	if _, err = conn.Write([]byte(tokenRequest)); err == nil {
		var answer *http.Response
		if answer, err = http.ReadResponse(bufio.NewReader(io.TeeReader(conn, raw)), nil); err == nil {
			_, err = io.Copy(io.Discard, answer.Body)
			if err == nil && answer.StatusCode != http.StatusOK {
				err = errors.New(answer.Status)
			}
		}
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, raw.Bytes(), nil
}

// A relay is the way to a server, and counts what comes back.
type relay struct {
	addr  string
	bytes atomic.Int64
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r := &relay{addr: l.Addr().String()}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			pass := func(w, from net.Conn, count *atomic.Int64) {
				buf := make([]byte, 32<<10)
				for {
					n, err := from.Read(buf)
					count.Add(int64(n))
					if _, wrong := w.Write(buf[:n]); err != nil || wrong != nil {
						w.Close()
						from.Close()
						return
					}
				}
			}
			go pass(far, near, new(atomic.Int64))
			go pass(near, far, &r.bytes)
		}
	}()
	return r
}

// since returns what was added to a file, and its length now.
func since(t *testing.T, name string, offset int) (string, int) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(data[min(offset, len(data)):]), len(data)
}
