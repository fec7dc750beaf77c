package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/gcemds/gcemds/internal/tree"
)

const (
	edits        = 200
	maxEdit      = time.Millisecond
	documentSize = 1 << 20
)

// edit measures one edit of a large document, up to the new ETag of all of it:
// what a request that waits for the root compares.
func (b *bench) edit(context.Context) ([]row, error) {
	doc, err := tree.Parse(largeDocument(documentSize))
	if err != nil {
		return nil, err
	}
	store := tree.NewStore(doc)
	var took []float64
	last := ""
	for i := range edits {
		start := time.Now()
		if err := store.Edit(tree.Edit{Path: "instance/attributes/x", Value: fmt.Sprint(i)}); err != nil {
			return nil, err
		}
		root, err := store.Tree().Lookup("")
		if err != nil {
			return nil, err
		}
		etag := root.ETag(true)
		took = append(took, float64(time.Since(start))/1e3)
		if etag == last {
			return nil, fmt.Errorf("edit %d did not change the ETag %q", i, etag)
		}
		last = etag
	}
	s := spreadOf(took)
	return []row{{
		what:   "edit of a document of 1 MiB, with its new ETag",
		gcemds: fmt.Sprintf("%.0f µs (%.0f to %.0f)", s.median, s.min, s.max),
		bound:  fmt.Sprintf("under %v", maxEdit),
		pass:   s.median < float64(maxEdit.Microseconds()),
	}}, nil
}

// largeDocument returns a document of at least size bytes: attributes of 1 KiB,
// as start-up scripts and keys are.
func largeDocument(size int) []byte {
	var doc bytes.Buffer
	doc.WriteString(`{"instance":{"attributes":{"x":"0"`)
	for i := 0; doc.Len() < size; i++ {
		fmt.Fprintf(&doc, `,"attribute-%05d":"%s"`, i, bytes.Repeat([]byte("0123456789abcde\\n"), 64))
	}
	doc.WriteString(`}}}`)
	return doc.Bytes()
}
