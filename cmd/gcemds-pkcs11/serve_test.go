package main

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// A softKey signs slowly, the first the slowest, and counts.
type softKey struct {
	*rsa.PrivateKey
	err                  error
	asked, most, running atomic.Int32
	closed               atomic.Bool
}

func (k *softKey) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	n := k.running.Add(1)
	defer k.running.Add(-1)
	for most := k.most.Load(); n > most && !k.most.CompareAndSwap(most, n); most = k.most.Load() {
	}
	time.Sleep(max(0, 20*time.Millisecond-time.Duration(k.asked.Add(1))*time.Millisecond))
	if k.err != nil {
		return nil, k.err
	}
	return k.PrivateKey.Sign(r, digest, o)
}

func (k *softKey) Close() error {
	k.closed.Store(true)
	return nil
}

func questionLine(q question) string {
	data, _ := json.Marshal(q)
	return string(data) + "\n"
}

func answers(t *testing.T, output string) (list []answer) {
	t.Helper()
	for line := range strings.Lines(output) {
		var a answer
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatalf("answer %q: %v", line, err)
		}
		list = append(list, a)
	}
	return list
}

// Questions are answered side by side, in their order.
func TestServe(t *testing.T) {
	key := &softKey{PrivateKey: rsaKey()}
	var in, out bytes.Buffer
	const n = 50
	for i := range n {
		digest := sha256.Sum256([]byte{byte(i)})
		in.WriteString(questionLine(question{V: 1, Op: "sign", Alg: "RS256", Digest: digest[:]}))
	}
	opened := 0
	err := serve(bufio.NewReader(&in), &out, &lazyKey{open: func() (signer, error) { opened++; return key, nil }})
	if err != nil || opened != 1 || !key.closed.Load() {
		t.Errorf("serve = %v, opened %d times, closed %v, want one key that is closed at the end", err, opened, key.closed.Load())
	}
	for i, a := range answers(t, out.String()) {
		digest := sha256.Sum256([]byte{byte(i)})
		if err := rsa.VerifyPKCS1v15(&rsaKey().PublicKey, crypto.SHA256, digest[:], a.Signature); err != nil {
			t.Errorf("answer %d does not fit its question: %v", i, err)
		}
	}
	if n := strings.Count(out.String(), "\n"); n != 50 {
		t.Errorf("%d answers to 50 questions", n)
	}
	if most := key.most.Load(); most < 2 || most > parallel+1 {
		t.Errorf("%d signatures at a time, want more than one and about %d", most, parallel)
	}
}

func TestServeRefuses(t *testing.T) {
	digest := make([]byte, sha256.Size)
	for _, c := range []struct{ line, want string }{
		{"hello\n", "not a line of JSON"},
		{questionLine(question{V: 2, Op: "public"}), "version 2"},
		{questionLine(question{V: 1, Op: "decrypt"}), `operation "decrypt"`},
		{questionLine(question{V: 1, Op: "sign", Alg: "PS256", Digest: digest}), `algorithm "PS256"`},
		{questionLine(question{V: 1, Op: "sign", Alg: "RS256", Digest: digest[1:]}), "31 bytes"},
	} {
		var out bytes.Buffer
		opened := false
		err := serve(bufio.NewReader(strings.NewReader(c.line+c.line)), &out, &lazyKey{open: func() (signer, error) {
			opened = true
			return nil, errors.New("no")
		}})
		list := answers(t, out.String())
		if err != nil || opened || len(list) != 2 || list[1].Error.Code != unsupported || !strings.Contains(list[1].Error.Message, c.want) {
			t.Errorf("%q: %s (%v, opened %v), want two refusals with %q and no key opened", c.line, &out, err, opened, c.want)
		}
	}
}

