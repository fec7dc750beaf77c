package credential

import (
	"bufio"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gcemds/gcemds/internal/token"
)

// answerTo is what an honest signer says.
func answerTo(q signerQuestion) map[string]any {
	if q.Op == "public" {
		der, err := x509.MarshalPKIXPublicKey(&rsaKey().PublicKey)
		if err != nil {
			panic(err)
		}
		return map[string]any{"public": der}
	}
	sig, err := rsa.SignPKCS1v15(nil, rsaKey(), crypto.SHA256, q.Digest)
	if err != nil {
		panic(err)
	}
	return map[string]any{"signature": sig}
}

func refusing(code string) map[string]any {
	return map[string]any{"error": map[string]string{"code": code, "message": "so it is"}}
}

// A world answers the questions that come over pipes. What answer returns is
// written as a line; nil: the connection is closed.
type world struct {
	answer func(n int, q signerQuestion) any // n counts questions

	mu    sync.Mutex
	asked int
	dials []time.Time
	open  atomic.Int64
}

func (w *world) dial() (io.ReadWriteCloser, error) {
	ours, theirs := net.Pipe()
	w.mu.Lock()
	w.dials = append(w.dials, time.Now())
	w.mu.Unlock()
	w.open.Add(1)
	go func() {
		defer w.open.Add(-1)
		defer theirs.Close()
		for in := bufio.NewScanner(theirs); in.Scan(); {
			var q signerQuestion
			if err := json.Unmarshal(in.Bytes(), &q); err != nil || q.V != 1 {
				panic(fmt.Sprintf("question %q: %v", in.Text(), err))
			}
			w.mu.Lock()
			w.asked++
			n := w.asked
			w.mu.Unlock()
			a := w.answer(n, q)
			if a == nil {
				return
			}
			line, ok := a.(string)
			if !ok {
				data, _ := json.Marshal(a)
				line = string(data) + "\n"
			}
			if _, err := io.WriteString(theirs, line); err != nil {
				return
			}
		}
	}()
	return ours, nil
}

func (w *world) questions() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

var hello = sha256.Sum256([]byte("hello"))

func check(s crypto.Signer) error {
	sig, err := s.Sign(nil, hello[:], crypto.SHA256)
	if err != nil {
		return err
	}
	return rsa.VerifyPKCS1v15(&rsaKey().PublicKey, crypto.SHA256, hello[:], sig)
}

func isError(err error, kind token.Kind, text string) bool {
	var e *token.Error
	return errors.As(err, &e) && e.Kind == kind && strings.Contains(err.Error(), text)
}

// One connection serves all who ask, and Close ends it.
func TestSignerLine(t *testing.T) {
	rsaKey()
	synctest.Test(t, func(t *testing.T) {
		w := &world{answer: func(_ int, q signerQuestion) any { return answerTo(q) }}
		s := newRemoteSigner(&line{dial: w.dial}, maxAsked)
		if s.Public() != nil || len(w.dials) > 0 {
			t.Errorf("a signer that nobody asked has a key or a connection")
		}
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if err := check(s); err != nil {
					t.Errorf("sign: %v", err)
				}
			})
		}
		all.Wait()
		if !rsaKey().PublicKey.Equal(s.Public()) {
			t.Errorf("Public() = %v, want the key that signs", s.Public())
		}
		s.Close()
		synctest.Wait()
		if len(w.dials) != 1 || w.open.Load() != 0 {
			t.Errorf("%d connections, %d open after Close, want one that is closed", len(w.dials), w.open.Load())
		}
		if err := check(s); err != nil {
			t.Errorf("sign after Close: %v, want a signature for those who have it in use", err)
		}
		synctest.Wait()
		if len(w.dials) != 2 || w.open.Load() != 0 {
			t.Errorf("%d connections, %d open after a late signature, want nothing left", len(w.dials), w.open.Load())
		}
	})
}

// A signer that dies in the middle is dialled again after a rest, and who asked
// does not notice.
func TestSignerDies(t *testing.T) {
	rsaKey()
	synctest.Test(t, func(t *testing.T) {
		w := &world{answer: func(n int, q signerQuestion) any {
			if n == 2 || n == 3 {
				return nil
			}
			return answerTo(q)
		}}
		s := newRemoteSigner(&line{dial: w.dial}, maxAsked)
		defer s.Close()
		begin := time.Now()
		if err := check(s); err != nil {
			t.Fatalf("sign: %v, want a signature at the third try", err)
		}
		var rests []time.Duration
		for _, d := range w.dials {
			rests = append(rests, d.Sub(begin))
		}
		if want := []time.Duration{0, firstRest, 3 * firstRest}; !cmp.Equal(rests, want) {
			t.Errorf("dialled after %v, want %v: a rest that grows", rests, want)
		}
		if err := check(s); err != nil || len(w.dials) != 3 {
			t.Errorf("sign: %v with %d connections, want the one that works to stay", err, len(w.dials))
		}
	})
}

