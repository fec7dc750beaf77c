package credential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/gcemds/gcemds/internal/token"
)

// A PKCS11 is a service account whose key a PKCS#11 token holds, such as an
// HSM or a smart card. The module of the token does not run in this process:
// it is foreign code, so the program gcemds-pkcs11 loads it and signs.
type PKCS11 struct {
	ServiceAccount `yaml:",inline"`

	// Module is the library of the token. Without one, the URI names it.
	Module string `yaml:"module,omitempty" is:"place"`

	URI string `yaml:"uri"`                       // pkcs11:token=mds;object=k (RFC 7512)
	PIN Secret `yaml:"pin,omitempty" is:"secret"` // of the user; without one there is no login

	// Env lists the variables of gcemds' environment that the module needs,
	// besides PATH, HOME and the like.
	Env []string `yaml:"env,omitempty"`

	// Program is gcemds-pkcs11; default the one beside gcemds, else that in
	// PATH.
	Program string `yaml:"program,omitempty" is:"place"`
}

const (
	pkcs11Program = "gcemds-pkcs11"
	maxPIN        = 1 << 10
)

func (c *PKCS11) validate() error {
	faults := c.faults()
	switch {
	case !strings.HasPrefix(c.URI, "pkcs11:"):
		faults = append(faults, errors.New("uri is missing: which key it is, for example pkcs11:token=mds;object=robot"))
	case strings.Contains(c.URI, "pin-value="), strings.Contains(c.URI, "pin-source="):
		faults = append(faults, errors.New("the URI must not have the PIN, which would be seen in the list of processes; say it with pin: file:PATH"))
	case c.Module == "" && !strings.Contains(c.URI, "module-path="):
		faults = append(faults, errors.New("module is missing: the library of the token, for example /usr/lib/softhsm/libsofthsm2.so"))
	}
	if err := c.PIN.check(); err != nil {
		faults = append(faults, fmt.Errorf("pin: %w", err))
	}
	faults = append(faults, program{[]string{pkcs11Program}, c.Env}.faults("program")...)
	return errors.Join(faults...)
}

func (c *PKCS11) files() []string { return c.PIN.files() }

func (c *PKCS11) open(_ context.Context, env Env) (token.Source, Identity, error) {
	name, err := c.find()
	if err != nil {
		return nil, Identity{}, err
	}
	argv := []string{name}
	if c.Module != "" {
		argv = append(argv, "--module", c.Module)
	}
	var first []byte
	if c.PIN != "" {
		pin, err := c.PIN.read()
		if err != nil {
			return nil, Identity{}, err
		}
		if len(pin) > maxPIN || bytes.ContainsAny(pin, "\r\n") {
			return nil, Identity{}, fmt.Errorf("the secret %s is not a PIN: that is one line of at most %d bytes", c.PIN, maxPIN)
		}
		argv = append(argv, "--pin", "stdin")
		first = append(pin, '\n')
	}
	p := program{append(argv, c.URI), c.Env}
	return c.source("PKCS#11 key "+c.URI, newRemoteSigner(&line{dial: dialProgram(p, first)}, maxAsked), env)
}

// find returns the path of gcemds-pkcs11.
func (c *PKCS11) find() (string, error) {
	if c.Program != "" {
		return exec.LookPath(c.Program)
	}
	beside := pkcs11Program
	if runtime.GOOS == "windows" {
		beside += ".exe"
	}
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), beside)); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(pkcs11Program)
	if err != nil {
		return "", fmt.Errorf("%s is neither beside gcemds nor in PATH; build it with make pkcs11, or say where it is with program: PATH", pkcs11Program)
	}
	return path, nil
}
