package tree

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// camelCase is the JSON form of a path name: external-ip → externalIp
// (protocol section 3.3).
func camelCase(name string) string {
	if !strings.Contains(name, "-") {
		return name
	}
	b := make([]byte, 0, len(name))
	upper := false
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '-':
			upper = true
			continue
		case upper && 'a' <= c && c <= 'z':
			c -= 'a' - 'A'
		}
		upper = false
		b = append(b, c)
	}
	return string(b)
}

// hyphenated is the path form of a JSON name: externalIp → external-ip.
// Names that have no capitals are path names already.
func hyphenated(name string) string {
	if !strings.ContainsFunc(name, isUpper) {
		return name
	}
	b := make([]byte, 0, len(name)+4)
	for i := range len(name) {
		c := name[i]
		if isUpper(rune(c)) {
			if i > 0 && name[i-1] != '-' {
				b = append(b, '-')
			}
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return string(b)
}

func isUpper(r rune) bool { return 'A' <= r && r <= 'Z' }

// maxName is generous: the API allows 128 bytes for attribute keys.
const maxName = 1024

// validName refuses the names of children that have no path or JSON form.
func (r *rule) validName(name string) error {
	err := validName(name)
	if json := camelCase(name); err == nil && r.traits&raw == 0 && json != name && validName(json) != nil {
		return fmt.Errorf("a name cannot be %q in JSON; it needs letters", json)
	}
	return err
}

// validName refuses names that no request path could carry or no listing show.
func validName(name string) error {
	switch {
	case name == "":
		return errors.New("a path has an empty part, as two slashes in a row make it")
	case name == "." || name == "..":
		return errors.New("a part of a path cannot be . or .. alone")
	case !utf8.ValidString(name):
		return errors.New("a name is not UTF-8")
	case len(name) > maxName:
		return errors.New("a name is longer than 1024 bytes")
	case strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r < ' ' || r == 0x7f }):
		return errors.New("a name cannot have slashes or control characters")
	}
	return nil
}
