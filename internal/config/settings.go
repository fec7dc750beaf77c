package config

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// A Setting can be made without a file, by a flag or a variable.
type Setting struct {
	Name    string // of the flag, without dashes
	Env     string // the variable; "" if there is none
	Value   string // what a value looks like in help; "" if the flag is true when it stands alone
	Help    string
	Default string // as help shows it; "" if there is none
	Many    bool   // the flag may be repeated
	Alone   string // the value of a flag that stands alone; "": it may not, if it has a value

	apply func(g given, root *yaml.Node, fault report)
}

// Settings are all there are. A flag wins over the variable, the variable over
// the file, and the file over the default. A variable that is empty is not set.
var Settings = []Setting{
	{Name: "config", Env: "GCEMDS_CONFIG", Value: "FILE", Help: "configuration file", apply: nothing},
	{Name: "listen", Env: "GCEMDS_LISTEN", Value: "ADDRESS,...", Default: "127.0.0.1:8080", Many: true,
		Help: "where workloads connect: HOST:PORT, unix:PATH or fd:NAME; replaces the listeners of the file", apply: listen},
	{Name: "allow-remote", Env: "GCEMDS_ALLOW_REMOTE",
		Help: "let listeners be reached from other machines; whoever reaches them gets tokens", apply: each("listen", "allow_remote")},
	{Name: "reuse-port", Env: "GCEMDS_REUSE_PORT",
		Help: "let another gcemds of this user listen at the same ports, so that one can take over from the other with no gap", apply: each("listen", "reuse_port")},
	{Name: "intercept", Env: "GCEMDS_INTERCEPT", Value: "MODE", Default: "none", Alone: "auto",
		Help: "lead programs that ask 169.254.169.254 here: auto, nftables, loopback, ebpf, environment or none; takes root", apply: at("intercept")},
	{Name: "hosts", Env: "GCEMDS_HOSTS", Value: "NAME,...", Many: true, Help: "further Host names that workloads may use", apply: hosts},
	{Name: "metadata", Env: "GCEMDS_METADATA", Value: "FILE", Help: "document of the first instance", apply: first("metadata")},
	{Name: "set", Value: "PATH=TEXT", Many: true, Help: "set a path in the document of the first instance", apply: set},
	{Name: "key", Env: "GCEMDS_KEY", Value: "FILE", Help: "service account key for the default account of the first instance", apply: key},
	{Name: "source", Env: "GCEMDS_SOURCE", Value: "NAME", Help: "source of the file that the default account of the first instance has its tokens from", apply: first("accounts", "default", "source")},
	{Name: "scopes", Env: "GCEMDS_SCOPES", Value: "SCOPE,...", Many: true, Help: "scopes of the default account of the first instance", apply: scopes},
	{Name: "enforce-scopes", Env: "GCEMDS_ENFORCE_SCOPES", Help: "mint tokens of exactly the scopes that a request asks for, and refuse those that the account does not have", apply: each("instances", "enforce_scopes")},
	{Name: "admin", Env: "GCEMDS_ADMIN", Value: "PATH", Help: "socket of the control API", apply: at("admin", "socket")},
	{Name: "admin-http", Env: "GCEMDS_ADMIN_HTTP", Value: "HOST:PORT", Help: "where to serve /healthz, /readyz and /metrics", apply: at("admin", "http")},
	{Name: "issuer-listen", Env: "GCEMDS_ISSUER_LISTEN", Value: "HOST:PORT", Default: "127.0.0.1:0", Help: "where the offline issuer shows its keys", apply: at("issuer", "listen")},
	{Name: "issuer-key", Env: "GCEMDS_ISSUER_KEY", Value: "FILE", Help: "key of the offline issuer (PEM)", apply: at("issuer", "key_file")},
	{Name: "dumpable", Env: "GCEMDS_DUMPABLE", Help: "let debuggers and core dumps see the memory of the server, keys included", apply: at("dumpable")},
	{Name: "log-level", Env: "GCEMDS_LOG_LEVEL", Value: "LEVEL", Default: "info", Help: "debug, info, warn or error", apply: at("log", "level")},
	{Name: "log-format", Env: "GCEMDS_LOG_FORMAT", Value: "FORMAT", Default: "text", Help: "text or json", apply: at("log", "format")},
}

// A given is a setting that somebody made.
type given struct {
	Setting
	origin string // "flag --listen", "env GCEMDS_LISTEN"
	values []string
}

