package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds everything a client or the command line does.
const patience = 2 * time.Minute

// A server is a running gcemds.
type server struct {
	host   string   // what GCE_METADATA_HOST must be
	issuer string   // URL of the offline issuer
	env    []string // for the command line to find it
	log    *buffer  // what it says, a line for each request
	place  place
}

// A place is where programs run: this machine, or a world.
type place interface {
	// command makes a command with exactly this environment, apart from what
	// belongs to the place (PATH, HOME). It ends with ctx.
	command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd
}

// machine is the machine that the tests run on.
type machine struct{}

func (machine) command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"), "CLOUDSDK_CONFIG="+os.Getenv("HOME"))
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// serve starts gcemds with the default document on a free port. It ends with
// the test, and must end well.
func serve(t *testing.T) *server {
	s, cmd, exited := start(t, machine{}, filepath.Join(t.TempDir(), "admin.sock"), "--listen", "127.0.0.1:0")
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		if err := <-exited; err != nil {
			t.Errorf("gcemds serve, interrupted: %v; want exit status 0", err)
		}
	})
	return s
}

var (
	hostLine   = regexp.MustCompile(`GCE_METADATA_HOST=(\S+)`)
	issuerLine = regexp.MustCompile(`issuer\b.*?(http://127\.0\.0\.1:\d+)`)
)

// start runs gcemds serve and returns when it has said where it is. What it
// says otherwise is shown if the test fails.
func start(t *testing.T, p place, admin string, args ...string) (*server, *exec.Cmd, <-chan error) {
	t.Helper()
	args = append([]string{"serve", "--metadata", filepath.Join(here, documentFile), "--issuer-listen", "127.0.0.1:0",
		"--admin", admin, "--log-level", "debug"}, args...)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	cmd := p.command(ctx, nil, gcemds, args...)
	cmd.WaitDelay = 10 * time.Second
	log := &buffer{}
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}

	s := &server{env: []string{"GCEMDS_ADMIN=" + admin}, log: log, place: p}
	ready, exited := make(chan struct{}), make(chan error, 1)
	go func() {
		var host, issuer string
		lines := bufio.NewScanner(io.TeeReader(stdout, log))
		for lines.Scan() {
			if m := hostLine.FindStringSubmatch(lines.Text()); m != nil {
				host = m[1]
			}
			if m := issuerLine.FindStringSubmatch(lines.Text()); m != nil {
				issuer = m[1]
			}
			if host != "" && issuer != "" && s.host == "" {
				s.host, s.issuer = host, issuer
				close(ready)
			}
		}
		exited <- cmd.Wait()
	}()
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Logf("gcemds %s said:\n%s", strings.Join(args, " "), log)
		}
	})
	select {
	case <-ready:
	case err := <-exited:
		t.Fatalf("gcemds serve ended before it had printed its address and that of the issuer: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("gcemds serve does not print its address and that of the issuer")
	}
	return s, cmd, exited
}

// cli runs a gcemds command against the server and returns its output.
func (s *server) cli(t *testing.T, args ...string) string {
	t.Helper()
	return s.run(t, s.env, gcemds, args...)
}

// client runs a program as a workload of this server.
func (s *server) client(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	return s.run(t, append(s.variables(), env...), name, args...)
}

// variables lead a client here. There are none at the link-local address.
func (s *server) variables() []string {
	env := slices.Clone(s.env)
	env = append(env, "GCEMDS="+gcemds, "GCEMDS_ISSUER="+s.issuer, "GCEMDS_DOCUMENT="+filepath.Join(here, documentFile))
	if s.place == (machine{}) {
		for _, v := range metadataVariables {
			env = append(env, v+"="+s.host)
		}
	}
	return env
}

func (s *server) run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := s.place.command(ctx, env, name, args...)
	var stdout, all buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&stdout, &all), &all
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", err, ctx.Err())
		}
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, &all)
	}
	return stdout.String()
}

// setenv points libraries in this process at the server.
func (s *server) setenv(t *testing.T) {
	for _, v := range metadataVariables {
		t.Setenv(v, s.host)
	}
}

// A buffer is a bytes.Buffer for several goroutines, in which one can wait for
// a text to be written.
type buffer struct {
	mu    sync.Mutex
	data  bytes.Buffer
	grown chan struct{} // closed at the next write; nil if nobody waits
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.grown != nil {
		close(b.grown)
		b.grown = nil
	}
	return b.data.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

// wait returns when what matches was written, and fails the test if that does
// not happen.
func (b *buffer) wait(t *testing.T, what string) {
	t.Helper()
	pattern := regexp.MustCompile(what)
	timeout := time.After(patience)
	for {
		b.mu.Lock()
		found := pattern.Match(b.data.Bytes())
		if b.grown == nil {
			b.grown = make(chan struct{})
		}
		grown := b.grown
		b.mu.Unlock()
		if found {
			return
		}
		select {
		case <-grown:
		case <-timeout:
			t.Fatalf("nothing matches %q after %v in:\n%s", what, patience, b)
		}
	}
}
