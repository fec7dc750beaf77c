package fleet

import (
	_ "embed"
	"time"

	"github.com/gcemds/gcemds/internal/tree"
)

//go:embed builtin.json
var builtin []byte

// Builtin is the document that is served where none is given: a small virtual
// machine with one service account, in no real project.
func Builtin() *tree.Tree {
	t, err := tree.Parse(builtin)
	if err != nil {
		panic("fleet: the built-in document: " + err.Error()) // found by every test
	}
	return t
}

// BuiltinCreated is when the built-in machine says it was made.
var BuiltinCreated = time.Date(2025, time.August, 12, 0, 0, 0, 0, time.UTC)