// A signer that dies of each question is asked less and less.
func TestSignerDiesAlways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{answer: func(int, signerQuestion) any { return nil }}
		s := newRemoteSigner(&line{dial: w.dial}, maxAsked)
		defer s.Close()
		for range 60 {
			if err := check(s); !isError(err, token.Unavailable, "the connection was closed") {
				t.Fatalf("sign = %v, want an error that it is not available", err)
			}
			time.Sleep(10 * time.Second)
		}
		if n := len(w.dials); n < 15 || n > 35 {
			t.Errorf("%d connections in ten minutes, want one in 30 s after a while", n)
		}
		if err := check(s); !isError(err, token.Unavailable, "next try in") {
			t.Errorf("sign = %v, want to hear when it is tried again", err)
		}
	})
}

func TestSignerAnswers(t *testing.T) {
	rsaKey()
	other, err := x509.MarshalPKIXPublicKey(&otherKey().PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		answer func(n int, q signerQuestion) any
		kind   token.Kind
		text   string
	}{
		"denied":        {func(int, signerQuestion) any { return refusing("denied") }, token.Denied, "so it is (not tried again before its settings or the PIN change, or gcemds is restarted)"},
		"misconfigured": {func(int, signerQuestion) any { return refusing("misconfigured") }, token.Misconfigured, "so it is"},
		"throttled":     {func(int, signerQuestion) any { return refusing("throttled") }, token.Throttled, "so it is"},
		"unavailable":   {func(int, signerQuestion) any { return refusing("unavailable") }, token.Unavailable, "so it is"},
		"unsupported":   {func(int, signerQuestion) any { return refusing("unsupported") }, token.Unsupported, "so it is"},
		"unknown code":  {func(int, signerQuestion) any { return refusing("tea") }, token.Unavailable, "so it is"},
		"no JSON":       {func(int, signerQuestion) any { return "geheim\n" }, token.Unavailable, "not a line of JSON"},
		"no key":        {func(int, signerQuestion) any { return "{}\n" }, token.Misconfigured, "not a SubjectPublicKeyInfo"},
		"empty line":    {func(int, signerQuestion) any { return "\n" }, token.Unavailable, "no answer"},
		"too long":      {func(int, signerQuestion) any { return strings.Repeat("x", maxAnswer+1) }, token.Unavailable, "longer than 65536 bytes"},
		"too much":      {func(int, signerQuestion) any { return "{}\n{}\n" }, token.Misconfigured, ""},
		"silence":       {func(int, signerQuestion) any { time.Sleep(time.Minute); return nil }, token.Unavailable, "no answer within 5s"},
		"another key": {func(_ int, q signerQuestion) any {
			if q.Op == "public" {
				return map[string]any{"public": other}
			}
			return answerTo(q)
		}, token.Misconfigured, "does not fit the public key"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{answer: c.answer}
				s := newRemoteSigner(&line{dial: w.dial}, maxAsked)
				begin := time.Now()
				err := check(s)
				if !isError(err, c.kind, c.text) || strings.Contains(err.Error(), "geheim") {
					t.Errorf("sign = %v, want an error of kind %v with %q", err, c.kind, c.text)
				}
				if took := time.Since(begin); took > answerTime {
					t.Errorf("it took %v", took)
				}
				asked := w.questions()
				if err := check(s); c.kind == token.Denied && (!isError(err, token.Denied, c.text) || w.questions() != asked) {
					t.Errorf("a second try after denied: %v, asked %d times, want the same and no question", err, w.questions())
				}
				s.Close()
				time.Sleep(2 * time.Minute)
				if w.open.Load() != 0 {
					t.Error("a connection is left open")
				}
			})
		})
	}
}

var otherKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(nil, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// A key that is replaced behind the signer's back is learned anew.
func TestSignerKeyChanges(t *testing.T) {
	old, err := x509.MarshalPKIXPublicKey(&otherKey().PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := &world{answer: func(n int, q signerQuestion) any {
			if n == 1 {
				return map[string]any{"public": old}
			}
			return answerTo(q)
		}}
		s := newRemoteSigner(&line{dial: w.dial}, maxAsked)
		defer s.Close()
		if err := check(s); !isError(err, token.Misconfigured, "does not fit") {
			t.Errorf("sign with a new key = %v, want the mismatch", err)
		}
		if err := check(s); err != nil {
			t.Errorf("sign after that: %v, want the new key to be known", err)
		}
	})
}

// A caller that goes away gets its error at once; the others their answers.
func TestSignerCallerLeaves(t *testing.T) {
	rsaKey()
	synctest.Test(t, func(t *testing.T) {
		w := &world{answer: func(n int, q signerQuestion) any {
			time.Sleep(time.Second)
			return answerTo(q)
		}}
		s := newRemoteSigner(&line{dial: w.dial}, maxAsked)
		defer s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		begin := time.Now()
		if err := check(within(ctx, s)); !errors.Is(err, context.DeadlineExceeded) || !isError(err, token.Unavailable, "did not answer in time") || time.Since(begin) != 1500*time.Millisecond {
			t.Errorf("sign = %v after %v, want what ended the call when it did", err, time.Since(begin))
		}
		if err := check(s); err != nil || len(w.dials) != 1 {
			t.Errorf("sign = %v with %d connections, want the answers to stay in step", err, len(w.dials))
		}
	})
}

func TestSignerOnlyRS256(t *testing.T) {
	s := newRemoteSigner(&line{}, 1)
	for _, opts := range []crypto.SignerOpts{crypto.SHA512, &rsa.PSSOptions{Hash: crypto.SHA256}} {
		if _, err := s.Sign(nil, make([]byte, 32), opts); !isError(err, token.Unsupported, "RS256 only") {
			t.Errorf("sign with %T = %v, want a refusal", opts, err)
		}
	}
}

func TestSignerConfig(t *testing.T) {
	account := ServiceAccount{Email: robot}
	for _, c := range []struct {
		config kind
		want   string
	}{
		{&Signer{ServiceAccount: account, Socket: "/run/sign.sock"}, ""},
		{&Signer{ServiceAccount: account, Command: []string{"kms-sign", "-k", "robot"}, Env: []string{"VAULT_ADDR"}}, ""},
		{&Signer{ServiceAccount: account, Command: []string{"bin/kms-sign"}}, "neither a whole path nor the name of a program in PATH"},
		{&Signer{ServiceAccount: account, Daemon: []string{"../kms-sign"}}, "neither a whole path nor the name of a program in PATH"},
		{&Signer{ServiceAccount: account, Daemon: []string{""}}, "neither a whole path"},
		{&Signer{ServiceAccount: account, Command: []string{"a"}, Env: []string{"TOKEN=geheim"}}, "without values"},
		{&Signer{ServiceAccount: account, Socket: "/s", Env: []string{"A"}}, "not for a socket"},
		{&Signer{ServiceAccount: account}, "exactly one of command, daemon and socket"},
		{&Signer{ServiceAccount: account, Command: []string{"a"}, Daemon: []string{"a"}}, "exactly one of"},
		{&Signer{Command: []string{"a"}}, "email is missing"},
		{&SSHAgent{ServiceAccount: account, Fingerprint: "SHA256:" + strings.Repeat("x", 43)}, ""},
		{&SSHAgent{ServiceAccount: account, Fingerprint: "MD5:00:11"}, "SHA256:… as ssh-add -l lists it"},
		{&PKCS11{ServiceAccount: account, Module: "/m.so", URI: "pkcs11:token=mds", PIN: "file:pin"}, ""},
		{&PKCS11{ServiceAccount: account, URI: "pkcs11:token=mds?module-path=/m.so"}, ""},
		{&PKCS11{ServiceAccount: account, URI: "pkcs11:token=mds"}, "module is missing"},
		{&PKCS11{ServiceAccount: account, Module: "/m.so", URI: "mds"}, "uri is missing"},
		{&PKCS11{ServiceAccount: account, Module: "/m.so", URI: "pkcs11:?pin-value=geheim"}, "must not have the PIN"},
		{&PKCS11{ServiceAccount: account, Module: "/m.so", URI: "pkcs11:", PIN: "geheim"}, "a secret is given by reference"},
	} {
		err := c.config.validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("validate(%+v) = %v, want %q", c.config, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("validate shows a secret: %v", err)
		}
	}
	if got := (&PKCS11{PIN: "file:pin"}).files(); !cmp.Equal(got, []string{"pin"}) {
		t.Errorf("files of a PIN = %q, want its file, so that a new PIN is seen", got)
	}
	if _, _, err := (&Signer{ServiceAccount: account, Command: []string{"no-such-program"}}).open(t.Context(), Env{}); err == nil {
		t.Error("a program that does not exist can be opened")
	}
}

