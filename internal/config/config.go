// Package config is the configuration of gcemds: one strict YAML file, and
// the dozen settings that a flag or a variable of the environment can make in
// its place. It loads, checks and explains; it opens nothing that the file
// refers to.
//
// The default, the file, the environment and the flags are layers of one YAML
// tree whose nodes know where they came from. The tree is decoded and checked
// once, all faults are reported at once, and Show prints it.
package config

import (
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/gcemds/gcemds/internal/credential"
	"github.com/gcemds/gcemds/internal/gke"
	"github.com/gcemds/gcemds/internal/passthrough"
	"github.com/gcemds/gcemds/internal/tree"
)

// A Config is everything that can be configured, checked and complete: what
// was left out has its default. It must not be changed.
//
// The tag yaml names a field in the file; ",key" marks the field that takes
// the key of a mapping whose order counts. The tag "is" names a check.
type Config struct {
	Name      string                       `yaml:"-"` // of the file; "" if there is none
	Log       Log                          `yaml:"log"`
	Dumpable  bool                         `yaml:"dumpable"` // debuggers and core dumps may see our memory, keys included
	Admin     Admin                        `yaml:"admin"`
	Issuer    Issuer                       `yaml:"issuer"`
	Hosts     []string                     `yaml:"hosts" is:"hosts"` // further Host names that workloads may use; "*.example.test": all below
	Limits    Limits                       `yaml:"limits"`
	Endpoints credential.Endpoints         `yaml:"endpoints"`
	Sources   map[string]credential.Config `yaml:"sources"` // an issuer without an e-mail has that of the account
	Instances []Instance                   `yaml:"instances"`
	Listen    []Listener                   `yaml:"listen"`
	Routes    []Route                      `yaml:"routes"` // the first that fits decides; none: all are the first instance
	GKE       *gke.Config                  `yaml:"gke"`    // set: callers are Pods, and there are no Instances and no Routes

	Intercept   string              `yaml:"intercept" is:"none|auto|nftables|loopback|ebpf|environment"` // how programs that ask 169.254.169.254 get here
	Passthrough *passthrough.Config `yaml:"passthrough"`                                                 // set: requests for the metadata service of another cloud reach it

	root  *yaml.Node // what Show prints
	files []string
}

// Log is what is logged, and how.
type Log struct {
	Level  slog.Level `yaml:"level" is:"debug|info|warn|error"`
	Format string     `yaml:"format" is:"text|json"`
}

// Admin is where the control API is.
type Admin struct {
	Socket string `yaml:"socket" is:"socket"` // "": the usual place of this user
	HTTP   string `yaml:"http" is:"address"`  // of /healthz, /readyz and /metrics; "": off

	ReusePort bool `yaml:"reuse_port"` // other gcemds of this user may listen at HTTP too
}

// Issuer is the offline issuer.
type Issuer struct {
	Listen  string        `yaml:"listen" is:"address"`
	KeyFile string        `yaml:"key_file"`        // PEM; "": a new key at each start
	Issuer  string        `yaml:"issuer" is:"url"` // the iss claim
	Life    time.Duration `yaml:"life"`            // of an access token, at least a second
	URL     string        `yaml:"url" is:"url"`    // how verifiers reach it; "": at Listen
}

// Limits bound what clients can make the server hold. They are positive; of
// those that may be left out, 0 is none.
type Limits struct {
	HangingGets     int `yaml:"hanging_gets"`           // waiting requests at a time
	Connections     int `yaml:"connections"`            // open connections at a time, per listener
	GuestAttributes int `yaml:"guest_attributes_bytes"` // of an instance
	RefreshTokens   int `yaml:"refresh_tokens"`         // sets of scopes of an account, over all instances; 0: no limit
	PerSource       int `yaml:"connections_per_source"` // open connections of one address, per listener; 0: no limit, or 200 with GKE
}

