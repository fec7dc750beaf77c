package tree

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"sync/atomic"
)

// A Form is one printed form of a node. It is shared by all who ask: the
// caller must not change it. ETag and Length are arrays of one so that a
// header map can point at them.
type Form struct {
	Body   []byte
	ETag   [1]string
	Length [1]string // of Body, decimal
}

// Text is the text form: the value of a leaf; a list's elements, one a line;
// the listing of a directory or, recursively, a line a scalar (protocol
// sections 2.2 and 3.4).
func (n *Node) Text(recursive bool) *Form {
	switch {
	case !n.IsDir() || recursive:
		return n.form(&n.text, func() []byte { return n.appendText(nil, nil) })
	default:
		return n.form(&n.listing, n.listed)
	}
}

// JSON is the JSON form; of a directory, the recursive one (protocol section 3.3).
func (n *Node) JSON() *Form {
	return n.form(&n.json, func() []byte { return n.appendJSON(nil) })
}

// form prints once and remembers.
func (n *Node) form(at *atomic.Pointer[Form], body func() []byte) *Form {
	if f := at.Load(); f != nil {
		return f
	}
	f := &Form{Body: body()}
	f.Length[0] = strconv.Itoa(len(f.Body))
	if at == &n.listing {
		s := hash("listing", string(f.Body))
		f.ETag[0] = s.etag()
	} else {
		f.ETag[0] = n.state().etag
	}
	at.Store(f)
	return f
}

func (n *Node) listed() []byte {
	var b []byte
	for _, c := range n.children {
		if c.node.traits&unlisted != 0 {
			continue
		}
		b = append(b, c.name...)
		if c.node.IsDir() {
			b = append(b, '/')
		}
		b = append(b, '\n')
	}
	return b
}

// recursed yields what a recursive answer shows of a directory, in the order
// of the JSON names.
func (n *Node) recursed(yield func(c child, key string) bool) {
	if n.closed {
		return
	}
	type member struct {
		child
		key string
	}
	members := make([]member, 0, len(n.children))
	for _, c := range n.children {
		if c.node.traits&(unlisted|unrecursed) != 0 || c.node.live != "" {
			continue
		}
		key := c.name
		if n.traits&raw == 0 {
			key = camelCase(key)
		}
		members = append(members, member{c, key})
	}
	if n.kind == Directory {
		slices.SortFunc(members, func(a, b member) int { return cmp.Compare(a.key, b.key) })
	}
	for _, m := range members {
		if !yield(m.child, m.key) {
			return
		}
	}
}

// appendText prints the recursive text form; path is that of n below the
// directory asked for, with a slash at its end, or nil for a leaf asked for
// by itself.
func (n *Node) appendText(b, path []byte) []byte {
	line := func(value string) {
		if path == nil {
			b = append(b, value...)
			return
		}
		b = append(b, path[:len(path)-1]...)
		b = append(b, ' ')
		b = append(b, value...)
		b = append(b, '\n')
	}
	switch n.kind {
	case Leaf:
		line(n.value)
	case Object:
		line(n.object())
	case List:
		for _, item := range n.items {
			line(item)
			if path == nil {
				b = append(b, '\n')
			}
		}
	default:
		for c := range n.recursed {
			b = c.node.appendText(b, append(append(path[:len(path):len(path)], c.name...), '/'))
		}
	}
	return b
}

// object is the value of an object leaf as it is served.
func (n *Node) object() string {
	if n.traits&pretty == 0 {
		return n.value
	}
	var b bytes.Buffer
	if json.Indent(&b, []byte(n.value), "", " ") != nil {
		return n.value
	}
	return b.String()
}

func (n *Node) appendJSON(b []byte) []byte {
	switch n.kind {
	case Leaf:
		if n.literal {
			return append(b, n.value...)
		}
		return appendString(b, n.value)
	case Object:
		return append(b, n.value...)
	case List:
		b = append(b, '[')
		for i, item := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, item)
		}
		return append(b, ']')
	}
	brackets := "{}"
	if n.kind == Indexed {
		brackets = "[]"
	}
	b = append(b, brackets[0])
	first := true
	for c, key := range n.recursed {
		if !first {
			b = append(b, ',')
		}
		first = false
		if n.kind == Directory {
			b = append(appendString(b, key), ':')
		}
		b = c.node.appendJSON(b)
	}
	return append(b, brackets[1])
}

// appendString prints a JSON string with <, > and & as they are.
func appendString(b []byte, s string) []byte {
	buf := bytes.NewBuffer(b)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	enc.Encode(s)                    // a string always encodes
	return buf.Bytes()[:buf.Len()-1] // Encode ends the line
}
