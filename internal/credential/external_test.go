package credential

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

const (
	provider  = "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/pool/providers/provider"
	workforce = "//iam.googleapis.com/locations/global/workforcePools/people/providers/provider"
)

// A cloud is Google's token exchange at /v1/token and its IAM, and writes down
// what it was asked. It refuses what is not in the words of the API.
type cloud struct {
	*httptest.Server
	fault func(w http.ResponseWriter) bool // answers instead, if it returns true

	mu     sync.Mutex
	form   url.Values // of the last exchange
	basic  string     // user:password of it
	called []string   // method and body of calls to IAM
}

func newCloud(t testing.TB) *cloud {
	c := &cloud{}
	c.Server = httptest.NewUnstartedServer(c)
	t.Cleanup(c.Close)
	return c
}

// start starts it and returns it.
func (c *cloud) start() *cloud { c.Start(); return c }

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	refuse := func(why string) { http.Error(w, `{"error":"invalid_request","error_description":"`+why+`"}`, 400) }
	target, method, iam := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/v1/projects/-/serviceAccounts/"), ":")
	switch {
	case c.fault != nil && c.fault(w):
	case r.Method != "POST" || r.URL.RawQuery != "":
		refuse(r.Method + " " + r.URL.String())
	case r.URL.Path == "/v1/token":
		if r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
			refuse("content type")
			return
		}
		c.form, _ = url.ParseQuery(string(body))
		user, password, _ := r.BasicAuth()
		c.basic = user + ":" + password
		io.WriteString(w, `{"access_token":"ya29.federated","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3599}`)
	case iam && target == robot && r.Header.Get("Authorization") == "Bearer ya29.federated" && r.Header.Get("Content-Type") == "application/json":
		c.called = append(c.called, method+" "+string(body))
		expiry := time.Now().Add(time.Hour).UTC()
		if method == "generateIdToken" {
			fmt.Fprintf(w, `{"token":%q}`, jwtUntil(expiry))
		} else {
			fmt.Fprintf(w, `{"accessToken":"ya29.robot","expireTime":%q}`, expiry.Format(time.RFC3339))
		}
	default:
		refuse("no such method " + r.URL.Path)
	}
}

// file writes an external_account file for this cloud with some fields
// changed; nil removes one.
func (c *cloud) file(t testing.TB, change map[string]any) string {
	t.Helper()
	fields := map[string]any{
		"type":               "external_account",
		"audience":           provider,
		"subject_token_type": exchange.TypeJWT,
		"token_url":          c.URL + "/v1/token",
	}
	maps.Copy(fields, change)
	return jsonFile(t, fields)
}

// robotURL is the address at which the robot is impersonated.
func (c *cloud) robotURL() string {
	return c.URL + "/v1/projects/-/serviceAccounts/" + robot + ":generateAccessToken"
}

func jsonFile(t testing.TB, fields map[string]any) string {
	t.Helper()
	maps.DeleteFunc(fields, func(_ string, v any) bool { return v == nil })
	data, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return textFile(t, string(data))
}

func textFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// mint opens the config and mints. Nothing that it says or logs may have a
// secret: all of ours in tests contain "planted", "eyJ" or "ya29".
func mint(t testing.TB, config Config, env Env, req token.Request) (token.Token, Identity, error) {
	t.Helper()
	var log bytes.Buffer
	env.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if env.Client == nil {
		env.Client = &exchange.Client{Log: env.Log}
	}
	source, id, err := config.Open(t.Context(), env)
	var got token.Token
	if err == nil {
		got, err = source.Mint(t.Context(), req)
	}
	for _, text := range []string{log.String(), fmt.Sprint(err), fmt.Sprint(id)} {
		for _, secret := range []string{"planted", "eyJ", "ya29"} {
			if strings.Contains(text, secret) {
				t.Errorf("a secret got out: %s", text)
			}
		}
	}
	if err != nil && got != (token.Token{}) {
		t.Errorf("a token came with an error: %v, %v", got, err)
	}
	return got, id, err
}

