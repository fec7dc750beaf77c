//go:build !nogke

package gke

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apitypes "k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// Kubernetes is the API of a real cluster. It has client-go's connections and
// watches, but not its types: of a Pod, what this package does not read is not
// even decoded, and the program grows by 5 MB instead of 20.
type Kubernetes struct {
	client rest.Interface
}

// How fast one server may ask. Watches do not count.
const (
	apiQPS     = 50
	apiBurst   = 100
	apiTimeout = 10 * time.Second // of what is not a watch
)

// OpenKubernetes reads a kubeconfig file, or with "" the account of the Pod
// that we run in, whose token is read again as the kubelet renews it. It asks
// the cluster nothing.
func OpenKubernetes(kubeconfig, userAgent string) (*Kubernetes, error) {
	var config *rest.Config
	var err error
	if kubeconfig == "" {
		if config, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("this is not a Pod with a service account (%w); name a kubeconfig file to reach a cluster from outside", err)
		}
	} else if config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	config.QPS, config.Burst = apiQPS, apiBurst
	config.UserAgent, config.WarningHandler = userAgent, rest.NoWarnings{}
	config.APIPath = "/api"
	config.GroupVersion = &v1
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	config.NegotiatedSerializer = serializer.NewCodecFactory(types()).WithoutConversion()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, err
	}
	return &Kubernetes{client}, nil
}

var v1 = schema.GroupVersion{Version: "v1"}

// types are what answers can be.
func types() *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddKnownTypeWithName(v1.WithKind("Pod"), &wirePod{})
	s.AddKnownTypeWithName(v1.WithKind("PodList"), &wirePods{})
	metav1.AddToGroupVersion(s, v1)
	if err := metav1.AddMetaToScheme(s); err != nil {
		panic("gke: " + err.Error()) // found by every test
	}
	return s
}

// A wirePod has the fields of a Pod that are decoded.
type wirePod struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		ServiceAccount string `json:"serviceAccountName"`
		HostNetwork    bool   `json:"hostNetwork"`
		Volumes        []struct {
			Name      string    `json:"name"`
			Projected *struct{} `json:"projected"`
			CSI       *struct{} `json:"csi"`
		} `json:"volumes"`
	} `json:"spec"`
	Status struct {
		Phase string `json:"phase"`
		IPs   []struct {
			IP string `json:"ip"`
		} `json:"podIPs"`
		Containers     []wireContainer `json:"containerStatuses"`
		InitContainers []wireContainer `json:"initContainerStatuses"` // sidecars are among them
	} `json:"status"`
}

type wireContainer struct {
	State struct {
		Running    *struct{} `json:"running"`
		Terminated *struct{} `json:"terminated"`
	} `json:"state"`
}

type wirePods struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []wirePod `json:"items"`
}

// DeepCopyObject implements runtime.Object. Nobody changes what we decode.
func (p *wirePod) DeepCopyObject() runtime.Object { c := *p; return &c }

// DeepCopyObject implements runtime.Object.
func (p *wirePods) DeepCopyObject() runtime.Object { c := *p; return &c }

func podOf(p *wirePod) Pod {
	pod := Pod{
		Namespace: p.Namespace, Name: p.Name, UID: string(p.UID),
		ServiceAccount: cmp.Or(p.Spec.ServiceAccount, "default"),
		Phase:          p.Status.Phase,
		HostNetwork:    p.Spec.HostNetwork,
		Terminating:    p.DeletionTimestamp != nil,
		Ended:          len(p.Status.Containers) > 0,
	}
	for _, c := range p.Status.Containers {
		pod.Ended = pod.Ended && c.State.Terminated != nil
	}
	for _, c := range p.Status.InitContainers {
		pod.Ended = pod.Ended && c.State.Running == nil
	}
	for _, ip := range p.Status.IPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			pod.IPs = append(pod.IPs, a.Unmap())
		}
	}
	for _, v := range p.Spec.Volumes {
		if v.Projected != nil || v.CSI != nil {
			pod.Volumes = append(pod.Volumes, v.Name)
		}
	}
	return pod
}

// annotations are those that are kept.
var annotations = []string{annotationGSA, annotationPrincipal, annotationQuota, annotationProvider}

func serviceAccountOf(m *metav1.PartialObjectMetadata) ServiceAccount {
	sa := ServiceAccount{Namespace: m.Namespace, Name: m.Name, UID: string(m.UID), Annotations: map[string]string{}}
	for _, name := range annotations {
		if value, ok := m.Annotations[name]; ok {
			sa.Annotations[name] = value
		}
	}
	return sa
}

func nodeOf(m *metav1.PartialObjectMetadata) Node {
	n := Node{Name: m.Name, UID: string(m.UID), Labels: map[string]string{}}
	for _, name := range []string{labelHostname, labelRegion, labelZone} {
		if value, ok := m.Labels[name]; ok {
			n.Labels[name] = value
		}
	}
	return n
}

// asMetadata wants the metadata of objects alone.
const asMetadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

