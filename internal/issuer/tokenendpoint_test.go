package issuer

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const workforce = "principal://iam.googleapis.com/locations/global/workforcePools/staff/subject/ann"

func logins() Directory {
	return Directory{Users: []User{
		{Email: person, ClientID: "cli", ClientSecret: "secret-1", RefreshToken: "1//one"},
		{Email: "bob@example.com", ClientID: "cli", ClientSecret: "secret-1", RefreshToken: "1//two", Scopes: []string{cloudPlatform}},
		{Principal: workforce, ClientID: "wf", ClientSecret: "secret-2", RefreshToken: "first", Scopes: []string{cloudPlatform}, Rotate: true},
	}}
}

func refresh(path, id, secret, token string, basic bool) *http.Request {
	values := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	if !basic {
		values.Set("client_id", id)
		values.Set("client_secret", secret)
	}
	req := form(path, values)
	if basic {
		req.SetBasicAuth(id, secret)
	}
	return req
}

// TestRefresh: the login of a person is renewed with the scopes that it has.
func TestRefresh(t *testing.T) {
	i := fake(t, logins())
	resp, body := ask(t, i, refresh("/token", "cli", "secret-1", "1//one", false))
	value, _ := body["access_token"].(string)
	id, _ := body["id_token"].(string)
	delete(body, "access_token")
	delete(body, "id_token")
	want := map[string]any{"expires_in": 3600.0, "token_type": "Bearer", "scope": cloudPlatform + " openid " + userinfoEmail}
	if resp.StatusCode != 200 || !cmp.Equal(body, want) {
		t.Fatalf("refresh = %d %v, want 200 %v", resp.StatusCode, body, want)
	}
	if !strings.HasPrefix(value, "ya29.a0.") {
		t.Error("the access token of a person does not begin with ya29.a0.")
	}
	if _, claims := verify(t, published(t, i), id); claims["aud"] != "cli" || claims["email"] != person {
		t.Errorf("ID token of the login = %v, want it for its client and with e-mail %s", claims, person)
	}
	if _, info := get(t, i, "/tokeninfo?access_token="+value); info["email"] != person {
		t.Errorf("tokeninfo = %v, want e-mail %s", info, person)
	}
	if _, body := ask(t, i, refresh("/token", "cli", "secret-1", "1//two", true)); body["id_token"] != nil || body["scope"] != cloudPlatform {
		t.Errorf("a login without openid gets %v", body)
	}
}

func TestRefreshRefused(t *testing.T) {
	i := fake(t, logins())
	for name, c := range map[string]struct {
		req               *http.Request
		status            int
		code, description string
	}{
		"revoked":            {refresh("/token", "cli", "secret-1", "1//three", false), 400, "invalid_grant", "Token has been expired or revoked."},
		"no token":           {refresh("/token", "cli", "secret-1", "", false), 400, "invalid_request", "refresh_token"},
		"no client":          {refresh("/token", "none", "secret-1", "1//one", false), 401, "invalid_client", "The OAuth client was not found."},
		"no client at all":   {refresh("/token", "", "", "1//one", false), 401, "invalid_client", "not found"},
		"wrong secret":       {refresh("/token", "cli", "secret-2", "1//one", false), 401, "invalid_client", "Unauthorized"},
		"workforce here":     {refresh("/token", "wf", "secret-2", "first", false), 401, "invalid_client", "not found"},
		"person there":       {refresh("/v1/oauthtoken", "cli", "secret-1", "1//one", true), 401, "invalid_client", "not found"},
		"another's token":    {refresh("/v1/oauthtoken", "wf", "secret-2", "1//one", true), 400, "invalid_grant", "expired or revoked"},
		"workforce, wrong":   {refresh("/v1/oauthtoken", "wf", "secret-1", "first", true), 401, "invalid_client", "Unauthorized"},
		"other grant there":  {form("/v1/oauthtoken", url.Values{"grant_type": {grantJWT}}), 400, "unsupported_grant_type", "Invalid grant_type"},
		"endless form":       {form("/token", url.Values{"refresh_token": {strings.Repeat("a", maxForm)}}), 400, "invalid_request", "cannot be read"},
		"endless form there": {form("/v1/oauthtoken", url.Values{"refresh_token": {strings.Repeat("a", maxForm)}}), 400, "invalid_request", "cannot be read"},
	} {
		checkRefusal(t, name, i, c.req, c.status, c.code, c.description)
	}
}

