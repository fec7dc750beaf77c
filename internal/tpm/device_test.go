package tpm

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/gcemds/gcemds/internal/tpm/swtpm"
)

func TestCheckDevice(t *testing.T) {
	for address, want := range map[string]bool{
		"": true, DefaultDevice: true, "unix:/run/swtpm/socket": runtime.GOOS != "windows", "tcp:127.0.0.1:2321": true, "tcp:[::1]:2321": true,
		"/dev/tpm0": runtime.GOOS != "windows", "dev/tpm0": false, "unix:socket": false, "unix:": false, "tcp:2321": false, "tcp:host": false, "udp:host:1": false,
	} {
		if err := CheckDevice(address); (err == nil) != want {
			t.Errorf("CheckDevice(%q) = %v, want good: %v", address, err, want)
		}
	}
}

// What is no TPM says so, and what to do.
func TestNoDevice(t *testing.T) {
	k := Key{Handle: 0x81010002}
	for device, want := range map[string]string{
		"unix:" + filepath.Join(t.TempDir(), "none"): "is swtpm running there",
		"/dev/null-tpm": "is there a TPM 2.0",
	} {
		k.Device = device
		_, err := Open(t.Context(), k)
		var e *Error
		if !errors.As(err, &e) || !e.Again || !strings.Contains(err.Error(), want) {
			t.Errorf("Open of %s = %v, want an *Error that may pass, with %q", device, err, want)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			c.Close()
		}
	}()
	k.Device = "tcp:" + l.Addr().String()
	if _, err := Open(t.Context(), k); err == nil {
		t.Error("Open of a web server is a key")
	}
}

// When too many wait, or for too long, more are refused: nothing grows.
func TestQueueIsBounded(t *testing.T) {
	d := deviceAt("unix:/queue")
	d.turn <- struct{}{} // a visit that does not end
	refused := make(chan error, maxWaiting+1)
	for range maxWaiting + 1 {
		go func() { refused <- d.visit(t.Context(), func(*visit) error { return nil }) }()
	}
	err := <-refused
	var e *Error
	if !errors.As(err, &e) || !e.Again || !strings.Contains(err.Error(), "others wait already") {
		t.Errorf("one too many gets %v, want an *Error that may pass", err)
	}
	if n := d.waiting.Load(); n > maxWaiting {
		t.Errorf("%d wait, want at most %d", n, maxWaiting)
	}
	<-d.turn
	for range maxWaiting {
		<-refused // each finds no TPM there, but gets its turn
	}
	if n := d.waiting.Load(); n != 0 {
		t.Errorf("%d wait when all have had their turn", n)
	}
}

