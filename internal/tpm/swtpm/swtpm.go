// Package swtpm runs a software TPM for a test: the swtpm and tpm2-tools of
// the distribution, with the state of a TPM that is new. It is no part of the
// program.
package swtpm

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// packages says how to get what a test needs.
const packages = "install it with: sudo apt-get install swtpm swtpm-tools tpm2-tools"

// A TPM is a software TPM that listens on this machine.
type TPM struct {
	Device string // for the setting of that name
	Dir    string // where Tool runs

	t       testing.TB
	state   string
	process *exec.Cmd
}

// Start starts a TPM that ends with the test. It skips the test if there is
// none, unless GCEMDS_E2E is set.
func Start(t testing.TB) *TPM {
	t.Helper()
	for _, program := range []string{"swtpm", "tpm2_import"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("GCEMDS_E2E") != "" {
				t.Fatalf("%s is missing; %s", program, packages)
			}
			t.Skipf("%s is missing; %s", program, packages)
		}
	}
	// The name of a socket is short, so not in t.TempDir.
	dir, err := os.MkdirTemp("", "swtpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &TPM{t: t, Dir: t.TempDir(), state: dir, Device: "unix:" + filepath.Join(dir, "tpm")}
	s.Power()
	t.Cleanup(s.Kill)
	return s
}

// StartTCP is Start with a TPM that listens by TCP.
func StartTCP(t testing.TB) *TPM {
	t.Helper()
	s := Start(t)
	s.Kill()
	s.Device = "tcp:" + twoPorts(t)
	s.Power()
	return s
}

// twoPorts returns an address with a free port, whose next is free as well:
// tpm2-tools look for the control channel there.
func twoPorts(t testing.TB) string {
	t.Helper()
	for range 100 {
		first, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		next, err := net.Listen("tcp", after(first.Addr().String()))
		first.Close()
		if err == nil {
			next.Close()
			return first.Addr().String()
		}
	}
	t.Fatal("no two free ports in a row")
	return ""
}

// after returns the address with the next port.
func after(address string) string {
	at := netip.MustParseAddrPort(address)
	return netip.AddrPortFrom(at.Addr(), at.Port()+1).String()
}

// listen is what swtpm calls the address of the TPM and of its control channel.
func (s *TPM) listen() (server, control string) {
	kind, address, _ := strings.Cut(s.Device, ":")
	if kind == "unix" {
		return "type=unixio,path=" + address, "type=unixio,path=" + address + ".ctrl"
	}
	tcp := func(address string) string {
		host, port, _ := net.SplitHostPort(address)
		return "type=tcp,port=" + port + ",bindaddr=" + host
	}
	return tcp(address), tcp(after(address))
}

// Power starts it, after Kill with what it remembers.
func (s *TPM) Power() {
	s.t.Helper()
	server, control := s.listen()
	s.process = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+s.state, "--server", server, "--ctrl", control,
		"--flags", "not-need-init,startup-clear")
	var said bytes.Buffer
	s.process.Stdout, s.process.Stderr = &said, &said
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	kind, address, _ := strings.Cut(s.Device, ":")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial(kind, address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			s.process.Process.Kill()
			s.process.Wait()
			s.t.Fatalf("swtpm does not listen: %v\n%s", err, said.String())
		}
	}
}

// Kill ends it as when the power fails.
func (s *TPM) Kill() {
	if s.process != nil {
		s.process.Process.Kill()
		s.process.Wait()
		s.process = nil
	}
	if path, ok := strings.CutPrefix(s.Device, "unix:"); ok {
		os.Remove(path)
	}
}

// Try runs one of tpm2-tools in Dir, and then frees what it left in the TPM,
// unless the name of a tool begins with "keep ".
func (s *TPM) Try(command string) (string, error) {
	args := strings.Fields(command)
	keep := args[0] == "keep"
	if keep {
		args = args[1:]
	}
	out, err := s.run(args)
	if !keep {
		for _, what := range []string{"-t", "-l", "-s"} {
			s.run([]string{"tpm2_flushcontext", what})
		}
	}
	return out, err
}

func (s *TPM) run(args []string) (string, error) {
	kind, address, _ := strings.Cut(s.Device, ":")
	tcti := "swtpm:path=" + address
	if kind == "tcp" {
		host, port, _ := net.SplitHostPort(address)
		tcti = "swtpm:host=" + host + ",port=" + port
	}
	c := exec.Command(args[0], args[1:]...)
	c.Dir = s.Dir
	c.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+tcti)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), err
}

// Tools runs commands of tpm2-tools, one a line, that must succeed.
func (s *TPM) Tools(lines string) {
	s.t.Helper()
	for line := range strings.Lines(lines) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		if _, err := s.Try(line); err != nil {
			s.t.Fatal(err)
		}
	}
}

// File returns the path of a file in Dir, and writes it if there is content.
func (s *TPM) File(name string, content []byte) string {
	s.t.Helper()
	path := filepath.Join(s.Dir, name)
	if content != nil {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	return path
}
