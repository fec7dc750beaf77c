package archtest

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// imports is the architecture: for each package, the packages of ours that it imports and why. A change here is a
// change of the design, so it stands in the diff for a reviewer to see. Arrows point down; siblings do not see each
// other; only cli sees daemon.
var imports = map[string]map[string]string{
	// What people run.
	"cmd/gcemds": {
		"internal/cli": "main calls it and does nothing else",
	},
	"internal/cli": {
		"internal/gke":         "gke setup and gke explain ask a cluster, without a server",
		"":                     "run sets the variables that lead client libraries to a server, of which the package has the list",
		"client":               "token, wait, capture, doctor and others ask any metadata server, as a program would",
		"internal/intercept":   "run --link-local, intercept and serve --intercept make programs find our server at the address of Google's",
		"internal/admin":       "commands talk to a running server through the admin client",
		"internal/config":      "config check and config show read the file without a server",
		"internal/conformance": "conformance compares a server with the corpus",
		"internal/credential":  "the tpm commands make keys for the source of that kind, and print its configuration",
		"internal/daemon":      "serve and run run one",
		"internal/issuer":      "google runs one as a fake Google; identity --verify checks a signature as it does",
		"internal/proxy":       "google puts the fake where programs look for Google",
	},
	"bench": {
		"internal/tree": "times edits of a large document; everything else it measures from outside",
	},
	"internal/daemon": {
		"client":               "watches the metadata server that an instance follows",
		"internal/admin":       "serves the control API",
		"internal/config":      "opens what the file describes",
		"internal/credential":  "opens the sources",
		"internal/exchange":    "gives all sources one client",
		"internal/attest":      "asks the kernel who callers in the network of the host are",
		"internal/gke":         "callers can be the Pods of a node, and are counted",
		"internal/intercept":   "asks what notes who connects, where that is installed",
		"internal/passthrough": "may stand before a listener",
		"internal/fleet":       "builds the instances and the routes",
		"internal/issuer":      "serves the keys of the offline issuer",
		"internal/journal":     "logs and counts what happened",
		"internal/server":      "serves the metadata",
		"internal/token":       "wraps every source in the cache",
		"internal/tree":        "builds the documents and keeps the stores over reloads",
	},

	// What people import.
	"": {
		"internal/exchange": "federation and impersonation, for programs that have a subject token and no file",
		"internal/fleet":    "an embedded server has an instance with accounts",
		"internal/issuer":   "tokens without a key or a network are the default",
		"internal/server":   "answers the requests",
		"internal/token":    "the embedding program gives a token source",
		"internal/tree":     "the document that is served",
	},
	"client": {},
	"client/tokenprovider": {
		"client": "gives its tokens to cloud.google.com/go/auth, which client itself must not import",
	},
	"client/tokensource": {
		"client": "gives its tokens to golang.org/x/oauth2, which client itself must not import",
	},
	"mdstest": {
		"": "a test server is an embedded server, seen by a test",
	},

	// What answers a request.
	"internal/admin": {
		"internal/fleet":   "shows and picks instances",
		"internal/journal": "records who changed what",
		"internal/tree":    "edits the documents",
	},
	"internal/server": {
		"internal/fleet":   "a caller is resolved to an instance",
		"internal/journal": "one entry per request",
		"internal/token":   "token and identity are minted, and their errors become a status",
		"internal/tree":    "everything else is read from the document",
	},
	"internal/attest": {
		"internal/fleet": "what it finds out is a fleet.Peer",
	},
	"internal/config": {
		"internal/credential":  "a source in the file is a credential.Config",
		"internal/gke":         "the section gke in the file is a gke.Config",
		"internal/passthrough": "so is passthrough a passthrough.Config",
		"internal/tree":        "what the file sets on a document is a tree.Edit",
	},
	"internal/credential": {
		"internal/exchange": "all kinds that ask Google share the calls",
		"internal/issuer":   "the offline issuer is a kind of credential",
		"internal/token":    "every credential opens as a token.Source",
		"internal/tpm":      "the key of a credential may be in a TPM",
	},
	"internal/exchange": {
		"internal/token": "a federation and an impersonation are token sources, and errors have its kinds",
	},
	"internal/fleet": {
		"internal/token": "an account mints from a source",
		"internal/tree":  "an instance has a document",
	},
	"internal/gke": {
		"internal/exchange": "a Pod's token is exchanged, and impersonates, as that of any other federation does",
		"internal/fleet":    "a cluster is a resolver: a Pod is an instance",
		"internal/journal":  "one entry per token that a Pod is given or refused",
		"internal/token":    "what a Pod gets, and how long it is kept",
		"internal/tree":     "the document of a node",
	},
	"internal/issuer": {
		"internal/token": "an identity of the issuer is a token.Source",
	},

	// What judges a server from outside. It must not know how ours works.
	"internal/conformance": {
		"testdata/corpus": "the cases, which lie where people without Go find them",
	},

	// What knows nothing of ours.
	"internal/intercept":   {},
	"internal/journal":     {},
	"internal/passthrough": {},
	"internal/proxy":       {},
	"internal/token":       {},
	"internal/tpm":         {},
	"internal/tree":        {},

	// Only tests.
	"deploy":             {},
	"internal/archtest":  {},
	"internal/tpm/swtpm": {},
}

