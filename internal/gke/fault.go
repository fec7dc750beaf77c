package gke

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// fault is an error about a service account, in words for its owner.
func fault(kind token.Kind, sa ServiceAccount, format string, args ...any) *token.Error {
	text := fmt.Sprintf(format, args...)
	first, _, _ := strings.Cut(text, "\n")
	return &token.Error{Kind: kind, Text: text, Err: fmt.Errorf("service account %s: %s", sa, first)}
}

func faultGSA(sa ServiceAccount, value string) *token.Error {
	return fault(token.Denied, sa, "The annotation %s of the Kubernetes service account %s is %.100q, which is not the e-mail of a Google service account.\n"+
		"kubectl annotate serviceaccount -n %s %s --overwrite %s=NAME@PROJECT_ID.iam.gserviceaccount.com",
		annotationGSA, sa, value, sa.Namespace, sa.Name, annotationGSA)
}

func faultQuota(sa ServiceAccount, value string) *token.Error {
	return fault(token.Denied, sa, "The annotation %s of the Kubernetes service account %s is %.100q, which is not the id of a project.", annotationQuota, sa, value)
}

func faultProvider(sa ServiceAccount, name string, known []string) *token.Error {
	which := "It allows none."
	if len(known) > 0 {
		which = "It allows: " + strings.Join(known, ", ") + "."
	}
	return fault(token.Denied, sa, "The annotation %s of the Kubernetes service account %s is %.100q, which the configuration of gcemds does not allow (gke.providers). %s", annotationProvider, sa, name, which)
}

func faultSubject(sa ServiceAccount, size int) *token.Error {
	return fault(token.Denied, sa, "The name of the Kubernetes service account %s is too long for Google: its subject has %d bytes, of which google.subject takes %d.\n"+
		"Use a service account with a shorter name or in a namespace with a shorter name.", sa, size, maxSubject)
}

// faultNoGSA has the words of GKE (section 1.7).
func faultNoGSA(sa ServiceAccount) *token.Error {
	return fault(token.Unsupported, sa, "Your Kubernetes service account (%s) is not annotated with a target Google service account, which is a requirement for retrieving Identity Tokens using Workload Identity.\n"+
		"Please add the %s=[GSA_NAME]@[PROJECT_ID] annotation to your Kubernetes service account.\n"+
		"Please refer to https://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity", sa, annotationGSA)
}

// explainAPI says why Kubernetes made no token (section 1.2).
func explainAPI(err error, id *identity, pod Pod) *token.Error {
	if e, ok := errors.AsType[*token.Error](err); ok { // of a projected token
		return e
	}
	e := &token.Error{Kind: token.Unavailable, Err: err}
	if errors.Is(err, ErrPodGone) { // others of the account may come at once
		e.RetryAfter = time.Second
		e.Text = fmt.Sprintf("Kubernetes made no token: the Pod %s has been deleted, or created again; ask again.", pod)
		return e
	}
	answer, ok := errors.AsType[*APIError](err)
	if !ok {
		e.Text = "Kubernetes could not be asked for a token of this Pod; ask again."
		return e
	}
	e.RetryAfter = answer.RetryAfter
	switch answer.Status {
	case http.StatusNotFound, http.StatusConflict:
		e.Kind = token.Denied
		e.Text = fmt.Sprintf("Kubernetes made no token: the service account %s of the Pod %s has been deleted, or created again.", id.account, pod)
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		e.Kind = token.Denied
		e.Text = fmt.Sprintf("Kubernetes made no token of the service account %s for the Pod %s; the log of gcemds has its answer.", id.account, pod)
	case http.StatusForbidden, http.StatusUnauthorized:
		e.Kind = token.Misconfigured
		e.Text = "Kubernetes does not let gcemds make tokens: its service account needs the right to create serviceaccounts/token, and an admission policy must let it pass. The log of gcemds has the answer."
	case http.StatusTooManyRequests:
		e.Kind = token.Throttled
		e.Text = "Kubernetes is asked for too many tokens; ask again later."
	default:
		e.Text = "Kubernetes could not make a token of this Pod; ask again."
	}
	return e
}

