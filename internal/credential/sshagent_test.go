//go:build unix

package credential

import (
	"bytes"
	"context"
	"crypto"
	"encoding/pem"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// sshAgent starts an ssh-agent of OpenSSH and returns its socket.
func sshAgent(t *testing.T) string {
	t.Helper()
	program := tool(t, "ssh-agent", "openssh-client")
	socket := filepath.Join(t.TempDir(), "s")
	agent := exec.Command(program, "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Process.Kill(); agent.Wait() })
	for range 1000 {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return socket
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("ssh-agent does not listen")
	return ""
}

// sshAdd runs ssh-add.
func sshAdd(t *testing.T, socket string, key any, args ...string) {
	t.Helper()
	cmd := exec.Command(tool(t, "ssh-add", "openssh-client"), args...)
	if key != nil {
		block, err := ssh.MarshalPrivateKey(key, "a test")
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = bytes.NewReader(pem.EncodeToMemory(block))
		cmd.Args = append(cmd.Args, "-")
	}
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ssh-add %q: %v\n%s", args, err, out)
	}
}

func fingerprint(t *testing.T, key crypto.Signer) string {
	t.Helper()
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return ssh.FingerprintSHA256(public)
}

func openAgent(t *testing.T, c SSHAgent) *signingSource {
	t.Helper()
	c.ServiceAccount.Email, c.KeyID = robot, "key-1"
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	source, _, err := c.open(t.Context(), Env{Client: &exchange.Client{UserAgent: "gcemds/test"}})
	if err != nil {
		t.Fatal(err)
	}
	return source.(*signingSource)
}

func TestSSHAgent(t *testing.T) {
	socket := sshAgent(t)
	g := newGoogle(t)
	t.Setenv("SSH_AUTH_SOCK", socket)
	c := SSHAgent{Fingerprint: fingerprint(t, rsaKey())}
	c.TokenURI = g.URL + "/token"
	s := openAgent(t, c)
	mint := func() error {
		_, err := s.Mint(t.Context(), token.Request{Scopes: []string{exchange.CloudPlatform}})
		return err
	}
	if err := mint(); !isError(err, token.Misconfigured, "the ssh-agent has no key "+c.Fingerprint+"; it has no RSA key; load it with ssh-add, or unlock the agent with ssh-add -X") {
		t.Errorf("an empty agent: %v", err)
	}
	sshAdd(t, socket, otherKey())
	if err := mint(); !isError(err, token.Misconfigured, "its RSA keys are "+fingerprint(t, otherKey())) {
		t.Errorf("an agent with another key: %v", err)
	}
	sshAdd(t, socket, rsaKey())
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := mint(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got, err := s.Mint(t.Context(), token.Request{Audience: "https://app.example"}); err != nil || got.Value == "" {
		t.Errorf("ID token = %v, %v, want one", got, err)
	}

	// An agent that asks a person, where nobody can be asked.
	t.Setenv("DISPLAY", "")
	sshAdd(t, socket, nil, "-D")
	sshAdd(t, socket, rsaKey(), "-c")
	if err := mint(); !isError(err, token.Denied, "the ssh-agent does not sign: agent: failed to sign challenge") {
		t.Errorf("an agent that wants to be confirmed: %v", err)
	}

	s = openAgent(t, SSHAgent{Fingerprint: c.Fingerprint, Socket: socket + "x"})
	if err := mint(); !isError(err, token.Unavailable, "no ssh-agent: dial unix ") {
		t.Errorf("no agent: %v", err)
	}
	t.Setenv("SSH_AUTH_SOCK", "")
	if _, _, err := c.open(t.Context(), Env{}); err == nil || !strings.Contains(err.Error(), "there is no agent: set socket, or start gcemds with SSH_AUTH_SOCK") {
		t.Errorf("no socket: %v", err)
	}
}

// An agent that does not answer is not waited for.
func TestSSHAgentHangs(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(io.Discard, conn)
		}
	}()
	s := openAgent(t, SSHAgent{Fingerprint: fingerprint(t, rsaKey()), Socket: socket})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err = s.Mint(ctx, token.Request{Scopes: []string{exchange.CloudPlatform}})
	if took := time.Since(begin); !isError(err, token.Unavailable, "ssh-agent: context deadline exceeded") || took >= answerTime {
		t.Errorf("an agent that hangs: %v after %v", err, took)
	}
}