// TestImports compares the arrows in the code with the table, both ways.
func TestImports(t *testing.T) {
	for _, fault := range checkImports(imports, arrows(t)) {
		t.Error(fault)
	}
}

// arrows returns, for each package of ours, the packages of ours that it imports on any system we build for.
func arrows(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, system := range systems {
		for _, p := range load(t, system, "./...") {
			from := short(p.ImportPath)
			if _, ok := all[from]; !ok {
				all[from] = nil // it has a row even if it imports none of ours
			}
			for _, i := range p.Imports {
				if to := short(i); ours(i) && !slices.Contains(all[from], to) {
					all[from] = append(all[from], to)
				}
			}
		}
	}
	return all
}

// checkImports returns a sentence for each difference between the table and the code, in order.
func checkImports(table map[string]map[string]string, code map[string][]string) []string {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for _, from := range slices.Sorted(maps.Keys(code)) {
		row, ok := table[from]
		if !ok {
			fault("package %s is not in the import table: add a row for it, with the arrows it needs (%q)", full(from), code[from])
			continue
		}
		for _, to := range code[from] {
			if _, ok := row[to]; !ok {
				fault("%s imports %s, which the import table does not allow: take the arrow out of the code, or add "+
					"it to the table with its reason if the design really changes", full(from), full(to))
			}
		}
	}
	for _, from := range slices.Sorted(maps.Keys(table)) {
		arrows, ok := code[from]
		if !ok {
			fault("the import table has a row for %s, but there is no such package", full(from))
			continue
		}
		for _, to := range slices.Sorted(maps.Keys(table[from])) {
			if !slices.Contains(arrows, to) {
				fault("the import table says that %s imports %s, but it does not: remove the arrow from the table", full(from), full(to))
			}
			if table[from][to] == "" {
				fault("the arrow from %s to %s gives no reason", full(from), full(to))
			}
		}
	}
	return faults
}

