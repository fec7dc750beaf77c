package archtest

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the table in ARCHITECTURE.md")

// TestPage: the table in ARCHITECTURE.md is that of the imports.
func TestPage(t *testing.T) {
	name := filepath.Join(root, "ARCHITECTURE.md")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- go test ./internal/archtest -run Page -update -->\n", "<!-- end -->"
	before, rest, found := strings.Cut(string(data), begin)
	old, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("ARCHITECTURE.md has not the lines %s and %s", begin, end)
	}
	docs := map[string]string{}
	for _, p := range load(t, "linux", "./...") {
		docs[short(p.ImportPath)] = packageDoc(t, p)
	}
	var table strings.Builder
	table.WriteString("| package | is | imports, of ours |\n|---|---|---|\n")
	for _, from := range slices.Sorted(maps.Keys(imports)) {
		var to []string
		for _, name := range slices.Sorted(maps.Keys(imports[from])) {
			to = append(to, row(name))
		}
		table.WriteString("| `" + row(from) + "` | " + summary(docs[from]) + " | " + strings.Join(to, ", ") + " |\n")
	}
	if table.String() == old {
		return
	}
	if !*update {
		t.Fatal("the table in ARCHITECTURE.md is not that of the imports; run: go test ./internal/archtest -run Page -update")
	}
	if err := os.WriteFile(name, []byte(before+begin+table.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// row is a package in the table: the root has a name, internal goes without saying.
func row(name string) string {
	if name == "" {
		return "gcemds"
	}
	return strings.TrimPrefix(name, "internal/")
}

// summary is the first sentence of a package comment, without its subject: what the package is or does.
func summary(doc string) string {
	doc = strings.Join(strings.Fields(doc), " ")
	for _, stop := range []string{". ", ": ", "; "} {
		doc, _, _ = strings.Cut(doc, stop)
	}
	words := strings.SplitN(strings.TrimSuffix(doc, "."), " ", 3) // Package tree is …
	if len(words) < 3 {
		return doc
	}
	return strings.TrimPrefix(words[2], "is ")
}
