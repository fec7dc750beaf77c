package credential

import (
	"encoding/json"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gcemds/gcemds/internal/exchange"
)

// The file of an impersonation has the source below it inside.
func TestImpersonateFile(t *testing.T) {
	google := newCloud(t).start()
	federated, err := os.ReadFile(google.file(t, map[string]any{"credential_source": map[string]any{"file": textFile(t, jwtUntil(time.Now().Add(time.Minute)))}}))
	if err != nil {
		t.Fatal(err)
	}
	login, err := os.ReadFile(loginFile(t, google.URL+"/v1/token", nil))
	if err != nil {
		t.Fatal(err)
	}
	file := func(change map[string]any) string {
		fields := map[string]any{
			"type": "impersonated_service_account", "service_account_impersonation_url": google.robotURL(),
			"delegates":          []string{"projects/-/serviceAccounts/a@p.iam.gserviceaccount.com"},
			"source_credentials": json.RawMessage(federated),
		}
		maps.Copy(fields, change)
		return jsonFile(t, fields)
	}
	for name, source := range map[string][]byte{
		"federation": federated,
		"login":      login,
		"key":        keyJSON(t, map[string]any{"token_uri": google.URL + "/v1/token"}),
	} {
		t.Run(name, func(t *testing.T) {
			google.called = nil
			path := file(map[string]any{"source_credentials": json.RawMessage(source)})
			got, id, err := mint(t, Config{Impersonate: &Impersonate{File: path, Lifetime: 2 * time.Hour}}, Env{}, access)
			if err != nil || got.Value != "ya29.robot" {
				t.Fatalf("Mint = %q, %v, want the robot's token", got.Value, err)
			}
			want := `generateAccessToken {"delegates":["projects/-/serviceAccounts/a@p.iam.gserviceaccount.com"],"lifetime":"7200s","scope":["` + exchange.CloudPlatform + `"]}`
			if called := strings.Join(google.called, "\n"); called != want {
				t.Errorf("IAM was asked %s, want %s", called, want)
			}
			if steps := id.Steps; id.Email != robot || len(steps) < 4 || !cmp.Equal(steps[len(steps)-2:], []string{"delegate a@p.iam.gserviceaccount.com", "impersonate " + robot}) {
				t.Errorf("identity = %+v, want the robot and the steps", id)
			}
		})
	}

	c := Config{Impersonate: &Impersonate{File: "f"}}
	if !cmp.Equal(c.Files(), []string{"f"}) || c.Needs() != nil {
		t.Errorf("Files = %v, Needs = %v, want the file and no other source", c.Files(), c.Needs())
	}
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	for name, tc := range map[string]struct {
		change map[string]any
		config Impersonate
		want   string
	}{
		"another type":      {map[string]any{"type": "authorized_user"}, Impersonate{}, "goes into a source of kind user"},
		"no target":         {map[string]any{"service_account_impersonation_url": nil}, Impersonate{}, "service_account_impersonation_url is missing"},
		"target elsewhere":  {map[string]any{"service_account_impersonation_url": "https://evil.example/v1/projects/-/serviceAccounts/" + robot + ":generateAccessToken"}, Impersonate{}, "say allow_custom_endpoints: true"},
		"a strange target":  {map[string]any{"service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/x/" + robot + ":generateAccessToken"}, Impersonate{}, "is not of the form"},
		"another universe":  {map[string]any{"universe_domain": "evil.example"}, Impersonate{}, "universe_domain"},
		"a delegate":        {map[string]any{"delegates": []string{"a b"}}, Impersonate{}, `delegates has "a b"`},
		"delegates":         {map[string]any{"delegates": "a"}, Impersonate{}, "field delegates is not a list"},
		"no source":         {map[string]any{"source_credentials": nil}, Impersonate{}, "source_credentials is missing"},
		"source of nothing": {map[string]any{"source_credentials": raw("null")}, Impersonate{}, `source_credentials: type is ""`},
		"source is a text":  {map[string]any{"source_credentials": "planted"}, Impersonate{}, "it is JSON, but no object"},
		"workforce login":   {map[string]any{"source_credentials": raw(`{"type":"external_account_authorized_user"}`)}, Impersonate{}, "give it a source of its own, of kind user"},
		"itself":            {map[string]any{"source_credentials": raw(`{"type":"impersonated_service_account"}`)}, Impersonate{}, "give it a source of its own, of kind impersonate"},
		"damaged source":    {map[string]any{"source_credentials": raw(`{"type":"authorized_user"}`)}, Impersonate{}, "source_credentials: fields client_id, client_secret, refresh_token are missing"},
		"executable":        {map[string]any{"source_credentials": raw(strings.Replace(string(federated), `"file"`, `"executable":{"command":"/bin/x"},"format":{},"_"`, 1))}, Impersonate{}, "say allow_executable: true"},
		"login elsewhere":   {map[string]any{"source_credentials": raw(strings.Replace(string(login), google.URL, "https://evil.example", 1))}, Impersonate{}, "source_credentials: token_uri leads to evil.example"},
		"both":              {nil, Impersonate{Target: robot}, "remove either it or them"},
		"permissions":       {nil, Impersonate{Permissions: "lax"}, "neither strict nor relaxed"},
	} {
		tc.config.File = file(tc.change)
		_, _, err := mint(t, Config{Impersonate: &tc.config}, Env{}, access)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Open = %v, want %q", name, err, tc.want)
		}
	}
	if err := (Config{Impersonate: &Impersonate{Target: robot, Via: "x", AllowExecutable: true}}).Validate(); err == nil || !strings.Contains(err.Error(), "are for a file") {
		t.Errorf("allow_executable without a file = %v, want a refusal", err)
	}
}

func FuzzParseImpersonate(f *testing.F) {
	f.Add([]byte(`{"type":"impersonated_service_account","service_account_impersonation_url":"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a@b.c:generateAccessToken","delegates":["projects/-/serviceAccounts/d@e.f"],"source_credentials":{"type":"authorized_user","client_id":"i","client_secret":"s","refresh_token":"r"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseImpersonate(data)
		if err != nil {
			return
		}
		for _, d := range file.Delegates {
			if !isAccount(d) {
				t.Errorf("delegate %q was accepted", d)
			}
		}
	})
}