// Each form of a federation is an exchange in the words of RFC 8693, and with
// a target, a call of IAM in its words.
func TestExternal(t *testing.T) {
	subject := jwtUntil(time.Now().Add(time.Minute))
	provide := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" || r.Header.Get("Authorization") != "Bearer planted" || r.Header["X-Forwarded-For"] != nil {
			t.Errorf("the provider got %s with %v", r.Method, r.Header)
		}
		w.WriteHeader(203) // any 2xx will do
		if r.URL.Path == "/json" {
			fmt.Fprintf(w, `{"count":1,"value":%q}`, subject)
		} else {
			io.WriteString(w, subject+"\n")
		}
	}))
	defer provide.Close()
	headers := map[string]string{"Authorization": "Bearer planted"}
	format := map[string]string{"type": "json", "subject_token_field_name": "value"}
	google := newCloud(t).start()
	toRobot := google.robotURL()
	file := map[string]any{"file": textFile(t, "\n"+subject+"\n")}
	access := token.Request{Scopes: []string{"a", "b"}}
	for name, tc := range map[string]struct {
		change map[string]any
		req    token.Request
		form   url.Values // what differs from the usual
		basic  string
		called string
		email  string
		fail   string // part of the error; the kind is Unsupported
	}{
		"file":               {change: map[string]any{"credential_source": file}},
		"file with a format": {change: map[string]any{"credential_source": map[string]any{"file": textFile(t, `{"value":"`+subject+`"}`), "format": format}}},
		"url":                {change: map[string]any{"credential_source": map[string]any{"url": provide.URL, "headers": headers}}},
		"url with a format":  {change: map[string]any{"credential_source": map[string]any{"url": provide.URL + "/json", "headers": headers, "format": format}}},
		"another type of token": {
			change: map[string]any{"credential_source": map[string]any{"file": textFile(t, "PHNhbWw+")}, "subject_token_type": exchange.TypeSAML},
			form:   url.Values{"subject_token": {"PHNhbWw+"}, "subject_token_type": {exchange.TypeSAML}},
		},
		"workforce with a project": {
			change: map[string]any{"credential_source": file, "audience": workforce, "workforce_pool_user_project": "456"},
			form:   url.Values{"audience": {workforce}, "options": {`{"userProject":"456"}`}},
		},
		"workforce with a client": {
			change: map[string]any{"credential_source": file, "audience": workforce, "workforce_pool_user_project": "456", "client_id": "id", "client_secret": "planted/+ :"},
			form:   url.Values{"audience": {workforce}}, basic: "id:planted/+ :",
		},
		"impersonation": {
			change: map[string]any{"credential_source": file, "service_account_impersonation_url": toRobot},
			form:   url.Values{"scope": {exchange.CloudPlatform}}, called: `generateAccessToken {"scope":["a","b"]}`, email: robot,
		},
		"impersonation for longer": {
			change: map[string]any{"credential_source": file, "service_account_impersonation_url": toRobot, "service_account_impersonation": map[string]any{"token_lifetime_seconds": 7200}},
			form:   url.Values{"scope": {exchange.CloudPlatform}}, called: `generateAccessToken {"lifetime":"7200s","scope":["a","b"]}`, email: robot,
		},
		"ID token by impersonation": {
			change: map[string]any{"credential_source": file, "service_account_impersonation_url": toRobot}, req: token.Request{Audience: "https://service.example"},
			form: url.Values{"scope": {exchange.CloudPlatform}}, called: `generateIdToken {"audience":"https://service.example","includeEmail":true}`, email: robot,
		},
		"ID token of nobody": {
			change: map[string]any{"credential_source": file}, req: token.Request{Audience: "https://service.example"},
			fail: "impersonate a service account through it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			google.form, google.basic, google.called = nil, "", nil
			if tc.req.Audience == "" {
				tc.req = access
			}
			got, id, err := mint(t, Config{External: &External{File: google.file(t, tc.change)}}, Env{}, tc.req)
			if tc.fail != "" {
				if err == nil || kindOf(t, err) != token.Unsupported || !strings.Contains(err.Error(), tc.fail) {
					t.Errorf("Mint = %v, want Unsupported and %q", err, tc.fail)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := "ya29.federated"
			switch {
			case tc.req.Audience != "":
				want = got.Value
			case tc.called != "":
				want = "ya29.robot"
			}
			if life := time.Until(got.Expiry); got.Value != want || life < 59*time.Minute || life > time.Hour {
				t.Errorf("Mint = %q for %v, want %q for an hour", got.Value, life, want)
			}
			form := url.Values{
				"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "requested_token_type": {exchange.TypeAccessToken}, "audience": {provider},
				"scope": {"a b"}, "subject_token": {subject}, "subject_token_type": {exchange.TypeJWT},
			}
			maps.Copy(form, tc.form)
			if diff := cmp.Diff(form, google.form); diff != "" {
				t.Errorf("the exchange asked for (-want +got):\n%s", diff)
			}
			if google.basic != cmpOr(tc.basic, ":") {
				t.Errorf("the client is %q, want %q", google.basic, tc.basic)
			}
			if got := strings.Join(google.called, "\n"); got != tc.called {
				t.Errorf("IAM was asked %s, want %s", got, tc.called)
			}
			if id.Email != tc.email || len(id.Steps) < 2 || !strings.HasPrefix(id.Steps[0], "subject token") {
				t.Errorf("identity = %+v, want %q and the steps", id, tc.email)
			}
		})
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// What a file has wrong is said when it is opened, with the name of the file.
func TestExternalRefused(t *testing.T) {
	t.Setenv(allowExecutables, "")
	google := newCloud(t).start()
	file := map[string]any{"file": "/run/token"}
	with := func(field string, value any) map[string]any {
		return map[string]any{"credential_source": file, field: value}
	}
	source := func(fields map[string]any) map[string]any { return map[string]any{"credential_source": fields} }
	sa := "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/" + robot
	for name, tc := range map[string]struct {
		change map[string]any
		config External
		want   string
	}{
		"another type":           {with("type", "service_account"), External{}, "a file of that type goes into a source of kind key_file"},
		"no type":                {with("type", nil), External{}, "field type is missing"},
		"no audience":            {with("audience", nil), External{}, "field audience is missing"},
		"no audience and type":   {map[string]any{"audience": nil, "subject_token_type": nil}, External{}, "fields audience, subject_token_type are missing"},
		"wrong audience":         {with("audience", "https://service.example"), External{}, "not the full name of a provider"},
		"no source":              {nil, External{}, "credential_source has none of"},
		"two sources":            {source(map[string]any{"file": "f", "url": "https://u.example/"}), External{}, "url and file, but can have only one"},
		"field of a wrong type":  {with("audience", 7), External{}, "field audience is not a string"},
		"wrong format":           {source(map[string]any{"file": "f", "format": map[string]any{"type": "xml"}}), External{}, "neither text nor json"},
		"format without field":   {source(map[string]any{"file": "f", "format": map[string]any{"type": "json"}}), External{}, "subject_token_field_name is missing"},
		"token_url elsewhere":    {with("token_url", "https://sts.googleapis.com.evil.example/v1/token"), External{}, "token_url leads to sts.googleapis.com.evil.example, which is not of googleapis.com"},
		"token_url in the clear": {with("token_url", "http://sts.googleapis.com/v1/token"), External{}, "use https"},
		"another universe":       {with("universe_domain", "evil.example"), External{}, "universe_domain is \"evil.example\", not Google's"},
		"target elsewhere":       {with("service_account_impersonation_url", strings.Replace(sa, "googleapis.com", "evil.example", 1)+":generateAccessToken"), External{}, "which is not of googleapis.com"},
		"target of another form": {with("service_account_impersonation_url", sa), External{}, "is not of the form https://iamcredentials"},
		"target with a query":    {with("service_account_impersonation_url", sa+":generateAccessToken?x=:generateAccessToken"), External{}, "is not of the form"},
		"target that is nobody":  {with("service_account_impersonation_url", "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/.:generateAccessToken"), External{}, "is not of the form"},
		"life of a day":          {with("service_account_impersonation", map[string]any{"token_lifetime_seconds": 86400}), External{}, "not between 1 and 43200"},
		"project of a workload":  {with("workforce_pool_user_project", "456"), External{}, "is for workforce pools"},
		"half a client":          {with("client_secret", "planted"), External{}, "field client_id is missing"},
		"url in the clear":       {source(map[string]any{"url": "http://provider.example/"}), External{}, "use https"},
		"url of a file":          {source(map[string]any{"url": "file:///etc/passwd"}), External{}, "not of the form https://host/path"},
		"executable":             {source(map[string]any{"executable": map[string]any{"command": "/bin/get x"}}), External{}, "say allow_executable: true"},
		"executable, our word":   {source(map[string]any{"executable": map[string]any{"command": "/bin/get x"}}), External{AllowExecutable: true}, "set GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1"},
		"executable, our argv":   {source(map[string]any{"executable": map[string]any{}}), External{Executable: []string{"/bin/get"}}, "set GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1"},
		"executable of nothing":  {source(map[string]any{"executable": map[string]any{"command": " "}}), External{AllowExecutable: true}, "executable.command is missing"},
		"argv for nothing":       {with("type", "external_account"), External{Executable: []string{"/bin/get"}}, "the file does not want one"},
		"key for nothing":        {with("type", "external_account"), External{Key: "tpm"}, "no certificate for it"},
		"aws2":                   {source(map[string]any{"environment_id": "aws2"}), External{}, "only aws1 is known"},
		"aws, another request":   {source(map[string]any{"environment_id": "aws1", "regional_cred_verification_url": "https://iam.amazonaws.com/?Action=CreateUser"}), External{}, "not a request for GetCallerIdentity"},
		"aws, elsewhere":         {source(map[string]any{"environment_id": "aws1", "regional_cred_verification_url": callerIdentity, "url": "http://evil.example/"}), External{}, "not the instance metadata of AWS"},
		"certificate of nothing": {source(map[string]any{"certificate": map[string]any{}}), External{}, "neither use_default_certificate_config nor"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.config.File = google.file(t, tc.change)
			_, _, err := mint(t, Config{External: &tc.config}, Env{}, access)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.config.File) {
				t.Errorf("Open = %v, want %s and %q", err, tc.config.File, tc.want)
			}
		})
	}
	for name, tc := range map[string]struct {
		text string
		want string
	}{
		"empty": {" ", "the file is empty"},
		"text":  {"planted", "not a configuration of workload identity federation: not JSON"},
		"list":  {"[]", "it is JSON, but no object"},
		"long":  {strings.Repeat(" ", maxKeyFile+1), "longer than"},
	} {
		path := textFile(t, tc.text)
		if _, _, err := mint(t, Config{External: &External{File: path}}, Env{}, access); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Open of a file with %s = %v, want %q", name, err, tc.want)
		}
	}

	// What is meant is let through.
	for name, config := range map[string]External{
		"custom endpoints": {File: google.file(t, map[string]any{"credential_source": file, "token_url": "https://sts.example/v1/token", "universe_domain": "u.example"}), AllowCustomEndpoints: true},
		"by default":       {File: google.file(t, map[string]any{"credential_source": file, "token_url": nil})},
	} {
		if _, _, err := (Config{External: &config}).Open(t.Context(), Env{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The endpoints of the configuration go before those of the file.
func TestExternalEndpoints(t *testing.T) {
	google := newCloud(t).start()
	path := google.file(t, map[string]any{
		"token_url":                         "https://sts.googleapis.com/v1/token",
		"credential_source":                 map[string]any{"file": textFile(t, jwtUntil(time.Now().Add(time.Minute)))},
		"service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/" + robot + ":generateAccessToken",
	})
	env := Env{Endpoints: Endpoints{STS: google.URL + "/v1/token", IAMCredentials: google.URL}}
	if got, _, err := mint(t, Config{External: &External{File: path}}, env, access); err != nil || got.Value != "ya29.robot" {
		t.Errorf("Mint = %v, %v, want the token of the configured endpoints", got, err)
	}
}

// A subject token that cannot be good is not sent.
func TestSubjectRefused(t *testing.T) {
	google := newCloud(t).start()
	google.fault = func(http.ResponseWriter) bool { t.Error("the subject token was sent"); return false }
	gone := filepath.Join(t.TempDir(), "none")
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/503":
			w.WriteHeader(501) // 503 would be tried again
		case "/redirect":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/long":
			io.WriteString(w, strings.Repeat("p", 1<<20+1))
		default:
			io.WriteString(w, "<html>planted")
		}
	}))
	defer page.Close()
	format := map[string]any{"type": "json", "subject_token_field_name": "value"}
	for name, tc := range map[string]struct {
		source map[string]any
		kind   token.Kind
		want   string
	}{
		"expired":          {map[string]any{"file": textFile(t, jwtUntil(time.Now().Add(-2*time.Hour)))}, token.Unavailable, "s ago; does what renews it still run?"},
		"no file":          {map[string]any{"file": gone}, token.Unavailable, gone},
		"empty":            {map[string]any{"file": textFile(t, "\n")}, token.Unavailable, "it is empty"},
		"no JWT":           {map[string]any{"file": textFile(t, "planted")}, token.Misconfigured, "it is no JWT"},
		"long":             {map[string]any{"file": textFile(t, strings.Repeat("p", exchange.MaxSubject+1))}, token.Unavailable, "longer than 65536 bytes"},
		"no JSON":          {map[string]any{"file": textFile(t, "planted"), "format": format}, token.Unavailable, "not a JSON object"},
		"no field":         {map[string]any{"file": textFile(t, `{"other":"planted"}`), "format": format}, token.Unavailable, "no text in field value"},
		"a number":         {map[string]any{"file": textFile(t, `{"value":7}`), "format": format}, token.Unavailable, "no text in field value"},
		"a page":           {map[string]any{"url": page.URL}, token.Misconfigured, "it is no JWT"},
		"a page, not JSON": {map[string]any{"url": page.URL, "format": format}, token.Unavailable, "not a JSON object"},
		"an error":         {map[string]any{"url": page.URL + "/503"}, token.Unavailable, "501"},
		"a redirect":       {map[string]any{"url": page.URL + "/redirect"}, token.Misconfigured, "set credential_source.url to the final address"},
		"a long answer":    {map[string]any{"url": page.URL + "/long"}, token.Unavailable, "longer than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			path := google.file(t, map[string]any{"credential_source": tc.source})
			_, _, err := mint(t, Config{External: &External{File: path}}, Env{}, access)
			if err == nil || kindOf(t, err) != tc.kind || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "subject token") || !strings.Contains(err.Error(), "federation through projects/123/") {
				t.Errorf("Mint = %v, want %v, %q and where the token is from", err, tc.kind, tc.want)
			}
		})
	}
}

