//go:build !nogke

package cli

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// kubeconfig starts an API server that answers a few paths, and returns the
// file that leads to it.
func kubeconfig(t *testing.T, answers map[string]string) string {
	t.Helper()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.URL.Path]
		if !ok {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, body)
	}))
	t.Cleanup(api.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	config := `{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: "` + api.URL + `"}}], users: [{name: u, user: {}}], contexts: [{name: x, context: {cluster: c, user: u}}], current-context: x}`
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

var clusterAnswers = map[string]string{
	"/.well-known/openid-configuration": `{"issuer":"https://kubernetes.default.svc.cluster.local"}`,
	"/openid/v1/jwks":                   `{"keys":[{"kid":"k1","kty":"RSA","n":"x","e":"AQAB","x5c":["y"]}]}`,
	"/api/v1/namespaces/shop/pods/web":  `{"metadata":{"uid":"u"},"spec":{"nodeName":"n","serviceAccountName":"web"},"status":{"phase":"Running"}}`,
}

const clusterProvider = "projects/123456789012/locations/global/workloadIdentityPools/gcemds/providers/cluster"

// The commands against a cluster: what they print, and how they end.
func TestGKE(t *testing.T) {
	file := kubeconfig(t, clusterAnswers)
	keys := filepath.Join(t.TempDir(), "keys.json")
	for _, c := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"setup --project my-project --project-number 123456789012", 0, "--jwk-json-path=cluster-jwks.json", ""},
		{"setup --project my-project --project-number 123456789012 --upload-jwks never", 0, "Google fetches them", ""},
		{"setup --project my-project --project-number 123456789012 --format terraform", 0, "google_iam_workload_identity_pool_provider", ""},
		{"setup --project my-project --project-number 123456789012 --json", 0, `"issuer": "https://kubernetes.default.svc.cluster.local"`, ""},
		{"setup --project my-project --project-number 123456789012 --probe", 0, "name of a private network", ""},
		{"setup --project my-project --project-number 123456789012 --account shop/web --upload-jwks always", 0, "subject/system:serviceaccount:shop:web", ""},
		{"setup --project my-project --project-number 123456789012 --output-jwks " + keys, 0, "--jwk-json-path=" + keys, ""},
		{"setup --output-jwks " + keys, 0, "", ""},
		{"setup --project my-project", 2, "", "project number"},
		{"setup", 2, "", "--project ID"},
		{"setup --project my-project --project-number 1 --account web", 2, "", "default/web"},
		{"setup --project my-project --project-number 1 --format xml", 2, "", "gcloud or terraform"},
		{"explain web --project my-project --provider " + clusterProvider, 2, "", "default/web"},
		{"explain", 2, "", "NAMESPACE/POD is missing"},
		{"explain shop/web --format xml", 2, "", "gcloud or terraform"},
		{"explain shop/web --project my-project", 1, "", "provider"},
		{"explain shop/web --project my-project --provider " + clusterProvider, 1, "problem  service account: there is none of this name", "gets no token"},
		{"explain shop/web --json --project my-project --provider " + clusterProvider, 1, `"check": "service account"`, "gets no token"},
		{"explain shop/other --project my-project --provider " + clusterProvider, 1, "fix: kubectl get pods --namespace=shop", "gets no token"},
	} {
		args := append([]string{"gke"}, strings.Fields(c.args)...)
		args = append(args, "--kubeconfig", file)
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), args, &stdout, &stderr)
		if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("gcemds gke %s: code %d, stdout\n%s\nstderr\n%s\nwant %d, %q, %q", c.args, code, &stdout, &stderr, c.code, c.stdout, c.stderr)
		}
	}
	data, err := os.ReadFile(keys)
	if want := "{\n  \"keys\": [\n    {\n      \"e\": \"AQAB\",\n      \"kid\": \"k1\",\n      \"kty\": \"RSA\",\n      \"n\": \"x\"\n    }\n  ]\n}\n"; err != nil || string(data) != want {
		t.Errorf("the file of the keys is %q, %v; want %q", data, err, want)
	}
}
