// Package corpus embeds the corpus next to it: requests to a metadata server
// and the answers they must get. It is data; package conformance knows what to
// do with it, and README.md is for those who use it without Go.
package corpus

import "embed"

// Files are the case files and the document that the cases start from.
//
//go:embed *.json
var Files embed.FS

// Document is the name of the document among the files.
const Document = "default-instance.json"
