package gke

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// A Step is one of the chain that leads from a Pod to its tokens, and what
// came of it.
type Step struct {
	Name string // of the step, in a word or two
	Bad  bool   // the chain breaks here
	Says string // what was found, or what is wrong
	Fix  string // a command, or what to do; "": nothing
}

// An Explanation asks for the tokens of a Pod, as a server on its node does,
// step by step. No token is in what it says.
type Explanation struct {
	Config Config // Node is not used
	API    interface {
		Reader
		CreateToken(ctx context.Context, sa ServiceAccount, pod Pod, audience string, life time.Duration) (string, error)
	}
	Google   Google
	Scopes   []string // of the access token; none: the usual ones
	Audience string   // of an ID token; "": none is asked for
	Language Language // of the fixes on Google's side; "": Gcloud
}

// Explain walks the chain for a Pod and tells of each step, until one breaks.
// The error is that of a configuration that cannot be.
func (e Explanation) Explain(ctx context.Context, namespace, name string, tell func(Step)) error {
	if err := e.Config.Validate(); err != nil {
		return err
	}
	e.Config.Node = "any"
	config, err := e.Config.complete()
	if err != nil {
		return err
	}
	w := walk{Explanation: e, Cluster: &Cluster{config: config}, tell: tell, namespace: namespace, name: name}
	for _, step := range []func(*walk, context.Context) bool{(*walk).findPod, (*walk).findAccount, (*walk).annotations, (*walk).issuer,
		(*walk).clusterToken, (*walk).exchangeToken, (*walk).accessToken, (*walk).idToken, (*walk).seen} {
		if !step(&w, ctx) {
			return nil
		}
	}
	return nil
}

// A walk is what is known so far.
type walk struct {
	Explanation
	*Cluster
	tell            func(Step)
	namespace, name string

	pod       Pod
	account   ServiceAccount
	id        *identity
	cluster   Issuer // zero: not known
	jwt       string
	key       string // id of the key that signed it
	federated token.Token
	expires   time.Time
}

func (w *walk) good(name, format string, args ...any) bool {
	w.tell(Step{Name: name, Says: fmt.Sprintf(format, args...)})
	return true
}

func (w *walk) bad(name, fix, format string, args ...any) bool {
	w.tell(Step{Name: name, Bad: true, Says: fmt.Sprintf(format, args...), Fix: fix})
	return false
}

// broken tells what the workload would be told: what is wrong, and below it
// how to mend it.
func (w *walk) broken(name string, err error) bool {
	var e *token.Error
	if !errors.As(err, &e) || e.Text == "" {
		return w.bad(name, "", "%v", err)
	}
	says, fix, _ := strings.Cut(e.Text, "\n")
	return w.bad(name, fix, "%s (the Pod gets %d)", says, e.Status())
}

// get reads an object. What is the resource of which it takes the right to get
// one.
func (w *walk) get(ctx context.Context, into any, kind, what, path, fix string) bool {
	data, err := w.API.Get(ctx, path)
	var refused *APIError
	switch {
	case err == nil:
		if err = json.Unmarshal(data, into); err == nil {
			return true
		}
	case errors.As(err, &refused) && refused.Status == http.StatusNotFound:
		return w.bad(kind, fix, "there is none of this name")
	case errors.As(err, &refused) && refused.Status == http.StatusForbidden:
		return w.bad(kind, w.mayI("get "+what), "you may not read it, which takes the right to get %s in the namespace %s", what, w.namespace)
	}
	return w.bad(kind, "", "%v", err)
}

// mayI is how to see that a right is there, once somebody has given it.
func (w *walk) mayI(right string) string {
	return "kubectl auth can-i " + right + " --namespace=" + quote(w.namespace)
}

func (w *walk) findPod(ctx context.Context) bool {
	var p wire
	place := "/api/v1/namespaces/" + url.PathEscape(w.namespace)
	if !w.get(ctx, &p, "Pod", "pods", place+"/pods/"+url.PathEscape(w.name), "kubectl get pods --namespace="+quote(w.namespace)) {
		return false
	}
	w.pod = Pod{Namespace: w.namespace, Name: w.name, UID: p.Metadata.UID, ServiceAccount: p.Spec.Account, Phase: p.Status.Phase, HostNetwork: p.Spec.HostNetwork}
	if w.pod.finished() {
		return w.bad("Pod", "", "it has ended (%s), and gets no tokens any more", w.pod.Phase)
	}
	more := ""
	switch {
	case p.Spec.Node == "":
		return w.bad("Pod", "kubectl describe pod --namespace="+quote(w.namespace)+" "+quote(w.name), "it is on no node yet")
	case w.pod.HostNetwork && w.config.Attest == AttestNone:
		return w.bad("Pod", "set gke.attest to host, or take the Pod off the network of the host", "it is in the network of the host, where its address tells nothing, and gcemds does not ask the kernel (gke.attest: none): it gets 403")
	case w.pod.HostNetwork:
		more = ", in the network of the host: the kernel tells who it is"
	case len(p.Status.IPs) == 0:
		more = ", without an address yet"
	}
	if p.Metadata.Deleted != "" {
		more += ", being deleted"
	}
	return w.good("Pod", "on node %s, %s, uid %s%s", p.Spec.Node, strings.ToLower(w.pod.Phase), w.pod.UID, more)
}