// Pods implements API.
func (k *Kubernetes) Pods(ctx context.Context, node string) iter.Seq2[Change[Pod], error] {
	return follow(ctx, k, "", "pods", runtime.ContentTypeJSON, fields.OneTermEqualSelector("spec.nodeName", node), &wirePod{}, podOf)
}

// ServiceAccount implements API.
func (k *Kubernetes) ServiceAccount(ctx context.Context, namespace, name string) iter.Seq2[Change[ServiceAccount], error] {
	return follow(ctx, k, namespace, "serviceaccounts", asMetadata, fields.OneTermEqualSelector("metadata.name", name), &metav1.PartialObjectMetadata{}, serviceAccountOf)
}

// Node implements API.
func (k *Kubernetes) Node(ctx context.Context, name string) iter.Seq2[Change[Node], error] {
	return follow(ctx, k, "", "nodes", asMetadata, fields.OneTermEqualSelector("metadata.name", name), &metav1.PartialObjectMetadata{}, nodeOf)
}

// follow watches the objects that a selector selects.
func follow[W runtime.Object, T any](ctx context.Context, k *Kubernetes, namespace, resource, accept string, selector fields.Selector, object W, read func(W) T) iter.Seq2[Change[T], error] {
	return func(yield func(Change[T], error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		get := func(o metav1.ListOptions) *rest.Request {
			o.FieldSelector = selector.String()
			return k.client.Get().Namespace(namespace).Resource(resource).SetHeader("Accept", accept).
				VersionedParams(&o, metav1.ParameterCodec)
		}
		s := &stream[W, T]{ctx: ctx, read: read, seen: make(chan seen[T])}
		source := &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				list, err := get(o).Timeout(apiTimeout).Do(ctx).Get()
				return list, s.met(err)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.Watch = true
				w, err := get(o).Watch(ctx)
				if o.SendInitialEvents != nil && apierrors.IsInvalid(err) { // a list comes next: not every server has these
					return w, err
				}
				return w, s.met(err)
			},
		}
		quiet := logr.Discard()
		reflector := cache.NewReflectorWithOptions(source, object, s, cache.ReflectorOptions{
			Logger: &quiet, Name: resource, TypeDescription: resource,
			Backoff: &wait.Backoff{Duration: firstPause, Cap: longestPause, Factor: 2, Jitter: 0.5, Steps: 10},
		})
		go func() {
			defer close(s.seen)
			for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, longestPause) {
				began := time.Now()
				reflector.ListAndWatchWithContext(logr.NewContext(ctx, quiet)) // its errors were met already
				if time.Since(began) > longestPause {
					pause = firstPause
				}
				select {
				case <-time.After(pause/2 + rand.N(pause)):
				case <-ctx.Done():
				}
			}
		}()
		for got := range s.seen {
			if !yield(got.change, got.err) {
				cancel()
				for range s.seen { // until it has gone
				}
				return
			}
		}
	}
}

// Pauses between tries to watch.
const (
	firstPause   = 200 * time.Millisecond
	longestPause = 10 * time.Second
)

// A stream is the store of a reflector that keeps nothing: it hands on.
type stream[W runtime.Object, T any] struct {
	ctx  context.Context
	read func(W) T
	seen chan seen[T]
}

type seen[T any] struct {
	change Change[T]
	err    error
}

func (s *stream[W, T]) send(got seen[T]) error {
	select {
	case s.seen <- got:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// met hands on an error, and returns it.
func (s *stream[W, T]) met(err error) error {
	if err != nil && s.ctx.Err() == nil {
		s.send(seen[T]{err: apiError(err)})
	}
	return err
}

// one hands on an object. That of a deletion may be a tombstone, the last that
// was known of it.
func (s *stream[W, T]) one(object any, gone bool) error {
	if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = last.Obj
	}
	o, ok := object.(W)
	if !ok {
		return fmt.Errorf("a watch yields a %T", object)
	}
	return s.send(seen[T]{change: Change[T]{Gone: gone, Items: []T{s.read(o)}}})
}

// Add, Update, Delete, Replace and Resync implement cache.ReflectorStore.
func (s *stream[W, T]) Add(object any) error    { return s.one(object, false) }
func (s *stream[W, T]) Update(object any) error { return s.one(object, false) }
func (s *stream[W, T]) Delete(object any) error { return s.one(object, true) }
func (s *stream[W, T]) Resync() error           { return nil }
func (s *stream[W, T]) Replace(objects []any, _ string) error {
	all := Change[T]{All: true}
	for _, object := range objects {
		if o, ok := object.(W); ok {
			all.Items = append(all.Items, s.read(o))
		}
	}
	return s.send(seen[T]{change: all})
}

// ClusterUID implements API.
func (k *Kubernetes) ClusterUID(ctx context.Context) (string, error) {
	var m metav1.PartialObjectMetadata
	err := k.client.Get().Resource("namespaces").Name("kube-system").SetHeader("Accept", asMetadata).
		MaxRetries(0).Timeout(apiTimeout).Do(ctx).Into(&m)
	return string(m.UID), apiError(err)
}

// CreateToken implements API.
func (k *Kubernetes) CreateToken(ctx context.Context, sa ServiceAccount, pod Pod, audience string, life time.Duration) (string, error) {
	body, err := json.Marshal(map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
		"spec": map[string]any{
			"audiences":         []string{audience},
			"expirationSeconds": int64(life / time.Second),
			"boundObjectRef":    map[string]any{"apiVersion": "v1", "kind": "Pod", "name": pod.Name, "uid": pod.UID},
		},
	})
	if err != nil {
		return "", err
	}
	answer, err := k.post(sa.Namespace, "serviceaccounts", sa.Name, "token", body).DoRaw(ctx)
	if err != nil {
		return "", tokenError(answer, err)
	}
	var made struct{ Status struct{ Token string } }
	if json.Unmarshal(answer, &made) != nil || made.Status.Token == "" {
		return "", &APIError{Err: errors.New("the answer to a TokenRequest has no token")}
	}
	return made.Status.Token, nil
}

