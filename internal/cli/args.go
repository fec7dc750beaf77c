package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// An argument is a word of the usage line of a command.
type argument struct {
	name     string
	optional bool
	many     bool
}

// arguments reads what a usage line says of the arguments of a command, as in
// "set PATH VALUE", "tree [PATH]" and "run [flags] -- COMMAND [ARGUMENT...]".
func arguments(use string) (list []argument) {
	for _, word := range strings.Fields(use)[1:] {
		if word == "[flags]" || word == "--" {
			continue
		}
		name, optional := strings.CutPrefix(word, "[")
		name, many := strings.CutSuffix(strings.TrimSuffix(name, "]"), "...")
		list = append(list, argument{name, optional, many})
	}
	return list
}

// checkArgs holds a command to its usage line. What is wrong is said with the
// first example of its help.
func checkArgs(c *cobra.Command, args []string) error {
	list := arguments(c.Use)
	example, _, _ := strings.Cut(strings.TrimSpace(c.Example), "\n")
	var names, missing []string
	for n, a := range list {
		names = append(names, a.name)
		if n >= len(args) && !a.optional {
			missing = append(missing, a.name)
		}
	}
	switch {
	case len(missing) == 1:
		return fmt.Errorf("%s is missing, as in: %s", missing[0], example)
	case len(missing) > 1:
		return fmt.Errorf("%s are missing, as in: %s", strings.Join(missing, " and "), example)
	case len(args) <= len(list) || slices.ContainsFunc(list, func(a argument) bool { return a.many }):
		return nil
	case len(list) > 0:
		return fmt.Errorf("%q is too much after %s; a value with spaces is in quotes, as in: %s", args[len(list)], strings.Join(names, " "), example)
	case c.Flags().Changed("intercept"):
		return fmt.Errorf("%s takes no arguments; a mode is joined with a sign: --intercept=%s", c.CommandPath(), args[0])
	case c.Flags().Lookup("host") != nil:
		return fmt.Errorf("%s takes no arguments; a server is named like this: %s --host %s", c.CommandPath(), c.CommandPath(), args[0])
	}
	return fmt.Errorf("%s takes no arguments, but there is %q", c.CommandPath(), args[0])
}

// checkCommand is for a group of commands, whose only argument is one of them.
func checkCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("there is no command %q; is it %s?", args[0], strings.Join(near, " or "))
	}
	return fmt.Errorf("there is no command %q", args[0])
}
