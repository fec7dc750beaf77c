package issuer

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	target  = "target@my-project.iam.gserviceaccount.com"
	relay   = "relay@my-project.iam.gserviceaccount.com"
	locked  = "locked@my-project.iam.gserviceaccount.com"
	creator = "roles/iam.serviceAccountTokenCreator"
	wifUser = "roles/iam.workloadIdentityUser"
)

// impersonation is a directory in which build may act as target, robot may by
// way of relay, and a federated workload with a smaller role.
func impersonation() Directory {
	return Directory{Accounts: []Account{
		{Email: target, LongLived: true, Grants: map[string][]string{
			creator: {"serviceAccount:" + build, "serviceAccount:" + relay, "user:" + person},
			wifUser: {"principal:" + pool + "/subject/app", "principalSet://iam.googleapis.com/locations/global/workforcePools/staff/*"},
			"roles/iam.serviceAccountOpenIdTokenCreator": {"serviceAccount:" + robot},
		}},
		{Email: relay, Grants: map[string][]string{creator: {"serviceAccount:" + robot}, wifUser: {"serviceAccount:" + build}}},
		{Email: locked},
		{Email: robot, Keys: []PublicKey{{ID: "key-1", Key: &testKeys()[1].PublicKey}}},
	}}
}

// call asks for a method of an account, with a token of a member.
func call(t testing.TB, i *Issuer, member, scope, account, method string, fields any) *http.Request {
	t.Helper()
	req := jsonRequest(t, "/v1/projects/-/serviceAccounts/"+url.PathEscape(account)+":"+method, fields)
	c := accessClaims{Scope: scope}
	if email, ok := strings.CutPrefix(member, "serviceAccount:"); ok {
		c.Email = email
	} else {
		c.Principal = member
	}
	token, err := i.access(federatedPrefix, c, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token.Value)
	return req
}

type fields = map[string]any

func TestGenerateAccessToken(t *testing.T) {
	i := fake(t, impersonation())
	scope := []string{cloudPlatform, userinfoEmail}
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			member, scope, account string
			fields                 fields
			life                   time.Duration
			want                   string // scopes
		}{
			"as libraries do": {"serviceAccount:" + build, cloudPlatform, target, fields{"scope": scope, "lifetime": "3600s", "delegates": nil}, time.Hour, cloudPlatform + " " + userinfoEmail},
			"scope iam":       {"serviceAccount:" + build, "https://www.googleapis.com/auth/iam", target, fields{"scope": scope}, time.Hour, cloudPlatform + " " + userinfoEmail},
			"unique id":       {"serviceAccount:" + build, cloudPlatform, UniqueID(target), fields{"scope": scope}, time.Hour, cloudPlatform + " " + userinfoEmail},
			"twelve hours":    {"serviceAccount:" + build, cloudPlatform, target, fields{"scope": scope, "lifetime": "43200s"}, 12 * time.Hour, cloudPlatform + " " + userinfoEmail},
			"short":           {"serviceAccount:" + build, cloudPlatform, target, fields{"scope": scope, "lifetime": "1s"}, time.Second, cloudPlatform + " " + userinfoEmail},
			"empty scope":     {"serviceAccount:" + build, cloudPlatform, target, fields{"scope": []string{""}}, time.Hour, cloudPlatform},
			"delegates":       {"serviceAccount:" + robot, cloudPlatform, target, fields{"scope": scope, "delegates": []string{"projects/-/serviceAccounts/" + relay}}, time.Hour, cloudPlatform + " " + userinfoEmail},
			"a person":        {"user:" + person, cloudPlatform, target, fields{"scope": scope}, time.Hour, cloudPlatform + " " + userinfoEmail},
			"federated":       {"principal:" + pool + "/subject/app", cloudPlatform, target, fields{"scope": scope}, time.Hour, cloudPlatform + " " + userinfoEmail},
			"a whole pool":    {workforce, cloudPlatform, target, fields{"scope": scope}, time.Hour, cloudPlatform + " " + userinfoEmail},
		} {
			resp, body := ask(t, i, call(t, i, c.member, c.scope, c.account, "generateAccessToken", c.fields))
			value, _ := body["accessToken"].(string)
			got, err := i.verifyAccess(value)
			if resp.StatusCode != 200 || len(body) != 2 || body["expireTime"] != time.Now().Add(c.life).UTC().Format(time.RFC3339) || err != nil {
				t.Errorf("%s: %d %v, want a token that expires in %v", name, resp.StatusCode, body, c.life)
			}
			if got.member() != "serviceAccount:"+target || got.Scope != c.want || got.Expiry != time.Now().Add(c.life).Unix() {
				t.Errorf("%s: token of %s with %q, want of %s with %q", name, got.member(), got.Scope, target, c.want)
			}
		}
	})
}

