package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"
)

// A library is how Google's authentication library of a language looks for an
// identity. Facts: sections 9.1 and 9.2 of the protocol specification.
type library struct {
	name  string
	hosts []string // variables that say where the server is; the first that is set counts
	ping  []string // those that detection reads, where they are others
	off   []string // variables and the value that switches the server off
	sure  string   // a variable and value that spare detection, beside hosts where those do
	trust bool     // a server that is named is believed to be there

	config bool          // knows CLOUDSDK_CONFIG
	stall  time.Duration // how long detection takes where nobody answers; 0: there is none
	own    bool          // gcloud: its own accounts come first
	byName bool          // asks the official name unless a variable says otherwise
}

var libraries = []library{
	{name: "Go", hosts: []string{"GCE_METADATA_HOST"}, trust: true, stall: 5 * time.Second},
	{name: "Node", hosts: []string{"GCE_METADATA_IP", "GCE_METADATA_HOST"}, off: []string{"METADATA_SERVER_DETECTION", "none"},
		sure: "assume-present", stall: 3 * time.Second},
	{name: "Python", hosts: []string{"GCE_METADATA_HOST", "GCE_METADATA_ROOT"}, ping: []string{"GCE_METADATA_IP"},
		off: []string{"NO_GCE_CHECK", "true"}, config: true, stall: 9 * time.Second},
	{name: "Java", hosts: []string{"GCE_METADATA_HOST"}, off: []string{"NO_GCE_CHECK", "true"}, config: true, stall: 1500 * time.Millisecond},
	{name: ".NET", hosts: []string{"GCE_METADATA_HOST"}, stall: 1500 * time.Millisecond},
	{name: "Ruby", hosts: []string{"GCE_METADATA_HOST"}, stall: 1500 * time.Millisecond},
	{name: "PHP", hosts: []string{"GCE_METADATA_HOST"}, stall: 1500 * time.Millisecond},
	{name: "Rust", hosts: []string{"GCE_METADATA_HOST"}, byName: true},
	{name: "C++", hosts: []string{"GCE_METADATA_HOST"}},
	{name: "gcloud", hosts: []string{"GCE_METADATA_ROOT"}, config: true, own: true},
}

// A prospect is what a library finds.
type prospect struct {
	Library string `json:"library"`
	Finds   string `json:"finds"`
	Because string `json:"because"`
	Stall   string `json:"stall,omitempty"` // how long it takes to find out
}

// where is the server that a library asks, and the variable that says so.
func (p *place) where(variables []string) (host, variable string) {
	for _, v := range variables {
		if host := p.getenv(v); host != "" {
			return host, v
		}
	}
	return linkLocal, ""
}

// found says whether somebody answers as a metadata server at an address that
// a variable names. It is known of two.
func (p *place) found(host string) (greeting, bool) {
	switch host {
	case p.address:
		return p.server, true
	case linkLocal:
		return p.linkLocal, true
	case metadataName:
		if slices.Contains(p.addresses, linkLocal) {
			return p.linkLocal, true
		}
		return greeting{err: p.unnamed}, p.unnamed != nil
	}
	return greeting{}, false
}

// prospect follows the search of the library.
func (l library) prospect(p *place) prospect {
	r := prospect{Library: l.name}
	if l.own {
		if account, where := p.gcloudAccount(); account {
			r.Finds, r.Because = "the account of its configuration", where
			return r
		}
	} else {
		for _, c := range []struct{ file, because string }{
			{p.getenv("GOOGLE_APPLICATION_CREDENTIALS"), "GOOGLE_APPLICATION_CREDENTIALS says so, and comes before any server"},
			{path.Join(p.gcloudDir(l.config), "application_default_credentials.json"), "gcloud auth application-default login has left it, and it comes before any server"},
		} {
			if c.file == "" {
				continue
			}
			f := p.credentials(c.file)
			if f.err == nil {
				r.Finds, r.Because = fmt.Sprintf("the credentials in %s (%s)", f.name, f.kind), c.because
				return r
			}
			if !errors.Is(f.err, fs.ErrNotExist) || c.file == p.getenv("GOOGLE_APPLICATION_CREDENTIALS") {
				r.Finds, r.Because = "an error", fmt.Sprintf("%s cannot be used: %v", f.name, f.err)
				return r
			}
		}
	}
	if len(l.off) == 2 && p.getenv(l.off[0]) == l.off[1] {
		r.Finds, r.Because = "nothing", fmt.Sprintf("%s=%s keeps it from asking", l.off[0], l.off[1])
		return r
	}

	host, variable := p.where(l.hosts)
	because := "no variable says otherwise"
	if variable == "" && l.byName {
		host = metadataName
	}
	if variable != "" {
		because = variable + " says so"
	}
	asked := host
	if l.ping != nil {
		if asked, variable = p.where(l.ping); asked != host && variable == "" {
			because = fmt.Sprintf("to find out whether there is one, because %s is not set", l.ping[0])
		}
	}
	at, known := p.found(asked)
	sure := l.trust && variable != "" || l.sure != "" && p.getenv("METADATA_SERVER_DETECTION") == l.sure
	switch {
	case !known:
		r.Finds = "the metadata server at " + shown(host) + ", if there is one"
	case at.genuine():
		r.Finds = "the metadata server at " + shown(host)
	case sure:
		r.Finds = fmt.Sprintf("the metadata server at %s, which does not work", shown(host))
	default:
		r.Finds = "nothing"
		because = fmt.Sprintf("it asks %s, and that is no metadata server (%s)", shown(asked), because)
	}
	r.Because = because
	switch {
	case !known || at.genuine() || sure || l.stall == 0 || l.own:
	case at.silent():
		r.Stall = fmt.Sprintf("it takes about %v to find that out", l.stall)
	default:
		r.Stall = "it finds that out at once, but for its own pauses"
	}
	return r
}
