package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/tools/txtar"
)

// same compares what is configured, not where it was read.
var same = cmp.Options{
	cmpopts.IgnoreUnexported(Config{}),
	cmpopts.IgnoreFields(Config{}, "Name"),
	cmpopts.EquateComparable(Route{}.Local, Route{}.Source),
	cmpopts.EquateEmpty(),
}

func TestStarter(t *testing.T) {
	none, warnings, err := Resolve(nil, nil)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("the default has faults: %v, warnings %q", err, warnings)
	}
	loaded, err := Load("starter.yaml", Init())
	if err != nil {
		t.Fatalf("Load refuses what Init returns: %v", err)
	}
	if diff := cmp.Diff(none, loaded, same); diff != "" {
		t.Errorf("the starter file is not the default (-default +starter):\n%s", diff)
	}
	if got := none.Instances[0].Name + " " + none.Listen[0].TCP; got != "demo-instance 127.0.0.1:8080" {
		t.Errorf("the default serves %s", got)
	}

	examples := regexp.MustCompile(`(?m)^( *)#(\S)`).ReplaceAll(Init(), []byte("$1$2"))
	c, err := Load("starter.yaml", examples)
	if err != nil {
		t.Fatalf("an example in the starter file has a fault: %v", err)
	}
	if len(c.Listen) != 4 || len(c.Sources) != 2 || len(c.Instances[0].Accounts) != 2 || len(c.Routes) != 2 {
		t.Errorf("an example in the starter file was not read: %+v", c)
	}
}

// TestDeployed: the file that we ship for systemd is a configuration.
func TestDeployed(t *testing.T) {
	name := filepath.Join("..", "..", "deploy", "systemd", "gcemds.yaml")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load(name, data); err != nil {
		t.Error(err)
	}
}

func TestFiles(t *testing.T) {
	a, err := txtar.ParseFile("testdata/everything.txtar")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load("etc/mds.yaml", a.Files[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/etc/oslogin.json", "etc/ca.key", "etc/ca.pem", "etc/issuer.pem", "etc/mds.yaml", "etc/sa.json", "etc/short.json", "etc/vm-2.json"}
	got := c.Files()
	for i := range got {
		got[i] = filepath.ToSlash(got[i])
	}
	if !slices.Equal(got, want) {
		t.Errorf("Files() = %q, want %q", got, want)
	}
	if got := c.Instances[0].Name + " " + c.Instances[1].Name; got != "vm-2 vm-1" {
		t.Errorf("instances are %s, want the order of the file", got)
	}
	if got := c.Instances[0].Accounts[2]; got.Email != "z@p.iam.gserviceaccount.com" || !slices.Equal(got.Aliases, []string{"robot"}) {
		t.Errorf("the account robot is %+v, want robot to be its alias", got)
	}
	edits := []any{"dev", "0777", nil, []any{"web", jsonNumber("1"), true, "2"}}
	for i, e := range c.Instances[0].Set {
		if !cmp.Equal(e.Value, edits[i]) {
			t.Errorf("set %s to %#v, want %#v", e.Path, e.Value, edits[i])
		}
	}
}

func TestFault(t *testing.T) {
	_, err := Load("mds.yaml", []byte("log:\n  level: loud\n"))
	var faults Faults
	if !errors.As(err, &faults) || len(faults) != 1 {
		t.Fatalf("Load fails with %#v, want one fault", err)
	}
	want := Fault{"mds.yaml", 2, 10, "log.level", `unknown value "loud" (there are: debug, info, warn, error)`}
	if faults[0] != want {
		t.Errorf("the fault is %#v, want %#v", faults[0], want)
	}

	many, err := Load("mds.yaml", []byte("hosts: ["+strings.Repeat("a/b, ", maxShown+3)+"]"))
	if many != nil || !strings.HasSuffix(err.Error(), "\n… and 3 more") {
		t.Errorf("a file with %d faults: %v, want the first and their number", maxShown+3, err)
	}
	_, err = Load("mds.yaml", bytes.Repeat([]byte("#"), maxFile+1))
	if want := "mds.yaml: the file has 1048577 bytes; 1048576 are allowed"; err == nil || err.Error() != want {
		t.Errorf("a file that is too long: %v, want %q", err, want)
	}
	_, err = Load("mds.yaml", []byte("issuer: {url: 'http://me:secret@host'}"))
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a password in an address: %v, want a fault that does not show it", err)
	}
}

func TestNearest(t *testing.T) {
	words := []string{"scopes", "source", "tcp", "default", "GCEMDS_LISTEN"}
	for word, want := range map[string]string{
		"scope":                   "scopes",
		"scpoes":                  "scopes", // a swap is one error
		"Source":                  "source",
		"tpc":                     "tcp",
		"udp":                     "", // two of three letters
		"x":                       "",
		"":                        "",
		"defautl":                 "default",
		"GCEMDS_LISTNE":           "GCEMDS_LISTEN",
		strings.Repeat("x", 1000): "",
	} {
		if got := nearest(word, words); got != want {
			t.Errorf("for %.20q we suggest %q, want %q", word, got, want)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"kitten", "sitting", 3}, {"ab", "ba", 1}, {"abc", "abc", 0}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// FuzzLoad: no file makes Load panic, and what Show prints of one that is
// accepted means the same.
func FuzzLoad(f *testing.F) {
	cases, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range cases {
		a, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(a.Files[0].Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Load("mds.yaml", data)
		if err != nil {
			if err.Error() == "" {
				t.Error("a fault without words")
			}
			return
		}
		for _, origins := range []bool{false, true} {
			var b bytes.Buffer
			if err := c.Show(&b, origins); err != nil {
				t.Fatalf("Show: %v", err)
			}
			again, err := Load("mds.yaml", b.Bytes())
			if err != nil {
				t.Fatalf("Load refuses what Show prints: %v\n%s", err, &b)
			}
			if diff := cmp.Diff(c, again, same); diff != "" {
				t.Fatalf("what Show prints means something else (-loaded +shown):\n%s\n%s", diff, &b)
			}
		}
	})
}

// A login is not watched: what writes to it is also ourselves, and a reload
// would throw away the tokens each time.
func TestLoginIsNotWatched(t *testing.T) {
	c, err := Load("mds.yaml", []byte("sources:\n  a: {user: login.json}\n  b: {user: {file: login.json}}\n  c: {external: wif.json}\n  d: {impersonate: {file: imp.json}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Files(), []string{"imp.json", "mds.yaml", "wif.json"}; !slices.Equal(got, want) {
		t.Errorf("Files = %q, want %q", got, want)
	}
}
