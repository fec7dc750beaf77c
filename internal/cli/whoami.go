package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/internal/admin"
)

func newWhoami() *cobra.Command {
	var r remote
	var asJSON bool
	c := &cobra.Command{
		Use:   "whoami",
		Short: "Show whose tokens workloads get, and whether they do",
		Long: `Get a token for each account of an instance, as a workload would, and show how:
who signs, the exchange, each account that is impersonated, and until when the
token is good; or the step that failed, and what to do. The tokens themselves
are not shown.`,
		Example: "  gcemds whoami\n  gcemds whoami --instance vm-2 --json",
		RunE: func(c *cobra.Command, _ []string) error {
			minted, err := r.client().WhoAmI(c.Context(), r.instance)
			if err != nil {
				return err
			}
			return printMinted(c.OutOrStdout(), minted, asJSON)
		},
	}
	r.instanceFlags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// advice is what to do about a class of failure that the error itself does not
// say.
var advice = map[string]string{
	"unavailable":   "is what the step needs there: the file, the program, the network, a proxy? gcemds itself tries again",
	"throttled":     "gcemds asks again when it may; fewer scopes and audiences make fewer tokens",
	"denied":        "who was asked in that step refuses the credential, or what is asked for",
	"configuration": "this cannot work until the configuration or the credential is mended",
	"clock":         "set the clock of this machine",
}

// printMinted is the answer of whoami and of config check --mint.
func printMinted(w io.Writer, minted []admin.Minted, asJSON bool) error {
	failed := 0
	var b strings.Builder
	for _, m := range minted {
		source := m.Source
		if source == "" {
			source = "(none)"
		}
		line := func(name, text string) {
			if text != "" {
				fmt.Fprintf(&b, "  %-8s %s\n", name, text)
			}
		}
		state := "ok"
		if m.Failure != "" {
			failed++
			state = "FAILED: " + m.Failure
		}
		fmt.Fprintf(&b, "source %s: %s\n", source, state)
		line("chain", strings.Join(m.Steps, " → "))
		line("account", strings.TrimSuffix(m.Account+" ("+strings.Join(m.Aliases, ", ")+")", " ()"))
		line("scopes", strings.Join(m.Scopes, " "))
		if m.Expiry != nil {
			line("token", fmt.Sprintf("%s, good for %s", m.Token, time.Until(*m.Expiry).Truncate(time.Second)))
		}
		line("error", m.Error)
		line("to do", advice[m.Failure])
	}
	if asJSON {
		if err := printJSON(w, minted); err != nil {
			return err
		}
	} else if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	if failed > 0 {
		return errors.New("not every source makes tokens")
	}
	return nil
}
