package main

import (
	"bufio"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	maxLine  = 64 << 10 // bytes of a question
	parallel = 8        // signatures under way, each with a session of its own
)

// The two sides of the signer protocol (docs/reference/signer-protocol.md).
type (
	question struct {
		V      int    `json:"v"`
		Op     string `json:"op"`
		Alg    string `json:"alg"`
		Digest []byte `json:"digest"`
	}
	answer struct {
		Public    []byte   `json:"public,omitempty"`
		Signature []byte   `json:"signature,omitempty"`
		Error     *refusal `json:"error,omitempty"`
	}
)

// A refusal is an error of the protocol. Its code says who can mend it.
type refusal struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

const (
	denied        = "denied"        // a person has to act; nobody should try again before
	misconfigured = "misconfigured" // what was asked for is not there
	unavailable   = "unavailable"   // it may work later
	unsupported   = "unsupported"   // the question is not one for us
)

func (r *refusal) Error() string { return r.Message }

func refuse(code, format string, args ...any) *refusal {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// A signer signs SHA-256 digests; it may be asked concurrently.
type signer interface {
	crypto.Signer
	io.Closer
}

// A lazyKey is opened once, by the first who needs it. If that fails it stays so.
type lazyKey struct {
	open func() (signer, error)

	once   sync.Once
	signer signer
	err    error
}

func (k *lazyKey) get() (signer, error) {
	k.once.Do(func() { k.signer, k.err = k.open() })
	return k.signer, k.err
}

// Close closes the key if it is open, and keeps it from being opened.
func (k *lazyKey) Close() {
	k.once.Do(func() { k.err = refuse(unavailable, "gcemds-pkcs11 is ending") })
	if k.err == nil {
		k.signer.Close()
	}
}

// serve answers questions in their order until there are no more. The key is opened by the first that needs it. After
// a failure that a fresh process may not have it returns that failure; whoever asks starts it again.
func serve(in *bufio.Reader, out io.Writer, k *lazyKey) error {
	defer k.Close()
	answers := make(chan chan answer, parallel-1) // and the one that is waited for
	broken := make(chan error, 1)
	go func() {
		defer close(broken)
		for a := range answers {
			a := <-a
			line, err := json.Marshal(a)
			if err == nil {
				_, err = out.Write(append(line, '\n'))
			}
			if err == nil && a.Error != nil && (a.Error.Code == misconfigured || a.Error.Code == unavailable) {
				err = a.Error
			}
			if err != nil {
				broken <- err
				return
			}
		}
	}()
	lines := make(chan []byte)
	var tooLong error // when lines is closed
	done := make(chan struct{})
	defer close(done)
	go func() {
		defer close(lines)
		for {
			line, err := in.ReadSlice('\n')
			if errors.Is(err, bufio.ErrBufferFull) {
				tooLong = fmt.Errorf("a question is longer than %d bytes", maxLine)
				return
			}
			if err != nil && len(line) == 0 {
				return
			}
			select {
			case lines <- append([]byte{}, line...):
			case <-done:
				return
			}
		}
	}()
	for {
		select {
		case err := <-broken:
			return err
		case line, ok := <-lines:
			if !ok {
				close(answers)
				return errors.Join(<-broken, tooLong)
			}
			a := make(chan answer, 1)
			go func() { a <- reply(line, k) }()
			select {
			case answers <- a:
			case err := <-broken:
				return err
			}
		}
	}
}

// reply answers one question.
func reply(line []byte, k *lazyKey) answer {
	a, err := ask(line, k)
	if err == nil {
		return a
	}
	var r *refusal
	if !errors.As(err, &r) {
		r = refuse(unavailable, "%v", err)
	}
	return answer{Error: r}
}

func ask(line []byte, k *lazyKey) (answer, error) {
	var q question
	if err := json.Unmarshal(line, &q); err != nil {
		return answer{}, refuse(unsupported, "the question is not a line of JSON as the signer protocol has it")
	}
	switch {
	case q.V != 1:
		return answer{}, refuse(unsupported, "version %d of the signer protocol is not known here, only version 1", q.V)
	case q.Op == "public":
		key, err := k.get()
		if err != nil {
			return answer{}, err
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		return answer{Public: der}, err
	case q.Op != "sign":
		return answer{}, refuse(unsupported, "the operation %.40q is not known here", q.Op)
	case q.Alg != "RS256":
		return answer{}, refuse(unsupported, "the algorithm %.40q is not known here, only RS256", q.Alg)
	case len(q.Digest) != sha256.Size:
		return answer{}, refuse(unsupported, "the digest has %d bytes, that of SHA-256 has %d", len(q.Digest), sha256.Size)
	}
	key, err := k.get()
	if err != nil {
		return answer{}, err
	}
	signature, err := key.Sign(nil, q.Digest, crypto.SHA256)
	return answer{Signature: signature}, err
}