// fixExplain is the fix of what has no other.
const fixExplain = "gcemds gke explain tells more."

// explainSTS says why the token exchange refused (section 1.4).
func explainSTS(e *token.Error, id *identity, audience string) {
	f, ok := errors.AsType[*exchange.Failure](e)
	said := "it could not be reached."
	if ok {
		said = f.Said()
	}
	switch e.Kind {
	case token.Throttled:
		e.Text = "The quota of Google's token exchange is spent; ask again later."
		return
	case token.Unavailable:
		e.Text = "Google's token exchange gives no token right now: " + said
		return
	case token.Clock:
		return // the clock of the node is its owner's
	}
	fix := fixExplain
	if ok {
		switch f.Code {
		case "unauthorized_client":
			fix = "The attribute condition of the provider does not admit this service account."
		case "invalid_target":
			fix = "The provider " + audience + " is disabled, deleted or misspelt in the configuration of gcemds."
		case "invalid_grant":
			fix = "The issuer, the keys or the allowed audiences of the provider do not fit this cluster; gcemds gke setup prints what they must be."
		case "invalid_request":
			fix = "An attribute mapping of the provider may make a value that is too long; google.subject takes 127 bytes."
		}
		e.Kind = token.Denied
	}
	e.Text = fmt.Sprintf("Unable to exchange the token of the Kubernetes service account %s; the token exchange returned %s\n%s", id.account, said, fix)
}

// explainIAM says why an account is not impersonated, with the first sentence
// of GKE (section 1.9), on which tools depend.
func explainIAM(e *token.Error, req token.Request, id *identity) {
	unable := "Unable to generate access token; "
	if req.Audience != "" {
		unable = "Unable to generate ID token; "
	}
	f, ok := errors.AsType[*exchange.Failure](e)
	switch {
	case e.Kind == token.Throttled:
		e.Text = "The quota of Google's IAM credentials is spent; ask again later."
		return
	case !ok || e.Kind == token.Unavailable:
		e.Text = unable + "IAM could not be asked. Ask again."
		return
	}
	e.Text = unable + "IAM returned " + f.Said()
	switch cause := forbids(f, id); {
	case f.Status == http.StatusNotFound:
		e.Kind = token.Unsupported // which is 404, as GKE answers
		e.Text += fmt.Sprintf("\nThe Google service account %s, which the Kubernetes service account %s is annotated with (%s), does not exist.", id.gsa, id.account, annotationGSA)
	case cause == noAPI:
		e.Text += "\nEnable the API: gcloud services enable iamcredentials.googleapis.com"
	case cause == noQuota:
		e.Kind = token.Denied
		e.Text += fmt.Sprintf("\nThe annotation %s names a project that the Kubernetes service account %s may not use.\n"+
			"gcloud projects add-iam-policy-binding %s --role roles/serviceusage.serviceUsageConsumer --condition None --member %q", annotationQuota, id.account, id.quota, id.member)
	case cause == noBinding:
		e.Kind = token.Denied
		e.Text += fmt.Sprintf("\nThis error could be caused by a missing IAM policy binding on the target IAM service account.\n"+
			"gcloud iam service-accounts add-iam-policy-binding %s --role roles/iam.workloadIdentityUser --member %q\n"+
			"https://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity", id.gsa, id.member)
	case f.Status == http.StatusBadRequest:
		e.Kind = token.InvalidRequest
	}
}

// A ban is why IAM answers 403.
type ban uint8

const (
	noBan     ban = iota // it answers something else
	noBinding            // the principal may not act as the account
	noQuota              // it may not use the project that pays
	noAPI                // the API is not enabled
)

func forbids(f *exchange.Failure, id *identity) ban {
	switch {
	case f.Status != http.StatusForbidden:
		return noBan
	case strings.Contains(f.Message, "has not been used in project"):
		return noAPI
	case id.quota != "" && strings.Contains(f.Message, "serviceusage"):
		return noQuota
	}
	return noBinding
}
