package tree

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	// MaxDocument bounds a document: 32 times what the API allows for the
	// custom metadata of an instance and its project together.
	MaxDocument = 32 << 20
	maxDepth    = 64
)

// A ParseError says where a document is not one.
type ParseError struct {
	Line int    // from 1; 0 for values that have no lines
	Path string // the key in path form; "" at the top
	Msg  string
}

func (e *ParseError) Error() string {
	var b strings.Builder
	if e.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", e.Line)
	}
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	return b.String() + e.Msg
}

// Parse reads a document: what GET /computeMetadata/v1/?recursive=true prints
// on a VM, or the same inside {"computeMetadata":{"v1":…}}. Key names may be
// written as in JSON or as in paths. Numbers keep every digit.
//
// Keys that every VM serves although its document does not show them
// (universe-domain, upcoming-maintenance) get their usual values.
//
// Errors are of type *ParseError.
func Parse(doc []byte) (*Tree, error) {
	if len(doc) > MaxDocument {
		return nil, &ParseError{Msg: fmt.Sprintf("the document has %d bytes; %d are allowed", len(doc), MaxDocument)}
	}
	doc = bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf"))
	if len(bytes.TrimSpace(doc)) == 0 {
		return nil, &ParseError{Msg: "the document is empty; print one with: curl -H 'Metadata-Flavor: Google' 'http://metadata.google.internal/computeMetadata/v1/?recursive=true'"}
	}
	doc, above := unwrapped(doc)
	root, err := parse(schema, "", doc, above+1)
	if err != nil {
		return nil, err
	}
	if root.Child("instance") == nil && root.Child("project") == nil {
		return nil, &ParseError{Line: 1, Msg: `neither "instance" nor "project" at the top: this is not a metadata document`}
	}
	return sealed(root.completed()), nil
}

// unwrapped returns the document inside {"computeMetadata":{"v1":…}} and how
// many lines stand above it.
func unwrapped(doc []byte) ([]byte, int) {
	var outer struct {
		ComputeMetadata struct {
			V1 json.RawMessage `json:"v1"`
		} `json:"computeMetadata"`
	}
	if json.Unmarshal(doc, &outer) != nil || outer.ComputeMetadata.V1 == nil {
		return doc, 0
	}
	inner := outer.ComputeMetadata.V1
	return inner, bytes.Count(doc[:bytes.Index(doc, inner)], []byte("\n"))
}

// completed adds the implied values of the schema to a document without them.
func (n *Node) completed() *Node {
	for _, row := range rows {
		dir, name, below := strings.Cut(row.pattern, "/")
		parent := n
		if !below {
			name = dir
		} else if parent = n.Child(dir); parent == nil {
			continue
		}
		if row.more.implied == "" || parent.Child(name) != nil {
			continue
		}
		node, err := parse(&rule{traits: row.traits | unlisted, odd: row.more}, row.pattern, []byte(row.more.implied), 0)
		if err != nil {
			panic("tree: schema: " + err.Error()) // a wrong row, found by every test
		}
		if parent = parent.with(name, node); below {
			n = n.with(dir, parent)
		} else {
			n = parent
		}
	}
	return n
}

// build makes the node of an edit's value.
func build(rule *rule, path string, value any) (*Node, error) {
	switch v := value.(type) {
	case Live:
		return &Node{traits: rule.traits, live: v}, nil
	case string:
		return rule.leaf(v, false)
	case json.RawMessage:
		return parse(rule, path, v, 0)
	}
	doc, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("the value cannot be written as JSON: %w", err)
	}
	return parse(rule, path, doc, 0)
}

func parse(rule *rule, path string, doc []byte, line int) (*Node, error) {
	p := &parser{Decoder: json.NewDecoder(bytes.NewReader(doc)), doc: doc, line: line}
	p.UseNumber()
	node, err := p.value(rule, path, 0)
	if err != nil {
		return nil, err
	}
	if _, err := p.Token(); err != io.EOF {
		return nil, p.fault(path, errors.New("there is more after the end of the value"))
	}
	return node, nil
}

type parser struct {
	*json.Decoder
	doc  []byte
	line int // of the first byte; 0: report none
}

// fault places an error at the decoder's position.
func (p *parser) fault(path string, err error) error {
	var placed *ParseError
	if errors.As(err, &placed) {
		return err
	}
	at, msg := p.InputOffset(), err.Error()
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		at, msg = syntax.Offset, "not JSON: "+msg
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		msg = "not JSON: it ends too early"
	}
	line := 0
	if p.line > 0 {
		line = p.line + bytes.Count(p.doc[:min(at, int64(len(p.doc)))], []byte("\n"))
	}
	return &ParseError{Line: line, Path: path, Msg: msg}
}

