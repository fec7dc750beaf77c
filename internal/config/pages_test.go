package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gcemds/gcemds/internal/credential"
)

// TestSourcePages: each kind of source has a page of one form, whose examples
// load and whose errors are those of the code.
func TestSourcePages(t *testing.T) {
	var code strings.Builder
	for _, pattern := range []string{"../*/*.go", "../../cmd/*/*.go"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			if !strings.HasSuffix(name, "_test.go") {
				code.Write(readPage(t, name))
			}
		}
	}
	code.WriteString("executable file not found; exit status; kms-sign ended; no such file or directory; segmentation violation") // what systems say
	source := strings.ReplaceAll(code.String(), `\"`, `"`)
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```")
	message := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")
	words := regexp.MustCompile("[A-Za-z][A-Za-z ,'-]{11,}") // the rest is what stands for a value

	kinds := reflect.TypeFor[credential.Config]()
	for i := range kinds.NumField() {
		kind, _, _ := strings.Cut(kinds.Field(i).Tag.Get("yaml"), ",")
		name := "../../docs/reference/sources/" + kind + ".md"
		page := string(readPage(t, name))
		before := 0
		for _, part := range []string{"# Source: " + kind + "\n", "\n**What.**", "\n**When.**", "\n**Configuration", "\n**Permissions needed", "\n**Errors you may see"} {
			at := strings.Index(page, part)
			if at < before {
				t.Errorf("%s: %q is missing, or not in the order of the other pages", name, part)
			}
			before = at
		}
		for _, example := range examples.FindAllStringSubmatch(page, -1) {
			if _, err := Load("mds.yaml", []byte(example[1])); err != nil {
				t.Errorf("%s: an example does not load: %v\n%s", name, err, example[1])
			}
		}
		_, errors, _ := strings.Cut(page, "\n**Errors you may see")
		for _, m := range message.FindAllStringSubmatch(errors, -1) {
			if !strings.Contains(m[1], " ") {
				continue // the word for a class of errors
			}
			ours := func(words string) bool {
				return strings.Contains(source, strings.TrimSpace(words[:min(len(words), 16)]))
			}
			if found := words.FindAllString(m[1], -1); found != nil && !slices.ContainsFunc(found, ours) {
				t.Errorf("%s: no error of the code has %q", name, found)
			}
		}
	}
}

func readPage(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
	}
	return data
}
