package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/spf13/cobra"
)

func newDoctor() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Tell what client libraries find here, and what is wrong",
		Long: `Look at this environment as Google's client libraries do (variables, files of
credentials, the gcloud configuration, DNS, what answers at 169.254.169.254), and
tell which identity each of them would find and why. Then ask the metadata server
that they would ask, whether its answers are right and whether it has tokens.

Each finding has the name of the check, what is wrong, why that matters, and what
mends it. Nothing is changed, and no secret is printed: tokens are made and thrown
away. The exit code is 1 if there is a problem; warnings are not one.`,
		Example: "  gcemds doctor\n  gcemds doctor --json",
		RunE: func(c *cobra.Command, _ []string) error {
			d := diagnose(c.Context(), here())
			if err := d.print(c.OutOrStdout(), asJSON); err != nil {
				return err
			}
			switch problems := d.count(problem); problems {
			case 0:
				return c.Context().Err()
			case 1:
				return errors.New("there is a problem")
			default:
				return fmt.Errorf("there are %d problems", problems)
			}
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// A severity says how bad a finding is.
type severity string

const (
	fine    severity = "ok"
	note    severity = "note"    // good to know
	warning severity = "warning" // some programs will not do what one expects
	problem severity = "problem" // something does not work
)

// A finding is what a check has to say.
type finding struct {
	Check    string   `json:"check"`
	Severity severity `json:"severity"`
	What     string   `json:"what"`
	Why      string   `json:"why,omitempty"`
	Fix      string   `json:"fix,omitempty"` // a command, or what to do
}

// String returns the finding for people, in lines.
func (f finding) String() string {
	s := fmt.Sprintf("  %-8s %s: %s\n", f.Severity, f.Check, f.What)
	if f.Why != "" {
		s += fmt.Sprintf("  %-8s   why: %s\n", "", f.Why)
	}
	if f.Fix != "" {
		s += fmt.Sprintf("  %-8s   fix: %s\n", "", strings.ReplaceAll(f.Fix, "\n", "\n"+strings.Repeat(" ", 18)))
	}
	return s
}

// A diagnosis is all that doctor says.
type diagnosis struct {
	Libraries []prospect `json:"libraries"`
	Findings  []finding  `json:"findings"`
}

// diagnose runs all checks. One that finds nothing to say says so.
func diagnose(ctx context.Context, p *place) diagnosis {
	d := diagnosis{Libraries: []prospect{}, Findings: []finding{}}
	p.look(ctx)
	for _, l := range libraries {
		d.Libraries = append(d.Libraries, l.prospect(p))
	}
	for _, c := range checks {
		if c.server && !p.server.genuine() {
			continue // said by server-answers
		}
		for _, f := range c.run(ctx, p) {
			f.Check = c.name
			d.Findings = append(d.Findings, f)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return d
}

func (d diagnosis) count(s severity) (n int) {
	for _, f := range d.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// alike yields the libraries that find the same for the same reason together.
func alike(list []prospect) iter.Seq2[string, prospect] {
	return func(yield func(string, prospect) bool) {
		names := map[prospect][]string{}
		var order []prospect
		for _, p := range list {
			name := p.Library
			p.Library = ""
			if names[p] == nil {
				order = append(order, p)
			}
			names[p] = append(names[p], name)
		}
		for _, p := range order {
			if !yield(strings.Join(names[p], ", "), p) {
				return
			}
		}
	}
}

func (d diagnosis) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, d)
	}
	var b strings.Builder
	b.WriteString("What client libraries find here:\n\n")
	for names, l := range alike(d.Libraries) {
		fmt.Fprintf(&b, "  %s: %s\n", names, l.Finds)
		fmt.Fprintf(&b, "    %s\n", l.Because)
		if l.Stall != "" {
			fmt.Fprintf(&b, "    %s\n", l.Stall)
		}
	}
	b.WriteString("\nFindings:\n\n")
	for _, f := range d.Findings {
		b.WriteString(f.String())
	}
	_, err := io.WriteString(w, b.String())
	return err
}
