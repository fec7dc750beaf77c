package gke

// Annotations of a service account that say whose tokens its Pods get
// (sections 1.6 and 2.2), and by which provider.
const (
	annotationGSA       = "iam.gke.io/gcp-service-account"
	annotationPrincipal = "iam.gke.io/return-principal-id-as-email"
	annotationQuota     = "iam.gke.io/credential-quota-project"
	annotationProvider  = "gcemds.dev/provider" // a name in Config.Providers
)

// Labels of a node.
const (
	labelHostname = "kubernetes.io/hostname"
	labelRegion   = "topology.kubernetes.io/region"
	labelZone     = "topology.kubernetes.io/zone"
)
