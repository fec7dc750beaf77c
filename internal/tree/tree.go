// Package tree is the metadata itself: an immutable document, its text and
// JSON forms, and a store that swaps documents and wakes those who wait.
//
// It knows how keys are spelt and how values print, and nothing of HTTP,
// accounts or tokens. No key has code of its own: what JSON does not say about
// a key is a row of the table in schema.go.
package tree

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// What a lookup or an edit can fail with; compare with errors.Is.
var (
	// ErrNotFound: the document has no such path.
	ErrNotFound = errors.New("no such key")
	// ErrClosed: the path lies below a directory that an attribute keeps shut
	// (guest attributes, protocol section 4.8).
	ErrClosed = errors.New("closed by an attribute")
	// ErrUnset: the path exists on every VM but has never been given a value
	// (workload certificates, protocol section 4.9).
	ErrUnset = errors.New("never configured")
)

// A Tree is an immutable document. Edits return a new Tree that shares every
// untouched Node. All methods may be called concurrently.
type Tree struct {
	root *Node
}

// Kind tells what a node is made of.
type Kind uint8

const (
	Leaf      Kind = iota // one scalar
	List                  // a leaf of several lines: tags, scopes
	Object                // a leaf whose value is a JSON document
	Directory             // children by name
	Indexed               // a directory whose children are 0, 1, 2 …
)

// Live names what computes the answer of a leaf at each request ("token").
// A live leaf is listed and never part of a recursive answer.
type Live string

// A Node is one immutable place in a Tree. What it prints is computed once, on
// demand, and kept with it; an edit makes new nodes only on the way to the root.
type Node struct {
	kind    Kind
	traits  trait
	literal bool   // Leaf: the value is a JSON number or boolean
	closed  bool   // Directory: shut by its gate in this version of the tree
	live    Live   // computed by the server; value, if any, is its data
	value   string // Leaf: the text; Object: compact JSON
	items   []string
	// children are sorted by name; those of an Indexed node are in order.
	children []child

	listing, text, json atomic.Pointer[Form]
	shown               atomic.Pointer[state]
}

type child struct {
	name string
	node *Node
}

// Lookup finds the node at path, whose parts are separated by single slashes;
// "" is the root. A trailing slash is allowed and says nothing.
//
// Errors: ErrNotFound, ErrClosed, ErrUnset.
func (t *Tree) Lookup(path string) (*Node, error) {
	n := t.root
	for rest := strings.TrimSuffix(path, "/"); rest != ""; {
		if n.closed {
			return nil, ErrClosed
		}
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if n = n.Child(name); n == nil {
			return nil, t.missing(path)
		}
	}
	return n, nil
}

// missing says why there is nothing at path.
func (t *Tree) missing(path string) error {
	rule := schema
	for name := range strings.SplitSeq(strings.TrimSuffix(path, "/"), "/") {
		if rule.gate != "" && !t.Enabled(rule.gate) {
			return ErrClosed
		}
		rule = rule.step(name)
	}
	if rule.traits&unsettable != 0 {
		return ErrUnset
	}
	return ErrNotFound
}

// Enabled reports whether a custom attribute is true, on the instance or, where
// that does not have it, on the project (protocol sections 4.6 and 4.8).
func (t *Tree) Enabled(attribute string) bool {
	for _, scope := range []string{"instance", "project"} {
		dir := t.root.Child(scope).Child("attributes")
		if n := dir.Child(attribute); n != nil {
			return True(n.value)
		}
	}
	return false
}

// True reads a boolean metadata value as Google's agents do: true, yes, y, on
// and 1, in any letter case; everything else is false.
func True(value string) bool {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "true", "yes", "y", "on", "1":
		return true
	}
	return false
}

// Kind says what the node is.
func (n *Node) Kind() Kind { return n.kind }

// IsDir reports whether the node has children instead of a value.
func (n *Node) IsDir() bool { return n.kind >= Directory }

// Closed reports whether an attribute keeps this directory shut.
func (n *Node) Closed() bool { return n.closed }

