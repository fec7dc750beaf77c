package gke

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"time"
)

// An API is what a Cluster wants of Kubernetes. A watch yields for as long as
// its context lasts: it reconnects by itself, and an error that it yields is
// what it has just met, for the log.
//
// What is asked for once fails with an *APIError, or with what ended the
// context. All methods may be called concurrently.
type API interface {
	// Pods watches the Pods of a node.
	Pods(ctx context.Context, node string) iter.Seq2[Change[Pod], error]

	// ServiceAccount watches one service account, and Node one node. They do
	// not grow with the cluster, as a watch of all accounts would.
	ServiceAccount(ctx context.Context, namespace, name string) iter.Seq2[Change[ServiceAccount], error]
	Node(ctx context.Context, name string) iter.Seq2[Change[Node], error]

	// ClusterUID returns the uid of the namespace kube-system, which is what
	// clusters are told apart by.
	ClusterUID(ctx context.Context) (string, error)

	// CreateToken returns a token of the service account for that audience,
	// bound to the Pod. It lives for about that long, at least 10 minutes. The
	// error wraps ErrPodGone if there is no such Pod any more.
	CreateToken(ctx context.Context, sa ServiceAccount, pod Pod, audience string, life time.Duration) (jwt string, err error)

	// Untaint takes the taints of a key off a node, if there are any, and
	// changes nothing else of it.
	Untaint(ctx context.Context, node, key string) error

	// Warn puts an Event on the Pod.
	Warn(ctx context.Context, pod Pod, reason, message string) error
}

// A Change is what a watch has seen.
type Change[T any] struct {
	All   bool // Items are all there are; what is not among them is gone
	Gone  bool // Items have been deleted
	Items []T  // as they are now, or were last
}

// A Pod is what decides whose tokens a Pod gets. Nothing else of one is kept.
type Pod struct {
	Namespace, Name, UID string
	ServiceAccount       string
	Phase                string // Pending, Running, Succeeded, Failed, Unknown
	IPs                  []netip.Addr
	HostNetwork          bool
	Terminating          bool
	Ended                bool     // none of its containers runs any more, though it may not say so of itself yet
	Volumes              []string // names of those that the kubelet or a driver fills: projected and CSI
}

// String returns NAMESPACE/NAME.
func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// finished reports whether no container of the Pod runs any more.
func (p Pod) finished() bool { return p.Phase == "Succeeded" || p.Phase == "Failed" }

// leaving reports whether the address of the Pod may be free already: the
// kubelet takes the network away before it publishes that the Pod is finished.
func (p Pod) leaving() bool { return p.Terminating || p.Ended }

// ErrPodGone is why there is no token bound to a Pod that was deleted, or
// deleted and created again under its name.
var ErrPodGone = errors.New("the Pod does not exist any more")

// A ServiceAccount is the metadata of one that count here.
type ServiceAccount struct {
	Namespace, Name, UID string
	Annotations          map[string]string // those that this package reads
}

// String returns NAMESPACE/NAME.
func (s ServiceAccount) String() string { return s.Namespace + "/" + s.Name }

// A Node is the metadata of one that count here.
type Node struct {
	Name, UID string
	Labels    map[string]string // hostname, region and zone
}

// An APIError is the answer of Kubernetes to a request that failed.
type APIError struct {
	Status     int           // of HTTP; 0: there was no answer
	RetryAfter time.Duration // 0: nothing is said of it
	Err        error
}

// Error returns the status and the cause.
func (e *APIError) Error() string {
	if e.Status == 0 {
		return fmt.Sprintf("no answer from Kubernetes: %v", e.Err)
	}
	return fmt.Sprintf("Kubernetes: %d %v", e.Status, e.Err)
}

// Unwrap returns the cause.
func (e *APIError) Unwrap() error { return e.Err }
