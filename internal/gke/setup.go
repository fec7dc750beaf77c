package gke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Reader reads from the API server: *Kubernetes is one.
type Reader interface {
	Get(ctx context.Context, path string) ([]byte, error)
}

// An Issuer is who signs the tokens of a cluster.
type Issuer struct {
	URL    string          `json:"issuer"`
	Keys   json.RawMessage `json:"jwks"`    // as Google takes them, if they are uploaded
	KeyIDs []string        `json:"key_ids"` // sorted
}

const (
	discoveryPath = "/.well-known/openid-configuration"
	keysPath      = "/openid/v1/jwks"
)

// ReadIssuer asks the API server. Everybody with an account in the cluster may
// (section 1.3).
func ReadIssuer(ctx context.Context, r Reader) (Issuer, error) {
	var i Issuer
	data, err := r.Get(ctx, discoveryPath)
	if err != nil {
		return i, fmt.Errorf("%s: %w", discoveryPath, err)
	}
	if json.Unmarshal(data, &i) != nil || i.URL == "" {
		return i, fmt.Errorf("%s has no issuer", discoveryPath)
	}
	if data, err = r.Get(ctx, keysPath); err != nil {
		return i, fmt.Errorf("%s: %w", keysPath, err)
	}
	if err := i.setKeys(data); err != nil {
		return i, fmt.Errorf("%s: %w", keysPath, err)
	}
	return i, nil
}

// setKeys keeps keys without their certificates, with which Google refuses
// them (section 1.3).
func (i *Issuer) setKeys(data []byte) error {
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil || len(set.Keys) == 0 {
		return errors.New("it has no keys")
	}
	i.KeyIDs = nil
	for _, key := range set.Keys {
		for name := range key {
			if strings.HasPrefix(name, "x5") {
				delete(key, name)
			}
		}
		id, _ := key["kid"].(string)
		i.KeyIDs = append(i.KeyIDs, id)
	}
	slices.Sort(i.KeyIDs)
	var err error
	i.Keys, err = json.MarshalIndent(set, "", "  ")
	return err
}

// Hidden returns why Google cannot fetch the keys of the issuer, as far as its
// address tells; "" if nothing speaks against it.
func (i Issuer) Hidden() string {
	u, err := url.Parse(i.URL)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "":
		return "it is no address that begins with https://"
	case u.Port() != "" && u.Port() != "443":
		return "its port is not 443"
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.IsPrivate() || !ip.IsGlobalUnicast() {
			return "its address is one of a private network"
		}
		return ""
	}
	if !strings.Contains(host, ".") {
		return "its host is a name of a private network"
	}
	for _, end := range []string{"local", "svc", "internal", "localhost", "test", "invalid", "example", "lan", "home.arpa"} {
		if strings.HasSuffix(host, "."+end) {
			return "its host is a name of a private network"
		}
	}
	return ""
}

// A Setup is what there has to be on Google's side for a cluster.
type Setup struct {
	Issuer        Issuer `json:"cluster"`
	ProjectID     string `json:"project_id"`
	ProjectNumber string `json:"project_number"`
	Pool          string `json:"pool"`
	Provider      string `json:"provider"`
	Upload        bool   `json:"upload_keys"` // Google gets the keys instead of fetching them
	Why           string `json:"why"`         // of Upload

	Namespace string `json:"namespace"` // of a service account that is given something
	Account   string `json:"service_account"`
	Target    string `json:"google_service_account,omitempty"` // that it acts as; "": it is given a role itself
}

// Validate reports what cannot be.
func (s Setup) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !projectID.MatchString(s.ProjectID) {
		fault("the project %.100q is not the id of one", s.ProjectID)
	}
	if !projectNumber.MatchString(s.ProjectNumber) {
		fault("the project number %.100q is not a number; gcloud projects describe PROJECT --format='value(projectNumber)' prints it", s.ProjectNumber)
	}
	if err := s.provider().Validate(); err != nil && projectNumber.MatchString(s.ProjectNumber) {
		fault("pool %.100q and provider %.100q: each has 4 to 32 of a-z, 0-9 and -", s.Pool, s.Provider)
	}
	if s.Target != "" && !isEmail(s.Target) {
		fault("%.100q is not the e-mail of a Google service account", s.Target)
	}
	if !isName(s.Namespace) || !isName(s.Account) {
		fault("the service account is %.100q, but has to be NAMESPACE/NAME", s.Namespace+"/"+s.Account)
	} else if n := len(subject(s.Namespace, s.Account)); n > maxSubject {
		fault("the subject of the service account has %d bytes, of which Google takes %d: a shorter name is needed", n, maxSubject)
	}
	return errors.Join(faults...)
}

// isName reports whether s has the characters of a name in Kubernetes.
func isName(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.' })
}

func (s Setup) provider() Provider {
	return Provider{WorkloadIdentity: fmt.Sprintf("projects/%s/locations/global/workloadIdentityPools/%s/providers/%s", s.ProjectNumber, s.Pool, s.Provider)}
}

// Principal is how IAM names the service account.
func (s Setup) Principal() string {
	return s.provider().Principal(s.ProjectID, s.ProjectNumber, s.Namespace, s.Account)
}

// KeysFile is the file of the keys in the commands that Gcloud returns.
const KeysFile = "cluster-jwks.json"

