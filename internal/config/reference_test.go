package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestReference: the page about the configuration has every field, and each
// kind of source has a page with those of its own.
func TestReference(t *testing.T) {
	const configuration = "configuration.md"
	for _, field := range fields("", reflect.TypeFor[Config]()) {
		page := configuration
		if rest, ok := strings.CutPrefix(field, "sources.NAME."); ok {
			kind, of, _ := strings.Cut(rest, ".")
			mention(t, configuration, "sources.NAME."+kind)
			page, field = filepath.Join("sources", kind+".md"), of
		}
		mention(t, page, field)
	}
}

func mention(t *testing.T, page, field string) {
	t.Helper()
	page = filepath.Join("../../docs/reference", page)
	if text, err := os.ReadFile(page); err != nil || !strings.Contains(string(text), "`"+field+"`") {
		t.Errorf("%s does not mention `%s` (%v)", page, field, err)
	}
}

// fields returns the paths of all fields that hold a value; what the person
// names is NAME.
func fields(path string, t reflect.Type) (list []string) {
	switch {
	case scalars[t] != nil, t == edits:
	case t.Kind() == reflect.Pointer:
		return fields(path, t.Elem())
	case t.Kind() == reflect.Map, t.Kind() == reflect.Slice && hasKey(t.Elem()):
		return fields(path+".NAME", t.Elem())
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && scalars[t.Elem()] == nil:
		return fields(path+"[]", t.Elem())
	case t.Kind() == reflect.Struct:
		for _, f := range reflect.VisibleFields(t) { // those of embedded structs, too
			if tag(f) != "" && tag(f) != "-" {
				list = append(list, fields(join(path, tag(f)), f.Type)...)
			}
		}
		return list
	}
	return []string{path}
}
