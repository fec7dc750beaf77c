package credential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
)

// A program is a command that the configuration names. It runs without a
// shell and with an environment of its own: what it is not given, it does not
// see.
type program struct {
	argv []string
	env  []string // names of variables of ours that it gets
}

// inherited are the variables that a program needs to work at all, on any
// system; it gets those that we have. Others may hold secrets of other sources.
var inherited = []string{
	"PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"SystemRoot", "SystemDrive", "ComSpec", "PATHEXT", "TEMP", "TMP", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "ProgramData", "ProgramFiles",
}

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// faults are what is wrong with the program as it is configured.
func (p program) faults(field string) []error {
	var faults []error
	if name := p.argv[0]; name == "" || !filepath.IsAbs(name) && filepath.Base(name) != name {
		faults = append(faults, fmt.Errorf("%s: %q is neither a whole path nor the name of a program in PATH", field, name))
	}
	return append(faults, checkEnv(p.env))
}

func checkEnv(names []string) error {
	for _, name := range names {
		if !variable.MatchString(name) { // not shown: it may be NAME=secret
			return errors.New("env lists names of variables, without values")
		}
	}
	return nil
}

// find makes the name of the program a path.
func (p *program) find() error {
	path, err := exec.LookPath(p.argv[0])
	if err != nil {
		return err
	}
	p.argv = append([]string{path}, p.argv[1:]...)
	return nil
}

func (p *program) name() string { return filepath.Base(p.argv[0]) }

// command returns the command, in a process group of its own: Ctrl-C is for
// us, and what is killed is killed with its children.
func (p *program) command(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
	cmd.Env = []string{}
	for _, name := range append(inherited[:len(inherited):len(inherited)], p.env...) {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	ownGroup(cmd)
	cmd.Cancel = func() error { return killGroup(cmd) }
	cmd.WaitDelay = time.Second // for children that keep its output open
	return cmd
}

// run runs the program once. It is killed when ctx ends or when it writes too
// much.
func (p *program) run(ctx context.Context, input []byte) (output []byte, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := p.command(ctx)
	var out bytes.Buffer
	var complaints tail
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stdout = writer(func(b []byte) (int, error) {
		if out.Len()+len(b) > maxAnswer {
			cancel(errLongAnswer)
			return 0, errLongAnswer
		}
		return out.Write(b)
	})
	cmd.Stderr = &complaints
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return out.Bytes(), fmt.Errorf("%s: %w", p.name(), complaints.explain(err))
	}
	return out.Bytes(), nil
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// start starts the program; what is written to the process is its standard
// input, what is read its standard output.
func (p *program) start() (*process, error) {
	proc := &process{cmd: p.command(context.Background())}
	var err error
	if proc.WriteCloser, err = proc.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if proc.Reader, err = proc.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	proc.cmd.Stderr = &proc.complaints
	return proc, proc.cmd.Start()
}

// A process is a program that runs.
type process struct {
	io.WriteCloser
	io.Reader
	cmd        *exec.Cmd
	complaints tail
}

// farewell is how long a process has to end after its input has.
const farewell = 2 * time.Second

// Close ends the process and waits for that. The error says how it ended.
func (p *process) Close() error {
	p.WriteCloser.Close()
	kill := time.AfterFunc(farewell, func() { killGroup(p.cmd) })
	defer kill.Stop()
	err := p.cmd.Wait()
	if err == nil {
		err = errors.New("it had nothing more to do")
	}
	return fmt.Errorf("%s ended: %w", filepath.Base(p.cmd.Path), p.complaints.explain(err))
}

// A tail keeps the first and the last of what a program writes to its standard
// error.
type tail struct {
	mu    sync.Mutex
	first []byte
	text  []byte // what follows, but not all of it
}

const maxTail = 1 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(b), maxTail-len(t.first))
	t.first = append(t.first, b[:n]...)
	t.text = append(t.text, b[max(n, len(b)-maxTail):]...)
	t.text = append(t.text[:0], t.text[max(0, len(t.text)-maxTail):]...)
	return len(b), nil
}

// explain adds the last line that was written, which is mostly the reason, and
// the first of much, since a crash begins with it.
func (t *tail) explain(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(string(t.first) + string(t.text))
	if text == "" {
		return err
	}
	said := exchange.Redact(text[strings.LastIndexByte(text, '\n')+1:])
	if len(t.text) > 0 {
		first, _, _ := strings.Cut(text, "\n")
		said = exchange.Redact(first) + " … " + said
	}
	return fmt.Errorf("%w: %s", err, said)
}
