package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
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

// The table of a Markdown document stands between these lines.
const (
	tableBegin = "<!-- bench: begin -->\n"
	tableEnd   = "<!-- bench: end -->\n"
)

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

// writeTable puts the table into a Markdown document that has the marks.
func writeTable(name, machine string, rows []row) error {
	doc, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	doc, err = replaceTable(doc, markdown(machine, rows))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.WriteFile(name, doc, 0o644)
}

func replaceTable(doc []byte, table string) ([]byte, error) {
	before, rest, ok := bytes.Cut(doc, []byte(tableBegin))
	_, after, ok2 := bytes.Cut(rest, []byte(tableEnd))
	if !ok || !ok2 {
		return nil, errors.New("there is no place for the table: the lines " + strings.TrimSpace(tableBegin) + " and " + strings.TrimSpace(tableEnd) + " mark it")
	}
	return fmt.Appendf(nil, "%s%s\n%s\n%s%s", before, tableBegin, table, tableEnd, after), nil
}
