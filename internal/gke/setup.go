package gke

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// A Setup is what there has to be on Google's side for a cluster.
type Setup struct {
	Issuer        Issuer `json:"cluster"`
	ProjectID     string `json:"project_id"`
	ProjectNumber string `json:"project_number"`
	Pool          string `json:"pool"`
	Provider      string `json:"provider"`
	Upload        bool   `json:"upload_keys"`         // Google gets the keys instead of fetching them
	Why           string `json:"why,omitempty"`       // of Upload
	KeysFile      string `json:"keys_file,omitempty"` // that has the keys already; "": the commands write keysFile

	// A service account that is given something, and the Google service
	// account that it acts as. Without the latter it is given a role itself.
	Namespace string `json:"namespace,omitempty"`
	Account   string `json:"service_account,omitempty"`
	Target    string `json:"google_service_account,omitempty"`
}

// keysFile is where the commands put the keys.
const keysFile = "cluster-jwks.json"

// Validate reports what cannot be.
func (s Setup) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	switch {
	case s.ProjectID == "":
		fault("which project? (--project ID, --project-number NUMBER)")
		return errors.Join(faults...)
	case !projectID.MatchString(s.ProjectID):
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
	switch n := len(subject(s.Namespace, s.Account)); {
	case s.Namespace == "" && s.Account == "" && s.Target == "":
	case s.Namespace == "" && s.Account == "":
		fault("which service account of the cluster is to act as %s? It is NAMESPACE/NAME", s.Target)
	case !isName(s.Namespace) || !isName(s.Account):
		fault("the service account is %.100q, but has to be NAMESPACE/NAME", s.Namespace+"/"+s.Account)
	case n > maxSubject:
		fault("the subject of the service account has %d bytes, of which Google takes %d: a shorter name is needed", n, maxSubject)
	}
	return errors.Join(faults...)
}

// ParseName reads NAMESPACE/NAME, of a Pod or a service account.
func ParseName(s string) (namespace, name string, err error) {
	namespace, name, _ = strings.Cut(s, "/")
	if !isName(namespace) || !isName(name) {
		return "", "", fmt.Errorf("%.100q is not a name with its namespace, as in default/web", s)
	}
	return namespace, name, nil
}

// isName reports whether s has the form of a name in Kubernetes: that of a
// host name.
func isName(s string) bool {
	return s != "" && len(s) <= 253 && strings.Trim(s, "-.") == s &&
		!strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.' })
}

func (s Setup) provider() Provider {
	return Provider{WorkloadIdentity: fmt.Sprintf("projects/%s/locations/global/workloadIdentityPools/%s/providers/%s", s.ProjectNumber, s.Pool, s.Provider)}
}

// Principal is how IAM names the service account.
func (s Setup) Principal() string {
	return s.provider().Principal(s.ProjectID, s.ProjectNumber, s.Namespace, s.Account)
}

// mapping is what the provider knows of a token's claims.
var mapping = [][2]string{
	{"google.subject", "assertion.sub"},
	{"attribute.namespace", "assertion['kubernetes.io']['namespace']"},
	{"attribute.service_account", "assertion['kubernetes.io']['serviceaccount']['name']"},
}

