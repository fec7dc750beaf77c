package credential

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
)

// TestFakeGoogleFederation: what comes from somewhere else than a key is
// accepted by a Google that verifies it: subject tokens, signed requests,
// logins and the keys of a GDC.
func TestFakeGoogleFederation(t *testing.T) {
	clearAWS(t)
	t.Setenv("AWS_REGION", "us-east-2")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const pool = "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/pool/providers/"
	staff := "principal://iam.googleapis.com/locations/global/workforcePools/people/subject/bob"
	i, err := issuer.New(issuer.Options{Keys: []*rsa.PrivateKey{rsaKey()}, Directory: &issuer.Directory{
		Accounts: []issuer.Account{
			{Email: robot, Grants: map[string][]string{"roles/iam.workloadIdentityUser": {"principal://iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/pool/subject/build"}}},
			{Email: "system:serviceaccount:my-project:robot", Keys: []issuer.PublicKey{{ID: "key-1", Key: &ec.PublicKey}}},
		},
		Providers: []issuer.Provider{
			{Audience: pool + "oidc", Issuer: "https://ci.example", Keys: []issuer.PublicKey{{ID: "ci", Key: &rsaKey().PublicKey}}},
			{Audience: pool + "aws", AWS: []issuer.AWSKey{{ID: "AKIDEXAMPLE", Secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", ARN: "arn:aws:iam::1:user/build"}}},
			{Audience: workforce, SAML: map[string]string{"PHNhbWw+": "ann"}, ClientID: "id", ClientSecret: "se/cret"},
		},
		Users: []issuer.User{
			{Email: "ann@example.com", ClientID: "id", ClientSecret: "secret", RefreshToken: "first"},
			{Principal: staff, ClientID: "id", ClientSecret: "secret", RefreshToken: "first-of-bob", Rotate: true},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(i.Handler())
	t.Cleanup(func() { server.Close(); i.Close() })
	g := &fakeGoogle{Issuer: i, url: server.URL}

	ci := func(audience string) string {
		now := time.Now()
		jwt, err := issuer.SignJWT(rsaKey(), "ci", map[string]any{"iss": "https://ci.example", "sub": "build", "aud": audience, "iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix()})
		if err != nil {
			t.Fatal(err)
		}
		return textFile(t, jwt)
	}
	external := func(change map[string]any) Config {
		fields := map[string]any{"type": "external_account", "audience": pool + "oidc", "subject_token_type": exchange.TypeJWT,
			"token_url": "https://sts.googleapis.com/v1/token", "credential_source": map[string]any{"file": ci("https:" + pool + "oidc")}}
		for name, value := range change {
			fields[name] = value
		}
		return Config{External: &External{File: jsonFile(t, fields)}}
	}
	toRobot := map[string]any{"service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/" + robot + ":generateAccessToken"}
	bob := Config{User: &User{File: workforceFile(t, g.url+"/v1/oauthtoken", map[string]any{"client_secret": "secret", "refresh_token": "first-of-bob"})}}
	gdc := Config{GDCH: &GDCH{Audience: "https://api.gdc.example", File: jsonFile(t, map[string]any{
		"type": "gdch_service_account", "format_version": "1", "project": "my-project", "name": "robot", "private_key_id": "key-1",
		"private_key": pemOf(t, ec), "token_uri": g.url + "/token"})}}
	email := token.Request{Scopes: []string{exchange.CloudPlatform, "https://www.googleapis.com/auth/userinfo.email"}}
	for _, c := range []struct {
		name   string
		config Config
		req    token.Request
		says   string // part of the error; "": a token
	}{
		{"OIDC", external(nil), access, ""},
		{"OIDC, another audience", external(map[string]any{"credential_source": map[string]any{"file": ci("https://other.example")}}), access, "invalid_grant"},
		{"no such provider", external(map[string]any{"audience": pool + "gone"}), access, "disabled, deleted or misspelt"},
		{"impersonation", external(toRobot), email, ""},
		{"ID token", external(toRobot), token.Request{Audience: "https://service.example"}, ""},
		{"AWS", external(map[string]any{"audience": pool + "aws", "subject_token_type": exchange.TypeAWS, "credential_source": map[string]any{"environment_id": "aws1", "regional_cred_verification_url": callerIdentity}}), access, ""},
		{"SAML of people", external(map[string]any{"audience": workforce, "subject_token_type": exchange.TypeSAML, "client_id": "id", "client_secret": "se/cret",
			"credential_source": map[string]any{"file": textFile(t, "PHNhbWw+")}}), access, ""},
		{"login", Config{User: &User{File: loginFile(t, "", map[string]any{"client_secret": "secret", "refresh_token": "first"})}}, access, ""},
		{"login that is gone", Config{User: &User{File: loginFile(t, "", map[string]any{"client_secret": "secret", "refresh_token": "other"})}}, access, "log in again"},
		{"workforce login", bob, access, ""},
		{"workforce login, rotated", bob, access, ""},
		{"GDC", gdc, access, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := g.mint(t, c.config, c.req)
			switch {
			case c.says == "" && err != nil:
				t.Errorf("Mint = %v, want a token", err)
			case c.says == "" && (got.Value == "" || time.Until(got.Expiry) < time.Minute):
				t.Errorf("Mint = %v, want a token that is good", got)
			case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
				t.Errorf("Mint = %v, want %q", err, c.says)
			}
		})
	}
}
