package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMintedJSON: programs read what whoami and config check --mint say of
// each source, so all of it is a promise: which fields there are, and that
// there are no others.
func TestMintedJSON(t *testing.T) {
	iam := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"error":{"code":403,"message":"Permission denied.","status":"PERMISSION_DENIED"}}`)
	}))
	defer iam.Close()
	config := filepath.Join(t.TempDir(), "mds.yaml")
	if err := os.WriteFile(config, []byte(`
endpoints: {iamcredentials: "`+iam.URL+`"}
sources:
  fake: {issuer: {}}
  hop: {impersonate: {target: target@my-project.iam.gserviceaccount.com, via: build}}
  build: {issuer: build@my-project.iam.gserviceaccount.com}
instances:
  vm-1:
    accounts:
      default: {email: robot@my-project.iam.gserviceaccount.com, source: fake, scopes: [storage-ro]}
      target@my-project.iam.gserviceaccount.com: {source: hop}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	serving(t, "--config", config)

	type object = map[string]any
	list := func(texts ...string) []any {
		all := []any{}
		for _, text := range texts {
			all = append(all, text)
		}
		return all
	}
	const soon = "in an hour" // stands for a time that is
	fake := object{
		"source": "fake", "account": "robot@my-project.iam.gserviceaccount.com", "steps": list("offline issuer"), "token": "access token",
		"scopes": list("https://www.googleapis.com/auth/devstorage.read_only"), "expiry": soon,
	}
	host := iam.Listener.Addr().String()
	hop := object{
		"source": "hop", "account": "target@my-project.iam.gserviceaccount.com", "token": "access token", "scopes": list(cloudPlatform),
		"steps":   list("offline issuer", "impersonate target@my-project.iam.gserviceaccount.com"),
		"failure": "denied", "error": "impersonate target@my-project.iam.gserviceaccount.com: IAM credentials " + host + ": 403 PERMISSION_DENIED Permission denied.",
	}
	build := object{
		"source": "build", "account": "build@my-project.iam.gserviceaccount.com", "steps": list("offline issuer"), "token": "access token",
		"scopes": list(cloudPlatform), "expiry": soon,
	}
	with := func(o object, name string, value any) object {
		o[name] = value
		return o
	}
	for _, tc := range []struct {
		args []string
		want func() []object
	}{
		{[]string{"config", "check", "--mint", "--json", config}, func() []object { return []object{build, fake, hop} }},
		{[]string{"whoami", "--json"}, func() []object {
			return []object{with(with(fake, "instance", "vm-1"), "aliases", list("default")), with(hop, "instance", "vm-1")}
		}},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), tc.args, &stdout, &stderr); code != exitError || stderr.String() != "gcemds: not every source makes tokens\n" {
			t.Errorf("gcemds %q ends with %d and says %s", tc.args, code, &stderr)
		}
		var got []object
		if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
			t.Errorf("gcemds %q prints no list of objects: %v\n%s", tc.args, err, &stdout)
		}
		for _, o := range got {
			text, _ := o["expiry"].(string)
			if at, err := time.Parse(time.RFC3339, text); err == nil && time.Until(at) > 50*time.Minute && time.Until(at) <= time.Hour+time.Second {
				o["expiry"] = soon
			}
		}
		if diff := cmp.Diff(tc.want(), got); diff != "" {
			t.Errorf("gcemds %q (-want +got):\n%s", tc.args, diff)
		}
	}
}