func TestGenerateIDToken(t *testing.T) {
	i := fake(t, impersonation())
	for _, includeEmail := range []bool{false, true} {
		resp, body := ask(t, i, call(t, i, "serviceAccount:"+robot, cloudPlatform, target, "generateIdToken", fields{"audience": "https://x.example", "includeEmail": includeEmail}))
		value, _ := body["token"].(string)
		_, claims := verify(t, published(t, i), value)
		if resp.StatusCode != 200 || claims["aud"] != "https://x.example" || claims["sub"] != UniqueID(target) || (claims["email"] == target) != includeEmail {
			t.Errorf("generateIdToken = %d, claims %v; want those of %s, with e-mail: %v", resp.StatusCode, claims, target, includeEmail)
		}
	}
}

// TestSignatures: what signBlob and signJwt sign verifies with what is
// published for the account, in each of its forms, and with nothing else.
func TestSignatures(t *testing.T) {
	i := fake(t, impersonation())
	payload := []byte("GOOG4-RSA-SHA256\n20261125T120000Z\n…")
	_, blob := ask(t, i, call(t, i, "serviceAccount:"+build, cloudPlatform, target, "signBlob", fields{"payload": base64.StdEncoding.EncodeToString(payload)}))
	_, signed := ask(t, i, call(t, i, "serviceAccount:"+build, cloudPlatform, target, "signJwt", fields{"payload": `{"iss":"` + target + `","exp":` + string(number(time.Now().Unix()+43200)) + `}`}))
	id, _ := blob["keyId"].(string)
	sig, err := base64.StdEncoding.DecodeString(blob["signedBlob"].(string))
	if err != nil || id == "" || id != signed["keyId"] {
		t.Fatalf("signBlob = %v, signJwt = %v (%v), want the same keyId", blob, signed, err)
	}

	keys := map[string]*rsa.PublicKey{}
	for _, path := range []string{"/service_accounts/v1/metadata/x509/", "/robot/v1/metadata/x509/"} {
		_, certs := get(t, i, path+target)
		block, _ := pem.Decode([]byte(certs[id].(string)))
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		keys[path] = cert.PublicKey.(*rsa.PublicKey)
		if cert.Subject.CommonName != target {
			t.Errorf("certificate is of %s, want %s", cert.Subject.CommonName, target)
		}
	}
	_, set := get(t, i, "/service_accounts/v1/metadata/jwk/"+target)
	data, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	_, parsed, err := ParsePublicKeys(data)
	if err != nil || len(parsed) != 1 || parsed[0].ID != id {
		t.Fatalf("JWK set %v: %v, want key %s", set, err, id)
	}
	keys["jwk"] = parsed[0].Key.(*rsa.PublicKey)
	_, raw := get(t, i, "/service_accounts/v1/metadata/raw/"+target)
	if v := raw["keyvalues"].([]any)[0].(map[string]any); v["keyid"] != id || v["modulus"] != set["keys"].([]any)[0].(map[string]any)["n"] {
		t.Errorf("raw keys = %v, want those of %v", raw, set)
	}

	sum := sha256.Sum256(payload)
	for form, key := range keys {
		if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig); err != nil {
			t.Errorf("the signed blob does not verify with the key of %s: %v", form, err)
		}
		if j, err := parseJWT(signed["signedJwt"].(string)); err != nil || j.head.Kid != id || !j.by(key) {
			t.Errorf("the signed JWT does not verify with the key of %s: %v", form, err)
		}
	}
	for kid, key := range published(t, i) {
		if rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig) == nil {
			t.Errorf("the signed blob verifies with the key %s of ID tokens: who may sign could be anybody", kid)
		}
	}

	_, own := get(t, i, "/service_accounts/v1/metadata/x509/"+robot)
	if own["key-1"] == nil || len(own) != 2 {
		t.Errorf("certificates of %s: %d, want the registered key-1 and one that is kept for it", robot, len(own))
	}
	if resp, body := get(t, i, "/service_accounts/v1/metadata/x509/none@example.com"); resp.StatusCode != 404 || body["error"].(map[string]any)["status"] != "NOT_FOUND" {
		t.Errorf("certificates of an unknown account = %d %v", resp.StatusCode, body)
	}
}

