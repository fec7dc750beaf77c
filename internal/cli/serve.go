package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds"
	"github.com/gcemds/gcemds/internal/admin"
	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/daemon"
	"github.com/gcemds/gcemds/internal/intercept"
)

func newServe() *cobra.Command {
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run a metadata server",
		Long: `Run a metadata server until it is interrupted. Without a configuration it is a
small virtual machine with one service account, whose tokens come from an
offline issuer: no file, no key and no network are needed.

The configuration and every file it names are read again when they change, and
on SIGHUP; one that is wrong changes nothing. Flags win over variables, variables
over the file.

With --intercept, programs of this machine and of its containers that ask
169.254.169.254 find the server, which listens where the mode takes it, beside its
other listeners (gcemds intercept install --help has the modes; as there, it takes
root). When the server ends in order it takes that away, unless it was there before
it started; when it is killed, it stays, and they are refused until the next start
or "gcemds intercept remove".`,
		Example: `  gcemds serve
  gcemds serve --key sa.json
  gcemds serve --metadata vm-1.json --set instance/attributes/env=dev
  gcemds serve --config gcemds.yaml --log-level debug
  gcemds serve --listen 127.0.0.1:8080,[::1]:8080,unix:/run/user/1000/mds.sock
  gcemds serve --intercept
  gcemds serve --intercept=nftables`,
		RunE: func(c *cobra.Command, _ []string) error {
			load := func() (*config.Config, []string, error) { return config.Resolve(os.Environ(), given(c)) }
			return serve(c, load)
		},
	}
	settingFlags(c)
	return c
}

// settingFlags gives a command the flags of all settings, or of those named.
func settingFlags(c *cobra.Command, only ...string) {
	c.Flags().SortFlags = false
	for _, s := range config.Settings {
		if len(only) > 0 && !slices.Contains(only, s.Name) {
			continue
		}
		help := s.Help
		if s.Default != "" {
			help += "; default " + s.Default
		}
		if s.Many {
			help += "; may be repeated"
		}
		if s.Env != "" {
			help += " [" + s.Env + "]"
		}
		if s.Value == "" {
			c.Flags().Bool(s.Name, false, help)
		} else {
			c.Flags().Var(&words{kind: s.Value}, s.Name, help)
			c.Flags().Lookup(s.Name).NoOptDefVal = s.Alone
		}
	}
}

// words are the values of a flag, in the order given; what may be given once
// has its last. The kind is what help shows in the place of a value.
type words struct {
	kind string
	list []string
}

func (w *words) Set(value string) error { w.list = append(w.list, value); return nil }
func (w *words) String() string         { return strings.Join(w.list, ",") }
func (w *words) Type() string           { return w.kind }

// given returns the settings that the command line has.
func given(c *cobra.Command) map[string][]string {
	values := map[string][]string{}
	for _, s := range config.Settings {
		f := c.Flags().Lookup(s.Name)
		if f == nil || !f.Changed {
			continue
		}
		if w, ok := f.Value.(*words); ok {
			values[s.Name] = w.list
		} else {
			values[s.Name] = []string{f.Value.String()}
		}
	}
	return values
}

