package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/client"
	"github.com/gcemds/gcemds/internal/admin"
)

func newGet() *cobra.Command {
	var s server
	var watch, recursive, asJSON bool
	c := &cobra.Command{
		Use:   "get PATH",
		Short: "Print a value or a directory of a metadata server",
		Long: `Print a value, or the keys of a directory, of a metadata server; gcemds --help
says of which. With --watch, print it again whenever it changes, until it is
deleted or you interrupt.`,
		Example: `  gcemds get instance/name
  gcemds get instance/attributes/ --recursive
  gcemds get instance/maintenance-event --watch
  gcemds get --host metadata.google.internal project/project-id`,
		ValidArgsFunction: s.completePath,
		RunE: func(c *cobra.Command, args []string) error {
			if watch {
				return s.printChanges(c, args[0], asJSON)
			}
			v, err := s.get(c.Context(), args[0], recursive || asJSON)
			if err != nil {
				return err
			}
			return printValue(c.OutOrStdout(), v, asJSON)
		},
	}
	s.instanceFlags(c)
	c.Flags().BoolVarP(&watch, "watch", "w", false, "print every change; a directory is watched with all below it")
	c.Flags().BoolVarP(&recursive, "recursive", "r", false, "a directory with all below it")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON; of a directory, with all below it")
	return c
}

func newWatch() *cobra.Command {
	var s server
	var asJSON bool
	c := &cobra.Command{
		Use:   "watch PATH",
		Short: "Print a value of a metadata server, and each change of it",
		Long: `Print a value of a metadata server, or a directory with all below it, and again
whenever it changes, until it is deleted or you interrupt. It is get --watch.`,
		Example:           "  gcemds watch instance/preempted\n  gcemds watch instance/attributes/ --json",
		ValidArgsFunction: s.completePath,
		RunE:              func(c *cobra.Command, args []string) error { return s.printChanges(c, args[0], asJSON) },
	}
	s.instanceFlags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newTree() *cobra.Command {
	var s server
	c := &cobra.Command{
		Use:   "tree [PATH]",
		Short: "Print all that a metadata server has below a path, as JSON",
		Long: `Print all that a metadata server has below a path, or everything, as JSON. The
output for everything is a document that gcemds serve --metadata takes. Tokens
are not in it.`,
		Example:           "  gcemds tree\n  gcemds tree instance/network-interfaces/",
		ValidArgsFunction: s.completePath,
		RunE: func(c *cobra.Command, args []string) error {
			v, err := s.get(c.Context(), strings.Join(args, ""), true)
			if err != nil {
				return err
			}
			var b bytes.Buffer
			if err := json.Indent(&b, []byte(v.JSON), "", "  "); err != nil {
				return fmt.Errorf("the server's answer is not JSON: %w", err)
			}
			return printValue(c.OutOrStdout(), admin.Value{Text: b.String()}, false)
		},
	}
	s.instanceFlags(c)
	return c
}

// printChanges prints a value now and whenever it changes.
func (s *server) printChanges(c *cobra.Command, path string, asJSON bool) error {
	for v, err := range s.watch(c.Context(), path, asJSON) {
		if errors.Is(err, client.Transient) && s.address() != "" {
			fmt.Fprintf(c.ErrOrStderr(), "gcemds: still trying: %v\n", err)
			continue
		}
		if err != nil {
			return err
		}
		if err := printValue(c.OutOrStdout(), v, asJSON); err != nil {
			return err
		}
	}
	return nil
}

// printValue ends what it prints with one newline.
func printValue(w io.Writer, v admin.Value, asJSON bool) error {
	text := v.Text
	if asJSON {
		text = v.JSON
	}
	if text == "" && v.Dir {
		return nil
	}
	_, err := fmt.Fprintln(w, strings.TrimSuffix(text, "\n"))
	return err
}

// printJSON prints what a command is about as the type that it is.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func newStatus() *cobra.Command {
	var r remote
	var asJSON, ready bool
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show what a running server serves",
		Example: "  gcemds status\n  gcemds status --json\n  gcemds status --ready",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := r.client().Status(c.Context())
			if err != nil {
				return err
			}
			if ready && s.Unready != "" {
				return &ended{exitNoServer, fmt.Errorf("the server is not ready: %s", s.Unready)}
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), s)
			}
			return printStatus(c.OutOrStdout(), s)
		},
	}
	r.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&ready, "ready", false, "fail while the server is not ready, as a probe should")
	return c
}

func printStatus(w io.Writer, s admin.Status) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s "+format+"\n", append([]any{name}, args...)...)
	}
	line("gcemds", "%s, pid %d, since %s", s.Version, s.PID, s.Started.Format("2006-01-02 15:04:05"))
	if s.Unready != "" {
		line("ready", "NO: %s", s.Unready)
	}
	switch {
	case s.ConfigError != "":
		line("config", "the file on disk is NOT in use:\n           %s", strings.ReplaceAll(s.ConfigError, "\n", "\n           "))
	case s.Config != "":
		line("config", "%s", s.Config)
	}
	for _, l := range s.Listeners {
		kind := ""
		if l.TLS {
			kind = " (mutual TLS)"
		}
		line("listener", "%s %s%s", l.Name, l.Address, kind)
	}
	line("issuer", "%s", s.Issuer)
	if s.Node != "" {
		line("node", "%s, whose Pods are served", s.Node)
	}
	line("waiting", "%d requests", s.Hanging)
	for _, i := range s.Instances {
		line("instance", "%s", named(i))
		if i.Upstream != "" {
			line("", "has the document of %s", i.Upstream)
		}
		if i.Trouble != "" {
			line("", "NOT up to date: %s", i.Trouble)
		}
		for _, a := range i.Accounts {
			line("", "%s (%s)", a.Email, strings.Join(a.Aliases, ", "))
			for _, scope := range a.Scopes {
				line("", "  %s", scope)
			}
		}
		for _, path := range i.Edits {
			line("", "changed: %s", path)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func newReload() *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:     "reload",
		Short:   "Make a running server read its configuration again",
		Long:    "Make a running server read its configuration again, and say what is wrong with\nit. A wrong configuration changes nothing.",
		Example: "  gcemds reload",
		RunE:    func(c *cobra.Command, _ []string) error { return r.client().Reload(c.Context()) },
	}
	r.flags(c)
	return c
}
