package archtest

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/gcemds/gcemds"

// root is the top of the module, seen from the folder that this package is tested in.
const root = "../.."

// pkg is what we read of the output of go list -json.
type pkg struct {
	Dir          string
	ImportPath   string
	Name         string
	Doc          string
	Module       *struct{ Path string } // nil in the standard library
	Imports      []string
	TestGoFiles  []string
	XTestGoFiles []string
}

// systems are those that we build for. Files differ between them, and so may imports.
var systems = []string{"linux", "darwin", "windows"}

// load asks go list about packages of the module, as they are built for a system.
func load(t *testing.T, system string, args ...string) []pkg {
	t.Helper()
	var stderr strings.Builder
	list := exec.Command("go", append([]string{"list", "-json=Dir,ImportPath,Name,Doc,Module,Imports,TestGoFiles,XTestGoFiles"}, args...)...)
	list.Dir = root
	list.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0")
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	var packages []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("go list %s: %v", strings.Join(args, " "), err)
		}
		packages = append(packages, p)
	}
}

// packageDoc returns the package comment. go list knows only that of ordinary files; a package of tests alone has it in
// one of those.
func packageDoc(t *testing.T, p pkg) string {
	t.Helper()
	if p.Doc != "" {
		return p.Doc
	}
	for _, name := range append(p.TestGoFiles, p.XTestGoFiles...) {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		if doc := file.Doc.Text(); doc != "" {
			return doc
		}
	}
	return ""
}

func ours(importPath string) bool {
	return importPath == module || strings.HasPrefix(importPath, module+"/")
}

// short and full translate between import paths and the names in the table, where the root package is "".
func short(importPath string) string {
	return strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/")
}

func full(name string) string { return strings.TrimSuffix(module+"/"+name, "/") }