// Gcloud returns the commands, as a script for a shell.
func (s Setup) Gcloud() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	where := " --project=" + quote(s.ProjectID) + " --location=global"
	file := cmp.Or(s.KeysFile, keysFile)
	var pairs []string
	for _, m := range mapping {
		pairs = append(pairs, m[0]+"="+m[1])
	}
	s.about(p)
	p("")
	p("# 1. The pool and the provider.")
	p("gcloud services enable %s \\\n  --project=%s", strings.Join(services, " "), quote(s.ProjectID))
	keys := ""
	if s.Upload {
		keys = " \\\n  --jwk-json-path=" + quote(file)
		if s.KeysFile == "" {
			p("cat >%s <<'END'\n%s\nEND", file, s.Issuer.Keys)
		}
	}
	p("gcloud iam workload-identity-pools create %s%s", quote(s.Pool), where)
	p("gcloud iam workload-identity-pools providers create-oidc %s \\\n  --workload-identity-pool=%s%s \\\n  --issuer-uri=%s \\\n  --attribute-mapping=%s%s",
		quote(s.Provider), quote(s.Pool), where, quote(s.Issuer.URL), quote(strings.Join(pairs, ",")), keys)
	p("")
	if s.Account == "" {
		p("# 2. Say who may do what: the same command with --account NAMESPACE/NAME, and --gsa EMAIL for one that acts as a Google service account.")
	} else {
		p("# 2. What the service account %s/%s may do.", s.Namespace, s.Account)
		if s.Target == "" {
			p("# The role is an example.")
		}
		p("%s", bind(Gcloud, s.ProjectID, s.Target, s.Principal()))
		if s.Target != "" {
			p("%s", s.annotate())
		}
	}
	p("")
	p("# 3. The values of the chart.")
	p("cat >values.yaml <<'END'\n%sEND", s.Values())
	p("kubectl create namespace gcemds-system --dry-run=client --output=yaml | kubectl apply --filename=-")
	p("kubectl label namespace gcemds-system --overwrite pod-security.kubernetes.io/enforce=privileged # the network of the node")
	p("# In a clone of gcemds; docs/how-to/kubernetes-pods.md says where the image comes from.")
	p("helm upgrade --install gcemds deploy/helm/gcemds --namespace=gcemds-system --values=values.yaml")
	if s.Upload {
		p("")
		s.rotation(p, fmt.Sprintf("gcloud iam workload-identity-pools providers update-oidc %s --workload-identity-pool=%s%s --jwk-json-path=%s",
			quote(s.Provider), quote(s.Pool), where, quote(file)))
	}
	return b.String()
}

// services are those of Google that are asked.
var services = []string{"iam.googleapis.com", "sts.googleapis.com", "iamcredentials.googleapis.com"}

// about says what is known of the cluster, in comments.
func (s Setup) about(p func(string, ...any)) {
	p("# The issuer of this cluster is %s, its keys are %s.", s.Issuer.URL, strings.Join(s.Issuer.KeyIDs, ", "))
	if s.Upload {
		p("# Google gets them with the provider: %s.", oneLine(s.Why))
	} else {
		p("# Google fetches them from it.")
	}
}

// rotation says what to do when the signing key changes, in comments.
func (s Setup) rotation(p func(string, ...any), update string) {
	file := quote(cmp.Or(s.KeysFile, keysFile))
	p("# When the signing key of the cluster changes, Google takes no token of it until it has the new key. This says whether the keys")
	p("# have changed, best each hour, and gives Google those of today:")
	p("#   gcemds gke setup --output-jwks=new.json && cmp new.json %s", file)
	p("#   mv new.json %s && %s", file, update)
}

func (s Setup) annotate() string {
	return fmt.Sprintf("kubectl annotate serviceaccount --namespace=%s %s --overwrite \\\n  %s=%s", s.Namespace, s.Account, annotationGSA, quote(s.Target))
}

