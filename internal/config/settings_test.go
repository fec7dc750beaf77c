package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func jsonNumber(s string) json.Number { return json.Number(s) }

// TestPrecedence: a flag wins over a variable, that over the file, that over
// the default; and Show says which one it was.
func TestPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mds.yaml")
	err := os.WriteFile(file, []byte(`log: {level: warn, format: json}
admin: {socket: /run/file.sock, http: "127.0.0.1:1"}
issuer: {listen: "127.0.0.1:2", key_file: /etc/file.pem}
hosts: [file.test]
sources: {build: {key_file: /etc/file.json}}
instances:
  vm-1: {metadata: /etc/vm-1.json, set: {a: file}, accounts: {default: {source: build}}}
  vm-2: {enforce_scopes: true}
listen: {file: {tcp: "127.0.0.1:3"}}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		setting, value string // as it is given
		line, other    string // what Show prints with the value, and with the value of the file
		standard       string // what Show prints without a file; "" if there is nothing
	}{
		{"log-level", "debug", "level: debug", "level: warn", "level: info"},
		{"log-format", "text", "format: text", "format: json", "format: text"},
		{"admin", "/run/x.sock", "socket: /run/x.sock", "socket: /run/file.sock", `socket: ""`},
		{"admin-http", "127.0.0.1:9", "http: 127.0.0.1:9", `http: "127.0.0.1:1"`, `http: ""`},
		{"issuer-listen", "127.0.0.1:9", "listen: 127.0.0.1:9", `listen: "127.0.0.1:2"`, "listen: 127.0.0.1:0"},
		{"issuer-key", "x.pem", "key_file: x.pem", "key_file: /etc/file.pem", `key_file: ""`},
		{"hosts", "a.test, b.test", "- b.test", "- file.test", "hosts: []"},
		{"metadata", "x.json", "metadata: x.json", "metadata: /etc/vm-1.json", ""},
		{"key", "x.json", "file: x.json", "source: build", ""},
		{"source", "build", "source: build", "source: build", ""},
		{"scopes", "pubsub,storage-ro", "- storage-ro", "", ""},
		{"enforce-scopes", "1", "enforce_scopes: true", "enforce_scopes: true", ""},
		{"allow-remote", "true", "allow_remote: true", "", ""},
		{"listen", "127.0.0.1:9", "tcp: 127.0.0.1:9", `tcp: "127.0.0.1:3"`, "tcp: 127.0.0.1:8080"},
	} {
		i := slices.IndexFunc(Settings, func(s Setting) bool { return s.Name == c.setting })
		if i < 0 {
			t.Errorf("there is no setting %s", c.setting)
			continue
		}
		variable := Settings[i].Env
		has := func(promise, line, origin string, env []string, flags map[string][]string) {
			t.Helper()
			got, _, err := Resolve(env, flags)
			if err != nil {
				t.Errorf("%s: %s: %v", c.setting, promise, err)
			} else if want := line + " # " + origin; line != "" && !strings.Contains(show(t, got, true), want) {
				t.Errorf("%s: %s: Show has no line %q:\n%s", c.setting, promise, want, show(t, got, true))
			}
		}
		flag := map[string][]string{c.setting: {c.value}}
		given := variable + "=" + c.value
		in := "GCEMDS_CONFIG=" + file
		has("the flag wins over all", c.line, "flag --"+c.setting, []string{in, variable + "=wrong"}, flag)
		has("the variable wins over the file", c.line, "env "+variable, []string{in, given}, nil)
		has("an empty variable is not set", c.other, file, []string{in, variable + "="}, nil)
		has("the file wins over the default", c.other, file, []string{in}, nil)
		has("the default", c.standard, "default", nil, nil)
	}
	c, _, err := Resolve([]string{"GCEMDS_CONFIG=/does/not/exist"}, map[string][]string{"config": {file}})
	if err != nil || c.Name != file {
		t.Errorf("the file is %v (%v), want that of the flag, not of the variable", c, err)
	}
}

func TestSettings(t *testing.T) {
	c, warnings, err := Resolve(
		[]string{"HOME=/", "GCEMDS_LISTN=x", "GCEMDS_SERVICE_HOST=10.0.0.1", "GCEMDS_ALLOW_REMOTE=true"},
		map[string][]string{
			"listen": {":8080,unix:/run/mds.sock", "fd:metadata"},
			"set":    {"instance/attributes/a=~", "instance/attributes/b=x=1\n", "instance/attributes/c="},
			"key":    {"sa.json"},
		})
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 2 || warnings[0] != `unknown variable "GCEMDS_LISTN" (did you mean "GCEMDS_LISTEN"?)` || !strings.Contains(warnings[1], "GCEMDS_SERVICE_HOST") {
		t.Errorf("warnings %q, want one of each variable that is no setting", warnings)
	}
	var listeners []string
	for _, l := range c.Listen {
		listeners = append(listeners, l.Name+" "+l.TCP+l.Unix+l.FD)
	}
	if want := []string{"main :8080", "main-2 /run/mds.sock", "main-3 metadata"}; !slices.Equal(listeners, want) {
		t.Errorf("listeners %q, want %q", listeners, want)
	}
	for i, want := range []string{"~", "x=1\n", ""} {
		if got := c.Instances[0].Set[i]; got.Value != want {
			t.Errorf("--set %s gives %#v, want the text %q", got.Path, got.Value, want)
		}
	}
	if a := c.Instances[0].Accounts; len(a) != 1 || a[0].Name != "default" || a[0].Source != "key" || c.Sources["key"].KeyFile.File != "sa.json" {
		t.Errorf("--key gives the accounts %+v and the sources %+v", a, c.Sources)
	}
	if again, err := Load("shown.yaml", []byte(show(t, c, true))); err != nil {
		t.Errorf("Load refuses what Show prints: %v", err)
	} else if got, want := again.Instances[0].Set[0].Value, any("~"); got != want {
		t.Errorf("after Show the text ~ is %#v", got)
	}
}

func TestSettingFaults(t *testing.T) {
	for _, c := range []struct {
		env   []string
		flags map[string][]string
		want  string
	}{
		{[]string{"GCEMDS_LOG_LEVEL=loud"}, nil, `GCEMDS_LOG_LEVEL: log.level: unknown value "loud" (there are: debug, info, warn, error)`},
		{nil, map[string][]string{"listen": {"8080"}}, `--listen: listen.main.tcp: "8080" is not of the form HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080`},
		{nil, map[string][]string{"listen": {""}}, "--listen: listen: needs at least one listener"},
		{nil, map[string][]string{"set": {"instance/attributes/a"}}, `--set: "instance/attributes/a" is not of the form PATH=TEXT`},
		{nil, map[string][]string{"set": {"/a=b"}}, `--set: instances.demo-instance.set./a: "/a" is not a path such as instance/attributes/env`},
		{[]string{"GCEMDS_ALLOW_REMOTE=yes"}, nil, `GCEMDS_ALLOW_REMOTE: listen.main.allow_remote: must be true or false, not "yes"`},
		{nil, map[string][]string{"listen": {"0.0.0.0:1"}}, "--listen: listen.main.tcp: 0.0.0.0:1 can be reached from other machines, and whoever reaches it gets tokens; if you want that, say allow_remote: true (--allow-remote)"},
	} {
		if _, _, err := Resolve(c.env, c.flags); err == nil || err.Error() != c.want {
			t.Errorf("%q %q: %v, want %s", c.env, c.flags, err, c.want)
		}
	}
	if _, _, err := Resolve(nil, map[string][]string{"config": {filepath.Join(t.TempDir(), "none.yaml")}}); err == nil || !strings.Contains(err.Error(), "cannot read the configuration") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestSettingsTable: names are unique and follow from each other.
func TestSettingsTable(t *testing.T) {
	for i, s := range Settings {
		if want := "GCEMDS_" + strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_")); s.Env != "" && s.Env != want {
			t.Errorf("the variable of --%s is %s, want %s", s.Name, s.Env, want)
		}
		if s.Help == "" || s.apply == nil {
			t.Errorf("--%s has no help or does nothing", s.Name)
		}
		if slices.ContainsFunc(Settings[:i], func(o Setting) bool { return o.Name == s.Name }) {
			t.Errorf("--%s is twice in the table", s.Name)
		}
	}
}