// What the exchange answers badly is an error of its kind, with a hint.
func TestExchangeFails(t *testing.T) {
	for name, tc := range map[string]struct {
		answer answer
		kind   token.Kind
		want   string
	}{
		"stale subject":   {answer{400, "", `{"error":"invalid_grant","error_description":"ID Token issued at 1700000000 is stale to sign-in."}`}, token.Denied, "does what renews it still run"},
		"wrong audience":  {answer{400, "", `{"error":"invalid_grant","error_description":"The audience in ID Token [x] does not match the expected audience."}`}, token.Denied, "the aud of the subject token"},
		"condition":       {answer{403, "", `{"error":"unauthorized_client","error_description":"The given credential is rejected by the attribute condition."}`}, token.Denied, "does not admit this subject"},
		"no provider":     {answer{400, "", `{"error":"invalid_target","error_description":"The target service indicated by the \"audience\" parameters is invalid."}`}, token.Denied, "disabled, deleted or misspelt"},
		"echoed":          {answer{400, "", `{"error":"invalid_grant","error_description":"bad eyJhbGciOi.eyJpc3Mi.c2ln"}`}, token.Denied, "bad [redacted]"},
		"501":             {answer{501, "", ""}, token.Unavailable, "501"},
		"a page":          {answer{200, "Content-Type: text/html", "<html>planted"}, token.Unavailable, "web page"},
		"an error page":   {answer{404, "Content-Type: text/html", "<html>planted"}, token.Misconfigured, "is token_url the right address"},
		"a redirect":      {answer{307, "Location: https://evil.example/", ""}, token.Misconfigured, "redirects are not followed"},
		"expires_in 0":    {answer{200, "", `{"access_token":"ya29.x","expires_in":0}`}, token.Unavailable, "expires_in"},
		"no expires_in":   {answer{200, "", `{"access_token":"ya29.x"}`}, token.Unavailable, "expires_in"},
		"12 KiB":          {answer{200, "", `{"access_token":"` + strings.Repeat("x", 12288) + `","expires_in":3599}`}, 0, ""},
		"too long":        {answer{200, "", `{"access_token":"` + strings.Repeat("x", exchange.MaxValue+1) + `","expires_in":3599}`}, token.Unavailable, "longer than"},
		"body of a MiB":   {answer{200, "", strings.Repeat(" ", 1<<20+1)}, token.Unavailable, "longer than 1048576 bytes"},
		"not even a body": {answer{200, "", ""}, token.Unavailable, "not a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &exchange.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return tc.answer.response(), nil })}
			path := jsonFile(t, map[string]any{
				"type": "external_account", "audience": provider, "subject_token_type": exchange.TypeJWT,
				"credential_source": map[string]any{"file": textFile(t, jwtUntil(time.Now().Add(time.Minute)))},
			})
			_, _, err := mint(t, Config{External: &External{File: path}}, Env{Client: c}, access)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("Mint = %v, want a token", err)
			case tc.want != "" && (err == nil || kindOf(t, err) != tc.kind || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("Mint = %v, want %v and %q", err, tc.kind, tc.want)
			}
		})
	}
}

