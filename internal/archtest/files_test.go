package archtest

import (
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// files calls f with each text file of the repository, named from its top.
func files(t *testing.T, f func(name, text string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", "dist", "node_modules"}, d.Name()) {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() || d.Name() == ".git" { // a file in a worktree
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		name, err = filepath.Rel(root, name)
		if err == nil && utf8.Valid(data) {
			f(filepath.ToSlash(name), string(data))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// workplaces matches the folders in which people and build services keep a checkout: such a path is true on one machine
// only. Write ~, $HOME or a relative path instead.
var workplaces = regexp.MustCompile(`(^|[\s"'` + "`" + `(=:,])/(builds|home/[a-z][\w.-]*|root|Users/[A-Za-z][\w.-]*|work|workspace)/[\w.]`)

// TestNoPathsOfOneMachine: the repository means the same wherever it lies.
func TestNoPathsOfOneMachine(t *testing.T) {
	files(t, func(name, text string) {
		for i, line := range strings.Split(text, "\n") {
			m := ""
			if strings.Contains(line, "/") { // the expression takes its time
				m = workplaces.FindString(line)
			}
			if m != "" && !strings.HasPrefix(name, "e2e/") { // there, /home/… is a folder of the machine under test
				t.Errorf("%s:%d: %q is the start of a path of one machine", name, i+1, strings.TrimSpace(m))
			}
		}
	})
}

func TestWorkplaces(t *testing.T) {
	for text, want := range map[string]bool{
		"see /" + "home/ann/src/gcemds":      true,
		`"/` + `Users/ann/go"`:               true,
		"/" + "root/go/pkg":                  true,
		"cd /" + "work/src":                  true,
		"/run/google-mds-mtls/root.crt":      false,
		"https://example.com/home/ann/x":     false,
		"/etc/gcemds/gcemds.yaml":            false,
		"docs/how-to/workspace/x and /home/": false,
	} {
		if got := workplaces.MatchString(text); got != want {
			t.Errorf("%q taken for a path of one machine: %v, want %v", text, got, want)
		}
	}
}

var (
	fences   = regexp.MustCompile("(?ms)^ *(```|~~~).*?^ *(```|~~~)[ \t]*$")
	code     = regexp.MustCompile("`[^`\n]*`")
	links    = regexp.MustCompile(`\]\(<?([^)\s>]+)>?(?:\s+"[^"]*")?\)|^\[[^\]]+\]:\s*(\S+)`)
	headings = regexp.MustCompile(`(?m)^#{1,6}[ \t]+(.+?)[ \t#]*$`)
	anchors  = regexp.MustCompile(`<a (?:id|name)="([^"]+)"`)
)

// TestLinks: a relative link in a document leads to a file that exists, and to a heading that it has.
func TestLinks(t *testing.T) {
	documents := map[string]string{}
	files(t, func(name, text string) {
		if strings.HasSuffix(name, ".md") {
			documents[name] = fences.ReplaceAllString(text, "")
		}
	})
	for name, text := range documents {
		for _, link := range linksOf(text) {
			u, err := url.Parse(link)
			if err != nil {
				t.Errorf("%s: %q is not a link: %v", name, link, err)
				continue
			}
			if u.IsAbs() || u.Host != "" {
				continue
			}
			target := name
			if u.Path != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(name), filepath.FromSlash(u.Path)))
				if _, err := os.Stat(filepath.Join(root, target)); err != nil {
					t.Errorf("%s: the link %q leads nowhere", name, link)
					continue
				}
			}
			if text, ok := documents[target]; ok && u.Fragment != "" && !slices.Contains(headingsOf(text), u.Fragment) {
				t.Errorf("%s: the link %q leads to a heading that %s does not have", name, link, target)
			}
		}
	}
}

func linksOf(text string) []string {
	var list []string
	for _, line := range strings.Split(code.ReplaceAllString(text, ""), "\n") {
		for _, m := range links.FindAllStringSubmatch(line, -1) {
			list = append(list, m[1]+m[2])
		}
	}
	return list
}

// headingsOf returns the fragments under which the headings of a document can be reached, in the spelling of GitHub:
// lower case, punctuation dropped, spaces turned to hyphens.
func headingsOf(text string) []string {
	var list []string
	for _, m := range headings.FindAllStringSubmatch(text, -1) {
		list = append(list, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, m[1]))
	}
	for _, m := range anchors.FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	return list
}

func TestLinksOf(t *testing.T) {
	text := "# Who may import whom?\n\nSee [a](b.md#c), ![picture](p.png \"title\") and `[no](link)`.\n\n[ref]: other.md\n"
	if got, want := linksOf(text), []string{"b.md#c", "p.png", "other.md"}; !slices.Equal(got, want) {
		t.Errorf("links %q, want %q", got, want)
	}
	if got, want := headingsOf(text+"## `make` & co\n"), []string{"who-may-import-whom", "make--co"}; !slices.Equal(got, want) {
		t.Errorf("headings %q, want %q", got, want)
	}
}