// A key is opened once, whatever comes of it; only what a new process may mend ends this one.
func TestServeFails(t *testing.T) {
	ask := questionLine(question{V: 1, Op: "public"})
	for _, code := range []string{denied, misconfigured, unavailable} {
		opened := 0
		in, feed := io.Pipe()
		go func() {
			defer feed.Close()
			for range 100 {
				if _, err := io.WriteString(feed, ask); err != nil {
					return
				}
			}
		}()
		var out bytes.Buffer
		err := serve(bufio.NewReader(in), &out, &lazyKey{open: func() (signer, error) { opened++; return nil, refuse(code, "so it is") }})
		in.Close()
		list := answers(t, out.String())
		if opened != 1 || list[0].Error.Code != code || list[0].Error.Message != "so it is" {
			t.Errorf("%s: opened %d times, answered %s, want once", code, opened, &out)
		}
		if code == denied && (err != nil || len(list) != 100) || code != denied && err == nil {
			t.Errorf("%s: ends with %v after %d answers", code, err, len(list))
		}
	}
	var out bytes.Buffer
	k := &softKey{PrivateKey: rsaKey(), err: errors.New("the card is gone")}
	line := questionLine(question{V: 1, Op: "sign", Alg: "RS256", Digest: make([]byte, sha256.Size)})
	if err := serve(bufio.NewReader(strings.NewReader(line)), &out, &lazyKey{open: func() (signer, error) { return k, nil }}); err == nil || !k.closed.Load() {
		t.Errorf("a key that fails: %v, want the end of the process", err)
	}
	if a := answers(t, out.String()); a[0].Error.Code != unavailable || a[0].Error.Message != "the card is gone" {
		t.Errorf("a key that fails: %s", &out)
	}
}

func TestServeLongQuestion(t *testing.T) {
	var out bytes.Buffer
	ask := questionLine(question{V: 1, Op: "public"})
	key := &lazyKey{open: func() (signer, error) { return &softKey{PrivateKey: rsaKey()}, nil }}
	err := serve(bufio.NewReaderSize(strings.NewReader(ask+strings.Repeat("x", 2*maxLine)), maxLine), &out, key)
	if err == nil || !strings.Contains(err.Error(), "a question is longer than 65536 bytes") || len(answers(t, out.String())) != 1 {
		t.Errorf("a long question: %v, answers %s; want the one before it and the end", err, &out)
	}
}

func TestPIN(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(path, []byte("1234\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := os.WriteFile(open, []byte("geheim"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("THE_PIN", "1234")
	for reference, want := range map[string]string{
		"": "", "file:" + path: "1234", "env:THE_PIN": "1234", "stdin": "1234",
	} {
		if got, err := readPIN(reference, bufio.NewReader(strings.NewReader("1234\nmore\n"))); got != want || err != nil {
			t.Errorf("readPIN(%q) = %q, %v, want %q", reference, got, err, want)
		}
	}
	for reference, want := range map[string]string{
		"geheim":               "takes a reference",
		"env:NO_SUCH_VARIABLE": "is empty",
		"file:" + path + "x":   "no such file",
		"file:" + open:         "chmod 600",
		"stdin":                "cannot read the PIN: EOF",
	} {
		if runtime.GOOS == "windows" && reference == "file:"+open {
			continue
		}
		if _, err := readPIN(reference, bufio.NewReader(strings.NewReader(""))); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("readPIN(%q) = %v, want %q and no PIN", reference, err, want)
		}
	}
}

func TestArguments(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "one URI is needed"},
		{[]string{"pkcs11:", "pkcs11:"}, "one URI is needed"},
		{[]string{"--modul", "x"}, "see gcemds-pkcs11 --help"},
		{[]string{"pkcs11:token=mds"}, "--module is missing"},
		{[]string{"mds"}, "begins with pkcs11:"},
		{[]string{"--module", "/m.so", "--pin", "1234", "pkcs11:"}, "takes a reference"},
	} {
		if err := run(c.args, strings.NewReader(""), io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("gcemds-pkcs11 %q: %v, want %q", c.args, err, c.want)
		}
	}
	var out bytes.Buffer
	if err := run([]string{"--help"}, strings.NewReader(""), &out); err != nil || !strings.Contains(out.String(), "Examples:") {
		t.Errorf("--help: %v\n%s", err, &out)
	}
	// Without a question nothing is opened: the module does not exist.
	if err := run([]string{"--module", "/no/such.so", "pkcs11:"}, strings.NewReader(""), io.Discard); err != nil {
		t.Errorf("no question: %v, want a good end", err)
	}
	out.Reset()
	err := run([]string{"--module", "/no/such.so", "pkcs11:"}, strings.NewReader(questionLine(question{V: 1, Op: "public"})), &out)
	if want := "there is no PKCS#11 module /no/such.so"; err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(out.String(), want) {
		t.Errorf("no module: %v, %s, want %q", err, &out, want)
	}
	if runtime.GOOS == "linux" {
		err := run([]string{"--module", os.Args[0], "pkcs11:"}, strings.NewReader(questionLine(question{V: 1, Op: "public"})), io.Discard)
		if err == nil || !strings.Contains(fmt.Sprint(err), "it is no PKCS#11 module") {
			t.Errorf("a module that is none: %v", err)
		}
	}
}
