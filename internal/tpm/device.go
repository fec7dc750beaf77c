package tpm

import (
	"context"
	"crypto/fips140"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

const (
	maxWaiting = 64               // who wants a TPM that is busy; more are refused
	patience   = 30 * time.Second // to wait for the turn, and for all answers of one visit by socket
	lastWord   = time.Second      // for the answer that is due when the context of a visit ends
	maxAnswer  = 4096             // bytes of one answer; more has no TPM
)

// A device is a TPM as this process uses it: one visit at a time, whatever
// number of keys. A TPM has places for three keys, and by socket it serves one
// connection.
type device struct {
	address string
	turn    chan struct{} // holds one when somebody visits
	waiting atomic.Int32
	lost    []tpm2.TPMHandle // guests whose visit broke off; guarded by the turn
}

// devices are those in use, by address. There is one TPM of that address for
// the process, whoever opens it.
var devices struct {
	mu        sync.Mutex
	byAddress map[string]*device
}

func deviceAt(address string) *device {
	if address == "" {
		address = DefaultDevice
	}
	devices.mu.Lock()
	defer devices.mu.Unlock()
	if devices.byAddress == nil {
		devices.byAddress = map[string]*device{}
	}
	d := devices.byAddress[address]
	if d == nil {
		d = &device{address: address, turn: make(chan struct{}, 1)}
		devices.byAddress[address] = d
	}
	return d
}

// CheckDevice reports an address that is none. It is the name of a device, or
// for a software TPM unix:PATH or tcp:HOST:PORT, where swtpm listens with
// --server. On Windows there is one device, tbs.
func CheckDevice(address string) error {
	kind, rest, _ := strings.Cut(address, ":")
	switch {
	case address == "" || address == DefaultDevice:
		return nil
	case kind == "unix":
		if filepath.IsAbs(rest) {
			return nil
		}
	case kind == "tcp":
		if _, port, err := net.SplitHostPort(rest); err == nil && port != "" {
			return nil
		}
	case otherDevice(address):
		return nil
	}
	return fmt.Errorf("%q is not a TPM: it is %s, unix:/PATH or tcp:HOST:PORT", address, DefaultDevice)
}

// visit waits for its turn, and calls f with a connection. If that breaks or
// the TPM has forgotten what was loaded, as after a restart, it calls f once
// more with a new one. When ctx ends it waits for its turn no longer, and asks
// nothing more. The answer that is due is still heard, since it may name a guest
// that is to be flushed: for a moment by socket; a device cannot be interrupted.
func (d *device) visit(ctx context.Context, f func(*visit) error) error {
	if d.waiting.Add(1) > maxWaiting {
		d.waiting.Add(-1)
		return d.busy(fmt.Errorf("%d others wait already", maxWaiting))
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case d.turn <- struct{}{}:
		d.waiting.Add(-1)
	case <-timer.C:
		d.waiting.Add(-1)
		return d.busy(fmt.Errorf("no turn within %v", patience))
	case <-ctx.Done():
		d.waiting.Add(-1)
		return d.busy(context.Cause(ctx))
	}
	defer func() { <-d.turn }()
	again, err := d.once(ctx, f)
	if again && ctx.Err() == nil {
		_, err = d.once(ctx, f)
	}
	return err
}

func (d *device) busy(err error) error {
	return &Error{Device: d.address, Step: "wait for the TPM", Again: true, Err: err}
}

// once calls f with a connection, and reports whether another may do better.
func (d *device) once(ctx context.Context, f func(*visit) error) (again bool, err error) {
	t, err := d.open(ctx)
	if err != nil {
		return true, &Error{Device: d.address, Step: "connect", Again: true, Err: err, Fix: openFix(d.address)}
	}
	v := &visit{ctx: ctx, device: d, transport: t, guests: d.lost}
	defer t.Close()
	defer func() { d.lost = v.leave() }()
	v.leave()
	// The protocol of sessions has AES-CFB and short HMAC keys, which the mode
	// fips140=only forbids. The signature is the TPM's either way.
	fips140.WithoutEnforcement(func() { err = f(v) })
	return err != nil && (v.broken != nil || forgotten(err)), err
}

func (d *device) open(ctx context.Context) (transport.TPMCloser, error) {
	switch kind, rest, _ := strings.Cut(d.address, ":"); kind {
	case "unix", "tcp":
		conn, err := dial(ctx, kind, rest)
		if err != nil {
			return nil, err
		}
		conn.SetDeadline(time.Now().Add(patience))
		return &socket{conn, context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now().Add(lastWord)) })}, nil
	}
	return openDevice(d.address)
}

// dial connects to a software TPM. As long as that serves somebody else, the
// place in its queue may be taken, too.
func dial(ctx context.Context, kind, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, kind, address)
		if !errors.Is(err, syscall.EAGAIN) {
			return conn, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// A socket is a connection to a software TPM: commands and answers as they
// are, each with its size in the header.
type socket struct {
	net.Conn
	stop func() bool // ends what ends it with the context
}

func (s *socket) Close() error {
	s.stop()
	return s.Conn.Close()
}

// Send implements transport.TPM. A command that the TPM was not ready to begin
// is sent again, as it is meant to be; the first with a password is one.
func (s *socket) Send(command []byte) ([]byte, error) {
	for wait := time.Millisecond; ; wait *= 2 {
		answer, err := s.send(command)
		if err != nil || tpm2.TPMRC(binary.BigEndian.Uint32(answer[6:])) != tpm2.TPMRCRetry || wait > time.Second {
			return answer, err
		}
		time.Sleep(wait)
	}
}

func (s *socket) send(command []byte) ([]byte, error) {
	if _, err := s.Write(command); err != nil {
		return nil, err
	}
	answer := make([]byte, 10) // tag, size, code
	if _, err := io.ReadFull(s, answer); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(answer[2:])
	if size < 10 || size > maxAnswer {
		return nil, errors.New("what answers there is no TPM")
	}
	answer = append(answer, make([]byte, size-10)...)
	_, err := io.ReadFull(s, answer[10:])
	return answer, err
}
