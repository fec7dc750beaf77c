package gke

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func testSetup(upload bool, target string) Setup {
	s := Setup{
		Issuer:    Issuer{URL: "https://it's.example.org/$(id)", KeyIDs: []string{"k1"}, Keys: []byte(`{"keys": [{"kid": "k1"}]}`)},
		ProjectID: "my-project", ProjectNumber: "123456789012", Pool: "gcemds", Provider: "cluster",
		Namespace: "shop", Account: "web", Target: target, Upload: upload,
	}
	if upload {
		s.Why = "its port is not 443"
	}
	return s
}

const webPrincipal = "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/gcemds/subject/system:serviceaccount:shop:web"

func testSetups() []Setup {
	nobody, ready := testSetup(true, ""), testSetup(true, "")
	nobody.Namespace, nobody.Account = "", ""
	ready.KeysFile = "its keys.json"
	return []Setup{testSetup(false, ""), testSetup(true, ""), testSetup(false, testTarget), nobody, ready}
}

const testTarget = "web@my-project.iam.gserviceaccount.com"

// The commands are ones that a shell understands, whatever the cluster says
// its issuer is, and the values are those of the chart.
func TestGcloud(t *testing.T) {
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash here to read the commands: install bash")
	}
	for _, s := range testSetups() {
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
			"<providers> <create-oidc> <cluster> <--workload-identity-pool=gcemds> <--project=my-project> <--location=global> <--issuer-uri=https://it's.example.org/$(id)> " +
				"<--attribute-mapping=google.subject=assertion.sub,attribute.namespace=assertion['kubernetes.io']['namespace'],attribute.service_account=assertion['kubernetes.io']['serviceaccount']['name']>",
			"workload_identity: projects/123456789012/locations/global/workloadIdentityPools/gcemds/providers/cluster",
		}
		keys, _ := os.ReadFile(filepath.Join(run.Dir, keysFile))
		switch {
		case !s.Upload && strings.Contains(got, "jwk-json-path"):
			t.Error("keys are uploaded that Google can fetch")
		case s.Upload && !strings.Contains(script, "update-oidc"):
			t.Error("nothing is said of the day when the signing key changes")
		case s.Upload && s.KeysFile != "":
			want = append(want, "<--jwk-json-path="+s.KeysFile+">")
		case s.Upload:
			want = append(want, "<--jwk-json-path="+keysFile+">")
			if string(keys) != string(s.Issuer.Keys)+"\n" {
				t.Errorf("the file of the keys is %q", keys)
			}
		}
		if s.Target != "" {
			want = append(want, "<service-accounts> <add-iam-policy-binding> <"+s.Target+">", "<iam.gke.io/gcp-service-account="+s.Target+">")
		}
		if s.Account != "" {
			want = append(want, "<--member="+webPrincipal+">")
		} else if strings.Contains(got, "add-iam-policy-binding") {
			t.Error("a role is given to nobody knows whom")
		}
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("the commands do not have %s:\n%s", w, got)
			}
		}
	}
}

// What is printed is to be pasted, so it passes the tools for what people
// write.
func TestSetupLints(t *testing.T) {
	lint := func(what, program string, args ...string) func(string) {
		if _, err := exec.LookPath(program); err != nil {
			t.Logf("%s is not looked at: there is no %s on this machine", what, program)
			return func(string) {}
		}
		return func(text string) {
			c := exec.Command(program, args...)
			c.Stdin = strings.NewReader(text)
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s\n%s", program, err, out, text)
			}
		}
	}
	shell := lint("the script", "shellcheck", "--shell=bash", "-")
	terraform := lint("the Terraform", "terraform", "fmt", "-check", "-diff", "-")
	for _, s := range testSetups() {
		s.Issuer.URL = "https://it's.example.org" // $(id) in quotes looks like a mistake
		shell(s.Gcloud())
		terraform(s.Terraform())
	}
}

func TestTerraform(t *testing.T) {
	for _, s := range testSetups() {
		tf := s.Terraform()
		if strings.Count(tf, "{") != strings.Count(tf, "}") || strings.Contains(tf, webPrincipal) != (s.Account != "") || strings.Contains(tf, "jwks_json") != s.Upload {
			t.Errorf("Terraform:\n%s", tf)
		}
	}
	// An issuer is a string, not a template.
	s := testSetup(false, "")
	s.Issuer.URL = `https://a.example/"${file("/etc/passwd")}%{if true}\`
	if want := `issuer_uri = "https://a.example/\"$${file(\"/etc/passwd\")}%%{if true}\\"`; !strings.Contains(s.Terraform(), want) {
		t.Errorf("Terraform does not have %s:\n%s", want, s.Terraform())
	}
	// The project of a Google service account may be another one.
	for target, want := range map[string]string{
		testTarget: "projects/my-project/serviceAccounts/",
		"a@other-project.iam.gserviceaccount.com":             "projects/other-project/serviceAccounts/",
		"a@other-project.example.com.iam.gserviceaccount.com": "projects/example.com:other-project/serviceAccounts/",
		"123-compute@developer.gserviceaccount.com":           "projects/my-project/serviceAccounts/",
	} {
		if got := testSetup(false, target).Terraform(); !strings.Contains(got, want+target) {
			t.Errorf("Terraform does not have %s%s:\n%s", want, target, got)
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
		"has to be":         func(s *Setup) { s.Account = "-x" },
		"which service":     func(s *Setup) { s.Namespace, s.Account, s.Target = "", "", testTarget },
		"Google takes 127":  func(s *Setup) { s.Account = strings.Repeat("a", 120) },
	} {
		s := testSetup(false, "")
		change(&s)
		if err := s.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Validate: %v, want %q", err, want)
		}
	}
}

// FuzzParseName: what is taken is two names that a shell and a path take as
// they are.
func FuzzParseName(f *testing.F) {
	for _, s := range []string{"default/web", "web", "/", "a/b/c", "a/../b", "-a/b", "a/b.", "A/b", "a/$(id)", "a/b\n", "é/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		namespace, name, err := ParseName(s)
		switch {
		case err == nil && namespace+"/"+name != s:
			t.Errorf("%q is %q and %q", s, namespace, name)
		case err == nil && (quote(namespace) != namespace || quote(name) != name || strings.HasPrefix(name, "-") || strings.HasPrefix(name, ".")):
			t.Errorf("%q is taken", s)
		case err != nil && namespace+name != "":
			t.Errorf("%q is refused, but there is %q and %q", s, namespace, name)
		}
	})
}
