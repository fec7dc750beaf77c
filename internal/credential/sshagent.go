package credential

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/gcemds/gcemds/internal/token"
)

// An SSHAgent is a service account whose key an ssh-agent holds: one of
// OpenSSH, of a smart card, of a TPM, or one that is forwarded.
type SSHAgent struct {
	ServiceAccount `yaml:",inline"`

	Fingerprint string `yaml:"fingerprint"` // SHA256:…, as ssh-add -l lists it

	// Socket is where the agent listens; default $SSH_AUTH_SOCK.
	Socket string `yaml:"socket,omitempty" is:"socket"`
}

const fingerprintPrefix = "SHA256:"

func (c *SSHAgent) validate() error {
	faults := c.faults()
	if hash, ok := strings.CutPrefix(c.Fingerprint, fingerprintPrefix); !ok || len(hash) != 43 {
		faults = append(faults, errors.New("fingerprint is missing: of the key, SHA256:… as ssh-add -l lists it"))
	}
	return errors.Join(faults...)
}

func (c *SSHAgent) files() []string { return nil }

func (c *SSHAgent) open(_ context.Context, env Env) (token.Source, Identity, error) {
	const variable = "SSH_AUTH_SOCK"
	socket := c.Socket
	if socket == "" {
		if socket = os.Getenv(variable); socket == "" {
			return nil, Identity{}, errors.New("there is no agent: set socket, or start gcemds with " + variable)
		}
	}
	return c.source("ssh-agent key "+c.Fingerprint, agentSigner{context.Background(), socket, c.Fingerprint}, env)
}

// An agentSigner asks an ssh-agent, which hashes itself: it signs messages
// (crypto.MessageSigner). Each signature has its own connection, so an agent
// may come and go.
type agentSigner struct {
	ctx                 context.Context
	socket, fingerprint string
}

func (s agentSigner) within(ctx context.Context) crypto.Signer {
	s.ctx = ctx
	return s
}

// Public returns nil: the key is known to the agent.
func (s agentSigner) Public() crypto.PublicKey { return nil }

// Sign refuses: an agent signs no digests.
func (s agentSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("an ssh-agent signs messages, not digests")
}

// SignMessage implements crypto.MessageSigner for RS256.
func (s agentSigner) SignMessage(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if _, pss := opts.(*rsa.PSSOptions); pss || opts.HashFunc() != crypto.SHA256 {
		return nil, errors.New("only RS256 is asked of an ssh-agent")
	}
	ctx, cancel := context.WithTimeoutCause(s.ctx, answerTime, errSlowAnswer)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", s.socket)
	if err != nil {
		return nil, &token.Error{Kind: token.Unavailable, Err: fmt.Errorf("no ssh-agent: %w", err)}
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()

	client := agent.NewClient(conn)
	key, public, err := s.find(client)
	if err != nil {
		return nil, failed(ctx, err)
	}
	sig, err := client.SignWithFlags(key, message, agent.SignatureFlagRsaSha256)
	if err != nil {
		return nil, failed(ctx, &token.Error{Kind: token.Denied, Err: fmt.Errorf("the ssh-agent does not sign: %w", err)})
	}
	sum := sha256.Sum256(message)
	if sig.Format != ssh.KeyAlgoRSASHA256 || rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], sig.Blob) != nil {
		return nil, fmt.Errorf("the ssh-agent answered with a signature of the form %.40q that is not RS256 of this key; is it an old one?", sig.Format)
	}
	return sig.Blob, nil
}

// failed is err, or what ended the call.
func failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &token.Error{Kind: token.Unavailable, Err: fmt.Errorf("ssh-agent: %w", context.Cause(ctx))}
	}
	return err
}

// find returns the key of the fingerprint.
func (s agentSigner) find(client agent.Agent) (ssh.PublicKey, *rsa.PublicKey, error) {
	keys, err := client.List()
	if err != nil {
		return nil, nil, &token.Error{Kind: token.Unavailable, Err: fmt.Errorf("the ssh-agent does not list its keys: %w", err)}
	}
	others := []string{}
	for _, k := range keys {
		fingerprint := ssh.FingerprintSHA256(k)
		if fingerprint != s.fingerprint {
			if k.Type() == ssh.KeyAlgoRSA {
				others = append(others, fingerprint)
			}
			continue
		}
		parsed, err := ssh.ParsePublicKey(k.Blob)
		if err != nil {
			return nil, nil, fmt.Errorf("the key %s of the ssh-agent cannot be read: %w", fingerprint, err)
		}
		if c, ok := parsed.(ssh.CryptoPublicKey); ok {
			if public, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok {
				return k, public, nil
			}
		}
		return nil, nil, fmt.Errorf("the key %s is of the type %.40q, but Google takes RSA keys only (RS256)", fingerprint, k.Type())
	}
	has := "it has no RSA key; load it with ssh-add, or unlock the agent with ssh-add -X"
	if len(others) > 0 {
		has = "its RSA keys are " + strings.Join(others[:min(len(others), 5)], ", ")
	}
	return nil, nil, &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("the ssh-agent has no key %s; %s", s.fingerprint, has)}
}
