package server_test

import (
	"flag"
	"os"
	"testing"
)

// Tests here wait more than they compute: more of them at a time than there
// are processors, unless -parallel says otherwise.
func TestMain(m *testing.M) {
	flag.Parse()
	fuzzing := flag.Lookup("test.fuzz").Value.String() != ""
	if parallel := flag.Lookup("test.parallel"); !fuzzing && parallel.Value.String() == parallel.DefValue {
		parallel.Value.Set("16")
	}
	os.Exit(m.Run())
}
