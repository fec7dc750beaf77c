package gke

import (
	"fmt"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
)

// A reason is why a caller is not served. It is the cause of the refusal, and
// a label of a metric.
type reason uint8

const (
	reasonNone reason = iota
	reasonStarting
	reasonUnknown
	reasonPending
	reasonReuse
	reasonAmbiguous
	reasonGone
	reasonHost
	reasonUnattested
	reasonOutside
	reasonMismatch
	reasonAccountPending
	reasonAccount
	reasonNodePending
	reasons
)

// refusals has all that differs between reasons. A text is for the owner of a
// Pod; what depends on the Pod fills it in.
var refusals = [reasons]struct {
	name   string
	status int
	text   string
}{
	reasonNone:           {"none", 500, ""},
	reasonStarting:       {"starting", 503, "The Pods of this node are not known yet; ask again."},
	reasonUnknown:        {"unknown", 403, "The address %s belongs to no Pod of this node, so this request gets no identity. Proxies and NAT between the Pod and the metadata server hide its address; a Pod of another node must ask its own node."},
	reasonPending:        {"pending", 503, "The Pod at %s is not known yet, because Kubernetes has not published its address; ask again."},
	reasonReuse:          {"reuse", 503, "The address %s was that of a Pod that is ending or gone, and may already be another's; ask again."},
	reasonAmbiguous:      {"ambiguous", 403, "Several Pods of this node claim the address %s, so this request gets no identity. Delete the Pods that should not run any more, or set attest: all, with which the kernel is asked instead."},
	reasonGone:           {"gone", 403, "The Pod %s, which opened this connection, has been deleted or has finished."},
	reasonHost:           {"host", 403, "This request comes from the network of the node (%s), where addresses do not tell Pods apart, and the kernel is not asked here. Run the Pod without hostNetwork, or have gcemds ask the kernel (attest: host)."},
	reasonUnattested:     {"unattested", 403, "The kernel could not say which process is at %s. A Pod in a sandbox such as gVisor or Kata, with hostNetwork, cannot be told from others."},
	reasonOutside:        {"outside", 403, "The process at %s is in no Pod of this node that has a service account. Programs of the node itself and static Pods have no identity here."},
	reasonMismatch:       {"mismatch", 403, "The kernel says that the process at %s is in another Pod than the one that has this address, so this request gets no identity."},
	reasonAccountPending: {"account_pending", 503, "The service account of the Pod %s is not known yet; ask again."},
	reasonAccount:        {"no_account", 403, "The service account of the Pod %s does not exist any more. Create it, and the Pod again."},
	reasonNodePending:    {"node_pending", 503, "The node is not known yet; ask again."},
}

// Error is the name, so that a reason can be the cause of a refusal.
func (r reason) Error() string { return "refused: " + refusals[r].name }

// refusal returns what to tell a caller.
func refusal(r reason, who string) *fleet.Refusal {
	f := &fleet.Refusal{Status: refusals[r].status, Text: refusals[r].text, Err: fmt.Errorf("%w (%s)", r, who)}
	if who != "" && r != reasonStarting && r != reasonNodePending {
		f.Text = fmt.Sprintf(f.Text, who)
	}
	if f.Status == 503 {
		f.RetryAfter = time.Second
	}
	return f
}
