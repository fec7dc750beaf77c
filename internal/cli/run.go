package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds"
	"github.com/gcemds/gcemds/internal/admin"
	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/daemon"
	"github.com/gcemds/gcemds/internal/intercept"
)

// Exit codes of run that are not those of the program: the ones that shells,
// env and docker have.
const (
	exitOwn        = 125 // no server for it
	exitNotRun     = 126 // there, but it cannot be run
	exitNotFound   = 127
	exitSignalBase = 128 // and the number of the signal that ended it
)

// ofRun are the settings that run takes: those of the machine, not those of
// the server.
var ofRun = []string{"config", "metadata", "set", "key", "source", "scopes", "enforce-scopes"}

// A runner is one call of run.
type runner struct {
	daemon    remote
	running   bool // use a daemon that runs
	linkLocal bool
	verbose   bool

	dir            string // of ours, gone at the end
	stdout, stderr io.Writer
}

func newRun() *cobra.Command {
	var r runner
	c := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARGUMENT...]",
		Short: "Run a program with a metadata server of its own",
		Long: `Run a program with a metadata server of its own. Google's client libraries of
all languages, and gcloud, find that server and no other credentials: neither
those of GOOGLE_APPLICATION_CREDENTIALS nor what gcloud has stored. The server
has a free port, and ends with the program.

If there are credentials of "gcloud auth application-default login", HOME is a
folder of links to what is in the real one without them, since some libraries
look nowhere else; what the program makes directly in HOME is lost then.

Signals go to the program, and it ends as the program does, with 128 and the
number of a signal if that ended it. 125 says that there is no server for it,
126 that it cannot be run, and 127 that it is not there; stderr says why. gcemds
itself prints nothing else, but with --verbose what it serves and its log.

The program may call gcemds, too: GCEMDS_ADMIN leads to its server.

With --link-local, on Linux, no variable says where the server is: the program
and its children find it at 169.254.169.254 and metadata.google.internal, as on
Google Cloud, and instead of the change of HOME they see an empty folder of
gcloud. All other traffic of theirs is untouched, and so is the machine. As
another user than root this takes user namespaces, so sudo does not work in
there. What is left running in the background cannot connect any more.`,
		Example: `  gcemds run -- python3 app.py
  gcemds run --key sa.json -- terraform plan
  gcemds run --set instance/attributes/env=dev -- go test ./...
  gcemds run --config gcemds.yaml --source build -- ./deploy.sh
  gcemds run --daemon -- gcloud storage ls
  gcemds run --link-local -- curl -H Metadata-Flavor:Google http://metadata.google.internal/`,
		RunE: func(c *cobra.Command, args []string) error {
			if r.running {
				for _, name := range ofRun {
					if c.Flags().Changed(name) {
						return &usageError{fmt.Errorf("--daemon takes a server as it is, so --%s has no meaning", name), c.CommandPath()}
					}
				}
			} else if c.Flags().Changed("admin") {
				return &usageError{errors.New("--admin says which server, with --daemon"), c.CommandPath()}
			}
			r.stdout, r.stderr = c.OutOrStdout(), c.ErrOrStderr()
			return r.run(c, args)
		},
	}
	settingFlags(c, ofRun...)
	c.Flags().BoolVar(&r.running, "daemon", false, "use a server that runs, by its control API")
	r.daemon.flags(c)
	c.Flags().BoolVar(&r.linkLocal, "link-local", false, "let it find the server at 169.254.169.254 (Linux)")
	c.Flags().BoolVarP(&r.verbose, "verbose", "v", false, "say on stderr what is served, and log there")
	c.Flags().SetInterspersed(false)
	return c
}