// TestRotatedRefreshToken: the answer has the next refresh token, and the one
// before is good no more.
func TestRotatedRefreshToken(t *testing.T) {
	i := fake(t, logins())
	next := "first"
	for range 3 {
		used := next
		resp, body := ask(t, i, refresh("/v1/oauthtoken", "wf", "secret-2", used, true))
		value, _ := body["access_token"].(string)
		next, _ = body["refresh_token"].(string)
		if resp.StatusCode != 200 || next == "" || next == used || body["issued_token_type"] != typeAccess {
			t.Fatalf("refresh with rotation = %d %v, want a new refresh token", resp.StatusCode, body)
		}
		if c, err := i.verifyAccess(value); err != nil || c.member() != workforce {
			t.Errorf("token of %q (%v), want of %s", c.member(), err, workforce)
		}
		checkRefusal(t, "the token before", i, refresh("/v1/oauthtoken", "wf", "secret-2", used, true), 400, "invalid_grant", "expired or revoked")
	}
	if err := i.SetDirectory(logins()); err != nil {
		t.Fatal(err)
	}
	if resp, _ := ask(t, i, refresh("/v1/oauthtoken", "wf", "secret-2", "first", true)); resp.StatusCode != 200 {
		t.Errorf("after SetDirectory its refresh token gets %d, want 200", resp.StatusCode)
	}
}

// TestDistributedCloud: a JSON request with an ES256 assertion that names the
// account itself.
func TestDistributedCloud(t *testing.T) {
	const account = "system:serviceaccount:proj:robot"
	i := fake(t, Directory{Accounts: []Account{{Email: account, Keys: []PublicKey{{Key: &testEC().PublicKey}}}}})
	request := func(assertion string, change map[string]string) *http.Request {
		fields := map[string]string{"grant_type": grantGDCH, "audience": "https://api.example", "requested_token_type": typeAccess,
			"subject_token": assertion, "subject_token_type": typeKubernetes}
		for k, v := range change {
			fields[k] = v
		}
		return jsonRequest(t, "/token", fields)
	}
	self := map[string]any{"iss": account, "sub": account, "scope": nil, "exp": time.Now().Unix() + 3000}
	good := sign(t, testEC(), "k", claims(self))
	resp, body := ask(t, i, request(good, nil))
	value, _ := body["access_token"].(string)
	if c, err := i.verifyAccess(value); resp.StatusCode != 200 || body["issued_token_type"] != typeAccess || err != nil || c.Email != account {
		t.Errorf("exchange = %d %v, a token of %q; want one of %s", resp.StatusCode, body, c.Email, account)
	}
	self["sub"] = "system:serviceaccount:proj:other"
	checkRefusal(t, "for another", i, request(sign(t, testEC(), "k", claims(self)), nil), 400, "invalid_grant", "Invalid email")
	self["sub"], self["aud"] = account, "https://oauth2.googleapis.com/token"
	checkRefusal(t, "Google's audience", i, request(sign(t, testEC(), "k", claims(self)), nil), 400, "invalid_grant", "audience")
	checkRefusal(t, "RSA", i, request(sign(t, testKeys()[1], "k", claims(map[string]any{"iss": account})), nil), 400, "invalid_grant", "Signature")
	for field, value := range map[string]string{"audience": "", "requested_token_type": "x", "subject_token_type": "x"} {
		checkRefusal(t, field, i, request(good, map[string]string{field: value}), 400, "invalid_request", field)
	}
	for _, body := range []string{"", "[]", `{"grant_type":1}`, `{"grantType":"a","grant_type":"b"}`} {
		req := httptest.NewRequest("POST", "/token", strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		checkRefusal(t, body, i, req, 400, "invalid_request", "")
	}
}
