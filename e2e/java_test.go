package e2e

import (
	"path/filepath"
	"testing"
)

// TestJava compiles and runs the program in the directory java with Debian's
// libraries: those unpacked, and what of theirs this machine has already.
func TestJava(t *testing.T) {
	s := serve(t)
	const jars = "/usr/share/java/*"
	s.client(t, nil, "java", "-cp", layer(t)+jars+":"+jars, filepath.Join(here, "java/GoogleAuth.java"))
	t.Log("google-auth-library-oauth2-http", packageVersion(t, "libgoogle-auth-java"))
}
