package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/gcemds/gcemds/internal/tree"
)

// A decoder fills a Config from a tree of nodes and collects the faults. It is
// strict: a field that does not exist, a wrong type and an empty value are
// faults. It exists because the decoder of the library knows lines, but not
// paths, and does not go on where we want it to.
type decoder struct {
	file   string
	nodes  map[string]*yaml.Node // by path: the key of what has one, else the value
	faults Faults
	files  []string
}

// fault reports at a node; without one, at the nearest known place above path.
func (d *decoder) fault(n *yaml.Node, path, message string) {
	for above := path; n == nil; above = above[:max(0, strings.LastIndexAny(above, ".["))] {
		if n = d.nodes[above]; above == "" && n == nil {
			n = &yaml.Node{}
		}
	}
	f := Fault{File: d.file, Line: n.Line, Column: n.Column, Path: path, Message: message}
	if n.Line == 0 {
		_, f.File, _ = strings.Cut(n.LineComment, " ") // "flag --listen"
	}
	if len(d.faults) < maxFaults {
		d.faults = append(d.faults, f)
	}
}

// at reports at a path that was decoded.
func (d *decoder) at(path, format string, args ...any) {
	d.fault(nil, path, fmt.Sprintf(format, args...))
}

// sound reports whether there is no fault at path or below.
func (d *decoder) sound(path string) bool {
	return !slices.ContainsFunc(d.faults, func(f Fault) bool {
		rest, below := strings.CutPrefix(f.Path, path)
		return below && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

func (d *decoder) decode(path string, n *yaml.Node, into any) {
	d.value(path, n, reflect.ValueOf(into).Elem(), "")
}

// value decodes a node into v. The check is is that of a string, or of the
// strings in a list.
func (d *decoder) value(path string, n *yaml.Node, v reflect.Value, is string) {
	if _, known := d.nodes[path]; !known {
		d.nodes[path] = n
	}
	t := v.Type()
	switch {
	case scalars[t] != nil, t.Kind() == reflect.String, t.Kind() == reflect.Bool, t.Kind() == reflect.Int:
		d.scalar(path, n, v, is)
	case t.Kind() == reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		d.value(path, n, v.Elem(), is)
	case t.Kind() == reflect.Slice && t != edits && !hasKey(t.Elem()):
		if d.wants(path, n, yaml.SequenceNode, "a list, such as [a, b]") {
			v.Set(reflect.MakeSlice(t, len(n.Content), len(n.Content)))
			for i, item := range n.Content {
				d.value(fmt.Sprintf("%s[%d]", path, i), item, v.Index(i), is)
			}
		}
	case t.Kind() == reflect.Struct && n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		d.short(path, n, v)
	case d.wants(path, n, yaml.MappingNode, aMapping):
		for key, value := range pairs(n) {
			below := join(path, key.Value)
			d.nodes[below] = key
			if key.Line == 0 || value.Line == 0 {
				d.nodes[below] = value // set from outside the file
			}
			d.member(below, key, value, v)
		}
	}
}

// member decodes one value of a mapping.
func (d *decoder) member(path string, key, n *yaml.Node, v reflect.Value) {
	switch t := v.Type(); {
	case t == edits:
		d.edit(path, key, n, v.Addr().Interface().(*[]tree.Edit))
	case t.Kind() == reflect.Struct:
		field, names := lookup(t, key.Value)
		if field == nil {
			d.fault(key, strings.TrimSuffix(strings.TrimSuffix(path, key.Value), "."), unknown("field", key.Value, names))
			return
		}
		is := field.Tag.Get("is")
		if name := tag(*field); is == "" && (name == "file" || strings.HasSuffix(name, "_file")) {
			is = "file"
		}
		d.value(path, n, v.FieldByIndex(field.Index), is)
	default: // a name of the person's choice
		if err := checks["name"](key.Value); err != nil {
			d.fault(key, path, err.Error())
		}
		item := reflect.New(t.Elem()).Elem()
		if hasKey(t.Elem()) {
			item.Field(0).SetString(key.Value)
		}
		d.value(path, n, item, "")
		if t.Kind() == reflect.Slice {
			v.Set(reflect.Append(v, item))
			return
		}
		if v.IsNil() {
			v.Set(reflect.MakeMap(t))
		}
		v.SetMapIndex(reflect.ValueOf(key.Value), item)
	}
}

// short decodes the short form of a struct that has one: key_file: sa.json.
func (d *decoder) short(path string, n *yaml.Node, v reflect.Value) {
	text, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
	if !ok {
		d.wants(path, n, yaml.MappingNode, aMapping)
		return
	}
	if file, _ := lookup(v.Type(), "file"); file != nil {
		d.place(n, file.Tag.Get("is") != "place")
	}
	if err := text.UnmarshalText([]byte(n.Value)); err != nil {
		d.fault(n, path, err.Error())
	}
}

const aMapping = "a mapping, with a line of the form name: value for each field"

// wants reports a node of another kind. A section with nothing in it, as when
// all its lines are comments, is an empty one.
func (d *decoder) wants(path string, n *yaml.Node, kind yaml.Kind, what string) bool {
	if n.Tag == "!!null" {
		n.Kind, n.Tag, n.Value = kind, "", ""
		return false
	}
	if n.Kind != kind {
		d.fault(n, path, "must be "+what+", not "+describe(n))
	}
	return n.Kind == kind
}

func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	case n.Style != 0:
		return "the text " + quote(n.Value)
	}
	return quote(n.Value)
}

// place makes a file name relative to where we run: in the file it is relative
// to the file. Show prints it so.
func (d *decoder) place(n *yaml.Node, watched bool) {
	if n.Value == "" {
		return
	}
	if n.Line > 0 && !filepath.IsAbs(n.Value) && n.Value[0] != '/' {
		n.Value = filepath.Join(filepath.Dir(d.file), n.Value)
	}
	if watched {
		d.files = append(d.files, n.Value)
	}
}

// secret makes the file name of a reference like that of a file.
func (d *decoder) secret(n *yaml.Node) {
	if name, ok := strings.CutPrefix(n.Value, "file:"); ok {
		n.Value = name
		d.place(n, true)
		n.Value = "file:" + n.Value
	}
}

var edits = reflect.TypeFor[[]tree.Edit]()

// edit decodes one line of set. A word is taken as it is written, since
// metadata are text; in lists and mappings it has its YAML type.
func (d *decoder) edit(path string, key, n *yaml.Node, list *[]tree.Edit) {
	if err := checks["path"](key.Value); err != nil {
		d.fault(key, path, err.Error())
	}
	value := plain(n)
	if n.Kind == yaml.ScalarNode && value != nil {
		value = n.Value
	}
	*list = append(*list, tree.Edit{Path: key.Value, Value: value})
}

func plain(n *yaml.Node) any {
	switch {
	case n.Kind == yaml.SequenceNode:
		list := []any{}
		for _, item := range n.Content {
			list = append(list, plain(item))
		}
		return list
	case n.Kind == yaml.MappingNode:
		object := map[string]any{}
		for key, value := range pairs(n) {
			object[key.Value] = plain(value)
		}
		return object
	case n.Tag == "!!null":
		return nil
	case n.Tag == "!!bool":
		return strings.EqualFold(n.Value, "true")
	case (n.Tag == "!!int" || n.Tag == "!!float") && json.Valid([]byte(n.Value)):
		return json.Number(n.Value)
	}
	return n.Value
}

// lookup finds the field of that name in a struct, and returns the names of all.
func lookup(t reflect.Type, name string) (*reflect.StructField, []string) {
	var found *reflect.StructField
	var names []string
	for _, f := range reflect.VisibleFields(t) { // those of embedded structs, too
		if tag := tag(f); tag != "" && tag != "-" {
			names = append(names, tag)
			if tag == name {
				found = &f
			}
		}
	}
	return found, names
}

func tag(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

// hasKey reports whether the first field of a struct takes the key.
func hasKey(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.NumField() > 0 && t.Field(0).Tag.Get("yaml") == ",key"
}
