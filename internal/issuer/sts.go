package issuer

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	federatedLife = time.Hour
	maxOptions    = 4096 // characters
	maxSubject    = 127  // bytes of google.subject
)

// exchange is the Security Token Service: a subject token of an identity
// provider of the directory for a federated access token (RFC 8693, section
// 3.3 of the credentials specification).
func (i *Issuer) exchange(r *http.Request) (any, error) {
	form, err := parameters(r)
	if err != nil {
		return nil, err
	}
	provider, err := i.target(form)
	if err != nil {
		return nil, err
	}
	if err := authenticate(r, provider); err != nil {
		return nil, err
	}
	for name, want := range map[string]string{"grant_type": grantExchange, "requested_token_type": typeAccess} {
		if got := form.Get(name); got != want {
			return nil, bad("invalid_request", "Invalid value for %q: it must be %s", name, want)
		}
	}
	scopes := strings.Fields(form.Get("scope"))
	if len(scopes) == 0 {
		return nil, bad("invalid_scope", "Missing required parameter: scope")
	}
	if options := form.Get("options"); options != "" && (len(options) > maxOptions || !json.Valid([]byte(options))) {
		return nil, bad("invalid_request", "Invalid value for \"options\": it must be JSON of at most %d characters", maxOptions)
	}
	read, ok := subjectTypes[form.Get("subject_token_type")]
	if !ok {
		return nil, bad("invalid_request", "Invalid value for \"subject_token_type\"")
	}
	subject, err := read(i, r, provider, form.Get("subject_token"))
	if err != nil {
		return nil, err
	}
	identified(r, provider.member(subject.name))
	switch {
	case len(provider.Subjects) > 0 && !slices.Contains(provider.Subjects, subject.name):
		return nil, bad("unauthorized_client", "The given credential is rejected by the attribute condition.")
	case subject.name == "":
		return nil, bad("invalid_request", "The mapped attribute google.subject is empty.")
	case len(subject.name) > maxSubject:
		return nil, bad("invalid_request", "The size of mapped attribute exceeds the 127 bytes limit. Either modify your attribute mapping or the incoming assertion to produce a mapped attribute that is less than 127 bytes.")
	}
	life := federatedLife // not longer than that of the subject token
	if !subject.expiry.IsZero() {
		life = min(life, subject.expiry.Sub(i.now()).Truncate(time.Second))
	}
	claims := accessClaims{Principal: provider.member(subject.name), Scope: strings.Join(scopes, " ")}
	answer, err := i.accessAnswer(federatedPrefix, claims, max(life, time.Second))
	answer.Issued = typeAccess
	return answer, err
}

// target finds the provider that the audience names.
func (i *Issuer) target(form url.Values) (*Provider, error) {
	audience := form.Get("audience")
	if !isTarget(audience) {
		return nil, bad("invalid_request", "Invalid value for \"audience\". This value should be the full resource name of the Identity Provider. See https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token for the list of possible formats.")
	}
	provider := i.directory.Load().providers[audience]
	if provider == nil {
		return nil, bad("invalid_target", "The target service indicated by the \"audience\" parameters is invalid. This might either be because the pool or provider is disabled or deleted or because it doesn't exist.")
	}
	return provider, nil
}

const (
	iamHost   = "//iam.googleapis.com/"
	namespace = "identitynamespace:"
)

func isTarget(audience string) bool {
	if pool, ok := strings.CutPrefix(audience, namespace); ok {
		pool, provider, ok := strings.Cut(pool, ":")
		return ok && pool != "" && provider != ""
	}
	return strings.HasPrefix(audience, iamHost+"projects/") || strings.HasPrefix(audience, iamHost+"locations/")
}

// authenticate checks the client. No other authorization may be sent: with
// one the real service can fail.
func authenticate(r *http.Request, p *Provider) error {
	header := r.Header.Get("Authorization")
	id, secret, basic := r.BasicAuth()
	switch {
	case header == "" && p.ClientID == "":
		return nil
	case basic && p.ClientID != "" && id == p.ClientID && same(secret, p.ClientSecret):
		return nil
	}
	return refusal{http.StatusUnauthorized, "invalid_client", "The OAuth client was not found."}
}

// member is a subject of the provider as IAM policies name it.
func (p *Provider) member(subject string) string {
	if ns, ok := strings.CutPrefix(p.Audience, namespace); ok {
		pool, _, _ := strings.Cut(ns, ":")
		if account, ok := strings.CutPrefix(subject, "system:serviceaccount:"); ok {
			subject = strings.Replace(account, ":", "/", 1)
		}
		return "serviceAccount:" + pool + "[" + subject + "]"
	}
	pool, _, _ := strings.Cut(p.Audience, "/providers/")
	return "principal:" + pool + "/subject/" + subject
}

// audiences are those that OIDC tokens for the provider may have. A list
// replaces the default.
func (p *Provider) audiences() []string {
	if len(p.Audiences) > 0 {
		return p.Audiences
	}
	if ns, ok := strings.CutPrefix(p.Audience, namespace); ok {
		pool, _, _ := strings.Cut(ns, ":")
		return []string{pool}
	}
	return []string{p.Audience, "https:" + p.Audience}
}