// signerVariable makes the test program a signer. It says how.
const signerVariable = "GCEMDS_TEST_SIGNER"

// TestSignerProgram is no test but the signer that others start.
func TestSignerProgram(t *testing.T) {
	how := os.Getenv(signerVariable)
	if how == "" {
		t.Skip("it is for other tests")
	}
	defer os.Exit(0) // go test must not add to the output
	in := bufio.NewScanner(os.Stdin)
	for n := 1; in.Scan(); n++ {
		var q signerQuestion
		if json.Unmarshal(in.Bytes(), &q) != nil {
			continue
		}
		var a any
		switch how {
		case "honest":
			a = answerTo(q)
		case "environment":
			a = map[string]any{"error": map[string]string{"code": "misconfigured", "message": strings.Join(os.Environ(), " ")}}
		case "denied":
			f, err := os.OpenFile(filepath.Join(os.Getenv("HOME"), "tries"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				panic(err)
			}
			f.WriteString(".")
			f.Close()
			a = refusing(how)
		case "crash":
			fmt.Fprintln(os.Stderr, "the card was eaten\nya29.geheim")
			os.Exit(3)
		case "flood":
			for {
				os.Stdout.WriteString("x")
			}
		case "sleep":
			time.Sleep(time.Hour)
		}
		json.NewEncoder(os.Stdout).Encode(a)
	}
}

// programSigner opens a source of the test program; its key is in the file
// that rsaKey reads in the other process.
func programSigner(t *testing.T, how string, daemon bool) *remoteSigner {
	t.Helper()
	t.Setenv(signerVariable, how)
	t.Setenv("GCEMDS_TEST_KEY", sharedKey(t))
	t.Setenv("GCEMDS_TEST_SECRET", "geheim")
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	c := &Signer{ServiceAccount: ServiceAccount{Email: robot}, Env: []string{signerVariable, "GCEMDS_TEST_KEY", "GORACE"}}
	argv := []string{os.Args[0], "-test.run=^TestSignerProgram$"}
	if daemon {
		c.Daemon = argv
	} else {
		c.Command = argv
	}
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	source, id, err := c.open(t.Context(), Env{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "signer " + filepath.Base(os.Args[0]); id.Steps[0] != want {
		t.Errorf("the first step is %q, want %q", id.Steps[0], want)
	}
	t.Cleanup(func() { source.(io.Closer).Close() })
	return source.(*signingSource).signer.(*remoteSigner)
}

func sharedKey(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, []byte(pemOf(t, rsaKey())), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSignerCommand(t *testing.T) {
	s := programSigner(t, "honest", false)
	for range 3 {
		if err := check(s); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSignerDaemon(t *testing.T) {
	s := programSigner(t, "honest", true)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if err := check(s); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	proc := s.oracle.(*line).link.conn.(*process)
	s.Close()
	if state := proc.cmd.ProcessState; state == nil || !state.Success() {
		t.Errorf("after Close the process is %v, want that it ended well", state)
	}
}

// A program sees only the variables it is given.
func TestSignerEnvironment(t *testing.T) {
	t.Setenv("PATH", "/bin") // what it says of it is cut off where it is long
	err := check(programSigner(t, "environment", false))
	if err == nil || !strings.Contains(err.Error(), signerVariable+"=environment") || strings.Contains(err.Error(), "geheim") {
		t.Errorf("the environment of a signer is %v, want what it is given and no more", err)
	}
}

// Nobody who waits tries a PIN that was wrong.
func TestSignerDeniedOnce(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("HOME is another variable there")
	}
	t.Setenv("HOME", t.TempDir())
	s := programSigner(t, "denied", false)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := check(s); !isError(err, token.Denied, "so it is") {
				t.Errorf("sign = %v, want denied", err)
			}
		})
	}
	all.Wait()
	if tries, err := os.ReadFile(filepath.Join(os.Getenv("HOME"), "tries")); string(tries) != "." {
		t.Errorf("the program was asked %d times (%v), want once", len(tries), err)
	}
}

func TestSignerPrograms(t *testing.T) {
	for _, c := range []struct {
		how, command, daemon string
	}{
		{"crash", ": exit status 3: [redacted]", " ended: exit status 3: [redacted]"},
		{"flood", "longer than 65536 bytes", "longer than 65536 bytes"},
	} {
		t.Run(c.how, func(t *testing.T) {
			if err := check(programSigner(t, c.how, false)); !isError(err, token.Misconfigured, c.command) {
				t.Errorf("a command that is %s: %v, want %q", c.how, err, c.command)
			}
			if err := check(programSigner(t, c.how, true)); !isError(err, token.Unavailable, c.daemon) {
				t.Errorf("a daemon that is %s: %v, want %q", c.how, err, c.daemon)
			}
		})
	}
}

// A program that hangs is killed, not waited for.
func TestSignerHangs(t *testing.T) {
	for _, daemon := range []bool{false, true} {
		s := programSigner(t, "sleep", daemon)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		begin := time.Now()
		if err := check(within(ctx, s)); err == nil || time.Since(begin) > 3*time.Second {
			t.Errorf("a signature of one that hangs: %v after %v", err, time.Since(begin))
		}
		begin = time.Now()
		s.Close()
		if took := time.Since(begin); took > farewell+3*time.Second {
			t.Errorf("Close took %v", took)
		}
	}
}

// A signer at a socket may come and go.
func TestSignerSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	w := &world{answer: func(_ int, q signerQuestion) any { return answerTo(q) }}
	c := &Signer{ServiceAccount: ServiceAccount{Email: robot}, Socket: path}
	source, _, err := c.open(t.Context(), Env{})
	if err != nil {
		t.Fatal(err)
	}
	s := source.(*signingSource).signer
	if err := check(s); !isError(err, token.Unavailable, path) {
		t.Errorf("nobody listens: %v, want an error that names the socket", err)
	}
	for range 2 {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			pipe, _ := w.dial()
			go func() { io.Copy(pipe, conn); pipe.Close() }()
			io.Copy(conn, pipe)
			conn.Close()
		}()
		if err := check(s); err != nil {
			t.Error(err)
		}
		l.Close()
		source.(io.Closer).Close()
	}
}