// A signature ends with its context: while others have the TPM, and while it
// does not answer.
func TestSignEndsWithContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	text, err := os.ReadFile("testdata/plain.pem")
	if err != nil {
		t.Fatal(err)
	}
	k := Key{Device: "tcp:" + l.Addr().String()}
	if k.File, err = ParseKeyFile(text); err != nil {
		t.Fatal(err)
	}
	signer, err := Open(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	end := errors.New("the end of the context")
	ends := func(when string) {
		t.Helper()
		ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, end)
		defer cancel()
		begin := time.Now()
		err := sign(signer.Within(ctx))
		var e *Error
		if took := time.Since(begin); !errors.As(err, &e) || !e.Again || took > patience/3 {
			t.Errorf("%s: a signature ends after %v with %v, want soon after its context, with an *Error that may pass", when, took, err)
		}
	}
	ends("no answer")
	signer.device.turn <- struct{}{}
	ends("no turn")
	<-signer.device.turn
	if n := signer.device.waiting.Load(); n != 0 {
		t.Errorf("%d wait when all have given up", n)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(end)
	if _, err := Open(ctx, Key{Device: k.Device, Handle: 0x81010002}); err == nil {
		t.Error("a key is opened without an answer")
	}

	// Between two commands. What is in the TPM by then is taken out all the same.
	s := swtpm.Start(t)
	k = persistent(t, s, "secret")
	var commands atomic.Int32
	ctx, cancel = context.WithCancelCause(t.Context())
	k.Device = middle(t, s, func([]byte) bool {
		if commands.Add(1) == 3 {
			cancel(end)
		}
		return false
	})
	if signer, err = Open(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	commands.Store(0)
	err = sign(signer.Within(ctx))
	var e *Error
	if !errors.As(err, &e) || !e.Again {
		t.Errorf("a signature whose context ends in the middle is %v, want an *Error that may pass", err)
	}
	if err := sign(signer); err != nil {
		t.Errorf("the next: %v", err)
	}
	left(t, s)
}

// persistent is a TPM with our key at 0x81010002.
func persistent(t testing.TB, s *swtpm.TPM, password string) Key {
	t.Helper()
	k := Key{Device: s.Device, Passwords: Passwords{Key: []byte(password)}}
	made, err := Import(k, rsaKey())
	if err != nil {
		t.Fatal(err)
	}
	k.File = made
	if err := Persist(k, 0x81010002); err != nil {
		t.Fatal(err)
	}
	return k
}

// Eight callers of two keys at once, by TCP, where a second connection would
// have to wait for ever.
func TestEightCallers(t *testing.T) {
	s := swtpm.StartTCP(t)
	k := persistent(t, s, "")
	byFile := open(t, s, k)
	byHandle := open(t, s, Key{Handle: 0x81010002})
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for range 3 {
				if err := sign([]*Signer{byFile, byHandle}[i%2]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	callers.Wait()
	left(t, s)
}

// Others may hold the places of the TPM for a while.
func TestSlotsAreTaken(t *testing.T) {
	s := swtpm.Start(t)
	signer := open(t, s, persistent(t, s, ""))
	s.Tools(`
		keep tpm2_createprimary -C o -G ecc -c 1.ctx
		keep tpm2_createprimary -C o -G ecc -c 2.ctx
		keep tpm2_createprimary -C o -G ecc -c 3.ctx`)
	refuses(t, "no place for an object", signer, tpm2.TPMRCObjectMemory, "/dev/tpmrm0", "tpm2_flushcontext")
	s.Tools("tpm2_getrandom 1")
	if err := sign(signer); err != nil {
		t.Errorf("when there is place again: %v", err)
	}
	left(t, s)
}

// The TPM is restarted while many sign. What fails meanwhile may be tried
// again; after that everything works, with the keys as they were opened.
func TestRestartUnderLoad(t *testing.T) {
	s := swtpm.Start(t)
	k := persistent(t, s, "secret")
	signers := []*Signer{open(t, s, k), open(t, s, Key{Handle: 0x81010002, Passwords: k.Passwords})}
	var stop atomic.Bool
	var good atomic.Int32
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for !stop.Load() {
				err, e := sign(signers[i%2]), (*Error)(nil)
				switch {
				case err == nil:
					good.Add(1)
				case !errors.As(err, &e) || !e.Again:
					t.Errorf("while the TPM restarts: %v, want an error that may pass", err)
					return
				}
			}
		})
	}
	for range 3 {
		for before := good.Load(); good.Load() < before+4; {
			time.Sleep(time.Millisecond)
		}
		s.Kill()
		s.Power()
	}
	stop.Store(true)
	callers.Wait()
	for _, signer := range signers {
		if err := sign(signer); err != nil {
			t.Errorf("after the restarts: %v", err)
		}
	}
	left(t, s)
}

// middle passes commands to the TPM, unless disturb, called before each, says
// that the connection is cut.
func middle(t *testing.T, s *swtpm.TPM, disturb func(command []byte) (cut bool)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	serve := func(client net.Conn) {
		defer client.Close()
		buffer := make([]byte, maxAnswer)
		for {
			n, err := client.Read(buffer)
			if err != nil || disturb(buffer[:n]) {
				return
			}
			tpm, err := deviceAt(s.Device).open(t.Context())
			if err != nil {
				return
			}
			answer, err := tpm.Send(buffer[:n])
			tpm.Close()
			if err != nil {
				return
			}
			client.Write(answer)
		}
	}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			serve(client)
		}
	}()
	return "tcp:" + l.Addr().String()
}