// Live returns what computes the node's answer, "" for ordinary nodes.
func (n *Node) Live() Live { return n.live }

// JSONFirst reports whether the node prints JSON unless asked for text
// (instance/tags, and leaves whose value is an object).
func (n *Node) JSONFirst() bool {
	return n.traits&jsonFirst != 0 || n.kind == Object && n.traits&pretty == 0
}

// Value is the text of a scalar leaf, the JSON of an object leaf, else "".
// It may be called on nil, so that lookups chain.
func (n *Node) Value() string {
	if n == nil {
		return ""
	}
	return n.value
}

// Items are the elements of a list leaf. The caller must not change them.
// It may be called on nil.
func (n *Node) Items() []string {
	if n == nil {
		return nil
	}
	return n.items
}

// Child returns the child of that name, or nil. It may be called on nil.
func (n *Node) Child(name string) *Node {
	if n == nil {
		return nil
	}
	if n.kind == Indexed {
		i, err := strconv.Atoi(name)
		if err != nil || i < 0 || i >= len(n.children) || n.children[i].name != name {
			return nil
		}
		return n.children[i].node
	}
	if i, ok := n.find(name); ok {
		return n.children[i].node
	}
	return nil
}

// Len is the number of children. It may be called on nil.
func (n *Node) Len() int {
	if n == nil {
		return 0
	}
	return len(n.children)
}

// Children yields the names and nodes in listing order.
func (n *Node) Children(yield func(string, *Node) bool) {
	if n == nil {
		return
	}
	for _, c := range n.children {
		if !yield(c.name, c.node) {
			return
		}
	}
}

// find is a binary search; written out, it costs half of slices.BinarySearchFunc.
func (n *Node) find(name string) (int, bool) {
	low, high := 0, len(n.children)
	for low < high {
		mid := int(uint(low+high) / 2)
		switch strings.Compare(n.children[mid].name, name) {
		case 0:
			return mid, true
		case -1:
			low = mid + 1
		default:
			high = mid
		}
	}
	return low, false
}

// An Edit sets one path to a value, or deletes it.
//
// The value is nil (delete), a string, a Live, a json.RawMessage, or anything
// that encoding/json marshals. Strings become numbers where the key is a
// number. Missing directories on the way are made.
type Edit struct {
	Path  string
	Value any
}

