// Package cli is the command line: one file for each command. It prints
// results on stdout and talks on stderr; what a command does to a daemon goes
// through package admin, like everybody else's wishes.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/internal/admin"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1 // it did not work; stderr says why
	exitUsage = 2 // the command line is wrong
)

// Main runs a command line and returns the exit code of the process.
func Main(args []string, stdout, stderr io.Writer) int {
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
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "gcemds: %v\nsee: %s --help\n", err, usage.command)
		return exitUsage
	}
	fmt.Fprintf(stderr, "gcemds: %v\n", err)
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
worked, 1 when it did not (stderr says why), and 2 when the command line is
wrong.`,
		Example: `  gcemds serve                             # a virtual machine: no file, no key, no network
  gcemds serve --key sa.json               # the same with real tokens
  gcemds set instance/attributes/env dev   # change it while it runs
  gcemds get instance/attributes/ --watch  # see changes as they come`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version(),
	}
	root.SetVersionTemplate("gcemds {{.Version}}\n")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &usageError{err, c.CommandPath()} })
	root.AddCommand(newServe(), newGet(), newSet(), newDelete(), newApply(), newStatus(), newWhoami(), newReload(), newConfig(), newTPM(), newGoogle(), newVersion())
	wrapArgs(root)
	return root
}

// wrapArgs makes wrong arguments usage errors, and a group of commands that is
// called without one print its help.
func wrapArgs(c *cobra.Command) {
	check := c.Args
	if c.HasSubCommands() {
		check = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("there is no command %q", args[0])
			}
			return nil
		}
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	if check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return &usageError{err, c.CommandPath()}
			}
			return nil
		}
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
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "gcemds "+version())
			return err
		},
	}
}
