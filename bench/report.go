package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// A row is one line of the report.
type row struct {
	what   string
	gcemds string
	floor  string // the same of the floor, where it can do that
	ratio  string
	bound  string // empty: for orientation
	pass   bool
	note   string // why there is no result
}

var columns = []string{"measured", "gcemds", "floor", "ratio", "bound", ""}

func (r row) cells() []string {
	verdict := "FAILS"
	switch {
	case r.note != "":
		verdict = "not measured: " + strings.Join(strings.Fields(r.note), " ")
	case r.pass && r.bound == "":
		verdict = ""
	case r.pass:
		verdict = "holds"
	}
	return []string{r.what, r.gcemds, r.floor, r.ratio, r.bound, verdict}
}

func printTable(w io.Writer, rows []row) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(columns, "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r.cells(), "\t"))
	}
	t.Flush()
}

// benchTable is the name of the table of this program.
const benchTable = "bench"

// marks are the lines between which a table of a Markdown document stands.
func marks(name string) (begin, end string) {
	return "<!-- " + name + ": begin -->\n", "<!-- " + name + ": end -->\n"
}

// markdown is the machine and the table, as replaceTable wants it.
func markdown(machine string, rows []row) string {
	var s strings.Builder
	line := func(cells []string) {
		escaped := strings.ReplaceAll(strings.Join(cells, "\x00"), "|", `\|`)
		s.WriteString("| " + strings.ReplaceAll(escaped, "\x00", " | ") + " |\n")
	}
	s.WriteString(machine + "\n\n")
	line(columns)
	s.WriteString(strings.Repeat("|---", len(columns)) + "|\n")
	for _, r := range rows {
		line(r.cells())
	}
	return s.String()
}

// writeTable puts the table into a Markdown document that has the marks of its
// name.
func writeTable(file, name, machine string, rows []row) error {
	doc, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	doc, err = replaceTable(doc, name, markdown(machine, rows))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, doc, 0o644)
}

func replaceTable(doc []byte, name, table string) ([]byte, error) {
	begin, end := marks(name)
	before, rest, ok := bytes.Cut(doc, []byte(begin))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return nil, errors.New("there is no place for the table: the lines " + strings.TrimSpace(begin) + " and " + strings.TrimSpace(end) + " mark it")
	}
	return fmt.Appendf(nil, "%s%s\n%s\n%s%s", before, begin, table, end, after), nil
}

const reportCommand = "report"

// report is the hidden command that shows what another program has measured:
// rows, as JSON on stdin. Its arguments are the name of the table and, to put it
// there, a Markdown document.
func report(args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) != 1 && len(args) != 2 {
		return errors.New("report: want the name of a table, and perhaps a document")
	}
	var measured []struct {
		What, GCEMDS, Floor, Ratio, Bound string
		Pass                              bool
	}
	if err := json.NewDecoder(stdin).Decode(&measured); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	var rows []row
	for _, m := range measured {
		rows = append(rows, row{what: m.What, gcemds: m.GCEMDS, floor: m.Floor, ratio: m.Ratio, bound: m.Bound, pass: m.Pass})
	}
	machine := describeMachine()
	fmt.Fprintf(stdout, "%s\n\n", machine)
	printTable(stdout, rows)
	if len(args) == 2 {
		if err := writeTable(args[1], args[0], machine, rows); err != nil {
			return err
		}
	}
	return verdict(rows)
}

var errMissed = errors.New("a bound was missed or could not be measured")

// verdict is an error if not all bounds hold.
func verdict(rows []row) error {
	if slices.ContainsFunc(rows, func(r row) bool { return !r.pass }) {
		return errMissed
	}
	return nil
}
