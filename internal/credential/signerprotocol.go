package credential

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// The protocol of signers, as docs/reference/signer-protocol.md has it: a line of JSON
// asks, a line of JSON answers, in the order of the questions.
type (
	signerQuestion struct {
		V      int    `json:"v"`
		Op     string `json:"op"` // public or sign
		Alg    string `json:"alg,omitempty"`
		Digest []byte `json:"digest,omitempty"`
	}
	signerAnswer struct {
		Public    []byte   `json:"public"` // DER, SubjectPublicKeyInfo
		Signature []byte   `json:"signature"`
		Error     *refusal `json:"error"`
	}
	refusal struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
)

// refusals are the codes that an answer can have.
var refusals = map[string]token.Kind{
	"denied":        token.Denied, // from then on
	"misconfigured": token.Misconfigured,
	"throttled":     token.Throttled,
	"unavailable":   token.Unavailable,
	"unsupported":   token.Unsupported,
}

// The limits of a signer.
const (
	answerTime = 5 * time.Second // for one question
	maxAnswer  = 64 << 10        // bytes of one answer
	maxAsked   = 8               // questions without an answer at a time
	maxRounds  = 3               // that a question is asked, if signers die of it
	firstRest  = 100 * time.Millisecond
	longRest   = 30 * time.Second // before the next start, at most
)

var (
	errLongAnswer = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	errSlowAnswer = fmt.Errorf("no answer within %v", answerTime)
)

// An oracle answers questions. What check says of an answer is the error of
// ask. Close ends what runs for the oracle and waits for that; questions that
// come later are still answered, but nothing is left running after them.
type oracle interface {
	ask(ctx context.Context, q signerQuestion, check func(signerAnswer) error) error
	Close() error
}

func (q signerQuestion) line() []byte {
	line, err := json.Marshal(q)
	if err != nil {
		panic(err) // a struct of strings
	}
	return append(line, '\n')
}

// parseAnswer reads the first line of an answer. Its errors show nothing of it.
func parseAnswer(line []byte) (signerAnswer, error) {
	var a signerAnswer
	line, _, _ = bytes.Cut(bytes.TrimSpace(line), []byte("\n"))
	switch err := json.Unmarshal(line, &a); {
	case len(line) == 0:
		return a, errors.New("no answer")
	case err != nil:
		return a, errors.New("the answer is not a line of JSON as the signer protocol has it")
	}
	return a, nil
}

// A command is an oracle that runs a program for each question.
type command struct{ program }

func (c command) ask(ctx context.Context, q signerQuestion, check func(signerAnswer) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, errSlowAnswer)
	defer cancel()
	output, failed := c.run(ctx, q.line())
	a, err := parseAnswer(output)
	if err == nil && (failed == nil || a.Error != nil) {
		return check(a)
	}
	if failed != nil {
		err = failed
	}
	kind := token.Misconfigured
	if ctx.Err() != nil {
		kind = token.Unavailable
	}
	return &token.Error{Kind: kind, Err: err}
}

func (c command) Close() error { return nil }

// A line is an oracle at the other end of a connection: a process that stays,
// or a socket. It is connected when it is first asked, and again when it was
// lost, after rests that grow.
type line struct {
	dial func() (io.ReadWriteCloser, error)

	mu      sync.Mutex
	link    *link // nil: none
	rest    time.Duration
	next    time.Time // nobody dials before
	lost    error     // why
	asking  int
	closed  bool
	endings sync.WaitGroup // of links
}

func (l *line) ask(ctx context.Context, q signerQuestion, check func(signerAnswer) error) error {
	l.begin()
	defer l.end()
	for round := 1; ; round++ {
		k, err := l.connect(ctx)
		if err != nil {
			return err
		}
		a, err := k.ask(ctx, q)
		switch {
		case err == nil:
			if err = check(a); errors.Is(err, errMismatch) {
				l.drop(k, err) // perhaps answers and questions are out of step
			} else {
				l.worked(k)
			}
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		l.drop(k, err) // now, so that the next round does not find it
		if round == maxRounds || errors.Is(err, errSlowAnswer) {
			return &token.Error{Kind: token.Unavailable, Err: err}
		}
	}
}

func (l *line) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asking++
}

func (l *line) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asking--; l.asking == 0 && l.closed {
		l.hangUp()
	}
}

// Close implements oracle.
func (l *line) Close() error {
	l.mu.Lock()
	if l.closed = true; l.asking == 0 {
		l.hangUp()
	}
	l.mu.Unlock()
	l.endings.Wait()
	return nil
}

// hangUp ends the link, if there is one. Its caller holds the lock.
func (l *line) hangUp() {
	if l.link != nil {
		l.link.fail(errors.New("it is not needed any more"))
		l.link = nil
	}
}

