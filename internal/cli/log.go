package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/internal/admin"
)

func newLog() *cobra.Command {
	var r remote
	var follow, asJSON bool
	c := &cobra.Command{
		Use:   "log",
		Short: "Show what programs ask of a running server",
		Long: `Show the latest requests to a server that runs on this machine, what they got,
and each change of its documents and its configuration. It keeps about a thousand
of these. Neither queries nor tokens are among them.`,
		Example: "  gcemds log\n  gcemds log --follow\n  gcemds log --json",
		RunE: func(c *cobra.Command, _ []string) error {
			for e, err := range r.client().Log(c.Context(), follow) {
				if err != nil {
					return err
				}
				line := logLine(e)
				if asJSON {
					data, err := json.Marshal(e)
					if err != nil {
						return err
					}
					line = string(data)
				}
				if _, err := fmt.Fprintln(c.OutOrStdout(), line); err != nil {
					return err
				}
			}
			return nil
		},
	}
	r.flags(c)
	c.Flags().BoolVarP(&follow, "follow", "f", false, "wait for more, until you interrupt")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, an object on each line")
	return c
}

// logLine is an entry for a person, such as
//
//	15:04:05.123 vm-1 GET /computeMetadata/v1/instance/name 200 85µs
func logLine(e admin.Event) string {
	words := []string{e.Time.Local().Format("15:04:05.000")}
	if e.Instance != "" {
		words = append(words, shownWord(e.Instance))
	}
	if e.Method == "" {
		words = append(words, string(e.Kind))
	}
	for _, word := range []string{e.Method, e.Path} {
		if word != "" {
			words = append(words, shownWord(word)) // whatever a program has sent
		}
	}
	if e.Status != 0 {
		words = append(words, strconv.Itoa(e.Status), e.Took.Round(time.Microsecond).String())
	}
	for _, word := range []string{e.Detail, e.Error} {
		if word != "" {
			words = append(words, shownWord(word))
		}
	}
	return strings.Join(words, " ")
}

// shownWord is a word for a terminal, which some characters would confuse.
func shownWord(s string) string {
	quoted := strconv.Quote(s)
	if unquoted := quoted[1 : len(quoted)-1]; unquoted == strings.ReplaceAll(s, `"`, `\"`) {
		return s
	}
	return quoted
}
