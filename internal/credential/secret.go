package credential

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/gcemds/gcemds/internal/issuer"
)

// A Secret refers to a password, a PIN or a token. The configuration never
// holds one itself, so it can be shown, logged and committed:
//
//	file:PATH        a file that only its owner can use
//	env:NAME         a variable of gcemds' environment
//	fd:N             a file descriptor that gcemds was started with, read once
//	credential:NAME  a credential of the systemd unit (LoadCredential=)
//
// One line end at the end of it does not count. Empty: there is none.
type Secret string

const (
	maxSecret            = 64 << 10
	credentialsDirectory = "CREDENTIALS_DIRECTORY" // set by systemd
)

// check reports a reference that is none. It does not repeat the text: it may
// be the secret itself.
func (s Secret) check() error {
	kind, rest, ok := strings.Cut(string(s), ":")
	switch {
	case s == "":
		return nil
	case !ok || rest == "" || kind != "file" && kind != "env" && kind != "fd" && kind != "credential":
		return errors.New("a secret is given by reference: file:PATH, env:NAME, fd:N or credential:NAME")
	case kind == "fd":
		if n, err := strconv.ParseUint(rest, 10, 16); err != nil || n < 3 {
			return errors.New("fd:N needs the number of a file descriptor, 3 or above")
		}
	case kind == "credential" && (strings.ContainsAny(rest, `/\`) || rest == ".."):
		return errors.New("credential:NAME needs the name of a credential, without a path")
	}
	return nil
}

// files returns the file where the secret is, if any, so that it is watched.
func (s Secret) files() []string {
	kind, rest, _ := strings.Cut(string(s), ":")
	switch dir := os.Getenv(credentialsDirectory); {
	case kind == "file":
		return []string{rest}
	case kind == "credential" && dir != "":
		return []string{filepath.Join(dir, rest)}
	}
	return nil
}

// read returns the secret. Errors name the reference, never the content.
func (s Secret) read() ([]byte, error) {
	data, err := s.load()
	if err != nil {
		return nil, fmt.Errorf("cannot read the secret %s: %w", s, err)
	}
	data = bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(data) == 0 && s != "" {
		return nil, fmt.Errorf("the secret %s is empty", s)
	}
	return data, nil
}

func (s Secret) load() ([]byte, error) {
	kind, rest, _ := strings.Cut(string(s), ":")
	switch kind {
	case "":
		return nil, nil
	case "file":
		return issuer.ReadSecretFile(rest, false, maxSecret)
	case "env":
		value, ok := os.LookupEnv(rest)
		if !ok {
			return nil, errors.New("there is no such variable")
		}
		return []byte(value), nil
	case "credential":
		dir := os.Getenv(credentialsDirectory)
		if dir == "" {
			return nil, errors.New(credentialsDirectory + " is not set: it is systemd that sets it, for a unit with LoadCredential=")
		}
		return issuer.ReadSecretFile(filepath.Join(dir, rest), true, maxSecret)
	case "fd":
		return descriptors.read(rest)
	}
	return nil, s.check()
}

// descriptors remembers what was read from file descriptors: that is possible
// once only, but a source is opened again at each reload.
var descriptors = fileDescriptors{content: map[string][]byte{}}

type fileDescriptors struct {
	mu      sync.Mutex
	content map[string][]byte // by number, which check has found to be one
}

func (d *fileDescriptors) read(number string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if data, ok := d.content[number]; ok {
		return bytes.Clone(data), nil
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return nil, err
	}
	if !handedOver(uintptr(n)) {
		return nil, errors.New("it was not open when gcemds was started")
	}
	f := os.NewFile(uintptr(n), "fd:"+number)
	if f == nil {
		return nil, errors.New("it is not open")
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	switch {
	case err != nil:
		return nil, errors.New("it is not open for reading")
	case len(data) > maxSecret:
		return nil, fmt.Errorf("it has more than %d bytes", maxSecret)
	}
	d.content[number] = data
	return bytes.Clone(data), nil
}
