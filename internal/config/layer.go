package config

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Bounds of a file, also of what its aliases expand to.
const (
	maxFile  = 1 << 20
	maxNodes = 100_000
	maxDepth = 32
)

// A report is told of a fault: where, at which path, and what.
type report func(n *yaml.Node, path, message string)

// parse reads one layer as a mapping; of what it cannot read, it reports why.
// The name "" is the default. Aliases are expanded. Line comments hold the
// origin of each value: "mds.yaml:12", "default".
func parse(name string, data []byte, fault report) *yaml.Node {
	empty := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	refuse := func(line, column int, message string) *yaml.Node {
		fault(&yaml.Node{Line: line, Column: column, LineComment: "file " + name}, "", message)
		return empty
	}
	if len(data) > maxFile {
		return refuse(0, 0, fmt.Sprintf("the file has %d bytes; %d are allowed", len(data), maxFile))
	}
	var documents []yaml.Node
	if err := yaml.Load(data, &documents, yaml.WithAllDocuments()); err != nil {
		var wrong *yaml.LoadError
		if errors.As(err, &wrong) {
			return refuse(wrong.Mark.Line, wrong.Mark.Column, "not YAML: "+explain(wrong, data))
		}
		return refuse(0, 0, "not YAML: "+err.Error())
	}
	if len(documents) == 0 || len(documents[0].Content) == 0 || documents[0].Content[0].Tag == "!!null" {
		return refuse(1, 1, `the file is empty; "gcemds config init" prints one to begin with`)
	}
	if len(documents) > 1 {
		refuse(documents[1].Line, documents[1].Column, "a second document begins here; a configuration is one document")
	}
	l := &layer{name: name, fault: fault}
	top := l.copy("", documents[0].Content[0], 0)
	if l.nodes > maxNodes {
		return empty
	}
	if top.Kind != yaml.MappingNode {
		return refuse(top.Line, top.Column, "the file must be a mapping, with fields such as instances: and listen:")
	}
	return top
}

// explain says in our words what people do most often.
func explain(e *yaml.LoadError, data []byte) string {
	lines := bytes.Split(data, []byte("\n"))
	if i := e.Mark.Line - 1; 0 <= i && i < len(lines) && e.Stage == yaml.ScannerStage {
		if indent := lines[i][:len(lines[i])-len(bytes.TrimLeft(lines[i], " \t"))]; bytes.Contains(indent, []byte("\t")) {
			return "the line is indented with a tab; YAML wants spaces"
		}
	}
	if e.ContextMsg != "" {
		return e.Message + " " + e.ContextMsg
	}
	return e.Message
}

// A layer is being copied out of the nodes of the parser.
type layer struct {
	name  string
	fault report
	nodes int
}

// copy returns a node without aliases, tags, styles and comments of the
// author; what may not be in a configuration is reported and left out.
func (l *layer) copy(path string, n *yaml.Node, depth int) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	c := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value, LineComment: "default"}
	if l.name != "" {
		c.Line, c.Column, c.LineComment = n.Line, n.Column, fmt.Sprintf("%s:%d", l.name, n.Line)
	}
	if l.nodes++; l.nodes == maxNodes+1 {
		l.fault(c, path, fmt.Sprintf("the file has more than %d values, aliases expanded", maxNodes))
	}
	if depth == maxDepth {
		l.fault(c, path, fmt.Sprintf("nested more than %d deep", maxDepth))
	}
	if l.nodes > maxNodes || depth >= maxDepth {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	}
	if n.Style&yaml.TaggedStyle != 0 {
		l.fault(c, path, fmt.Sprintf("the tag %s has no meaning here; remove it", quote(n.Tag)))
	}
	const quoted = yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Style&quoted != 0 || strings.Contains(n.Value, "\n") {
			c.Style, c.Tag = yaml.DoubleQuotedStyle, "!!str"
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			c.Content = append(c.Content, l.copy(fmt.Sprintf("%s[%d]", path, i), item, depth+1))
		}
	case yaml.MappingNode:
		lines := map[string]int{}
		for key, value := range pairs(n) {
			key := l.copy(path, key, depth+1)
			below := join(path, key.Value)
			switch first, twice := lines[key.Value]; {
			case key.Kind != yaml.ScalarNode:
				l.fault(key, path, "a key must be a word, not a list or a mapping")
				continue
			case twice:
				l.fault(key, below, fmt.Sprintf("is given twice; first in line %d", first))
				continue
			}
			lines[key.Value] = key.Line
			c.Content = append(c.Content, key, l.copy(below, value, depth+1))
		}
	}
	return c
}

// pairs yields the keys and values of a mapping.
func pairs(n *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !yield(n.Content[i], n.Content[i+1]) {
				return
			}
		}
	}
}

// child returns the value of a key, or nil.
func child(n *yaml.Node, name string) *yaml.Node {
	for key, value := range pairs(n) {
		if key.Value == name {
			return value
		}
	}
	return nil
}

func join(path, name string) string { return strings.TrimPrefix(path+"."+name, ".") }

// named are the sections whose keys a person chooses: a layer that has one
// replaces it, since nobody wants the default listener beside their own.
var named = []string{"sources", "instances", "listen"}

// merge lays a file over the default: what it gives wins, field by field. A
// section with nothing in it gives nothing.
func merge(base, file *yaml.Node) {
	places := map[string]int{}
	for i := 0; i < len(base.Content); i += 2 {
		places[base.Content[i].Value] = i
	}
	for key, value := range pairs(file) {
		i, known := places[key.Value]
		if !known {
			base.Content = append(base.Content, key, value)
			continue
		}
		old := base.Content[i+1]
		switch {
		case value.Tag == "!!null" && (old.Kind == yaml.MappingNode || old.Tag == "!!null"):
			continue
		case old.Kind == yaml.MappingNode && value.Kind == yaml.MappingNode && !slices.Contains(named, key.Value):
			merge(old, value)
		default:
			base.Content[i+1] = value
		}
		base.Content[i] = key
	}
}

// withoutDefault empties a section of names, unless the file has it.
func withoutDefault(root *yaml.Node, section string) {
	for key, value := range pairs(root) {
		if key.Value == section && key.Line == 0 {
			value.Content = nil
		}
	}
}

// put sets a value at a path of keys. What is missing on the way is made; what
// is not a mapping stays, it is a fault that the decoder will find.
func put(n, value *yaml.Node, keys ...string) {
	for i, name := range keys {
		if n.Tag == "!!null" {
			n.Kind, n.Tag, n.Value = yaml.MappingNode, "!!map", ""
		}
		if n.Kind != yaml.MappingNode {
			return
		}
		next := child(n, name)
		if next == nil {
			next = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", LineComment: value.LineComment}
			n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name, LineComment: value.LineComment}, next)
		}
		if i == len(keys)-1 {
			*next = *value
		}
		n = next
	}
}
