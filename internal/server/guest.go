package server

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/tree"
)

const (
	guestAttributes = "instance/guest-attributes"
	// maxGuestValue is what the API allows for any metadata value.
	maxGuestValue = 256 << 10
)

// guestAttribute returns the namespace/key part of a path below the directory
// that guests may write to.
func guestAttribute(path string) (string, bool) {
	return strings.CutPrefix(path, guestAttributes+"/")
}

// write answers PUT and DELETE of a guest attribute (section 4.8).
func (r *request) write(name string) (reply, error) {
	namespace, key, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(key, "/") || namespace == "" || key == "" || r.slash() {
		return reply{}, r.gated(badRequest("a guest attribute is written as guest-attributes/NAMESPACE/KEY"))
	}
	var value any
	if r.http.Method == http.MethodPut {
		body, err := io.ReadAll(io.LimitReader(r.http.Body, maxGuestValue+1))
		if err != nil {
			return reply{}, badRequest("the body ended too early")
		}
		if len(body) > maxGuestValue {
			return reply{}, r.gated(badRequest("a guest attribute has at most 262144 bytes"))
		}
		value = string(body)
	}
	err := r.instance.Metadata.Update(func(t *tree.Tree) ([]tree.Edit, error) {
		_, err := t.Lookup(r.key)
		if value == nil {
			return r.removal(t, namespace), err
		}
		if err != nil && !errors.Is(err, tree.ErrNotFound) {
			return nil, err
		}
		if size := guestSize(t, r.key) + len(r.key) + len(value.(string)); size > r.server.limits.GuestAttributes {
			return nil, badRequest("the guest attributes of this instance are full")
		}
		edit := tree.Edit{Path: r.key, Value: value}
		if _, err := t.With(edit); err != nil {
			return nil, badRequest("the namespace or the key is not a name")
		}
		return []tree.Edit{edit}, nil
	})
	if err != nil {
		return reply{}, err
	}
	r.server.journal.Add(journal.Entry{Kind: journal.Write, Instance: r.instance.Name, Method: r.http.Method, Path: r.key})
	return answer(http.StatusOK, classWrite, typeText, nil), nil
}

// gated is ErrClosed while guests may not write at all, else err.
func (r *request) gated(err error) error {
	if _, closed := r.instance.Metadata.Tree().Lookup(guestAttributes + "/x/x"); errors.Is(closed, tree.ErrClosed) {
		return closed
	}
	return err
}

// removal deletes the key, and its namespace with its last key: a namespace
// exists through its keys only.
func (r *request) removal(t *tree.Tree, namespace string) []tree.Edit {
	path := r.key
	if n, err := t.Lookup(guestAttributes + "/" + namespace); err == nil && n.Len() == 1 {
		path = guestAttributes + "/" + namespace
	}
	return []tree.Edit{{Path: path}}
}

// guestSize is what the guest attributes other than except hold, in bytes.
func guestSize(t *tree.Tree, except string) (size int) {
	dir, err := t.Lookup(guestAttributes)
	if err != nil {
		return 0
	}
	for namespace, keys := range dir.Children {
		for key, n := range keys.Children {
			if path := guestAttributes + "/" + namespace + "/" + key; path != except {
				size += len(path) + len(n.Value())
			}
		}
	}
	return size
}