// Terraform returns the same in the language of Terraform.
func (s Setup) Terraform() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	s.about(p)
	p("")
	p("resource \"google_project_service\" \"gcemds\" {")
	p("  for_each           = toset([\"%s\"])", strings.Join(services, `", "`))
	p("  project            = %s", hcl(s.ProjectID))
	p("  service            = each.key")
	p("  disable_on_destroy = false")
	p("}")
	p("")
	p("resource \"google_iam_workload_identity_pool\" \"gcemds\" {")
	p("  project                   = %s", hcl(s.ProjectID))
	p("  workload_identity_pool_id = %s", hcl(s.Pool))
	p("  depends_on                = [google_project_service.gcemds]")
	p("}")
	p("")
	p("resource \"google_iam_workload_identity_pool_provider\" \"gcemds\" {")
	p("  project                            = %s", hcl(s.ProjectID))
	p("  workload_identity_pool_id          = google_iam_workload_identity_pool.gcemds.workload_identity_pool_id")
	p("  workload_identity_pool_provider_id = %s", hcl(s.Provider))
	p("  attribute_mapping = {")
	for _, m := range mapping {
		p("    %-27s = %s", hcl(m[0]), hcl(m[1]))
	}
	p("  }")
	p("  oidc {")
	p("    issuer_uri = %s", hcl(s.Issuer.URL))
	if s.Upload {
		p("    jwks_json  = file(%s)", hcl(cmp.Or(s.KeysFile, keysFile)))
	}
	p("  }")
	p("}")
	if s.Account != "" {
		p("")
		if s.Target == "" {
			p("# The role is an example.")
		}
		p("%s", bind(Terraform, s.ProjectID, s.Target, s.Principal()))
	}
	p("")
	p("# The values of the chart:")
	for line := range strings.Lines(s.Values()) {
		p("#   %s", strings.TrimSuffix(line, "\n"))
	}
	if s.Target != "" {
		p("#")
		p("# The annotation of the service account:")
		p("#   %s", strings.ReplaceAll(s.annotate(), " \\\n ", ""))
	}
	if s.Upload {
		p("#")
		if s.KeysFile == "" {
			p("# The file of the keys:")
			p("#   gcemds gke setup --output-jwks=%s", keysFile)
			p("#")
		}
		s.rotation(p, "terraform apply")
	}
	return b.String()
}

// A Language is one in which people set Google up.
type Language string

// The languages.
const (
	Gcloud    Language = "gcloud" // commands; the default
	Terraform Language = "terraform"
)

// bind lets a principal act as a Google service account, or gives it a role in
// the project if that is "".
func bind(l Language, project, target, principal string) string {
	switch {
	case l == Terraform && target != "":
		if _, domain, ok := strings.Cut(target, "@"); ok && strings.HasSuffix(domain, accountSuffix) {
			name, scope, scoped := strings.Cut(strings.TrimSuffix(domain, accountSuffix), ".")
			if project = name; scoped { // name.example.com is the project example.com:name
				project = scope + ":" + name
			}
		}
		return fmt.Sprintf("resource \"google_service_account_iam_member\" \"gcemds\" {\n  service_account_id = %s\n  role               = \"roles/iam.workloadIdentityUser\"\n  member             = %s\n}",
			hcl("projects/"+project+"/serviceAccounts/"+target), hcl(principal))
	case l == Terraform:
		return fmt.Sprintf("resource \"google_project_iam_member\" \"gcemds\" {\n  project = %s\n  role    = \"roles/storage.objectViewer\"\n  member  = %s\n}", hcl(project), hcl(principal))
	case target != "":
		return fmt.Sprintf("gcloud iam service-accounts add-iam-policy-binding %s \\\n  --role=roles/iam.workloadIdentityUser \\\n  --member=%s", quote(target), quote(principal))
	}
	return fmt.Sprintf("gcloud projects add-iam-policy-binding %s \\\n  --role=roles/storage.objectViewer --condition=None \\\n  --member=%s", quote(project), quote(principal))
}

// accountSuffix is that of the e-mail of an account that has its project in it.
const accountSuffix = ".iam.gserviceaccount.com"

// Values returns the values of the Helm chart.
func (s Setup) Values() string {
	return fmt.Sprintf("gke:\n  project_id: %s\n  provider:\n    workload_identity: %s\n", s.ProjectID, s.provider().WorkloadIdentity)
}

// oneLine keeps a text in its comment.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// quote makes a word of a shell of s.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_./:@=,", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// hcl makes a string of Terraform's language of s, which is printable ASCII.
func hcl(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", "$${", "%{", "%%{").Replace(s) + `"`
}