const mapping = "google.subject=assertion.sub,attribute.namespace=assertion['kubernetes.io']['namespace'],attribute.service_account=assertion['kubernetes.io']['serviceaccount']['name']"

// Gcloud returns the commands, as a script for a shell.
func (s Setup) Gcloud() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# The issuer of this cluster is %s, its keys are %s.", s.Issuer.URL, strings.Join(s.Issuer.KeyIDs, ", "))
	keys, flag := "Google fetches them from it", ""
	if s.Upload {
		keys, flag = "Google gets them with the provider, for it cannot fetch them: "+s.Why, " \\\n  --jwk-json-path="+KeysFile
	}
	p("# %s.", keys)
	p("")
	p("# 1. The pool and the provider.")
	where := " --project=" + quote(s.ProjectID) + " --location=global"
	if s.Upload {
		p("kubectl get --raw %s >%s", keysPath, KeysFile)
	}
	p("gcloud iam workload-identity-pools create %s%s", quote(s.Pool), where)
	p("gcloud iam workload-identity-pools providers create-oidc %s \\\n  --workload-identity-pool=%s%s \\\n  --issuer-uri=%s \\\n  --attribute-mapping=%s%s",
		quote(s.Provider), quote(s.Pool), where, quote(s.Issuer.URL), quote(mapping), flag)
	p("gcloud services enable sts.googleapis.com iamcredentials.googleapis.com --project=%s", quote(s.ProjectID))
	p("")
	p("# 2. What the service account %s/%s may do.", s.Namespace, s.Account)
	if s.Target != "" {
		p("gcloud iam service-accounts add-iam-policy-binding %s \\\n  --project=%s --role=roles/iam.workloadIdentityUser \\\n  --member=%s",
			quote(s.Target), quote(s.ProjectID), quote(s.Principal()))
		p("kubectl annotate serviceaccount --namespace=%s %s --overwrite \\\n  %s=%s", s.Namespace, s.Account, annotationGSA, s.Target)
	} else {
		p("gcloud projects add-iam-policy-binding %s \\\n  --role=roles/storage.objectViewer --condition=None \\\n  --member=%s", quote(s.ProjectID), quote(s.Principal()))
	}
	p("")
	p("# 3. The values of the chart.")
	p("cat >values.yaml <<'END'\n%sEND", s.Values())
	p("kubectl create namespace gcemds-system --dry-run=client --output=yaml | kubectl apply --filename=-")
	p("kubectl label namespace gcemds-system --overwrite pod-security.kubernetes.io/enforce=privileged # the network of the node")
	p("helm upgrade --install gcemds deploy/helm/gcemds --namespace=gcemds-system --values=values.yaml")
	if s.Upload {
		p("")
		p("# When the cluster's signing key changes (its keys are not those named above any more), all exchanges fail until this is done:")
		p("#   kubectl get --raw %s >%s", keysPath, KeysFile)
		p("#   gcloud iam workload-identity-pools providers update-oidc %s --workload-identity-pool=%s%s --jwk-json-path=%s",
			quote(s.Provider), quote(s.Pool), where, KeysFile)
	}
	return b.String()
}

// Terraform returns the same in the language of Terraform.
func (s Setup) Terraform() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("resource \"google_iam_workload_identity_pool\" \"gcemds\" {")
	p("  project                   = %q", s.ProjectID)
	p("  workload_identity_pool_id = %q", s.Pool)
	p("}")
	p("")
	p("resource \"google_iam_workload_identity_pool_provider\" \"gcemds\" {")
	p("  project                            = %q", s.ProjectID)
	p("  workload_identity_pool_id          = google_iam_workload_identity_pool.gcemds.workload_identity_pool_id")
	p("  workload_identity_pool_provider_id = %q", s.Provider)
	p("  attribute_mapping = {")
	for pair := range strings.SplitSeq(mapping, ",") {
		name, value, _ := strings.Cut(pair, "=")
		p("    %q = %q", name, value)
	}
	p("  }")
	p("  oidc {")
	p("    issuer_uri = %q", s.Issuer.URL)
	if s.Upload {
		p("    jwks_json  = file(%q) # kubectl get --raw %s >%s, again whenever the cluster's signing key changes", KeysFile, keysPath, KeysFile)
	}
	p("  }")
	p("}")
	p("")
	if s.Target != "" {
		p("resource \"google_service_account_iam_member\" \"gcemds\" {")
		p("  service_account_id = \"projects/%s/serviceAccounts/%s\"", s.ProjectID, s.Target)
		p("  role               = \"roles/iam.workloadIdentityUser\"")
		p("  member             = %q", s.Principal())
	} else {
		p("resource \"google_project_iam_member\" \"gcemds\" {")
		p("  project = %q", s.ProjectID)
		p("  role    = \"roles/storage.objectViewer\"")
		p("  member  = %q", s.Principal())
	}
	p("}")
	return b.String()
}

// Values returns the values of the Helm chart.
func (s Setup) Values() string {
	return fmt.Sprintf("gke:\n  project_id: %s\n  provider:\n    workload_identity: %s\n", s.ProjectID, s.provider().WorkloadIdentity)
}

// quote makes a word of a shell of s.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_./:@=,", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