// TestDomainWideBySignJwt: an assertion that signJwt signed is as good as one
// signed with a key of the account, and only of that account.
func TestDomainWideBySignJwt(t *testing.T) {
	d := impersonation()
	d.Accounts[0].DomainWide = &DomainWide{Subjects: []string{person}, Scopes: []string{cloudPlatform}}
	i := fake(t, d)
	signed := func(change map[string]any) string {
		payload, err := json.Marshal(claims(change))
		if err != nil {
			t.Fatal(err)
		}
		_, body := ask(t, i, call(t, i, "serviceAccount:"+build, cloudPlatform, target, "signJwt", fields{"payload": string(payload)}))
		value, _ := body["signedJwt"].(string)
		return value
	}
	resp, body := ask(t, i, form("/token", bearerForm(signed(map[string]any{"iss": target, "sub": person}))))
	value, _ := body["access_token"].(string)
	if c, err := i.verifyAccess(value); resp.StatusCode != 200 || err != nil || c.member() != "user:"+person {
		t.Errorf("exchange = %d %v, a token of %s; want of %s", resp.StatusCode, body, c.member(), person)
	}
	checkRefusal(t, "for another account", i, form("/token", bearerForm(signed(map[string]any{"iss": robot}))), 400, "invalid_grant", "Invalid JWT Signature.")
}

// TestSelfSigned: a JWT that an account signed itself is its access token.
func TestSelfSigned(t *testing.T) {
	d := impersonation()
	d.Accounts[0].Grants[creator] = append(d.Accounts[0].Grants[creator], "serviceAccount:"+robot)
	i := fake(t, d)
	for name, c := range map[string]struct {
		change map[string]any
		status int
	}{
		"scope":           {map[string]any{"sub": robot, "aud": ""}, 200},
		"audience":        {map[string]any{"sub": robot, "scope": nil, "aud": "https://iamcredentials.googleapis.com/"}, 200},
		"both":            {map[string]any{"sub": robot, "aud": "https://iamcredentials.googleapis.com/"}, 401},
		"neither":         {map[string]any{"sub": robot, "scope": nil, "aud": ""}, 401},
		"an assertion":    {nil, 401},
		"for another":     {map[string]any{"sub": person, "aud": ""}, 401},
		"small scope":     {map[string]any{"sub": robot, "aud": "", "scope": userinfoEmail}, 403},
		"another service": {map[string]any{"sub": robot, "scope": nil, "aud": "https://storage.googleapis.com/"}, 401},
	} {
		req := jsonRequest(t, "/v1/projects/-/serviceAccounts/"+target+":generateAccessToken", fields{"scope": []string{cloudPlatform}})
		req.Header.Set("Authorization", "Bearer "+sign(t, testKeys()[1], "key-1", claims(c.change)))
		if resp, body := ask(t, i, req); resp.StatusCode != c.status {
			t.Errorf("%s: %d %v, want %d", name, resp.StatusCode, body, c.status)
		}
	}
}