// worked takes note that a link is good, unless it was dropped meanwhile.
func (l *line) worked(k *link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.link == k {
		l.rest, l.lost = 0, nil
	}
}

// drop takes note that a link has failed.
func (l *line) drop(k *link, err error) {
	k.fail(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.link == k {
		l.link = nil
		l.tire(k.err)
	}
}

// tire makes the next rest longer than the last. Its caller holds the lock.
func (l *line) tire(err error) {
	l.rest = min(max(2*l.rest, firstRest), longRest)
	l.next, l.lost = time.Now().Add(l.rest), err
}

// connect returns the link, dialled if need be. A rest that is longer than a
// question may take is an error at once.
func (l *line) connect(ctx context.Context) (*link, error) {
	for {
		l.mu.Lock()
		if l.link != nil {
			defer l.mu.Unlock()
			return l.link, nil
		}
		rest := time.Until(l.next)
		if rest <= 0 {
			defer l.mu.Unlock()
			conn, err := l.dial()
			if err != nil {
				l.tire(err)
				return nil, &token.Error{Kind: token.Unavailable, Err: err}
			}
			k := newLink(conn)
			l.link = k
			l.endings.Go(func() {
				err := k.read()
				l.drop(k, err)
				k.end()
			})
			return k, nil
		}
		lost := l.lost
		l.mu.Unlock()
		if rest > answerTime {
			return nil, &token.Error{Kind: token.Unavailable, Err: fmt.Errorf("%w (next try in %v)", lost, rest.Round(time.Second))}
		}
		if !exchange.Sleep(ctx, rest) {
			return nil, &token.Error{Kind: token.Unavailable, Err: lost}
		}
	}
}

// A link is one connection of a line.
type link struct {
	conn  io.ReadWriteCloser
	close sync.Once
	ended error // what closing it said

	mu     sync.Mutex   // of writing, so that asked has the order of the questions
	asked  chan *waiter // never full: who writes has a place in places
	places chan struct{}

	failing sync.Once
	failed  chan struct{}
	err     error // once failed is closed
}

type waiter struct {
	answer chan signerAnswer
	late   *time.Timer
}

func newLink(conn io.ReadWriteCloser) *link {
	return &link{
		conn: conn, failed: make(chan struct{}),
		asked: make(chan *waiter, maxAsked), places: make(chan struct{}, maxAsked),
	}
}

func (k *link) ask(ctx context.Context, q signerQuestion) (signerAnswer, error) {
	select {
	case k.places <- struct{}{}: // until the answer comes
	case <-k.failed:
		return signerAnswer{}, k.err
	case <-ctx.Done():
		return signerAnswer{}, context.Cause(ctx)
	}
	w := &waiter{answer: make(chan signerAnswer, 1), late: time.AfterFunc(answerTime, func() { k.fail(errSlowAnswer) })}
	k.mu.Lock()
	k.asked <- w
	k.conn.Write(q.line()) // if it fails, so does reading
	k.mu.Unlock()
	select {
	case a := <-w.answer:
		return a, nil
	case <-k.failed:
	case <-ctx.Done():
		return signerAnswer{}, context.Cause(ctx)
	}
	select {
	case a := <-w.answer: // it came just before
		return a, nil
	default:
		return signerAnswer{}, k.err
	}
}

// read hands out answers until there are no more.
func (k *link) read() error {
	r := bufio.NewReaderSize(k.conn, maxAnswer)
	for {
		data, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return errLongAnswer
		case err != nil:
			k.end()
			return k.ended
		}
		a, err := parseAnswer(data)
		if err != nil {
			return err
		}
		select {
		case w := <-k.asked:
			w.late.Stop()
			w.answer <- a
			<-k.places
		default:
			return errors.New("it answers what nobody asked")
		}
	}
}

// fail ends the link for that reason, unless it has ended. It does not wait.
func (k *link) fail(err error) {
	k.failing.Do(func() {
		k.err = err
		close(k.failed)
		go k.end()
	})
}

// end closes the connection and returns when that is done.
func (k *link) end() {
	k.close.Do(func() {
		if k.ended = k.conn.Close(); k.ended == nil {
			k.ended = errors.New("the connection was closed")
		}
	})
}

// dialSocket returns how to reach a signer at a Unix socket.
func dialSocket(path string) func() (io.ReadWriteCloser, error) {
	return func() (io.ReadWriteCloser, error) {
		return net.DialTimeout("unix", path, time.Second)
	}
}

// dialProgram returns how to start a signer that stays. What it is to know is
// written to it first.
func dialProgram(p program, first []byte) func() (io.ReadWriteCloser, error) {
	return func() (io.ReadWriteCloser, error) {
		proc, err := p.start()
		if err != nil {
			return nil, err
		}
		proc.Write(first) // if it fails, so does reading
		return proc, nil
	}
}