// A wire is the part of a Pod or a service account that counts here.
type wire struct {
	Metadata struct {
		UID         string
		Deleted     string `json:"deletionTimestamp"`
		Annotations map[string]string
	}
	Spec struct {
		Node        string `json:"nodeName"`
		Account     string `json:"serviceAccountName"`
		HostNetwork bool
	}
	Status struct {
		Phase string
		IPs   []struct{ IP string } `json:"podIPs"`
	}
}

func (w *walk) findAccount(ctx context.Context) bool {
	var a wire
	path := "/api/v1/namespaces/" + url.PathEscape(w.namespace) + "/serviceaccounts/" + url.PathEscape(w.pod.ServiceAccount)
	if !w.get(ctx, &a, "service account", "serviceaccounts", path, "kubectl create serviceaccount --namespace="+quote(w.namespace)+" "+quote(w.pod.ServiceAccount)) {
		return false
	}
	w.account = ServiceAccount{Namespace: w.namespace, Name: w.pod.ServiceAccount, UID: a.Metadata.UID, Annotations: a.Metadata.Annotations}
	return w.good("service account", "%s, uid %s", w.account, w.account.UID)
}

func (w *walk) annotations(context.Context) bool {
	w.id = w.newIdentity(w.account)
	switch {
	case w.id.fault != nil:
		return w.broken("annotations", w.id.fault)
	case w.id.gsa != "":
		return w.good("annotations", "it acts as %s", w.id.gsa)
	}
	return w.good("annotations", "it acts as itself, for it has no annotation %s", annotationGSA)
}

func (w *walk) issuer(ctx context.Context) bool {
	i, err := ReadIssuer(ctx, w.API)
	if err != nil {
		return w.good("issuer", "not known: %v", err) // those who make tokens need not know it
	}
	w.cluster = i
	more := ""
	if why := i.Hidden(); why != "" {
		more = "; Google cannot fetch them, for " + why + ", so the provider must have them"
	}
	return w.good("issuer", "%s, with the keys %s%s", i.URL, strings.Join(i.KeyIDs, ", "), more)
}

// claims are those of a token of the cluster that the chain depends on.
type claims struct {
	Issuer     string `json:"iss"`
	Subject    string `json:"sub"`
	Expiry     int64  `json:"exp"`
	Kubernetes struct {
		Pod struct{ UID string }
	} `json:"kubernetes.io"`
}

func (w *walk) clusterToken(ctx context.Context) bool {
	audience, life := w.id.provider.ClusterAudience(w.config.ProjectID), w.id.clusterLife()
	jwt, err := w.API.CreateToken(ctx, w.account, w.pod, audience, life)
	var refused *APIError
	if errors.As(err, &refused) && refused.Status == http.StatusForbidden {
		return w.bad("cluster token", w.mayI("create serviceaccounts/token"), "you may not have tokens of it made, as the server does, which takes the right to create serviceaccounts/token in the namespace %s", w.namespace)
	}
	if err != nil {
		return w.broken("cluster token", explainAPI(err, w.id, w.pod))
	}
	var c claims
	var header struct{ Kid string }
	if parts := strings.Split(jwt, "."); len(parts) == 3 {
		for i, into := range []any{&header, &c} {
			data, _ := base64.RawURLEncoding.DecodeString(parts[i])
			json.Unmarshal(data, into) // what is missing is told below
		}
	}
	binding := "bound to the Pod"
	if c.Kubernetes.Pod.UID != w.pod.UID {
		binding = "not bound to the Pod, as if the cluster could not do that"
	}
	if w.cluster.URL != "" && c.Issuer != w.cluster.URL {
		return w.bad("cluster token", "the provider needs the issuer of the tokens", "its issuer is %s, not that which the cluster tells of (%s)", c.Issuer, w.cluster.URL)
	}
	more := ""
	if w.cluster.URL != "" && !slices.Contains(w.cluster.KeyIDs, header.Kid) {
		more = ", which is none of those that the cluster tells of"
	}
	w.jwt, w.key = jwt, header.Kid
	return w.good("cluster token", "%s, of %s for %s, for %v, signed with the key %s%s",
		binding, c.Subject, audience, time.Until(time.Unix(c.Expiry, 0)).Round(time.Minute), header.Kid, more)
}

