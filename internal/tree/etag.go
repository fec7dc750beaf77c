package tree

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
)

// A sum identifies what a node shows. Equal content has equal sums, in this
// process and in the next, so an ETag survives a restart (protocol section
// 6.2). It is a tree of hashes: an edit changes the sums on the way to the root
// only, however large the document.
type sum [sha256.Size]byte

func (s *sum) etag() string { return hex.EncodeToString(s[:8]) }

// ETag returns 16 hexadecimal digits. The recursive form of a directory and
// its listing have different ones; leaves have one.
func (n *Node) ETag(recursive bool) string {
	if n.IsDir() && !recursive {
		return n.Text(false).ETag[0]
	}
	return n.state().etag
}

// A state is what a node and all below it show.
type state struct {
	sum  sum
	etag string
}

// state is computed once and kept.
func (n *Node) state() *state {
	if s := n.shown.Load(); s != nil {
		return s
	}
	s := &state{sum: n.hash()}
	s.etag = s.sum.etag()
	n.shown.Store(s)
	return s
}

func (n *Node) hash() (s sum) {
	switch n.kind {
	case Leaf, Object:
		s = hash("value", n.value)
		if n.literal || n.kind == Object {
			s = hash("literal", n.value)
		}
	case List:
		s = hash("list", n.items...)
	default:
		var parts []string
		for c, key := range n.recursed {
			parts = append(parts, key)
			if c.node.traits&quiet == 0 {
				parts = append(parts, string(c.node.state().sum[:]))
			}
		}
		s = hash("directory", parts...)
	}
	return s
}

// hash covers a kind and strings, each with its length, so that no two
// different sequences read the same.
func hash(kind string, parts ...string) (s sum) {
	h := sha256.New()
	write := func(part string) {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:])
		io.WriteString(h, part)
	}
	write(kind)
	for _, part := range parts {
		write(part)
	}
	h.Sum(s[:0])
	return s
}
