// Package gke gives each Pod of a Kubernetes node the identity of its own
// Kubernetes service account, as the metadata server of GKE does. Its Cluster
// is a fleet.Resolver: it says which Pod a caller is, and makes an instance of
// the node's document and the Pod's account. It serves nothing itself.
//
// Facts are those of the specification of GKE's workload identity; section
// numbers refer to it.
package gke

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Config is the section gke of the configuration. With it, callers are Pods of
// one node.
type Config struct {
	Node       string `yaml:"node"`                 // name of the node that we run on; default: the variable NODE_NAME
	Kubeconfig string `yaml:"kubeconfig" is:"file"` // file that leads to the cluster; "": the account of the Pod that we run in

	ProjectID     string `yaml:"project_id"`
	ProjectNumber string `yaml:"project_number"` // "": that of the provider
	Cluster       struct {
		Name     string `yaml:"name"`
		Location string `yaml:"location"` // "": the region of the node
		UID      string `yaml:"uid"`      // "": that of the namespace kube-system
	} `yaml:"cluster"`

	Provider  Provider            `yaml:"provider"`
	Providers map[string]Provider `yaml:"providers"` // further ones, of which a service account may choose by annotation
	Pool      string              `yaml:"pool"`      // shown as e-mail where an account impersonates nobody; "": PROJECT_ID.svc.id.goog

	Attest      string        `yaml:"attest"`        // which callers the kernel is asked about: host (of the host's network; default), all, none
	MaxTokenAge time.Duration `yaml:"max_token_age"` // after which a token is not handed out any more; 0: as long as it lives
	Events      bool          `yaml:"events"`        // tell a Pod that is refused by an Event on it
	StartTaint  string        `yaml:"start_taint"`   // key of a taint that our node is rid of once we are ready; "": none
	Projected   *Projected    `yaml:"projected"`     // where the kubelet puts tokens; nil: the API server is asked for them
}

// A Provider says to whom the tokens of the cluster are shown (section 1.3).
// Exactly one of WorkloadIdentity, Membership and STSAudience is set.
type Provider struct {
	// WorkloadIdentity is the name of a provider of one's own:
	// projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER.
	WorkloadIdentity string `yaml:"workload_identity"`

	// Membership is the identity provider of a fleet membership, an address at
	// https://gkehub.googleapis.com/; Pool is then the fleet's, by default
	// PROJECT_ID.svc.id.goog.
	Membership string `yaml:"membership"`
	Pool       string `yaml:"pool"`

	// Audience, STSAudience and STSURL are taken as they are: the audience of
	// the cluster's tokens, that of their exchange, and its address.
	Audience    string `yaml:"audience"`
	STSAudience string `yaml:"sts_audience"`
	STSURL      string `yaml:"sts_url" is:"url"`
}

// Projected says where the kubelet puts the tokens of Pods, for a server that
// has no right to make any: in a projected volume of each Pod that wants an
// identity.
type Projected struct {
	Dir    string `yaml:"dir" is:"place"` // of the kubelet's Pods; default /var/lib/kubelet/pods
	Volume string `yaml:"volume"`         // name of the volume; default gcemds
	Path   string `yaml:"path"`           // of the token in the volume; default token
}

// The values of Config.Attest.
const (
	AttestHost = "host"
	AttestAll  = "all"
	AttestNone = "none"
)

var (
	projectID     = regexp.MustCompile(`^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$`)
	taintKey      = regexp.MustCompile(`^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	projectNumber = regexp.MustCompile(`^[0-9]{1,20}$`)
)

// Validate reports all that is wrong with the section itself. It asks nobody.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	switch {
	case c.ProjectID == "":
		fault("project_id is missing: the project whose identity Pods have")
	case !projectID.MatchString(c.ProjectID):
		fault("project_id %.100q is not the id of a project", c.ProjectID)
	}
	switch number := cmp.Or(c.ProjectNumber, c.Provider.ProjectNumber()); {
	case number == "" && c.Provider.Validate() != nil: // which is said
	case number == "":
		fault("project_number is missing, and the provider does not have it")
	case !projectNumber.MatchString(number):
		fault("project_number %.100q is not a number", number)
	}
	if c.StartTaint != "" && !taintKey.MatchString(c.StartTaint) {
		fault("start_taint %.100q is not the key of a taint, such as gcemds.dev/starting", c.StartTaint)
	}
	if err := c.Provider.Validate(); err != nil {
		fault("provider: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Providers)) {
		if err := c.Providers[name].Validate(); err != nil {
			fault("providers.%s: %w", name, err)
		}
	}
	switch c.Attest {
	case "", AttestHost, AttestAll, AttestNone:
	default:
		fault("attest is host, all or none")
	}
	if c.MaxTokenAge != 0 && c.MaxTokenAge < minTokenAge {
		fault("max_token_age is at least %v: programs renew a token when that little is left", minTokenAge)
	}
	for _, word := range [][2]string{{"pool", c.Pool}, {"cluster.name", c.Cluster.Name}, {"cluster.location", c.Cluster.Location}, {"cluster.uid", c.Cluster.UID}} {
		if strings.ContainsFunc(word[1], func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
			fault("%s %.100q has characters that it cannot have", word[0], word[1])
		}
	}
	if p := c.Projected; p != nil {
		if strings.Contains(p.Volume, "/") || p.Volume == ".." {
			fault("projected.volume %.100q is not the name of a volume", p.Volume)
		}
		if p.Path != "" && !filepath.IsLocal(p.Path) {
			fault("projected.path %.100q leads out of the volume", p.Path)
		}
	}
	return errors.Join(faults...)
}

// minTokenAge is what a token must live for to be of use (section 2.8).
const minTokenAge = 5 * time.Minute

// complete returns the configuration with what was left out.
func (c Config) complete() (Config, error) {
	c.Node = cmp.Or(c.Node, os.Getenv("NODE_NAME"))
	if c.Node == "" {
		return c, errors.New("the name of the node that we run on is not known: set the variable NODE_NAME from the field spec.nodeName of the Pod, or node")
	}
	c.ProjectNumber = cmp.Or(c.ProjectNumber, c.Provider.ProjectNumber())
	c.Pool = cmp.Or(c.Pool, c.ProjectID+poolSuffix)
	c.Attest = cmp.Or(c.Attest, AttestHost)
	if c.Projected != nil {
		p := *c.Projected
		p.Dir = cmp.Or(p.Dir, "/var/lib/kubelet/pods")
		p.Volume = cmp.Or(p.Volume, "gcemds")
		p.Path = cmp.Or(p.Path, "token")
		c.Projected = &p
	}
	return c, nil
}
