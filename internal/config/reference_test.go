package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// TestReference: the page about the configuration has every field.
func TestReference(t *testing.T) {
	const name = "../../docs/reference/configuration.md"
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range fields("", reflect.TypeFor[Config]()) {
		if !strings.Contains(string(page), "`"+field+"`") {
			t.Errorf("%s does not mention `%s`", name, field)
		}
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
		for i := range t.NumField() {
			if f := t.Field(i); tag(f) != "" && tag(f) != "-" {
				list = append(list, fields(join(path, tag(f)), f.Type)...)
			}
		}
		return list
	}
	return []string{path}
}
