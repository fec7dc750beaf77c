package config

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite what the cases of testdata want")

// TestCorpus: each case is a file and what Load says of it: its faults, or ok
// and what Show prints.
func TestCorpus(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, name := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if len(a.Files) != 2 || a.Files[0].Name != "mds.yaml" || a.Files[1].Name != "want" {
				t.Fatal("a case has the files mds.yaml and want")
			}
			got := verdict(t, "etc/mds.yaml", a.Files[0].Data)
			if *update {
				a.Files[1].Data = []byte(got)
				if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(a.Files[1].Data), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", strings.TrimSpace(string(a.Comment)), diff)
			}
		})
	}
}

func verdict(t *testing.T, name string, data []byte) string {
	c, err := Load(name, data)
	if err != nil {
		return err.Error() + "\n"
	}
	return "ok\n" + filepath.ToSlash(show(t, c, true))
}

func show(t *testing.T, c *Config, origins bool) string {
	t.Helper()
	var b strings.Builder
	if err := c.Show(&b, origins); err != nil {
		t.Fatalf("Show: %v", err)
	}
	return b.String()
}
