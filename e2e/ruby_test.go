package e2e

import (
	"path/filepath"
	"testing"
)

// TestRuby: these releases of the libraries insist on 169.254.169.254.
func TestRuby(t *testing.T) {
	w := newWorld(t)
	s := w.serve(t)
	s.client(t, nil, "ruby", filepath.Join(here, "ruby/googleauth.rb"))
	t.Log("googleauth", packageVersion(t, "ruby-googleauth"))
	t.Log("google-cloud-env", packageVersion(t, "ruby-google-cloud-env"))
}