// tokenError tells a Pod that is gone, or another under its name, from other
// things that are not found (section 1.2). What the error of the library says
// does not, but the answer does.
func tokenError(answer []byte, err error) error {
	var status metav1.Status
	if json.Unmarshal(answer, &status) != nil || status.Details == nil {
		return apiError(err)
	}
	pod := status.Details.Kind == "pods" || status.Details.Kind == "Pod" // not found, in conflict
	if err = apiError(err); pod && (status.Code == http.StatusNotFound || status.Code == http.StatusConflict) {
		return fmt.Errorf("%w: %w", ErrPodGone, err)
	}
	return err
}

// Warn implements API.
func (k *Kubernetes) Warn(ctx context.Context, pod Pod, reason, message string) error {
	now := time.Now().UTC().Format(time.RFC3339)
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata":       map[string]any{"generateName": pod.Name[:min(len(pod.Name), 200)] + ".", "namespace": pod.Namespace},
		"involvedObject": map[string]any{"apiVersion": "v1", "kind": "Pod", "namespace": pod.Namespace, "name": pod.Name, "uid": pod.UID},
		"type":           "Warning", "reason": reason, "message": message[:min(len(message), 1024)],
		"source":         map[string]any{"component": "gcemds"},
		"firstTimestamp": now, "lastTimestamp": now, "count": 1,
	})
	if err != nil {
		return err
	}
	_, err = k.post(pod.Namespace, "events", "", "", body).DoRaw(ctx)
	return apiError(err)
}

// Untaint implements API. Each taint is taken off by a patch that fails if it
// is not where it was seen.
func (k *Kubernetes) Untaint(ctx context.Context, name, key string) error {
	for {
		data, err := k.Get(ctx, "/api/v1/nodes/"+url.PathEscape(name))
		if err != nil {
			return err
		}
		var node struct {
			Spec struct{ Taints []struct{ Key string } }
		}
		if err := json.Unmarshal(data, &node); err != nil {
			return err
		}
		at := slices.IndexFunc(node.Spec.Taints, func(t struct{ Key string }) bool { return t.Key == key })
		if at < 0 {
			return nil
		}
		patch, err := json.Marshal([]map[string]any{
			{"op": "test", "path": fmt.Sprintf("/spec/taints/%d/key", at), "value": key},
			{"op": "remove", "path": fmt.Sprintf("/spec/taints/%d", at)},
		})
		if err != nil {
			return err
		}
		_, err = k.client.Patch(apitypes.JSONPatchType).Resource("nodes").Name(name).MaxRetries(0).Timeout(apiTimeout).Body(patch).DoRaw(ctx)
		if err != nil {
			return apiError(err)
		}
	}
}

func (k *Kubernetes) post(namespace, resource, name, sub string, body []byte) *rest.Request {
	r := k.client.Post().Namespace(namespace).Resource(resource).MaxRetries(0).Timeout(apiTimeout).Body(body).
		SetHeader("Content-Type", runtime.ContentTypeJSON)
	if name != "" {
		r = r.Name(name).SubResource(sub)
	}
	return r
}

// Get returns the answer at a path of the API server, such as
// /openid/v1/jwks, as it is.
func (k *Kubernetes) Get(ctx context.Context, path string) ([]byte, error) {
	answer, err := k.client.Get().AbsPath(path).SetHeader("Accept", "*/*").MaxRetries(0).Timeout(apiTimeout).DoRaw(ctx)
	return answer, apiError(err)
}

// apiError returns err as an *APIError, or as what ended the context; nil if
// it is nil.
func apiError(err error) error {
	var status apierrors.APIStatus
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &status):
		e := &APIError{Status: int(status.Status().Code), Err: err}
		if wait, ok := apierrors.SuggestsClientDelay(err); ok {
			e.RetryAfter = time.Duration(wait) * time.Second
		}
		return e
	}
	var u *url.Error
	if errors.As(err, &u) { // its text has the address with a query that is another each time
		err = u.Err
	}
	return &APIError{Err: err}
}
