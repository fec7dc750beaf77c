package gke

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// A filed reader has answers by path.
type filed map[string]string

func (f filed) Get(_ context.Context, path string) ([]byte, error) {
	if s, ok := f[path]; ok {
		return []byte(s), nil
	}
	return nil, &APIError{Status: 404, Err: errors.New("not found")}
}

func TestReadIssuer(t *testing.T) {
	r := filed{
		discoveryPath: `{"issuer":"https://cluster.example.com","jwks_uri":"https://10.0.0.1/openid/v1/jwks"}`,
		keysPath:      `{"keys":[{"kid":"b","kty":"RSA","n":"x","e":"AQAB","x5c":["secret"],"x5t":"y"},{"kid":"a","kty":"RSA"}]}`,
	}
	i, err := ReadIssuer(t.Context(), r)
	if err != nil || i.URL != "https://cluster.example.com" || strings.Join(i.KeyIDs, " ") != "a b" {
		t.Errorf("ReadIssuer = %+v, %v", i, err)
	}
	if strings.Contains(string(i.Keys), "x5") {
		t.Errorf("the keys have certificates, with which Google refuses them: %s", i.Keys)
	}
	for _, missing := range []string{discoveryPath, keysPath} {
		r := filed{discoveryPath: r[discoveryPath], keysPath: r[keysPath]}
		r[missing] = `{}`
		if _, err := ReadIssuer(t.Context(), r); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("with an empty %s: %v, want an error that names it", missing, err)
		}
	}
}

// An issuer that Google cannot reach is told by its address.
func TestHidden(t *testing.T) {
	for address, hidden := range map[string]bool{
		"https://container.googleapis.com/v1/projects/p/locations/l/clusters/c": false,
		"https://oidc.eks.eu-west-1.amazonaws.com/id/ABC":                       false,
		"https://oidc.example.org/":                                             false,
		"https://oidc.example.org:443":                                          false,
		"https://203.0.113.9":                                                   false,
		"https://kubernetes.default.svc.cluster.local":                          true,
		"https://kubernetes.default.svc":                                        true,
		"https://10.0.0.1":                                                      true,
		"https://[fd00::1]":                                                     true,
		"https://127.0.0.1":                                                     true,
		"https://oidc.example.org:6443":                                         true,
		"http://oidc.example.org":                                               true,
		"https://master":                                                        true,
		"kubernetes/serviceaccount":                                             true,
	} {
		if why := (Issuer{URL: address}).Hidden(); (why != "") != hidden {
			t.Errorf("%s is hidden because %q, want %v", address, why, hidden)
		}
	}
}

func testSetup(upload bool, target string) Setup {
	s := Setup{
		Issuer:    Issuer{URL: "https://it's.example.org/$(id)", KeyIDs: []string{"k1"}},
		ProjectID: "my-project", ProjectNumber: "123456789012", Pool: "gcemds", Provider: "cluster",
		Namespace: "shop", Account: "web", Target: target, Upload: upload,
	}
	if upload {
		s.Why = "its port is not 443"
	}
	return s
}

const webPrincipal = "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/gcemds/subject/system:serviceaccount:shop:web"

// The commands are ones that a shell understands, whatever the cluster says
// its issuer is, and the values are those of the chart.
func TestGcloud(t *testing.T) {
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash here to read the commands: install bash")
	}
	for _, s := range []Setup{testSetup(false, ""), testSetup(true, ""), testSetup(false, "web@my-project.iam.gserviceaccount.com")} {
		script := s.Gcloud()
		tools := "gcloud() { printf 'gcloud'; printf ' <%s>' \"$@\"; echo; }; kubectl() { printf 'kubectl'; printf ' <%s>' \"$@\"; echo; }; helm() { cat values.yaml; }\n"
		run := exec.Command(shell, "-euc", tools+script)
		run.Dir = t.TempDir()
		out, err := run.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, out, script)
		}
		got := string(out)
		want := []string{
			"gcloud <iam> <workload-identity-pools> <create> <gcemds> <--project=my-project> <--location=global>",
			"<providers> <create-oidc> <cluster> <--workload-identity-pool=gcemds> <--project=my-project> <--location=global> <--issuer-uri=https://it's.example.org/$(id)> <--attribute-mapping=" + mapping + ">",
			"workload_identity: projects/123456789012/locations/global/workloadIdentityPools/gcemds/providers/cluster",
			"<--member=" + webPrincipal + ">",
		}
		if s.Upload {
			want = append(want, "<--jwk-json-path="+KeysFile+">")
			if !strings.Contains(script, "update-oidc") {
				t.Error("nothing is said of the day when the signing key changes")
			}
		} else if strings.Contains(got, "jwk-json-path") {
			t.Error("keys are uploaded that Google can fetch")
		}
		if s.Target != "" {
			want = append(want, "<service-accounts> <add-iam-policy-binding> <"+s.Target+">", "<iam.gke.io/gcp-service-account="+s.Target+">")
		}
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("the commands do not have %s:\n%s", w, got)
			}
		}
		tf := s.Terraform()
		if strings.Count(tf, "{") != strings.Count(tf, "}") || !strings.Contains(tf, `member`) || !strings.Contains(tf, webPrincipal) || strings.Contains(tf, "jwks_json") != s.Upload {
			t.Errorf("Terraform:\n%s", tf)
		}
	}
}

func TestSetupValidate(t *testing.T) {
	for want, change := range map[string]func(*Setup){
		"":                  func(*Setup) {},
		"not the id of one": func(s *Setup) { s.ProjectID = "My Project" },
		"is not a number":   func(s *Setup) { s.ProjectNumber = "my-project" },
		"4 to 32":           func(s *Setup) { s.Pool = "x" },
		"not the e-mail":    func(s *Setup) { s.Target = "web" },
		"NAMESPACE/NAME":    func(s *Setup) { s.Account = "$(id)" },
		"Google takes 127":  func(s *Setup) { s.Account = strings.Repeat("a", 120) },
	} {
		s := testSetup(false, "")
		change(&s)
		if err := s.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Validate: %v, want %q", err, want)
		}
	}
}