// word is the value as a node; of several, the last.
func (g given) word() *yaml.Node {
	value := g.values[len(g.values)-1]
	if g.Value == "" { // as pflag does: 1, t, true
		if yes, err := strconv.ParseBool(value); err == nil {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(yes), LineComment: g.origin}
		}
	}
	return g.text(value)
}

func (g given) text(value string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value, LineComment: g.origin}
	if strings.ContainsFunc(value, control) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// list splits the values at commas.
func (g given) list() []string {
	var list []string
	for _, word := range strings.Split(strings.Join(g.values, ","), ",") {
		if word = strings.TrimSpace(word); word != "" {
			list = append(list, word)
		}
	}
	return list
}

// sequence is the list as a node.
func (g given) sequence() *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", LineComment: g.origin}
	for _, word := range g.list() {
		n.Content = append(n.Content, g.text(word))
	}
	return n
}

func nothing(given, *yaml.Node, report) {}

// at sets a field.
func at(path ...string) func(given, *yaml.Node, report) {
	return func(g given, root *yaml.Node, _ report) { put(root, g.word(), path...) }
}

// each sets a field of everything in a section.
func each(section, field string) func(given, *yaml.Node, report) {
	return func(g given, root *yaml.Node, _ report) {
		for _, one := range pairs(child(root, section)) {
			put(one, g.word(), field)
		}
	}
}

// first sets a field of the first instance.
func first(path ...string) func(given, *yaml.Node, report) {
	return func(g given, root *yaml.Node, _ report) { put(root, g.word(), ofFirst(root, path...)...) }
}

func ofFirst(root *yaml.Node, path ...string) []string {
	for name := range pairs(child(root, "instances")) {
		return append([]string{"instances", name.Value}, path...)
	}
	return nil // a fault that check will find
}

func key(g given, root *yaml.Node, fault report) {
	source := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	put(source, g.word(), "key_file", "file")
	put(root, source, "sources", "key")
	put(root, g.text("key"), ofFirst(root, "accounts", "default", "source")...)
}

func set(g given, root *yaml.Node, fault report) {
	for _, value := range g.values {
		path, text, ok := strings.Cut(value, "=")
		if !ok {
			fault(g.text(value), "", quote(value)+" is not of the form PATH=TEXT")
			continue
		}
		put(root, g.text(text), ofFirst(root, "set", path)...)
	}
}

func hosts(g given, root *yaml.Node, _ report) { put(root, g.sequence(), "hosts") }

func scopes(g given, root *yaml.Node, _ report) {
	put(root, g.sequence(), ofFirst(root, "accounts", "default", "scopes")...)
}

// listen names the listeners main, main-2, main-3 …
func listen(g given, root *yaml.Node, _ report) {
	all := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", LineComment: g.origin}
	for i, word := range g.list() {
		name, kind := "main", "tcp"
		if i > 0 {
			name = fmt.Sprintf("main-%d", i+1)
		}
		for _, k := range []string{"unix", "fd"} {
			if rest, ok := strings.CutPrefix(word, k+":"); ok {
				kind, word = k, rest
			}
		}
		put(all, g.text(word), name, kind)
	}
	put(root, all, "listen")
}

// Resolve returns the configuration that the flags, the environment (of the
// form of os.Environ) and the file they name make together. Flags are by name
// and hold what was given on the command line only. A warning is a variable
// that looks like a setting and is none. What is wrong with the content is an
// error of type Faults; other errors say why the file cannot be read.
func Resolve(env []string, flags map[string][]string) (c *Config, warnings []string, err error) {
	variables := map[string]string{}
	for _, v := range env {
		if name, value, _ := strings.Cut(v, "="); strings.HasPrefix(name, "GCEMDS_") {
			variables[name] = value
		}
	}
	var settings []given
	var known []string
	for _, s := range Settings {
		value := variables[s.Env]
		delete(variables, s.Env)
		if values := flags[s.Name]; len(values) > 0 {
			settings = append(settings, given{s, "flag --" + s.Name, values})
		} else if value != "" {
			settings = append(settings, given{s, "env " + s.Env, []string{value}})
		}
		if s.Env != "" {
			known = append(known, s.Env)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		warnings = append(warnings, unknown("variable", name, known[:len(known):len(known)]))
	}

	var name string
	var data []byte
	if len(settings) > 0 && settings[0].Name == "config" {
		name = settings[0].values[len(settings[0].values)-1]
		if data, err = read(name); err != nil {
			return nil, warnings, fmt.Errorf("cannot read the configuration: %w", err)
		}
	}
	c, err = load(name, data, settings)
	return c, warnings, err
}

// read reads as much of a file as shows that it is too long.
func read(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}