// With returns the tree after the edits, in order: all of them or, with an
// error that names the path and the reason, none. Deleting what is not there
// is not an error.
func (t *Tree) With(edits ...Edit) (*Tree, error) {
	root := t.root
	for _, e := range edits {
		path := strings.TrimSuffix(e.Path, "/")
		var err error
		if root, err = root.edited(schema, path, path, e.Value); err != nil {
			var placed *ParseError
			if errors.As(err, &placed) && placed.Path != "" {
				return nil, err // it names the path already
			}
			return nil, fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	return sealed(root), nil
}

// edited returns a copy of n in which rest, the last part of path, has the value.
func (n *Node) edited(rule *rule, path, rest string, value any) (*Node, error) {
	if rest == "" {
		if value == nil {
			return nil, errors.New("the whole document cannot be deleted")
		}
		return build(rule, path, value)
	}
	if !n.IsDir() {
		done := strings.TrimSuffix(strings.TrimSuffix(path, rest), "/")
		if value == nil {
			return n, nil
		}
		return nil, fmt.Errorf("%s is a leaf; nothing can be set below it", done)
	}
	name, below, deeper := strings.Cut(rest, "/")
	next := rule.step(name)
	old := n.Child(name)
	if old == nil && value == nil {
		return n, nil
	}
	if err := n.checkName(rule, name); err != nil {
		return nil, err
	}

	var node *Node
	var err error
	switch {
	case deeper:
		if old == nil {
			old = newDirectory(next)
		}
		if node, err = old.edited(next, path, below, value); err != nil {
			return nil, err
		}
	case value != nil:
		if node, err = build(next, path, value); err != nil {
			return nil, err
		}
		if old != nil && old.IsDir() && !node.IsDir() {
			return nil, errors.New("is a directory; set a path below it, or give a JSON object")
		}
	}
	if node == old {
		return n, nil
	}
	edited := n.with(name, node)
	if edited.kind == Indexed && slices.ContainsFunc(edited.children, func(c child) bool { return c.node.IsDir() != edited.children[0].node.IsDir() }) {
		return nil, errMixed
	}
	return edited, nil
}

var errMixed = errors.New("a list holds strings or objects, not both")

// checkName refuses names that could never be asked for.
func (n *Node) checkName(rule *rule, name string) error {
	if n.kind == Indexed {
		if i, err := strconv.Atoi(name); err != nil || i < 0 || strconv.Itoa(i) != name {
			return fmt.Errorf("%q is not an index; children here are 0, 1, 2 …", name)
		} else if i > len(n.children) {
			return fmt.Errorf("index %d is past the end; the next free one is %d", i, len(n.children))
		}
		return nil
	}
	if err := rule.validName(name); err != nil {
		return err
	}
	if hyphens := hyphenated(name); rule.traits&raw == 0 && hyphens != name {
		return fmt.Errorf("paths are written with hyphens: %q, not %q", hyphens, name)
	}
	return nil
}

// with returns a copy of the directory in which name is node, or gone.
func (n *Node) with(name string, node *Node) *Node {
	c := &Node{kind: n.kind, traits: n.traits, live: n.live}
	i, found := 0, false
	if n.kind == Indexed {
		i, _ = strconv.Atoi(name)
		found = i < len(n.children)
	} else {
		i, found = n.find(name)
	}
	c.children = make([]child, 0, len(n.children)+1)
	c.children = append(c.children, n.children[:i]...)
	if node != nil {
		c.children = append(c.children, child{name, node})
	}
	if found {
		i++
	}
	c.children = append(c.children, n.children[i:]...)
	if n.kind == Indexed {
		for i := range c.children {
			c.children[i].name = strconv.Itoa(i)
		}
	}
	return c
}

func newDirectory(rule *rule) *Node {
	kind := Directory
	if rule.traits&indexed != 0 {
		kind = Indexed
	}
	n := &Node{kind: kind, traits: rule.traits, live: rule.live}
	n.addLeaves(rule)
	return n
}

// addLeaves adds the live leaves that the rule gives a directory.
func (n *Node) addLeaves(rule *rule) {
	for _, live := range rule.leaves {
		if i, found := n.find(string(live)); !found {
			n.children = slices.Insert(n.children, i, child{string(live), &Node{live: live}})
		}
	}
}

// sealed makes a tree of root, in which every gated directory says whether it
// is open.
func sealed(root *Node) *Tree {
	t := &Tree{root}
	for _, g := range gates {
		n, err := t.find(g.path)
		if err != nil || n.closed == !t.Enabled(g.attribute) {
			continue
		}
		turned := &Node{kind: n.kind, traits: n.traits, children: n.children, closed: !n.closed}
		t.root = t.root.replaced(g.path, turned)
	}
	return t
}

// find is Lookup past closed gates.
func (t *Tree) find(path string) (*Node, error) {
	n := t.root
	for name := range strings.SplitSeq(path, "/") {
		if n = n.Child(name); n == nil {
			return nil, ErrNotFound
		}
	}
	return n, nil
}

// replaced returns a copy of n in which the existing path is node.
func (n *Node) replaced(path string, node *Node) *Node {
	name, rest, deeper := strings.Cut(path, "/")
	if deeper {
		node = n.Child(name).replaced(rest, node)
	}
	return n.with(name, node)
}

// sortChildren orders children by name and reports the first one that occurs twice.
func sortChildren(children []child) (twice string, ok bool) {
	slices.SortFunc(children, func(a, b child) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(children); i++ {
		if children[i].name == children[i-1].name {
			return children[i].name, false
		}
	}
	return "", true
}