func serve(c *cobra.Command, load func() (*config.Config, []string, error)) (err error) {
	ctx, stdout, stderr := c.Context(), c.OutOrStdout(), c.ErrOrStderr()
	cfg, warnings, err := load()
	for _, w := range warnings {
		fmt.Fprintln(stderr, "gcemds: warning: "+w)
	}
	if err != nil {
		return explainConfig(err)
	}
	way, undo, err := interceptFor(c, cfg.Intercept)
	if err != nil {
		return err
	}
	served := false // whoever finds us dead must not be passed on
	defer func() {
		if err == nil || !served {
			err = errors.Join(err, undo())
		}
	}()
	if p := cfg.Passthrough; p != nil && p.To == "" && (way.Mode == intercept.NFTables || way.Mode == intercept.Loopback) {
		return fmt.Errorf("passthrough does not go with --intercept=%s: what is passed on to 169.254.169.254 would be led back to this server; say --intercept=ebpf, or leave one of them out", way.Mode)
	}
	if !cfg.Dumpable {
		if err := conceal(); err != nil { // before there is anything to be seen
			fmt.Fprintln(stderr, "gcemds: warning: debuggers and core dumps could see keys and tokens:", err)
		}
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d, err := daemon.New(ctx, daemon.Options{
		Config: listening(cfg, way),
		Load: func() (*config.Config, error) {
			c, _, err := load()
			if err != nil {
				return nil, err
			}
			return listening(c, way), nil
		},
		Log:     logger(cfg, stderr),
		Metrics: metrics,
		Version: version(),
	})
	if err != nil {
		return err
	}
	served = true
	banner(stdout, d.Status())
	if way.Mode != "" && way.Mode != intercept.Environment {
		leads(stdout, way)
	}
	for _, note := range way.Notes {
		fmt.Fprintln(stderr, "gcemds: warning: "+note)
	}

	// Pages that are never touched, but that the garbage collector counts:
	// with so small a heap it would run every few hundred requests.
	ballast := make([]byte, 16<<20)
	defer runtime.KeepAlive(&ballast)

	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	ctx, cancel := context.WithCancel(ctx)
	var reloads sync.WaitGroup
	defer reloads.Wait()
	defer cancel()
	reloads.Go(func() {
		for {
			select {
			case <-hangup:
				d.Reload(ctx) // the log says how it went
			case <-ctx.Done():
				return
			}
		}
	})
	return d.Run(ctx)
}

func logger(c *config.Config, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.Log.Level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// named is the name that commands know an instance by, and the one that its
// workloads see.
func named(i admin.Instance) string {
	if i.Called == "" {
		return i.Name
	}
	return i.Name + " (called " + i.Called + ")"
}

// banner says what is served, and what to paste to use it.
func banner(w io.Writer, s admin.Status) {
	if s.Node != "" {
		fmt.Fprintf(w, "serving the Pods of the node %s\n", s.Node)
	}
	for _, i := range s.Instances {
		who := "no service account"
		if i.Upstream != "" {
			who = "the account it has there"
		}
		for _, a := range i.Accounts {
			if len(i.Accounts) == 1 || slices.Contains(a.Aliases, "default") {
				who = a.Email
			}
		}
		if i.Upstream != "" {
			who += ", with what " + i.Upstream + " says of it"
		}
		fmt.Fprintf(w, "serving %s as %s\n", named(i), who)
	}
	for n, l := range s.Listeners {
		_, _, err := net.SplitHostPort(l.Address)
		switch {
		case err != nil:
			fmt.Fprintf(w, "  curl --unix-socket %s -H 'Metadata-Flavor: Google' http://metadata/computeMetadata/v1/\n", l.Address)
		case l.TLS:
			fmt.Fprintf(w, "  https://%s (clients need a certificate)\n", l.Address)
		default:
			address, _ := reachable(l)
			if n > 0 {
				fmt.Fprintf(w, "  also http://%s\n", address)
				continue
			}
			fmt.Fprintf(w, "  export GCE_METADATA_HOST=%s\n  export %s\n", address, otherVariables())
		}
	}
	fmt.Fprintf(w, "  issuer %s/oauth2/v3/certs\n", s.Issuer)
}

// otherVariables are those beside GCE_METADATA_HOST that some client library
// wants, as words of the shell.
func otherVariables() string {
	const host = "GCE_METADATA_HOST"
	var words []string
	for name, value := range gcemds.Environ("$"+host, "") {
		if name != host && value != "" {
			words = append(words, name+"="+value)
		}
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

// explainConfig names the file that could not be read.
func explainConfig(err error) error {
	var faults config.Faults
	if errors.As(err, &faults) {
		return fmt.Errorf("the configuration is wrong; nothing was started:\n%w", err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; print a file to begin with: gcemds config init", err)
	}
	return err
}
