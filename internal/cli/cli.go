// Package cli is the command line: one file for each command. It prints
// results on stdout and talks on stderr; what a command does to a daemon goes
// through package admin, like everybody else's wishes.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/client"
	"github.com/gcemds/gcemds/internal/admin"
	"github.com/gcemds/gcemds/internal/intercept"
)

// Exit codes. Those of run that are not here are in run.go.
const (
	exitOK       = 0
	exitError    = 1 // it did not work; stderr says why
	exitUsage    = 2 // the command line is wrong
	exitNotThere = 3 // the server has no such value
	exitDenied   = 4 // the server refuses
	exitNoServer = 5 // no server answers, or it only fails

	exitInterrupted = 130 // as shells have it
)

// Main runs a command line and returns the exit code of the process.
func Main(args []string, stdout, stderr io.Writer) int {
	if code, err := intercept.Enter(args); err != nil {
		fmt.Fprintf(stderr, "gcemds: %v\n", err)
		return code
	}
	log.SetOutput(io.Discard) // of libraries: with GODEBUG=http2debug, net/http prints the tokens that it sends
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, args, stdout, stderr)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var usage *usageError
	var end *ended
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "gcemds: %v\nsee: %s --help\n", err, usage.command)
		return exitUsage
	case errors.As(err, &end) && end.error == nil:
		return end.code
	case ctx.Err() != nil && !errors.As(err, &end):
		return exitInterrupted // whoever did it knows why
	}
	fmt.Fprintf(stderr, "gcemds: %v\n", err)
	return codeOf(err)
}

// An ended is the end of a command with a code of its own. Without an error
// there is nothing to say about it.
type ended struct {
	code int
	error
}

func (e *ended) Error() string {
	if e.error == nil {
		return fmt.Sprintf("ended with %d", e.code)
	}
	return e.error.Error()
}

func (e *ended) Unwrap() error { return e.error }

func codeOf(err error) int {
	var end *ended
	var answer *admin.Error
	switch {
	case errors.As(err, &end):
		return end.code
	case errors.Is(err, client.NotFound), errors.As(err, &answer) && answer.Status == http.StatusNotFound:
		return exitNotThere
	case errors.Is(err, client.Denied), errors.As(err, &answer) && answer.Status == http.StatusForbidden:
		return exitDenied
	case errors.Is(err, client.Transient), errors.Is(err, client.NoServer), errors.Is(err, admin.ErrNoAnswer):
		return exitNoServer
	}
	return exitError
}

// A usageError is a wrong command line.
type usageError struct {
	error
	command string
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "gcemds",
		Short: "The metadata server of Google Cloud, anywhere",
		Long: `gcemds gives any program the metadata and the Google identity it would have
on Google Cloud, through the metadata server it already knows how to ask.

Results go to stdout, everything else to stderr. The exit code is 0 when it
worked, 1 when it did not (stderr says why), 2 when the command line is wrong, 3
when the server has no such value, 4 when it refuses, and 5 when no server
answers, or it only fails; 130 when you interrupt. That of gcemds run is that of
the program.

get, tree, watch, token, identity, email, scopes, wait, capture and conformance
ask any metadata server, Google's too. Which one is said by, in this order:
--host; --admin or GCEMDS_ADMIN, the socket of a gcemds; GCE_METADATA_HOST.
Without any of them it is the gcemds of this user. That of the machine itself
must be named: --host metadata.google.internal. doctor looks at whatever client
libraries would ask; the other commands are for a gcemds.`,
		Example: `  gcemds serve                             # a virtual machine: no file, no key, no network
  gcemds serve --key sa.json               # the same with real tokens
  gcemds set instance/attributes/env dev   # change it while it runs
  gcemds watch instance/attributes/        # see changes as they come
  gcemds run -- python3 app.py             # a program with a server of its own`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version(),
	}
	root.SetVersionTemplate("gcemds {{.Version}}\n")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &usageError{err, c.CommandPath()} })
	root.AddCommand(newServe(), newRun(), newGet(), newTree(), newWatch(), newToken(), newIdentity(), newEmail(), newScopes(), newWait(),
		newSet(), newDelete(), newApply(), newStatus(), newLog(), newWhoami(), newReload(), newConfig(), newConformance(), newCapture(), newDoctor(),
		newTPM(), newGoogle(), newIntercept(), newGKE(), newVersion())
	wrapArgs(root)
	return root
}

// wrapArgs makes wrong arguments usage errors, and a group of commands that is
// called without one print its help.
func wrapArgs(c *cobra.Command) {
	check := checkArgs
	if c.HasSubCommands() {
		check = checkCommand
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return &usageError{err, c.CommandPath()}
		}
		return nil
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

// remote is what every command that talks to a daemon takes.
type remote struct {
	socket, instance string
}

func (r *remote) flags(c *cobra.Command) {
	c.Flags().StringVar(&r.socket, "admin", "", "`PATH` of the socket of a server's control API [GCEMDS_ADMIN]")
}

// instanceFlags are for a command that is about one instance.
func (r *remote) instanceFlags(c *cobra.Command) {
	r.flags(c)
	c.Flags().StringVarP(&r.instance, "instance", "i", "", "`NAME` of the instance; default the first")
}

func (r *remote) client() *admin.Client {
	socket := r.socket
	if socket == "" {
		socket = os.Getenv("GCEMDS_ADMIN")
	}
	if socket == "" {
		socket = admin.DefaultSocket()
	}
	return &admin.Client{Socket: socket}
}

// completePath completes metadata paths from the daemon that runs.
func (r *remote) completePath(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return r.client().Complete(c.Context(), r.instance, typed), cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
}

// version is the tag of a release, or what the toolchain knows of the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel " + s.Value[:12]
		}
	}
	return "devel"
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  gcemds version",
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "gcemds "+version())
			return err
		},
	}
}