// Of what a program complains about, a line is enough; of much, two.
func TestTail(t *testing.T) {
	for _, c := range []struct {
		said []string
		want string
	}{
		{nil, "EOF"},
		{[]string{"\n"}, "EOF"},
		{[]string{"warning: old\nno ", "card\n"}, "EOF: no card"},
		{[]string{"SIGSEGV: segmentation violation\n" + strings.Repeat("goroutine 1\n", 1000), "gs 0x0\n"}, "EOF: SIGSEGV: segmentation violation … gs 0x0"},
		{append([]string{"panic: x\n"}, strings.Split(strings.Repeat("y\n", 9000)+"end", "y")...), "EOF: panic: x … end"},
	} {
		var complaints tail
		for _, said := range c.said {
			io.WriteString(&complaints, said)
		}
		if got := complaints.explain(io.EOF); got.Error() != c.want || len(complaints.first)+len(complaints.text) > 2*maxTail {
			t.Errorf("explained as %q, keeping %d bytes; want %q", got, len(complaints.first)+len(complaints.text), c.want)
		}
	}
}

func FuzzSignerAnswer(f *testing.F) {
	for _, line := range []string{`{"public":"AAAA"}`, `{"signature":"AAAA"}`, `{"error":{"code":"denied","message":"no"}}`, "{}\n{}", "null", "[]", " \n", `{"error":null}`} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := parseAnswer(data); err != nil && len(data) > 16 && strings.Contains(err.Error(), string(data)) {
			t.Errorf("the error shows the answer: %v", err)
		}
	})
}

// An answer that comes with the end of its link does not hide why that ended,
// nor does it make the next rest short.
func TestAnswerAndEnd(t *testing.T) {
	l := &line{dial: func() (io.ReadWriteCloser, error) {
		near, far := net.Pipe()
		go io.Copy(io.Discard, far)
		return near, nil
	}}
	defer l.Close()
	k, err := l.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end := errors.New("it has ended")
	l.drop(k, end)
	l.worked(k)
	if l.rest != firstRest || l.lost != end {
		t.Errorf("after the end the rest is %v because of %v, want %v because it has ended", l.rest, l.lost, firstRest)
	}
	if k, err = l.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.worked(k)
	if l.rest != 0 || l.lost != nil {
		t.Errorf("after an answer of the next link the rest is %v because of %v, want none", l.rest, l.lost)
	}
}
