package credential

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// A Signer is a service account whose key another program holds, which signs
// when it is asked (docs/reference/signer-protocol.md). Exactly one of Command, Daemon
// and Socket is set.
type Signer struct {
	ServiceAccount `yaml:",inline"`

	Command []string `yaml:"command,omitempty"`            // a program and its arguments, run for each signature
	Daemon  []string `yaml:"daemon,omitempty"`             // the same, but it stays and is asked again
	Socket  string   `yaml:"socket,omitempty" is:"socket"` // a Unix socket where somebody answers

	// Env lists the variables of gcemds' environment that the program gets,
	// besides PATH, HOME and the like.
	Env []string `yaml:"env,omitempty"`
}

func (c *Signer) validate() error {
	faults := c.faults()
	set := 0
	for _, argv := range [][]string{c.Command, c.Daemon} {
		if len(argv) > 0 {
			set++
			faults = append(faults, program{argv, c.Env}.faults("the first word of the command")...)
		}
	}
	if c.Socket != "" {
		set++
		if len(c.Env) > 0 {
			faults = append(faults, errors.New("env is for a program that gcemds starts, not for a socket"))
		}
	}
	if set != 1 {
		faults = append(faults, errors.New("exactly one of command, daemon and socket says who signs"))
	}
	return errors.Join(faults...)
}

func (c *Signer) files() []string { return nil }

func (c *Signer) open(_ context.Context, env Env) (token.Source, Identity, error) {
	if c.Socket != "" {
		return c.source("signer "+c.Socket, newRemoteSigner(&line{dial: dialSocket(c.Socket)}, maxAsked), env)
	}
	p := program{append(c.Command, c.Daemon...), c.Env} // one of them
	if err := p.find(); err != nil {
		return nil, Identity{}, err
	}
	signer := newRemoteSigner(command{p}, 1)
	if len(c.Daemon) > 0 {
		signer = newRemoteSigner(&line{dial: dialProgram(p, nil)}, maxAsked)
	}
	return c.source("signer "+p.name(), signer, env)
}

// A remoteSigner signs by asking an oracle, and believes nothing: a signature
// that does not fit the public key is an error, not a token that Google
// refuses. It asks for the key when it first signs, so that opening a source
// starts nothing.
//
// What was denied stays denied, since a wrong PIN that is tried again locks
// the token: only a new remoteSigner asks again, so who reloads keeps this one.
type remoteSigner struct {
	oracle oracle
	turns  chan struct{} // a place for each question at a time

	mu     sync.Mutex
	public *rsa.PublicKey // nil: not known yet
	denied error
}

// newRemoteSigner returns a signer that asks that many questions at a time.
// With one, a wrong PIN is not tried by several who wait.
func newRemoteSigner(o oracle, parallel int) *remoteSigner {
	return &remoteSigner{oracle: o, turns: make(chan struct{}, parallel)}
}

var errMismatch = errors.New("the signature does not fit the public key that the signer gave")

// within returns the signer for one call, which ends with ctx.
func (s *remoteSigner) within(ctx context.Context) crypto.Signer { return boundSigner{s, ctx} }

// Public returns the key, or nil if it is not known yet.
func (s *remoteSigner) Public() crypto.PublicKey {
	if public, err := s.known(); public != nil && err == nil {
		return public
	}
	return nil
}

// Sign implements crypto.Signer for SHA-256 and PKCS #1 v1.5.
func (s *remoteSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.sign(context.Background(), digest, opts)
}

func (s *remoteSigner) Close() error { return s.oracle.Close() }

type boundSigner struct {
	*remoteSigner
	ctx context.Context
}

func (s boundSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.sign(s.ctx, digest, opts)
}

func (s *remoteSigner) sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	if _, pss := opts.(*rsa.PSSOptions); pss || opts.HashFunc() != crypto.SHA256 {
		return nil, &token.Error{Kind: token.Unsupported, Err: errors.New("this signer knows RS256 only")}
	}
	defer func() {
		if err != nil && err == context.Cause(ctx) {
			err = &token.Error{Kind: token.Unavailable, Err: fmt.Errorf("the signer did not answer in time: %w", err)}
		}
	}()
	public, err := s.known()
	if err == nil && public == nil {
		public, err = s.askPublic(ctx)
	}
	if err != nil {
		return nil, err
	}
	q := signerQuestion{V: 1, Op: "sign", Alg: "RS256", Digest: digest}
	err = s.ask(ctx, q, func(a signerAnswer) error {
		signature = a.Signature
		if rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, a.Signature) != nil {
			s.learn(nil) // the key may be another one now
			return &token.Error{Kind: token.Misconfigured, Err: errMismatch}
		}
		return nil
	})
	return signature, err
}

func (s *remoteSigner) askPublic(ctx context.Context) (public *rsa.PublicKey, err error) {
	err = s.ask(ctx, signerQuestion{V: 1, Op: "public"}, func(a signerAnswer) error {
		key, err := x509.ParsePKIXPublicKey(a.Public)
		if err != nil {
			return &token.Error{Kind: token.Misconfigured, Err: errors.New("the public key is not a SubjectPublicKeyInfo in DER")}
		}
		if public, _ = key.(*rsa.PublicKey); public == nil {
			return &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("the key is a %T, but Google takes RSA keys only (RS256)", key)}
		}
		s.learn(public)
		return nil
	})
	return public, err
}

// ask asks the oracle, unless that was denied before.
func (s *remoteSigner) ask(ctx context.Context, q signerQuestion, check func(signerAnswer) error) error {
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if _, err := s.known(); err != nil { // while we waited for our turn
		return err
	}
	return s.oracle.ask(ctx, q, func(a signerAnswer) error {
		if a.Error == nil {
			return check(a)
		}
		kind := refusals[a.Error.Code] // of one that we do not know: unavailable
		err := &token.Error{Kind: kind, Err: errors.New(exchange.Redact(a.Error.Message))}
		if kind == token.Denied {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.denied = &token.Error{Kind: token.Denied, Err: fmt.Errorf("%w (not tried again before its settings or the PIN change, or gcemds is restarted)", err.Err)}
			return s.denied
		}
		return err
	})
}

func (s *remoteSigner) known() (*rsa.PublicKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.public, s.denied
}

func (s *remoteSigner) learn(public *rsa.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.public = public
}
