package tree

import "strings"

// A trait is one thing that JSON does not say about a key.
type trait uint16

const (
	raw        trait = 1 << iota // names of children are the same in paths and in JSON
	deep                         // the row holds for everything below as well
	text                         // scalars are strings, whatever they look like
	number                       // a number, even when written as a string
	indexed                      // an array is a directory, addressable by index
	jsonFirst                    // prints JSON unless text is asked for
	object                       // a JSON object or array is a leaf
	pretty                       // an object that is served indented by one space
	unlisted                     // served, but neither listed nor recursed
	unrecursed                   // listed, but not part of recursive answers
	quiet                        // changes below do not reach ETags above
	unsettable                   // a lookup of an absent key is ErrUnset
)

// rows is the table of oddities: everything about keys that cannot be read off
// the JSON document of a VM. A star stands for one name. Sections are those of
// the protocol specification.
var rows = []struct {
	pattern string
	traits  trait
	more    odd
}{
	{"instance/attributes", raw, odd{}},                                                             // 3.3
	{"instance/attributes/*", text, odd{}},                                                          // 3.3
	{"project/attributes", raw, odd{}},                                                              // 3.3
	{"project/attributes/*", text, odd{}},                                                           // 3.3
	{"instance/service-accounts", raw, odd{}},                                                       // 3.3
	{"instance/service-accounts/*", 0, odd{leaves: []Live{"identity", "token"}}},                    // 5.1
	{"instance/guest-attributes", raw | quiet, odd{gate: guestAttributes}},                          // 4.8
	{"instance/guest-attributes/*", raw | deep | text, odd{}},                                       // 4.8
	{"instance/partner-attributes", raw | deep, odd{}},                                              // 4.9
	{"instance/tags", jsonFirst, odd{}},                                                             // 3.2
	{"instance/id", number, odd{}},                                                                  // 3.3
	{"instance/remaining-cpu-time", number, odd{}},                                                  // 3.3
	{"project/numeric-project-id", number, odd{}},                                                   // 3.3
	{"instance/disks", indexed, odd{}},                                                              // 2.2
	{"instance/disks/*/index", number, odd{}},                                                       // 3.3
	{"instance/licenses", indexed, odd{}},                                                           // 2.2
	{"instance/licenses/*/id", text, odd{}},                                                         // 3.3
	{"instance/virtual-clock/drift-token", text, odd{}},                                             // 3.3
	{"instance/network-interfaces", indexed, odd{}},                                                 // 2.2
	{"instance/network-interfaces/*/mtu", number, odd{}},                                            // 3.3
	{"instance/vlan-network-interfaces/*/*/vlan", number, odd{}},                                    // 4.3
	{"instance/vlan-network-interfaces/*/*/mtu", number, odd{}},                                     // 4.3
	{"instance/legacy-endpoint-access/*", number, odd{}},                                            // 3.3
	{"instance/network-interfaces/*/access-configs", indexed, odd{}},                                // 2.2
	{"instance/network-interfaces/*/forwarded-ips", indexed, odd{}},                                 // 2.2
	{"instance/network-interfaces/*/forwarded-ipv6s", indexed, odd{}},                               // 2.2
	{"instance/network-interfaces/*/ip-aliases", indexed, odd{}},                                    // 2.2
	{"instance/credentials", unrecursed, odd{}},                                                     // 11, item 10
	{"instance/credentials/*", object, odd{}},                                                       // 8
	{"instance/gce-workload-certificates", unrecursed, odd{}},                                       // 4.9
	{"instance/gce-workload-certificates/config-status", object | pretty | unsettable, odd{}},       // 4.9
	{"instance/gce-workload-certificates/trust-anchors", object | pretty | unsettable, odd{}},       // 4.9
	{"instance/gce-workload-certificates/workload-identities", object | pretty | unsettable, odd{}}, // 4.9
	{"instance/workload-certificates-config-status", object | pretty | unrecursed, odd{}},           // 4.2
	{"instance/workload-identities", object | pretty | unrecursed, odd{}},                           // 4.2
	{"instance/workload-trusted-root-certs", object | pretty | unrecursed, odd{}},                   // 4.2
	{"instance/platform-security", unlisted, odd{}},                                                 // 4.2
	{"instance/platform-security/*", object, odd{}},                                                 // 4.2
	{"instance/shutdown-details", unrecursed, odd{}},                                                // 11, item 10
	{"instance/upcoming-maintenance", object | unrecursed, odd{implied: `"NONE"`}},                  // 11, items 9 and 10
	{"universe", unlisted, odd{implied: `{"universe-domain":"googleapis.com"}`}},                    // 4.5
	{"oslogin/users", object | unlisted, odd{live: "oslogin-users"}},                                // 4.4
	{"oslogin/groups", object | unlisted, odd{live: "oslogin-groups"}},                              // 4.4
	{"oslogin/authorize", object | unlisted, odd{live: "oslogin-authorize", implied: "{}"}},         // 4.4
}

// guestAttributes is the attribute that opens instance/guest-attributes.
const guestAttributes = "enable-guest-attributes"

// odd is what only a few rows have.
type odd struct {
	gate    string // the attribute that must be true for the directory to be open
	implied string // the value, in JSON, of a document that does not have the key
	live    Live   // who computes the answer; the leaf's value is its data
	leaves  []Live // live leaves that every directory of the row has, named as they are
}

// A rule is the rows as a trie.
type rule struct {
	odd
	traits trait
	names  map[string]*rule
	any    *rule
}

// A gate is a directory that an attribute opens.
type gate struct{ path, attribute string }

var (
	schema, gates = compile()
	nothing       = &rule{}
)

func compile() (*rule, []gate) {
	root := &rule{}
	var gates []gate
	for _, row := range rows {
		r := root
		for name := range strings.SplitSeq(row.pattern, "/") {
			next := r.names[name]
			if name == "*" {
				next = r.any
			}
			if next == nil {
				next = &rule{}
				if name == "*" {
					r.any = next
				} else {
					if r.names == nil {
						r.names = map[string]*rule{}
					}
					r.names[name] = next
				}
			}
			r = next
		}
		r.traits, r.odd = row.traits, row.more
		if row.more.gate != "" {
			gates = append(gates, gate{row.pattern, row.more.gate})
		}
		if row.traits&deep != 0 {
			r.any = r
		}
	}
	return root, gates
}

// step returns the rule of a child.
func (r *rule) step(name string) *rule {
	if next := r.names[name]; next != nil {
		return next
	}
	if r.any != nil {
		return r.any
	}
	return nothing
}