// The token is read anew for each exchange.
// TestSubjectOfEverybody: whoever may write the subject token says who we are.
func TestSubjectOfEverybody(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such permissions")
	}
	path := filepath.Join(t.TempDir(), "token")
	for mode, good := range map[os.FileMode]bool{0o600: true, 0o644: true, 0o666: false} {
		if err := errors.Join(os.WriteFile(path, []byte("a.b.c"), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		if _, err := subjectFile(path, subjectFormat{})(t.Context()); (err == nil) != good {
			t.Errorf("a subject token of mode %o: %v", mode, err)
		}
	}
}

func TestSubjectRotates(t *testing.T) {
	google := newCloud(t).start()
	path := textFile(t, "planted-1")
	source, _, err := Config{External: &External{File: google.file(t, map[string]any{
		"subject_token_type": exchange.TypeSAML, "credential_source": map[string]any{"file": path},
	})}}.Open(t.Context(), Env{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"planted-1", "planted-2"} {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := source.Mint(t.Context(), access); err != nil || google.form.Get("subject_token") != want {
			t.Errorf("the exchange got %q, %v, want %q", google.form.Get("subject_token"), err, want)
		}
	}
	if _, err := source.Mint(t.Context(), token.Request{}); kindOf(t, err) != token.InvalidRequest {
		t.Errorf("Mint without scopes = %v, want InvalidRequest", err)
	}
}

// A program of Go can give the subject itself: it is asked for each exchange,
// and what it says is wrong keeps its kind.
func TestFederation(t *testing.T) {
	google := newCloud(t).start()
	asked := 0
	var failure error
	source := &exchange.Federation{
		Audience: provider, TokenURL: google.URL + "/v1/token", Holder: "token of the cluster",
		Subject: func(context.Context) (string, error) {
			asked++
			return jwtUntil(time.Now().Add(time.Minute)), failure
		},
	}
	for range 2 {
		if got, err := source.Mint(t.Context(), access); err != nil || got.Value != "ya29.federated" {
			t.Errorf("Mint = %v, %v", got, err)
		}
	}
	if asked != 2 || google.form.Get("subject_token_type") != exchange.TypeJWT || len(source.Steps()) != 2 {
		t.Errorf("asked %d times for %s, steps %v, want 2 times for a JWT, and 2 steps", asked, google.form.Get("subject_token_type"), source.Steps())
	}
	failure = &token.Error{Kind: token.Throttled, RetryAfter: time.Minute, Err: errors.New("slow down")}
	_, err := source.Mint(t.Context(), access)
	if e, ok := err.(*token.Error); !ok || e.Kind != token.Throttled || e.RetryAfter != time.Minute || !strings.Contains(err.Error(), "token of the cluster: slow down") {
		t.Errorf("Mint = %v, want Throttled as the subject said", err)
	}
}

func TestExternalConfig(t *testing.T) {
	var short External
	if err := short.UnmarshalText([]byte("wif.json")); err != nil || !cmp.Equal(short, External{File: "wif.json"}) {
		t.Errorf("external: wif.json = %+v, %v, want the file alone", short, err)
	}
	c := Config{External: &External{File: "wif.json", Key: "tpm"}}
	if !slices.Equal(c.Files(), []string{"wif.json"}) || !slices.Equal(c.Needs(), []string{"tpm"}) {
		t.Errorf("Files = %v, Needs = %v, want the file and the source of the key", c.Files(), c.Needs())
	}
	for want, c := range map[string]External{
		"file is missing":              {},
		"neither a whole path":         {File: "f", Executable: []string{""}},
		"\"sub/prog\" is neither":      {File: "f", Executable: []string{"sub/prog"}},
		"env lists names of":           {File: "f", Executable: []string{"prog"}, Env: []string{"A B"}},
		"env lists names of variables": {File: "f", Env: []string{"A=planted"}},
		"neither strict nor relaxed":   {File: "f", Permissions: "lax"},
	} {
		if err := (Config{External: &c}).Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate(%+v) = %v, want %q", c, err, want)
		}
	}
}

func FuzzParseExternal(f *testing.F) {
	for _, source := range []string{
		`{"file":"/run/token","format":{"type":"json","subject_token_field_name":"value"}}`,
		`{"url":"https://p.example/","headers":{"a":"b"}}`,
		`{"executable":{"command":"/bin/x y","timeout_millis":5000,"output_file":"/tmp/o"}}`,
		`{"environment_id":"aws1","region_url":"http://169.254.169.254/r","url":"http://169.254.169.254/k","regional_cred_verification_url":"https://sts.{region}.amazonaws.com?Action=GetCallerIdentity"}`,
		`{"certificate":{"use_default_certificate_config":true}}`,
	} {
		f.Add([]byte(`{"type":"external_account","audience":"` + provider + `","subject_token_type":"` + exchange.TypeJWT + `","token_url":"https://sts.googleapis.com/v1/token","credential_source":` + source + `}`))
	}
	f.Add([]byte(`{"type":"external_account","audience":"` + workforce + `","subject_token_type":"x","workforce_pool_user_project":"1","service_account_impersonation_url":"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a@b.c:generateAccessToken","service_account_impersonation":{"token_lifetime_seconds":1e300}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseExternal(data)
		if err != nil {
			return
		}
		if kind, err := file.Source.kind(); kind == "" || err != nil || file.Audience == "" {
			t.Errorf("a file without source or audience was accepted: %s", data)
		}
		c := External{AllowCustomEndpoints: true}
		if file.Source.Certificate == nil && file.Source.Executable == nil { // those read files of the machine
			c.load(data, Env{})
		}
		if target, address, err := impersonationOf(file.ImpersonationURL, googleUniverse, false, Env{}); err == nil && (!isAccount(target.Target) || !strings.HasSuffix(hostOf(address), googleUniverse) && !exchange.Loopback(strings.Split(hostOf(address), ":")[0])) {
			t.Errorf("target %q at %q was accepted", target.Target, address)
		}
	})
}
