package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestCurl runs the scripts of the directory curl: what a person types. Each
// has a server of its own.
func TestCurl(t *testing.T) {
	scripts, err := filepath.Glob("curl/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			s := serve(t)
			testscript.Run(t, testscript.Params{
				Files:    []string{script},
				Deadline: time.Now().Add(patience),
				Setup: func(e *testscript.Env) error {
					for _, v := range s.variables() {
						name, value, _ := strings.Cut(v, "=")
						e.Setenv(name, value)
					}
					e.Setenv("PATH", filepath.Dir(gcemds)+string(os.PathListSeparator)+os.Getenv("PATH"))
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){"field": field},
			})
		})
	}
}

// field VARIABLE NAME sets a variable to what follows a name at the beginning
// of a line of the last output.
func field(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: field VARIABLE NAME")
	}
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == args[1] {
			ts.Setenv(args[0], value)
			return
		}
	}
	ts.Fatalf("no line of the output begins with %q", args[1])
}