// An Instance is a machine to be served.
type Instance struct {
	Name          string      `yaml:",key"`
	Metadata      string      `yaml:"metadata" is:"file"`     // a document; "": the built-in one
	Upstream      string      `yaml:"upstream" is:"upstream"` // another metadata server whose document it has; "": none
	Set           []tree.Edit `yaml:"set"`                    // on top of the document, in order
	OSLogin       string      `yaml:"oslogin" is:"file"`
	Created       time.Time   `yaml:"created"` // zero: of the built-in instance
	EnforceScopes bool        `yaml:"enforce_scopes"`
	Accounts      []Account   `yaml:"accounts"` // none: those of the document, served by the offline issuer or by Upstream
}

// An Account is a service account of an instance. Its key in the file is
// "default", its e-mail, or an alias.
type Account struct {
	Name    string   `yaml:",key"`
	Email   string   `yaml:"email" is:"email"` // "", of the default account only: what the source says
	Source  string   `yaml:"source"`           // in Config.Sources; "": the offline issuer
	Scopes  []string `yaml:"scopes"`           // full and canonical; default cloud-platform
	Aliases []string `yaml:"aliases" is:"name"`
}

// A Listener is where workloads connect. Exactly one of TCP, Unix and FD is
// set.
type Listener struct {
	Name        string      `yaml:",key"`
	TCP         string      `yaml:"tcp" is:"address"`
	Unix        string      `yaml:"unix" is:"socket"`
	Mode        fs.FileMode `yaml:"mode"`         // permissions of Unix; default 0660
	FD          string      `yaml:"fd" is:"name"` // name of a socket that systemd passes on (LISTEN_FDNAMES)
	AllowRemote bool        `yaml:"allow_remote"`
	ReusePort   bool        `yaml:"reuse_port"` // others of this user may listen at TCP too
	Optional    bool        `yaml:"optional"`   // left out on a machine that does not have the address
	TLS         *TLS        `yaml:"tls"`
}

// TLS makes a listener one for clients with a certificate of our authority.
type TLS struct {
	Dir       string   `yaml:"dir" is:"place"` // where the authority is kept; made at the first use
	CA        string   `yaml:"ca" is:"file"`   // an authority of one's own, PEM, with CAKey; "": in Dir
	CAKey     string   `yaml:"ca_key" is:"file"`
	Hosts     []string `yaml:"hosts" is:"hosts"`      // further names of the server's certificate
	ClientDir string   `yaml:"client_dir" is:"place"` // where a client's certificate is put; "": nowhere
}

// A Route leads callers to an instance. Empty fields fit every caller.
type Route struct {
	Listener string       `yaml:"listener"`
	Host     string       `yaml:"host" is:"host"`
	Local    netip.Addr   `yaml:"local"`  // address that the caller dialled
	Source   netip.Prefix `yaml:"source"` // address that the caller has
	Instance string       `yaml:"instance"`
}

// Load reads a configuration file of that name, which is not empty: relative
// file names start at its folder. It adds no environment and no flags. The
// error is of type Faults and has all there are.
func Load(name string, data []byte) (*Config, error) { return load(name, data, nil) }

// load decodes the default, the data (unless nil) and the settings on top.
func load(name string, data []byte, settings []given) (*Config, error) {
	d := &decoder{file: name, nodes: map[string]*yaml.Node{}}
	root := parse("", starter, d.fault)
	if data != nil {
		merge(root, parse(name, data, d.fault))
	}
	if kubernetes := child(root, "gke"); kubernetes != nil && kubernetes.Tag != "!!null" {
		withoutDefault(root, "instances")
	}
	for _, g := range settings {
		g.apply(g, root, d.fault)
	}
	c := &Config{Name: name, root: root}
	d.decode("", root, c)
	d.check(c)
	if err := d.faults.err(); err != nil {
		return nil, err
	}
	if name != "" {
		c.files = append(c.files, name)
	}
	c.files = append(c.files, d.files...)
	slices.Sort(c.files)
	c.files = slices.Compact(c.files)
	return c, nil
}

// Files returns every file that the configuration was read from or refers to,
// sorted. When the content of one changes, it should be read again.
func (c *Config) Files() []string { return slices.Clone(c.files) }