func (p *parser) value(rule *rule, path string, depth int) (*Node, error) {
	if depth > maxDepth {
		return nil, p.fault(path, fmt.Errorf("nested more than %d deep", maxDepth))
	}
	if rule.traits&object != 0 {
		return p.object(rule, path)
	}
	token, err := p.Token()
	if err != nil {
		return nil, p.fault(path, err)
	}
	var node *Node
	switch v := token.(type) {
	case json.Delim:
		if v == '{' {
			return p.directory(rule, path, depth)
		}
		return p.array(rule, path, depth)
	case string:
		node, err = rule.leaf(v, false)
	case json.Number:
		node, err = rule.leaf(v.String(), true)
	case bool:
		node, err = rule.leaf(strconv.FormatBool(v), true)
	default:
		err = errNull
	}
	if err != nil {
		return nil, p.fault(path, err)
	}
	return node, nil
}

var errNull = errors.New("null is not a value; leave the key out, or use an empty string")

// leaf makes a scalar. A literal is a JSON number or boolean.
func (r *rule) leaf(value string, literal bool) (*Node, error) {
	switch {
	case r.traits&indexed != 0, r.traits&jsonFirst != 0:
		return nil, errors.New("is a list; give a JSON array")
	case r.live != "":
		return nil, errors.New("is data; give a JSON object or array")
	case r.names != nil, r.any != nil && r.any != r:
		return nil, errors.New("is a directory; give a JSON object")
	case r.traits&text != 0:
		literal = false
	case r.traits&number != 0:
		if !isNumber(value) {
			return nil, fmt.Errorf("is a number; %q is not", value)
		}
		literal = true
	}
	return &Node{kind: Leaf, traits: r.traits, literal: literal, value: value}, nil
}

func isNumber(s string) bool {
	var n json.Number
	return json.Unmarshal([]byte(s), &n) == nil && n.String() == s
}

// object reads a leaf that may be a JSON document.
func (p *parser) object(rule *rule, path string) (*Node, error) {
	var doc json.RawMessage
	if err := p.Decode(&doc); err != nil {
		return nil, p.fault(path, err)
	}
	if c := doc[0]; c != '{' && c != '[' {
		plain := *rule
		plain.traits &^= object
		return parse(&plain, path, doc, 0)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, doc); err != nil {
		return nil, p.fault(path, err)
	}
	return &Node{kind: Object, traits: rule.traits, live: rule.live, value: compact.String()}, nil
}

// directory reads the members of an object whose brace is behind us.
func (p *parser) directory(rule *rule, path string, depth int) (*Node, error) {
	switch {
	case rule.traits&(indexed|jsonFirst) != 0:
		return nil, p.fault(path, errors.New("is a list; give a JSON array"))
	case rule.traits&(text|deep) == text:
		return nil, p.fault(path, errors.New("values here are strings; quote the JSON"))
	case rule.traits&number != 0:
		return nil, p.fault(path, errors.New("is a number, not an object"))
	}
	n := newDirectory(rule)
	n.children = nil
	for p.More() {
		token, err := p.Token()
		if err != nil {
			return nil, p.fault(path, err)
		}
		name := token.(string) // the decoder lets nothing else stand for a key
		if rule.traits&raw == 0 {
			name = hyphenated(name)
		}
		if err := rule.validName(name); err != nil {
			return nil, p.fault(path, fmt.Errorf("key %q: %w", name, err))
		}
		node, err := p.value(rule.step(name), join(path, name), depth+1)
		if err != nil {
			return nil, err
		}
		n.children = append(n.children, child{name, node})
	}
	if _, err := p.Token(); err != nil { // the closing brace
		return nil, p.fault(path, err)
	}
	if twice, ok := sortChildren(n.children); !ok {
		return nil, p.fault(path, fmt.Errorf("key %q is there twice", twice))
	}
	n.addLeaves(rule)
	return n, nil
}

// array reads the elements of an array whose bracket is behind us.
func (p *parser) array(rule *rule, path string, depth int) (*Node, error) {
	switch {
	case rule.traits&text != 0:
		return nil, p.fault(path, errors.New("values here are strings; quote the JSON"))
	case rule.traits&number != 0:
		return nil, p.fault(path, errors.New("is a number, not a list"))
	case rule.traits&indexed == 0 && (rule.names != nil || rule.any != nil && rule.any != rule):
		return nil, p.fault(path, errors.New("is a directory; give a JSON object"))
	}
	n := &Node{kind: List, traits: rule.traits}
	if rule.traits&indexed != 0 {
		n.kind = Indexed
	}
	for i := 0; p.More(); i++ {
		name := strconv.Itoa(i)
		node, err := p.value(rule.step(name), join(path, name), depth+1)
		switch {
		case err != nil:
			return nil, err
		case node.IsDir() && i == 0:
			n.kind = Indexed
		}
		switch {
		case n.kind == Indexed:
			if i > 0 && node.IsDir() != n.children[0].node.IsDir() {
				return nil, p.fault(path, errMixed)
			}
			n.children = append(n.children, child{name, node})
		case node.kind != Leaf || node.literal:
			return nil, p.fault(path, fmt.Errorf("element %d of a list is not a string", i))
		default:
			n.items = append(n.items, node.value)
		}
	}
	if _, err := p.Token(); err != nil { // the closing bracket
		return nil, p.fault(path, err)
	}
	return n, nil
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "/" + name
}
