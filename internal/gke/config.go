// Package gke gives each Pod of a Kubernetes node the identity of its own
// Kubernetes service account, as the metadata server of GKE does. Its Cluster
// is a fleet.Resolver: it says which Pod a caller is, and makes an instance of
// the node's document and the Pod's account. It serves nothing itself.
//
// Facts are those of the specification of GKE's workload identity; section
// numbers refer to it.
package gke

import "time"

// Config is the section gke of the configuration. With it, callers are Pods of
// one node.
type Config struct {
	Node       string `yaml:"node"`       // name of the node that we run on; default: the variable NODE_NAME
	Kubeconfig string `yaml:"kubeconfig"` // file that leads to the cluster; "": the account of the Pod that we run in

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
	STSURL      string `yaml:"sts_url"`
}

// Projected says where the kubelet puts the tokens of Pods, for a server that
// has no right to make any: in a projected volume of each Pod that wants an
// identity.
type Projected struct {
	Dir    string `yaml:"dir"`    // of the kubelet's Pods; default /var/lib/kubelet/pods
	Volume string `yaml:"volume"` // name of the volume; default gcemds
	Path   string `yaml:"path"`   // of the token in the volume; default token
}
