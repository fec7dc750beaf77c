package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMarkdown(t *testing.T) {
	got := markdown("A machine.", []row{
		{what: "leaf", gcemds: "1", floor: "2", ratio: "0.5", bound: "at least 0.95"},
		{what: "a|b", note: "no\nluck"},
		{what: "for orientation", gcemds: "3", pass: true},
	})
	const want = `A machine.

| measured | gcemds | floor | ratio | bound |  |
|---|---|---|---|---|---|
| leaf | 1 | 2 | 0.5 | at least 0.95 | FAILS |
| a\|b |  |  |  |  | not measured: no luck |
| for orientation | 3 |  |  |  |  |
`
	if got != want {
		t.Errorf("the table is\n%s\nwant\n%s", got, want)
	}
}

func TestReplaceTable(t *testing.T) {
	tableBegin, tableEnd := marks(benchTable)
	doc := "# Title\n\n" + tableBegin + "old\n" + tableEnd + "\nThe end.\n"
	once, err := replaceTable([]byte(doc), benchTable, "new\n")
	if err != nil {
		t.Fatal(err)
	}
	want := "# Title\n\n" + tableBegin + "\nnew\n\n" + tableEnd + "\nThe end.\n"
	if string(once) != want {
		t.Errorf("the document is %q, want %q", once, want)
	}
	if twice, err := replaceTable(once, benchTable, "new\n"); err != nil || string(twice) != want {
		t.Errorf("the second time the document is %q (%v), want no difference", twice, err)
	}
	for _, bad := range []string{"", tableBegin, tableEnd + tableBegin} {
		if _, err := replaceTable([]byte(bad), benchTable, ""); err == nil || !strings.Contains(err.Error(), "bench: begin") {
			t.Errorf("in %q: %v, want an error that names the marks", bad, err)
		}
	}
}

// TestReport: what another program has measured is shown as our own is.
func TestReport(t *testing.T) {
	name := filepath.Join(t.TempDir(), "doc.md")
	begin, end := marks("other")
	if err := os.WriteFile(name, []byte(begin+end), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	rows := `[{"what": "calls", "gcemds": "60", "bound": "at most 60", "pass": true}, {"what": "failed", "gcemds": "1", "bound": "0"}]`
	if err := report([]string{"other", name}, strings.NewReader(rows), &out); err != errMissed {
		t.Errorf("with a row that fails: %v, want %v", err, errMissed)
	}
	doc, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| calls | 60 |  |  | at most 60 | holds |", "| failed | 1 |  |  | 0 | FAILS |"} {
		if !strings.Contains(string(doc), want) {
			t.Errorf("the document is\n%s\nwant %s", doc, want)
		}
	}
	if !strings.Contains(out.String(), "FAILS") {
		t.Errorf("it prints\n%s\nwant the table", &out)
	}
}

func TestChoose(t *testing.T) {
	names := func(list []benchCase) string {
		var s []string
		for _, c := range list {
			s = append(s, c.name)
		}
		return strings.Join(s, " ")
	}
	all, err := choose("")
	if err != nil || len(all) != len(cases) {
		t.Errorf("no choice gives %q, %v; want all cases", names(all), err)
	}
	if two, err := choose("start,leaf"); err != nil || names(two) != "leaf start" {
		t.Errorf("start,leaf gives %q, %v; want them in the order of the report", names(two), err)
	}
	if _, err := choose("leaf,leave"); err == nil || !strings.Contains(err.Error(), `"leave"`) {
		t.Errorf("a case that does not exist: %v, want an error that names it", err)
	}
}

func TestParseBenchmarks(t *testing.T) {
	got := parseBenchmarks(`goos: linux
BenchmarkHandler/token-2     100000   1868 ns/op   640 B/op   6 allocs/op
BenchmarkHandler/leaf-2      100000    736.6 ns/op   208 B/op   1 allocs/op
BenchmarkOther/leaf-2        100000    1 ns/op   0 B/op   0 allocs/op
BenchmarkHandler/broken
PASS
`)
	want := []benchmark{{"leaf", "736.6", 1}, {"token", "1868", 6}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("the benchmarks are %v, want %v", got, want)
	}
}

func TestLargeDocument(t *testing.T) {
	if doc := largeDocument(documentSize); len(doc) < documentSize || len(doc) > documentSize+4096 {
		t.Errorf("the large document has %d bytes, want about %d", len(doc), documentSize)
	}
}