func (w *walk) scopesAsked() []string {
	if len(w.Scopes) > 0 {
		return token.Scopes(w.Scopes...)
	}
	return scopes
}

func (w *walk) exchangeToken(ctx context.Context) bool {
	audience := w.id.provider.ExchangeAudience(w.config.ProjectID)
	f := exchange.Federation{
		Audience: audience, TokenURL: cmp.Or(w.id.provider.STSURL, w.Google.STS), Client: w.Google.Client,
		Holder: "token of the service account", Subject: func(context.Context) (string, error) { return w.jwt, nil },
	}
	asked := []string{cloudPlatform}
	if w.id.gsa == "" {
		asked = w.scopesAsked()
	}
	t, err := f.Mint(ctx, token.Request{Scopes: asked})
	if err != nil {
		return w.explained("token exchange", err, func(e *token.Error) {
			explainSTS(e, w.id, audience)
			if look := w.look(); e.Kind == token.Denied && look != "" {
				says, fix, _ := strings.Cut(e.Text, "\n")
				e.Text = says + "\n" + strings.TrimPrefix(fix+"\n", fixExplain+"\n") + look
			}
		})
	}
	w.federated, w.expires = t, t.Expiry
	return w.good("token exchange", "Google takes it as %s", cmp.Or(w.id.provider.Principal(w.config.ProjectID, w.config.ProjectNumber, w.namespace, w.account.Name), "a principal of "+audience))
}

// look is how to see what Google knows of the cluster, and what it has to be;
// "" for a provider that is not one's own.
func (w *walk) look() string {
	m := providerName.FindStringSubmatch(w.id.provider.normal().WorkloadIdentity)
	if m == nil {
		return ""
	}
	look := "gcloud iam workload-identity-pools providers describe " + m[3] + " --workload-identity-pool=" + m[2] + " --project=" + m[1] + " --location=global"
	if w.cluster.URL != "" {
		look += "\nMust be there: the issuer " + w.cluster.URL + ", and the key " + w.key + " if it has keys of its own (jwksJson)."
	}
	return look
}

// explained is broken, with the words that the workload gets.
func (w *walk) explained(name string, err error, explain func(*token.Error)) bool {
	var e *token.Error
	if !errors.As(err, &e) {
		return w.bad(name, "", "%v", err)
	}
	told := *e
	if told.Text == "" {
		explain(&told)
	}
	if told.Text == "" {
		return w.bad(name, "", "%v", err)
	}
	return w.broken(name, &told)
}

// held is a source of a token that is there.
type held struct{ token.Token }

// Mint implements token.Source.
func (h held) Mint(context.Context, token.Request) (token.Token, error) { return h.Token, nil }

func (w *walk) impersonation() *exchange.Impersonation {
	return &exchange.Impersonation{
		Target: w.id.gsa, Via: held{w.federated}, UserProject: w.id.quota, Client: w.Google.Client,
		Address: w.Google.account(w.id.gsa),
	}
}

// explainIAM is as the Pod is told, but with a fix in the language of who asks.
func (w *walk) explainIAM(e *token.Error, req token.Request) {
	explainIAM(e, req, w.id)
	member := w.id.provider.Principal(w.config.ProjectID, w.config.ProjectNumber, w.namespace, w.account.Name)
	if f, ok := errors.AsType[*exchange.Failure](e); ok && forbids(f, w.id) == noBinding && member != "" {
		says, _, _ := strings.Cut(e.Text, "\n")
		e.Text = says + "\n" + bind(w.Language, w.config.ProjectID, w.id.gsa, member)
	}
}

func (w *walk) accessToken(ctx context.Context) bool {
	if w.id.gsa == "" {
		return w.good("access token", "that of the principal")
	}
	req := token.Request{Scopes: w.scopesAsked()}
	t, err := w.impersonation().Mint(ctx, req)
	if err != nil {
		return w.explained("access token", err, func(e *token.Error) { w.explainIAM(e, req) })
	}
	w.expires = t.Expiry
	return w.good("access token", "of %s", w.id.gsa)
}

func (w *walk) idToken(ctx context.Context) bool {
	switch {
	case w.Audience == "":
		return true
	case w.id.gsa == "":
		return w.broken("ID token", faultNoGSA(w.account))
	}
	req := token.Request{Audience: w.Audience}
	if _, err := w.impersonation().Mint(ctx, req); err != nil {
		return w.explained("ID token", err, func(e *token.Error) { w.explainIAM(e, req) })
	}
	return w.good("ID token", "of %s for %s", w.id.gsa, w.Audience)
}

func (w *walk) seen(context.Context) bool {
	return w.good("the Pod", "is %s to its programs, and has tokens for %v at a time", w.id.email, time.Until(w.expires).Round(time.Minute))
}
