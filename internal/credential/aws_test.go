package credential

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

const callerIdentity = "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15"

// The signatures were computed by the signer of AWS's SDK for Go.
func TestSignatureOfAWS(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct{ region, address, session, want string }{
		{"us-east-2", "https://sts.us-east-2.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15", "",
			"SignedHeaders=host;x-amz-date;x-goog-cloud-target-resource, Signature=2823918767a16ba726bfd5439c3bb32204452a6c561b5d2ba3e36d9c386b2bde"},
		{"us-gov-west-1", "https://sts-fips.us-gov-west-1.amazonaws.com/?Version=2011-06-15&Action=GetCallerIdentity", "",
			"SignedHeaders=host;x-amz-date;x-goog-cloud-target-resource, Signature=133e27028a0b0b655b124873c4c9989dd61ff2d855da77b1ff3772b038146141"},
		{"us-east-2", "https://sts.us-east-2.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15", "session/token==",
			"SignedHeaders=host;x-amz-date;x-amz-security-token;x-goog-cloud-target-resource, Signature=fe5b841b3929ac336fb8949a10df87d5d4e22bac11b9ce4dee4a126ca580d90e"},
		{"us-gov-west-1", "https://sts-fips.us-gov-west-1.amazonaws.com/?Version=2011-06-15&Action=GetCallerIdentity", "session/token==",
			"SignedHeaders=host;x-amz-date;x-amz-security-token;x-goog-cloud-target-resource, Signature=6bc7607a215d9f5a51badd283fd373872f9752919678c52d6f3fbb340bd2c42e"},
	} {
		u, err := url.Parse(tc.address)
		if err != nil {
			t.Fatal(err)
		}
		headers := map[string]string{"x-goog-cloud-target-resource": provider}
		awsKeys{"AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", tc.session}.sign(u, tc.region, headers, now)
		want := "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260131/" + tc.region + "/sts/aws4_request, " + tc.want
		if headers["authorization"] != want {
			t.Errorf("%s %q:\n got %s\nwant %s", tc.address, tc.session, headers["authorization"], want)
		}
	}
}

// clearAWS takes the variables of AWS out of the environment.
func clearAWS(t *testing.T) {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} {
		t.Setenv(name, "")
	}
}

// The keys are those of the environment or of the role of the instance.
func TestExternalAWS(t *testing.T) {
	clearAWS(t)
	role := "role-1"
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			if r.Method != "PUT" || r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") != "300" {
				t.Errorf("the session was asked for with %s %v", r.Method, r.Header)
			}
			io.WriteString(w, "planted-session")
			return
		}
		if r.Method != "GET" || r.Header.Get("X-aws-ec2-metadata-token") != "planted-session" {
			t.Errorf("the instance metadata got %s %s with %v", r.Method, r.URL, r.Header)
		}
		switch r.URL.Path {
		case "/zone":
			io.WriteString(w, "us-east-2b")
		case "/keys":
			io.WriteString(w, role)
		case "/keys/role-1":
			io.WriteString(w, `{"Code":"Success","AccessKeyId":"ASIA","SecretAccessKey":"planted-secret-access-key","Token":"planted-token"}`)
		case "/keys/role-2":
			io.WriteString(w, `{"Code":"planted"}`)
		default:
			http.NotFound(w, r)
		}
	}))
	defer metadata.Close()
	google := newCloud(t).start()
	full := map[string]any{
		"environment_id": "aws1", "regional_cred_verification_url": callerIdentity,
		"region_url": metadata.URL + "/zone", "url": metadata.URL + "/keys", "imdsv2_session_token_url": metadata.URL + "/token",
	}
	source := func(fields map[string]any) Config {
		return Config{External: &External{File: google.file(t, map[string]any{"subject_token_type": exchange.TypeAWS, "credential_source": fields})}}
	}
	check := func(region, key, session string) {
		t.Helper()
		text, err := url.QueryUnescape(google.form.Get("subject_token"))
		if err != nil {
			t.Fatal(err)
		}
		var request struct {
			URL, Method string
			Headers     []struct{ Key, Value string }
		}
		if err := json.Unmarshal([]byte(text), &request); err != nil {
			t.Fatal(err)
		}
		headers := map[string]string{}
		for _, h := range request.Headers {
			headers[h.Key] = h.Value
		}
		if request.Method != "POST" || request.URL != strings.ReplaceAll(callerIdentity, "{region}", region) ||
			headers["Host"] != "sts."+region+".amazonaws.com" || headers["X-Goog-Cloud-Target-Resource"] != provider ||
			headers["X-Amz-Security-Token"] != session || headers["X-Amz-Date"] == "" ||
			!strings.HasPrefix(headers["Authorization"], "AWS4-HMAC-SHA256 Credential="+key+"/") || !strings.Contains(headers["Authorization"], "/"+region+"/sts/") {
			t.Errorf("the subject token is %s, want that of %s in %s", text, key, region)
		}
		if got := google.form.Get("subject_token_type"); got != exchange.TypeAWS {
			t.Errorf("subject_token_type = %s, want %s", got, exchange.TypeAWS)
		}
	}

	if _, _, err := mint(t, source(full), Env{}, access); err != nil {
		t.Fatal(err)
	}
	check("us-east-2", "ASIA", "planted-token")

	for name, tc := range map[string]struct {
		change func(map[string]any)
		kind   token.Kind
		want   string
	}{
		"no region_url": {func(m map[string]any) { delete(m, "region_url") }, token.Misconfigured, "AWS_REGION is not set"},
		"no url":        {func(m map[string]any) { delete(m, "url") }, token.Misconfigured, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set"},
		"no role":       {func(map[string]any) { role = "" }, token.Misconfigured, "has no role"},
		"no keys":       {func(map[string]any) { role = "role-2" }, token.Unavailable, "no keys for the role"},
		"no region":     {func(m map[string]any) { m["region_url"] = metadata.URL + "/nowhere" }, token.Misconfigured, "404"},
	} {
		t.Run(name, func(t *testing.T) {
			role = "role-1"
			fields := maps.Clone(full)
			tc.change(fields)
			_, _, err := mint(t, source(fields), Env{}, access)
			if err == nil || kindOf(t, err) != tc.kind || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "AWS credentials") {
				t.Errorf("Mint = %v, want %v and %q", err, tc.kind, tc.want)
			}
		})
	}

	t.Setenv("AWS_DEFAULT_REGION", "eu-west-1")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIA")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-access-key")
	bare := map[string]any{"environment_id": "aws1", "regional_cred_verification_url": callerIdentity}
	if _, _, err := mint(t, source(bare), Env{}, access); err != nil {
		t.Fatal(err)
	}
	check("eu-west-1", "AKIA", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "planted")
	if _, _, err := mint(t, source(bare), Env{}, access); err == nil || !strings.Contains(err.Error(), "is AWS_SECRET_ACCESS_KEY complete") {
		t.Errorf("Mint with half a key = %v, want a refusal", err)
	}
	t.Setenv("AWS_REGION", "evil.example/?")
	if _, _, err := mint(t, source(bare), Env{}, access); err == nil || !strings.Contains(err.Error(), "is no region of AWS") {
		t.Errorf("Mint for a strange region = %v, want a refusal", err)
	}
}