func (r *runner) run(c *cobra.Command, args []string) (err error) {
	// From here on signals are the program's: this process waits for its end.
	// One that comes before there is a program ends us as it would end that.
	signals := make(chan os.Signal, 16)
	for _, s := range passedOn {
		if !signal.Ignored(s) { // so that nohup works
			signal.Notify(signals, s)
		}
	}
	defer signal.Stop(signals)
	ctx := context.WithoutCancel(c.Context())

	if r.dir, err = os.MkdirTemp("", "gcemds-run-"); err != nil {
		return &ended{exitOwn, err}
	}
	defer os.RemoveAll(r.dir)
	ready := make(chan begun, 1)
	go func() { ready <- r.begin(ctx, given(c)) }()
	var server begun
	select {
	case s := <-signals:
		return &ended{code: exitSignalBase + int(s.(syscall.Signal))}
	case server = <-ready:
	}
	defer func() {
		if e := server.stop(); e != nil && r.verbose {
			fmt.Fprintf(r.stderr, "gcemds: the server of %s: %v\n", args[0], e)
		}
	}()
	if server.err != nil {
		return &ended{exitOwn, server.err}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.InOrStdin(), r.stdout, r.stderr
	if cmd.Err != nil {
		return explainStart(args[0], cmd.Err)
	}
	view := intercept.View{Dir: r.dir}
	if cmd.Env, view.Hide, err = r.environ(os.Environ(), server.addr, server.socket); err != nil {
		return &ended{exitOwn, err}
	}
	if r.linkLocal {
		if view.Server, err = netip.ParseAddrPort(server.addr); err != nil {
			return &ended{exitOwn, err}
		}
		release, err := view.Start(cmd)
		if err != nil {
			return &ended{exitOwn, fmt.Errorf("--link-local: %w", err)}
		}
		defer release()
	}
	if server.hide { // with linkLocal not before: what is not dumpable cannot prepare the namespaces of its child
		if err := concealMemory(); err != nil && r.verbose {
			fmt.Fprintln(r.stderr, "gcemds: warning: the program could see keys and tokens in our memory:", err)
		}
	}
	if !r.linkLocal {
		if err := cmd.Start(); err != nil {
			return explainStart(args[0], err)
		}
	}
	done := make(chan struct{})
	go func() {
		err = cmd.Wait()
		close(done)
	}()
	for {
		select {
		case s := <-signals:
			if !sentByTerminal(s) {
				cmd.Process.Signal(s) // it may have ended, which done will say
			}
		case <-done:
			var exit *exec.ExitError
			if err == nil || errors.As(err, &exit) {
				return endOf(cmd.ProcessState)
			}
			return &ended{exitOwn, fmt.Errorf("%s: %w", args[0], err)}
		}
	}
}

// endOf makes our end that of the program.
func endOf(p *os.ProcessState) error {
	code := p.ExitCode()
	if s, is := signalOf(p); is {
		code = exitSignalBase + s
	}
	if code == 0 {
		return nil
	}
	return &ended{code: code}
}

func explainStart(name string, err error) error {
	switch {
	case errors.Is(err, exec.ErrDot):
		return &ended{exitNotRun, fmt.Errorf("%s is in this folder, not in PATH; write ./%s if you mean it", name, name)}
	case errors.Is(err, exec.ErrNotFound) && !strings.ContainsAny(name, `/\`):
		return &ended{exitNotFound, fmt.Errorf("there is no program %s in PATH", name)}
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return &ended{exitNotFound, fmt.Errorf("there is no program %s", name)}
	}
	return &ended{exitNotRun, fmt.Errorf("cannot run %s: %w", name, err)}
}

// A begun server is one that can be asked, or err says why there is none.
type begun struct {
	addr, socket string
	stop         func() error // never nil
	hide         bool         // its memory is ours, and holds keys and tokens
	err          error
}

func (r *runner) begin(ctx context.Context, flags map[string][]string) (b begun) {
	if r.running {
		b.stop = func() error { return nil }
		b.addr, b.socket, b.err = r.find(ctx)
	} else {
		b = r.serve(ctx, flags)
	}
	return b
}

// serve starts a server.
func (r *runner) serve(ctx context.Context, flags map[string][]string) (b begun) {
	b.stop = func() error { return nil }
	b.socket = filepath.Join(r.dir, "s") // the name of a socket must be short
	flags["admin"] = []string{b.socket}
	flags["admin-http"] = []string{""}
	for _, name := range []string{"listen", "issuer-listen"} {
		flags[name] = []string{"127.0.0.1:0"}
	}
	cfg, warnings, err := config.Resolve(os.Environ(), flags)
	if err != nil {
		b.err = explainConfig(err)
		return b
	}
	b.hide = !cfg.Dumpable
	log := slog.New(slog.DiscardHandler)
	if r.verbose {
		for _, w := range warnings {
			fmt.Fprintln(r.stderr, "gcemds: warning: "+w)
		}
		log = logger(cfg, r.stderr)
	}
	d, err := daemon.New(ctx, daemon.Options{Config: cfg, Log: log, Version: version()})
	if err != nil {
		b.err = err
		return b
	}
	if r.verbose {
		banner(r.stderr, d.Status())
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	b.addr, b.stop = d.Status().Listeners[0].Address, func() error { cancel(); return <-done }
	return b
}

// find asks a daemon that runs where it listens.
func (r *runner) find(ctx context.Context) (addr, socket string, err error) {
	client := r.daemon.client()
	if socket, err = filepath.Abs(client.Socket); err != nil {
		return "", "", err
	}
	s, err := client.Status(ctx)
	if err != nil {
		return "", "", err
	}
	for _, l := range s.Listeners {
		if host, ok := reachable(l); ok {
			return host, socket, nil
		}
	}
	return "", "", fmt.Errorf("the server behind %s has no listener that client libraries can use: they know neither Unix sockets nor mutual TLS", socket)
}

// reachable returns where a program on this machine finds a listener, if it is
// one for plain TCP.
func reachable(l admin.Listener) (string, bool) {
	host, port, err := net.SplitHostPort(l.Address)
	if err != nil || l.TLS {
		return "", false
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), true
}

// environ is the environment of the program, and the directories that it must
// not see.
func (r *runner) environ(ours []string, addr, socket string) (env, hide []string, err error) {
	empty := filepath.Join(r.dir, "gcloud")
	if err := os.Mkdir(empty, 0o700); err != nil {
		return nil, nil, err
	}
	host, _, _ := net.SplitHostPort(addr)
	if r.linkLocal {
		addr, host = "", "169.254.169.254,metadata.google.internal"
	}
	set := gcemds.Environ(addr, empty)
	set["GCEMDS_ADMIN"] = socket
	for name, below := range logins {
		home := os.Getenv(name)
		folder := filepath.Join(home, below)
		if _, err := os.Stat(filepath.Join(folder, "application_default_credentials.json")); err != nil || home == "" {
			continue
		}
		if r.linkLocal {
			hide = append(hide, folder)
			continue
		}
		without := filepath.Join(r.dir, name)
		if err := mirror(home, without, below); err != nil {
			return nil, nil, fmt.Errorf("cannot hide the credentials in %s: %w", folder, err)
		}
		set[name] = without
	}
	if slices.ContainsFunc(ours, isProxy) { // Python's libraries would ask it for such addresses, too
		small, large := os.Getenv("no_proxy"), os.Getenv("NO_PROXY") // programs read only one, not all the same
		set["no_proxy"] = strings.TrimPrefix(cmp.Or(small, large)+","+host, ",")
		set["NO_PROXY"] = strings.TrimPrefix(cmp.Or(large, small)+","+host, ",")
	}
	for _, v := range ours {
		name, _, _ := strings.Cut(v, "=")
		if runtime.GOOS == "windows" {
			name = strings.ToUpper(name)
		}
		if _, ok := set[name]; !ok {
			env = append(env, v)
		}
	}
	for name, value := range set {
		if value != "" {
			env = append(env, name+"="+value)
		}
	}
	slices.Sort(env)
	return env, hide, nil
}

func isProxy(v string) bool {
	name, value, _ := strings.Cut(strings.ToLower(v), "=")
	return value != "" && (name == "http_proxy" || name == "all_proxy")
}

// logins is where the libraries that do not know CLOUDSDK_CONFIG look for what
// gcloud auth application-default login has stored: below this variable.
var logins = map[string]string{"HOME": filepath.Join(".config", "gcloud"), "APPDATA": "gcloud"}

// mirror makes a folder of links to everything in another one but what is at
// the path without.
func mirror(from, to, without string) error {
	from, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	first, rest, _ := strings.Cut(without, string(filepath.Separator))
	for _, e := range entries {
		switch old, new := filepath.Join(from, e.Name()), filepath.Join(to, e.Name()); {
		case e.Name() != first:
			err = os.Symlink(old, new)
		case rest != "":
			err = mirror(old, new, rest)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