// TestCheckImports: each kind of difference is seen, and named so that a reader knows what to do.
func TestCheckImports(t *testing.T) {
	table := map[string]map[string]string{
		"a": {"b": "a needs b"},
		"b": {},
	}
	for name, c := range map[string]struct {
		code map[string][]string
		want string // part of the only fault; empty for none
	}{
		"same":            {map[string][]string{"a": {"b"}, "b": nil}, ""},
		"new arrow":       {map[string][]string{"a": {"b"}, "b": {"a"}}, "gcemds/b imports github.com/gcemds/gcemds/a, which the import table does not allow"},
		"old arrow":       {map[string][]string{"a": nil, "b": nil}, "remove the arrow from the table"},
		"new package":     {map[string][]string{"a": {"b"}, "b": nil, "c": {"a"}}, "gcemds/c is not in the import table"},
		"removed package": {map[string][]string{"a": {"b"}}, "row for github.com/gcemds/gcemds/b, but there is no such package"},
	} {
		t.Run(name, func(t *testing.T) {
			faults := checkImports(table, c.code)
			switch {
			case c.want == "" && len(faults) > 0:
				t.Errorf("the code agrees with the table, but the check says %q", faults)
			case c.want != "" && (len(faults) != 1 || !strings.Contains(faults[0], c.want)):
				t.Errorf("the check says %q, want one fault with %q", faults, c.want)
			}
		})
	}
	if faults := checkImports(map[string]map[string]string{"a": {"b": ""}, "b": {}}, map[string][]string{"a": {"b"}, "b": nil}); len(faults) != 1 {
		t.Errorf("an arrow without a reason passes: %q", faults)
	}
}

// light lists the packages that people import into their own programs and tests. Whoever imports them inherits what
// they depend on, so that is nothing but the standard library. A package that is not written yet is not missed.
var light = []string{"", "client", "mdstest"}

// TestLightPackages: the packages that people import depend on the standard library and on us, on nothing else.
func TestLightPackages(t *testing.T) {
	exists := arrows(t)
	for _, name := range light {
		if _, ok := exists[name]; !ok {
			continue
		}
		foreign := map[string]string{} // module to the package of ours that brings it in
		for _, system := range systems {
			deps := load(t, system, "-deps", full(name))
			modules := map[string]string{}
			for _, dep := range deps {
				if dep.Module != nil && dep.Module.Path != module {
					modules[dep.ImportPath] = dep.Module.Path
				}
			}
			for _, dep := range deps {
				for _, i := range dep.Imports {
					if m, ok := modules[i]; ok && ours(dep.ImportPath) {
						foreign[m] = dep.ImportPath
					}
				}
			}
		}
		for m, by := range foreign {
			t.Errorf("%s depends on %s, which %s imports: everyone who imports %s would carry it too, so only the "+
				"standard library is allowed there", full(name), m, by, full(name))
		}
	}
}

// vague are names that say nothing about what is inside, so everything ends up there.
var vague = []string{"base", "common", "helper", "helpers", "lib", "manager", "misc", "models", "pkg", "shared", "types", "util", "utils"}

// TestPackages: every package is named after a thing and says what it is.
func TestPackages(t *testing.T) {
	for _, p := range load(t, "linux", "./...") {
		if element := path.Base(p.ImportPath); slices.Contains(vague, p.Name) || slices.Contains(vague, element) {
			t.Errorf("%s: a package named %q holds anything: name it after the thing inside", p.ImportPath, element)
		}
		if doc := packageDoc(t, p); len(strings.Fields(doc)) < 5 {
			t.Errorf("%s has no package comment that says what it is and what it is not (found %q)", p.ImportPath, doc)
		}
	}
}

// searching are packages that look for credentials by themselves. With GCE_METADATA_HOST leading to us, that search ends
// at ourselves, and where it does not, it finds an identity that nobody has named.
var searching = []string{"cloud.google.com/go/auth/credentials", "cloud.google.com/go/compute/metadata", "golang.org/x/oauth2/google", "google.golang.org/api"}

// TestNoDefaultCredentials: nothing in the program looks for credentials that the configuration does not name.
func TestNoDefaultCredentials(t *testing.T) {
	for _, p := range load(t, "linux", "-deps", full("cmd/gcemds")) {
		for _, s := range searching {
			if p.ImportPath == s || strings.HasPrefix(p.ImportPath, s+"/") {
				t.Errorf("gcemds contains %s, which looks for default credentials: a source is always chosen by name", p.ImportPath)
			}
		}
	}
}