// TestCredentialsRefused: errors have the form of Google's APIs, with the
// details by which libraries tell them apart.
func TestCredentialsRefused(t *testing.T) {
	i := fake(t, impersonation())
	scope := []string{cloudPlatform}
	denied := func(permission string) fields {
		return fields{"code": 403.0, "status": "PERMISSION_DENIED", "message": "Permission '" + permission + "' denied on resource (or it may not exist).",
			"details": []any{fields{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "IAM_PERMISSION_DENIED", "domain": "iam.googleapis.com", "metadata": fields{"permission": permission}}}}
	}
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			member, account, method string
			fields                  any
			want                    fields
		}{
			"access token":      {"serviceAccount:" + robot, target, "generateAccessToken", fields{"scope": scope}, denied("iam.serviceAccounts.getAccessToken")},
			"ID token":          {"serviceAccount:" + build, locked, "generateIdToken", fields{"audience": "a"}, denied("iam.serviceAccounts.getOpenIdToken")},
			"blob":              {workforce, target, "signBlob", fields{"payload": "AA=="}, denied("iam.serviceAccounts.signBlob")},
			"JWT":               {workforce, target, "signJwt", fields{"payload": "{}"}, denied("iam.serviceAccounts.signJwt")},
			"itself":            {"serviceAccount:" + target, target, "generateAccessToken", fields{"scope": scope}, denied("iam.serviceAccounts.getAccessToken")},
			"no delegation":     {"serviceAccount:" + build, target, "generateAccessToken", fields{"scope": scope, "delegates": []string{"projects/-/serviceAccounts/" + relay}}, denied("iam.serviceAccounts.implicitDelegation")},
			"chain too short":   {"serviceAccount:" + robot, locked, "generateAccessToken", fields{"scope": scope, "delegates": []string{"projects/-/serviceAccounts/" + relay}}, denied("iam.serviceAccounts.getAccessToken")},
			"another pool":      {"principal://iam.googleapis.com/locations/global/workforcePools/staff2/subject/ann", target, "generateAccessToken", fields{"scope": scope}, denied("iam.serviceAccounts.getAccessToken")},
			"unknown":           {"serviceAccount:" + build, "none@example.com", "generateAccessToken", fields{"scope": scope}, fields{"code": 404.0, "status": "NOT_FOUND", "message": "Not found; Gaia id not found for email none@example.com"}},
			"unknown delegate":  {"serviceAccount:" + build, target, "generateAccessToken", fields{"scope": scope, "delegates": []string{"projects/-/serviceAccounts/none"}}, fields{"code": 404.0, "status": "NOT_FOUND", "message": "Not found; Gaia id not found for email none"}},
			"no method":         {"serviceAccount:" + build, target, "generate", nil, fields{"code": 404.0, "status": "NOT_FOUND", "message": "Method not found."}},
			"bare delegate":     {"serviceAccount:" + robot, target, "generateAccessToken", fields{"scope": scope, "delegates": []string{relay}}, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": `Invalid form of delegate "` + relay + `": it must be projects/-/serviceAccounts/ACCOUNT_EMAIL_OR_UNIQUEID.`}},
			"many delegates":    {"serviceAccount:" + robot, target, "generateAccessToken", fields{"delegates": make([]string, 17)}, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": "There are more than 16 delegates."}},
			"unknown field":     {"serviceAccount:" + build, target, "generateAccessToken", fields{"scopes": scope}, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": `Invalid JSON payload received. Unknown name "scopes": Cannot find field.`}},
			"field of another":  {"serviceAccount:" + build, target, "generateIdToken", fields{"lifetime": "1s"}, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": `Invalid JSON payload received. Unknown name "lifetime": Cannot find field.`}},
			"wrong type":        {"serviceAccount:" + build, target, "generateAccessToken", fields{"scope": cloudPlatform}, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": "Invalid JSON payload received. A field has the wrong type."}},
			"no object":         {"serviceAccount:" + build, target, "generateAccessToken", scope, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": "Invalid JSON payload received. It is not a JSON object."}},
			"no scope":          {"serviceAccount:" + build, target, "generateAccessToken", fields{}, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": "Request contains an invalid argument. At least one scope is required."}},
			"no life":           {"serviceAccount:" + build, target, "generateAccessToken", fields{"scope": scope, "lifetime": "0s"}, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": "Lifetime of access token must be larger then zero."}},
			"thirteen hours":    {"serviceAccount:" + build, target, "generateAccessToken", fields{"scope": scope, "lifetime": "43201s"}, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": "Access tokens can not have lifetimes of more than 12 hours."}},
			"no such life":      {"serviceAccount:" + build, target, "generateAccessToken", fields{"scope": scope, "lifetime": "1h"}, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": "Invalid value at 'lifetime' (type.googleapis.com/google.protobuf.Duration), Illegal duration format; duration must end with 's'"}},
			"over an hour":      {"serviceAccount:" + robot, relay, "generateAccessToken", fields{"scope": scope, "lifetime": "3601s"}, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": "Access tokens can not have lifetimes of more than 1 hour. Use the Org Policy Constraint constraints/iam.allowServiceAccountCredentialLifetimeExtension to allow up to 12 hours."}},
			"no audience":       {"serviceAccount:" + build, target, "generateIdToken", fields{}, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": "Request contains an invalid argument. An audience is required."}},
			"not base64":        {"serviceAccount:" + build, target, "signBlob", fields{"payload": "?"}, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": "Invalid value at 'payload' (TYPE_BYTES), Base64 decoding failed."}},
			"no claims":         {"serviceAccount:" + build, target, "signJwt", fields{"payload": "null"}, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": "Request contains an invalid argument. The payload is not a JSON object."}},
			"claims for longer": {"serviceAccount:" + build, target, "signJwt", fields{"payload": `{"exp":` + string(number(time.Now().Unix()+43201)) + `}`}, fields{"code": 400.0, "status": "INVALID_ARGUMENT", "message": "Request contains an invalid argument. The claim exp must be a time in seconds, at most 12 hours from now."}},
		} {
			resp, body := ask(t, i, call(t, i, c.member, cloudPlatform, c.account, c.method, c.fields))
			if diff := cmp.Diff(fields{"error": c.want}, body); diff != "" || resp.StatusCode != int(c.want["code"].(float64)) {
				t.Errorf("%s: %d (-want +got):\n%s", name, resp.StatusCode, diff)
			}
		}

		reason := func(name string, req *http.Request, status int, want string) {
			t.Helper()
			resp, body := ask(t, i, req)
			info, _ := body["error"].(fields)["details"].([]any)
			if resp.StatusCode != status || len(info) != 1 || info[0].(fields)["reason"] != want {
				t.Errorf("%s: %d %v, want %d %s", name, resp.StatusCode, body, status, want)
			}
			if status == 401 && resp.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s: no WWW-Authenticate", name)
			}
		}
		request := func() *http.Request {
			return call(t, i, "serviceAccount:"+build, cloudPlatform, target, "generateAccessToken", fields{"scope": scope})
		}
		reason("scope of the caller", call(t, i, "serviceAccount:"+build, userinfoEmail, target, "generateAccessToken", fields{"scope": scope}), 403, "ACCESS_TOKEN_SCOPE_INSUFFICIENT")
		req := request()
		req.Header.Del("Authorization")
		reason("nobody", req, 401, "CREDENTIALS_MISSING")
		req = request()
		req.SetBasicAuth("a", "b")
		reason("Basic", req, 401, "CREDENTIALS_MISSING")
		req = request()
		req.Header.Set("Authorization", "Bearer ya29.c.x")
		reason("not ours", req, 401, "ACCESS_TOKEN_TYPE_UNSUPPORTED")
		req = request()
		time.Sleep(time.Hour)
		reason("expired", req, 401, "ACCESS_TOKEN_TYPE_UNSUPPORTED")
	})
}

func FuzzCredentials(f *testing.F) {
	i := fake(f, impersonation())
	bearer := call(f, i, "serviceAccount:"+build, cloudPlatform, target, "signJwt", nil).Header.Get("Authorization")
	f.Add(target+":generateAccessToken", `{"scope":["a"],"lifetime":"10s","delegates":["projects/-/serviceAccounts/`+relay+`"]}`)
	f.Add(target+":generateIdToken", `{"audience":"a","includeEmail":true}`)
	f.Add(target+":signJwt", `{"payload":"{\"exp\":1}"}`)
	f.Add(target+":signBlob", `{"payload":"AA=="}`)
	f.Add(":", `{}`)
	f.Fuzz(func(t *testing.T, name, body string) {
		req := httptest.NewRequest("POST", "/v1/projects/-/serviceAccounts/"+url.PathEscape("x" + name)[1:], strings.NewReader(body))
		req.Header.Set("Authorization", bearer)
		w := httptest.NewRecorder()
		i.Handler().ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Errorf("POST %q with %q = %d %s", name, body, w.Code, w.Body)
		}
	})
}
