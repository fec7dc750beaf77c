package cli

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/internal/config"
)

//go:generate go test . -run ^TestReference$ -update

var update = flag.Bool("update", false, "write the generated pages of docs/reference anew")

// TestReference: the pages about commands and settings say what the program
// says. With -update it writes them.
func TestReference(t *testing.T) {
	for name, want := range map[string]string{
		"commands.md": commandsPage(),
		"settings.md": settingsPage(),
	} {
		name = filepath.Join("../../docs/reference", name)
		if *update {
			if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s does not say what the program says (%v); write it anew with: make generate", name, err)
		}
	}
}

const generated = "<!-- Generated from the program by make generate; change it there. -->\n"

// commandsPage has the help of every command. Flags that are settings have a
// page of their own.
func commandsPage() string {
	var b strings.Builder
	b.WriteString("# Commands\n\n" + generated)
	commands(newRoot(), func(c *cobra.Command) {
		long := c.Long
		if long == "" {
			long = c.Short + "."
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", c.CommandPath(), markdown(long))
		if !c.HasSubCommands() {
			fmt.Fprintf(&b, "```\n%s\n```\n\n", c.UseLine())
		}
		fmt.Fprintf(&b, "```sh\n%s\n```\n", trimIndent(c.Example))
		settings := !slices.ContainsFunc(config.Settings, func(s config.Setting) bool { return c.Flags().Lookup(s.Name) == nil })
		for _, s := range config.Settings {
			if settings {
				c.Flags().Lookup(s.Name).Hidden = true
			}
		}
		if usages := c.LocalFlags().FlagUsages(); usages != "" {
			fmt.Fprintf(&b, "\n```\n%s\n```\n", trimIndent(usages))
		}
		if settings {
			b.WriteString("\nEach of the [settings](settings.md) is a flag.\n")
		}
	})
	b.WriteString(`
## gcemds completion

` + "`gcemds completion bash`, `zsh`, `fish` and `powershell`" + ` print a script that makes the shell complete commands, flags and,
of a server that runs, the paths of its metadata. ` + "`gcemds completion bash --help`" + ` says how to load it.
`)
	return b.String()
}

// markdown keeps the indented lines of a help text as they are.
func markdown(text string) string {
	var b strings.Builder
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		if strings.HasPrefix(paragraph, "  ") {
			paragraph = "```yaml\n" + trimIndent(paragraph) + "\n```"
		}
		b.WriteString(paragraph + "\n\n")
	}
	return strings.TrimSpace(b.String())
}

// trimIndent removes the two spaces that help has before each line.
func trimIndent(text string) string {
	return strings.TrimPrefix(strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n  ", "\n"), "  ")
}

// settingsPage has the table of settings.
func settingsPage() string {
	var b strings.Builder
	b.WriteString(`# Settings

` + generated + `
A setting can be made without a file: by a flag of ` + "`serve`, `config check` and `config show`" + `, or by a variable of the
environment. The flag wins over the variable, the variable over the [file](configuration.md), and the file over the
default. A variable that is empty is not set. A variable that begins with ` + "`GCEMDS_`" + ` and is none of these is said to be
unknown, and does no harm. ` + "`gcemds config show --origin`" + ` prints where each value comes from.

Values of the form X,... are lists, separated by commas. What is there for "the first instance" has no equivalent for
the others; those are in the file only.

| flag | variable | default | what |
|---|---|---|---|
`)
	for _, s := range config.Settings {
		flag := "--" + s.Name
		switch {
		case s.Alone != "":
			flag += "[=" + s.Value + "]"
		case s.Value != "":
			flag += " " + s.Value
		}
		code := func(s string) string {
			if s == "" {
				return ""
			}
			return "`" + s + "`"
		}
		help := s.Help
		if s.Many && s.Env == "" {
			help += "; may be repeated"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", flag, code(s.Env), code(s.Default), help)
	}
	b.WriteString(`
The commands that talk to a running server read ` + "`GCEMDS_ADMIN`" + ` too: it is where they look for its socket. The default of
both is ` + "`$XDG_RUNTIME_DIR/gcemds/admin.sock`" + `, or ` + "`gcemds-UID/admin.sock`" + ` below the temporary directory where that variable
is not set.
`)
	return b.String()
}