// Wherever a visit is when the connection breaks or the TPM forgets all, it is
// repeated once, and only once.
func TestOneMoreTry(t *testing.T) {
	s := swtpm.Start(t)
	k := persistent(t, s, "secret")
	var commands, at, cuts atomic.Int32
	var restart atomic.Bool
	k.Device = middle(t, s, func([]byte) bool {
		switch {
		case commands.Add(1) != at.Load() && at.Load() != always:
			return false
		case restart.Load():
			s.Kill()
			s.Power()
			return false
		}
		cuts.Add(1)
		return true
	})
	signer, err := Open(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	commands.Store(0)
	if err := sign(signer); err != nil {
		t.Fatal(err)
	}
	for i := range commands.Load() {
		for _, power := range []bool{false, true} {
			restart.Store(power)
			commands.Store(0)
			at.Store(i + 1)
			if err := sign(signer); err != nil {
				t.Errorf("disturbed at command %d (power off: %v): %v", i+1, power, err)
			}
		}
	}
	restart.Store(false)
	cuts.Store(0)
	at.Store(always)
	err = sign(signer)
	var e *Error
	if !errors.As(err, &e) || !e.Again {
		t.Errorf("with no connection that lasts: %v, want an *Error that may pass", err)
	}
	if n := cuts.Load(); n != 2 {
		t.Errorf("%d tries, want 2", n)
	}
	at.Store(0)
	if err := sign(signer); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	left(t, s)
}

const always = -1

// Who listens on the way to the TPM hears no password, neither when a key gets
// it nor when it is used.
func TestPasswordsStayHere(t *testing.T) {
	s := swtpm.Start(t)
	s.Tools(`
		tpm2_changeauth -c owner ownersecret
		tpm2_changeauth -c endorsement ekxsecret`)
	var heard atomic.Int32
	device := middle(t, s, func(command []byte) bool {
		heard.Add(1)
		if bytes.Contains(command, []byte("secret")) {
			t.Errorf("a password is in the command %x", command)
		}
		return false
	})
	k := Key{Device: device, Passwords: Passwords{Owner: []byte("ownersecret"), Endorsement: []byte("ekxsecret"), Key: []byte("keysecret")}}
	info, err := Look(k)
	if err != nil {
		t.Fatal(err)
	}
	name, err := hex.DecodeString(info.EKName)
	if err != nil {
		t.Fatal(err)
	}
	for i, ekName := range [][]byte{nil, name} {
		for j, parent := range []Parent{H2, RSAEK} {
			k := k
			k.EKName, k.Parent = ekName, parent
			if k.File, err = Create(k, P256); err != nil {
				t.Fatal(err)
			}
			signer, err := Open(t.Context(), k)
			if err == nil {
				err = sign(signer)
			}
			if err != nil {
				t.Errorf("parent %s, salted %v: %v", parent, ekName != nil, err)
			}
			if err := Persist(k, 0x81010010+uint32(2*i+j)); err != nil {
				t.Error(err)
			}
			k.File = nil
			if _, err := Import(k, rsaKey()); err != nil {
				t.Error(err)
			}
			left(t, s)
		}
	}
	if heard.Load() < 20 {
		t.Errorf("only %d commands went through the middle", heard.Load())
	}
}

// BenchmarkSign is a signature of a software TPM; real ones are ten to two
// hundred times slower.
func BenchmarkSign(b *testing.B) {
	s := swtpm.Start(b)
	k := persistent(b, s, "secret")
	for name, k := range map[string]Key{"handle": {Handle: 0x81010002, Passwords: k.Passwords}, "file": k} {
		signer := open(b, s, k)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := sign(signer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
