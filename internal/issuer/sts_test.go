package issuer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	pool      = "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/pool"
	oidc      = pool + "/providers/oidc"
	cluster   = "identitynamespace:proj.svc.id.goog:https://gkehub.googleapis.com/projects/proj/locations/global/memberships/kind"
	idp       = "https://idp.example"
	subjectIs = "repo:org/app"
	typeJWT   = "urn:ietf:params:oauth:token-type:jwt"
)

// federation is a directory with a provider of each kind.
func federation() Directory {
	keys := []PublicKey{{"rsa", &testKeys()[1].PublicKey}, {"ec", &testEC().PublicKey}}
	return Directory{Providers: []Provider{
		{Audience: oidc, Issuer: idp, Keys: keys},
		{Audience: pool + "/providers/listed", Issuer: idp, Keys: keys, Audiences: []string{"mine"}, Subjects: []string{subjectIs}},
		{Audience: pool + "/providers/client", Issuer: idp, Keys: keys, ClientID: "cli", ClientSecret: "secret"},
		{Audience: cluster, Issuer: idp, Keys: keys},
		{Audience: pool + "/providers/saml", SAML: map[string]string{"PHNhbWw+": "ann"}},
		{Audience: pool + "/providers/aws", AWS: []AWSKey{
			{ID: "AKIDEXAMPLE", Secret: "wJalrXUtnFEMI/K7MDENG", ARN: "arn:aws:iam::1:user/ann"},
			{ID: "ASIASESSION", Secret: "other-secret-of-a-session", Token: "session", ARN: "arn:aws:sts::1:assumed-role/r/s"},
		}},
		{Audience: pool + "/providers/empty"},
	}}
}

func subjectClaims(change map[string]any) map[string]any {
	c := map[string]any{"iss": idp, "sub": subjectIs, "aud": oidc, "iat": time.Now().Unix(), "exp": time.Now().Unix() + 7200}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func exchange(audience, kind, subject string) url.Values {
	return url.Values{
		"grant_type": {grantExchange}, "audience": {audience}, "scope": {cloudPlatform},
		"requested_token_type": {typeAccess}, "subject_token": {subject}, "subject_token_type": {kind},
	}
}

func jsonRequest(t testing.TB, target string, v any) *http.Request {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequest("POST", target, bytes.NewReader(body))
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	return req
}

// TestExchange: a good subject token gets a token of its principal, which does
// not outlive it.
func TestExchange(t *testing.T) {
	i := fake(t, federation())
	synctest.Test(t, func(t *testing.T) {
		key := testKeys()[1]
		good := sign(t, key, "rsa", subjectClaims(nil))
		principal := "principal:" + pool + "/subject/"
		withBasic := form("/v1/token", exchange(pool+"/providers/client", typeJWT, sign(t, key, "rsa", subjectClaims(map[string]any{"aud": pool + "/providers/client"}))))
		withBasic.SetBasicAuth("cli", "secret")
		camel := map[string]string{"grantType": grantExchange, "audience": oidc, "scope": cloudPlatform, "requestedTokenType": typeAccess, "subjectToken": good, "subjectTokenType": typeJWT}
		options := exchange(oidc, typeJWT, good)
		options.Set("options", `{"userProject":"456"}`)
		for name, c := range map[string]struct {
			req    *http.Request
			member string
			life   float64
		}{
			"form":          {form("/v1/token", exchange(oidc, typeJWT, good)), principal + subjectIs, 3600},
			"JSON":          {jsonRequest(t, "/v1/token", camel), principal + subjectIs, 3600},
			"options":       {form("/v1/token", options), principal + subjectIs, 3600},
			"ES256":         {form("/v1/token", exchange(oidc, "urn:ietf:params:oauth:token-type:id_token", sign(t, testEC(), "ec", subjectClaims(nil)))), principal + subjectIs, 3600},
			"short":         {form("/v1/token", exchange(oidc, typeJWT, sign(t, key, "rsa", subjectClaims(map[string]any{"exp": time.Now().Unix() + 300})))), principal + subjectIs, 300},
			"one of many":   {form("/v1/token", exchange(oidc, typeJWT, sign(t, key, "rsa", subjectClaims(map[string]any{"aud": []string{"x", "https:" + oidc}})))), principal + subjectIs, 3600},
			"listed":        {form("/v1/token", exchange(pool+"/providers/listed", typeJWT, sign(t, key, "rsa", subjectClaims(map[string]any{"aud": "mine"})))), principal + subjectIs, 3600},
			"old":           {form("/v1/token", exchange(oidc, typeJWT, sign(t, key, "rsa", subjectClaims(map[string]any{"iat": time.Now().Unix() - 86000})))), principal + subjectIs, 3600},
			"Basic":         {withBasic, principal + subjectIs, 3600},
			"SAML":          {form("/v1/token", exchange(pool+"/providers/saml", "urn:ietf:params:oauth:token-type:saml2", "PHNhbWw+")), principal + "ann", 3600},
			"AWS":           {form("/v1/token", awsExchange("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", "", nil)), principal + "arn:aws:iam::1:user/ann", 3600},
			"AWS session":   {form("/v1/token", awsExchange("ASIASESSION", "other-secret-of-a-session", "session", nil)), principal + "arn:aws:sts::1:assumed-role/r/s", 3600},
			"Kubernetes":    {form("/v1/token", exchange(cluster, typeJWT, sign(t, key, "rsa", subjectClaims(map[string]any{"aud": "proj.svc.id.goog", "sub": "system:serviceaccount:ns:ksa"})))), "serviceAccount:proj.svc.id.goog[ns/ksa]", 3600},
			"identity bind": {jsonRequest(t, "/v1/identitybindingtoken", map[string]string{"grant_type": grantExchange, "audience": cluster, "scope": cloudPlatform, "requested_token_type": typeAccess, "subject_token_type": typeJWT, "subject_token": sign(t, key, "rsa", subjectClaims(map[string]any{"aud": "proj.svc.id.goog", "sub": "system:serviceaccount:ns:ksa"}))}), "serviceAccount:proj.svc.id.goog[ns/ksa]", 3600},
		} {
			resp, body := ask(t, i, c.req)
			value, _ := body["access_token"].(string)
			if resp.StatusCode != 200 || body["token_type"] != "Bearer" || body["issued_token_type"] != typeAccess || body["expires_in"] != c.life || !strings.HasPrefix(value, "ya29.d.") {
				t.Errorf("%s: %d %v, want a federated token for %v s", name, resp.StatusCode, body, c.life)
				continue
			}
			if got, err := i.verifyAccess(value); err != nil || got.member() != c.member || got.Scope != cloudPlatform || got.Email != "" {
				t.Errorf("%s: token of %q with %q (%v), want of %s", name, got.member(), got.Scope, err, c.member)
			}
			if resp, _ := get(t, i, "/tokeninfo?access_token="+value); resp.StatusCode != 400 {
				t.Errorf("%s: tokeninfo of a federated token = %d, want 400 as at Google", name, resp.StatusCode)
			}
			now := time.Now().Unix()
			want := map[string]any{"active": true, "iss": "https://sts.googleapis.com/", "username": c.member, "scope": cloudPlatform,
				"iat": fmt.Sprint(now), "exp": fmt.Sprint(now + int64(c.life))}
			for _, req := range []*http.Request{form("/v1/introspect", url.Values{"token": {value}}), jsonRequest(t, "/v1/introspect", map[string]string{"token": value, "tokenTypeHint": typeAccess})} {
				if resp, body := ask(t, i, req); resp.StatusCode != 200 || !maps.Equal(body, want) {
					t.Errorf("%s: introspect = %d %v, want %v", name, resp.StatusCode, body, want)
				}
			}
		}
	})
}

// TestLogNamesWhoAsked: of those whose token was verified, also if they are
// refused afterwards.
func TestLogNamesWhoAsked(t *testing.T) {
	var out bytes.Buffer
	d := federation()
	i := open(t, Options{Directory: &d, Log: slog.New(slog.NewTextHandler(&out, nil))})
	const who = "who=principal:" + pool + "/subject/" + subjectIs
	_, body := ask(t, i, form("/v1/token", exchange(oidc, typeJWT, sign(t, testKeys()[1], "rsa", subjectClaims(nil)))))
	value, _ := body["access_token"].(string)
	impersonate := jsonRequest(t, "/v1/projects/-/serviceAccounts/"+robot+":generateAccessToken", map[string]any{"scope": []string{cloudPlatform}})
	impersonate.Header.Set("Authorization", "Bearer "+value)
	ask(t, i, impersonate)
	ask(t, i, form("/v1/token", exchange(oidc, typeJWT, "x")))
	lines := strings.SplitAfter(out.String(), "\n")
	for n, want := range []bool{true, true, false} {
		if got := strings.Contains(lines[n], who); got != want {
			t.Errorf("the log says %q: %v, want %v: %s", who, got, want, lines[n])
		}
	}
	if strings.Contains(out.String(), value) {
		t.Error("the log shows a token")
	}
}

// TestIntrospectInactive: the Security Token Service tells of its own tokens,
// as long as they are good.
func TestIntrospectInactive(t *testing.T) {
	d := federation()
	d.Accounts = robotKey().Accounts
	i := fake(t, d)
	synctest.Test(t, func(t *testing.T) {
		_, federated := ask(t, i, form("/v1/token", exchange(oidc, typeJWT, sign(t, testKeys()[1], "rsa", subjectClaims(nil)))))
		time.Sleep(time.Hour)
		_, account := ask(t, i, form("/token", bearerForm(sign(t, testKeys()[1], "key-1", claims(nil)))))
		for name, token := range map[string]any{"expired": federated["access_token"], "of an account": account["access_token"], "of nobody": "x"} {
			if resp, body := ask(t, i, jsonRequest(t, "/v1/introspect", map[string]any{"token": token})); resp.StatusCode != 200 || body["active"] != false || len(body) != 1 {
				t.Errorf("introspect of a token %s = %d %v, want that it is not active and nothing else", name, resp.StatusCode, body)
			}
		}
	})
	checkRefusal(t, "no token", i, form("/v1/introspect", nil), 400, "invalid_request", "token")
	checkRefusal(t, "refresh token", i, form("/v1/introspect", url.Values{"token": {"x"}, "token_type_hint": {"refresh_token"}}), 400, "invalid_request", "token_type_hint")
}

func TestExchangeRefused(t *testing.T) {
	i := fake(t, federation())
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().Unix()
		key := testKeys()[1]
		jwt := func(change map[string]any) url.Values {
			return exchange(oidc, typeJWT, sign(t, key, "rsa", subjectClaims(change)))
		}
		with := func(values url.Values, name, value string) url.Values {
			values = maps.Clone(values)
			values[name] = []string{value}
			return values
		}
		good := jwt(nil)
		for name, c := range map[string]struct {
			form              url.Values
			status            int
			code, description string
		}{
			"no audience":       {with(good, "audience", ""), 400, "invalid_request", "full resource name of the Identity Provider"},
			"with scheme":       {with(good, "audience", "https:"+oidc), 400, "invalid_request", "full resource name"},
			"half a namespace":  {with(good, "audience", "identitynamespace:pool"), 400, "invalid_request", "full resource name"},
			"unknown provider":  {with(good, "audience", pool+"/providers/none"), 400, "invalid_target", "disabled or deleted or because it doesn't exist"},
			"grant":             {with(good, "grant_type", grantJWT), 400, "invalid_request", "grant_type"},
			"requested type":    {with(good, "requested_token_type", ""), 400, "invalid_request", "requested_token_type"},
			"no scope":          {with(good, "scope", " "), 400, "invalid_scope", "scope"},
			"subject type":      {with(good, "subject_token_type", "x"), 400, "invalid_request", "subject_token_type"},
			"options":           {with(good, "options", "{"), 400, "invalid_request", "options"},
			"long options":      {with(good, "options", `"`+strings.Repeat("a", 4096)+`"`), 400, "invalid_request", "4096"},
			"no JWT":            {with(good, "subject_token", "x"), 400, "invalid_request", "not a JSON Web Token"},
			"issuer":            {jwt(map[string]any{"iss": idp + "/"}), 400, "invalid_grant", "The issuer in ID Token https://idp.example/ does not match the expected one"},
			"no issuer":         {jwt(map[string]any{"iss": nil}), 400, "invalid_grant", "The issuer in ID Token null does not match"},
			"audience":          {jwt(map[string]any{"aud": "other"}), 400, "invalid_grant", "The audience in ID Token [other] does not match the expected audience."},
			"no aud":            {jwt(map[string]any{"aud": nil}), 400, "invalid_grant", "The audience in ID Token [] does not match"},
			"list replaces":     {exchange(pool+"/providers/listed", typeJWT, sign(t, key, "rsa", subjectClaims(map[string]any{"aud": pool + "/providers/listed"}))), 400, "invalid_grant", "audience"},
			"expired":           {jwt(map[string]any{"iat": now - 300, "exp": now - 61}), 400, "invalid_grant", fmt.Sprintf("ID Token issued at %d is stale to sign-in.", now-300)},
			"future":            {jwt(map[string]any{"iat": now + 61}), 400, "invalid_grant", "stale to sign-in"},
			"a day old":         {jwt(map[string]any{"iat": now - 86401}), 400, "invalid_grant", "stale to sign-in"},
			"no iat":            {jwt(map[string]any{"iat": nil}), 400, "invalid_grant", "ID Token issued at null is stale to sign-in."},
			"no exp":            {jwt(map[string]any{"exp": nil}), 400, "invalid_grant", "stale to sign-in"},
			"other key":         {exchange(oidc, typeJWT, sign(t, testKeys()[0], "rsa", subjectClaims(nil))), 400, "invalid_grant", "Unable to verify the ID Token signature."},
			"kid of another":    {exchange(oidc, typeJWT, sign(t, key, "ec", subjectClaims(nil))), 400, "invalid_grant", "Unable to verify"},
			"unknown kid":       {exchange(oidc, typeJWT, sign(t, key, "none", subjectClaims(nil))), 400, "invalid_grant", "Error connecting to the given credential's issuer."},
			"no kid":            {exchange(oidc, typeJWT, sign(t, key, "", subjectClaims(nil))), 400, "invalid_grant", "Error connecting"},
			"no subject":        {jwt(map[string]any{"sub": nil}), 400, "invalid_request", "google.subject"},
			"long subject":      {jwt(map[string]any{"sub": strings.Repeat("a", 128)}), 400, "invalid_request", "exceeds the 127 bytes limit"},
			"condition":         {exchange(pool+"/providers/listed", typeJWT, sign(t, key, "rsa", subjectClaims(map[string]any{"aud": "mine", "sub": "other"}))), 400, "unauthorized_client", "The given credential is rejected by the attribute condition."},
			"no such kind":      {exchange(pool+"/providers/empty", typeJWT, good.Get("subject_token")), 400, "invalid_grant", "issuer"},
			"no client":         {exchange(pool+"/providers/client", typeJWT, good.Get("subject_token")), 401, "invalid_client", "not found"},
			"SAML":              {exchange(pool+"/providers/saml", "urn:ietf:params:oauth:token-type:saml2", "PHNhbWwy"), 400, "invalid_grant", "SAML"},
			"AWS, no request":   {exchange(pool+"/providers/aws", "urn:ietf:params:aws:token-type:aws4_request", "%zz"), 400, "invalid_request", "serialized request"},
			"AWS secret":        {awsExchange("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENx", "", nil), 400, "invalid_grant", "the signature does not match"},
			"AWS key":           {awsExchange("AKIDOTHER", "wJalrXUtnFEMI/K7MDENG", "", nil), 400, "invalid_grant", "access key is not known"},
			"AWS session":       {awsExchange("ASIASESSION", "other-secret-of-a-session", "", nil), 400, "invalid_grant", "session token"},
			"AWS audience":      {awsExchange("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", "", map[string]string{"x-goog-cloud-target-resource": oidc}), 400, "invalid_grant", "another audience"},
			"AWS host":          {awsExchange("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", "", map[string]string{"host": "sts.evil.example"}), 400, "invalid_grant", "GetCallerIdentity"},
			"AWS old":           {awsExchange("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", "", map[string]string{"x-amz-date": time.Now().Add(-time.Hour).UTC().Format("20060102T150405Z")}), 400, "invalid_grant", "x-amz-date"},
			"AWS no signature":  {awsExchange("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", "", map[string]string{"authorization": "none"}), 400, "invalid_grant", "no signature"},
			"mtls without TLS":  {exchange(oidc, "urn:ietf:params:oauth:token-type:mtls", `["AAAA"]`), 400, "invalid_grant", "the connection has none"},
			"mtls no list":      {exchange(oidc, "urn:ietf:params:oauth:token-type:mtls", `x`), 400, "invalid_request", "list of certificates"},
			"twice":             {url.Values{"audience": {oidc, oidc}}, 400, "invalid_request", "single value: audience"},
			"SAML at OIDC":      {exchange(oidc, "urn:ietf:params:oauth:token-type:saml2", "PHNhbWw+"), 400, "invalid_grant", "SAML"},
			"AWS at OIDC":       {with(awsExchange("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", "", map[string]string{"x-goog-cloud-target-resource": oidc}), "audience", oidc), 400, "invalid_grant", "access key is not known"},
			"access token type": {with(good, "subject_token_type", typeAccess), 400, "invalid_request", "subject_token_type"},
		} {
			checkRefusal(t, name, i, form("/v1/token", c.form), c.status, c.code, c.description)
		}
		req := form("/v1/token", good)
		req.Header.Set("Authorization", "Bearer x")
		checkRefusal(t, "with a token", i, req, 401, "invalid_client", "")
	})
}

// awsExchange is what a client with an AWS key sends; headers are changed
// after the signature.
func awsExchange(id, secret, session string, change map[string]string) url.Values {
	audience := pool + "/providers/aws"
	now := time.Now().UTC()
	date, day := now.Format("20060102T150405Z"), now.Format("20060102")
	headers := map[string]string{"host": "sts.us-east-2.amazonaws.com", "x-amz-date": date, "x-goog-cloud-target-resource": audience}
	if session != "" {
		headers["x-amz-security-token"] = session
	}
	names := slices.Sorted(maps.Keys(headers))
	canonical := "POST\n/\nAction=GetCallerIdentity&Version=2011-06-15\n"
	for _, n := range names {
		canonical += n + ":" + headers[n] + "\n"
	}
	canonical += "\n" + strings.Join(names, ";") + "\ne3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	sum := sha256.Sum256([]byte(canonical))
	scope := day + "/us-east-2/sts/aws4_request"
	k := mac(mac(mac(mac([]byte("AWS4"+secret), day), "us-east-2"), "sts"), "aws4_request")
	signature := hex.EncodeToString(mac(k, "AWS4-HMAC-SHA256\n"+date+"\n"+scope+"\n"+hex.EncodeToString(sum[:])))
	headers["authorization"] = "AWS4-HMAC-SHA256 Credential=" + id + "/" + scope + ", SignedHeaders=" + strings.Join(names, ";") + ", Signature=" + signature
	maps.Copy(headers, change)
	type header struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	var list []header
	for _, n := range slices.Sorted(maps.Keys(headers)) {
		list = append(list, header{n, headers[n]})
	}
	data, _ := json.Marshal(map[string]any{"url": "https://sts.us-east-2.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15", "method": "POST", "headers": list})
	return exchange(audience, "urn:ietf:params:aws:token-type:aws4_request", url.QueryEscape(string(data)))
}

// TestExchangeCertificate: the certificate of the connection is who it is, if
// it leads to a trust anchor of the provider.
func TestExchangeCertificate(t *testing.T) {
	issue := func(name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) *x509.Certificate {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		if parent == nil {
			template.IsCA, template.BasicConstraintsValid = true, true
			parent = template
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, parentKey.Public(), parentKey)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	root := issue("root", nil, testEC())
	leaf, other, stranger := issue("workload", root, testEC()), issue("other", root, testEC()), issue("stranger", nil, testEC())
	roots := x509.NewCertPool()
	roots.AddCert(root)
	i := fake(t, Directory{Providers: []Provider{{Audience: oidc, Roots: roots}}})
	request := func(peer *x509.Certificate, chain ...*x509.Certificate) *http.Request {
		var list [][]byte
		for _, c := range chain {
			list = append(list, c.Raw)
		}
		token, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		req := form("https://example.com/v1/token", exchange(oidc, "urn:ietf:params:oauth:token-type:mtls", string(token)))
		req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{peer}}
		return req
	}
	resp, body := ask(t, i, request(leaf, leaf, root))
	value, _ := body["access_token"].(string)
	if c, err := i.verifyAccess(value); resp.StatusCode != 200 || err != nil || c.member() != "principal:"+pool+"/subject/workload" {
		t.Errorf("exchange = %d %v, a token of %q", resp.StatusCode, body, c.member())
	}
	checkRefusal(t, "of another", i, request(leaf, other), 400, "invalid_grant", "not that of the connection")
	checkRefusal(t, "stranger", i, request(stranger, stranger), 400, "invalid_grant", "trust anchors")
}

func FuzzExchange(f *testing.F) {
	i := fake(f, federation())
	key := testKeys()[1]
	f.Add(false, exchange(oidc, typeJWT, sign(f, key, "rsa", subjectClaims(nil))).Encode())
	f.Add(false, awsExchange("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", "", nil).Encode())
	f.Add(false, exchange(pool+"/providers/saml", "urn:ietf:params:oauth:token-type:saml2", "PHNhbWw+").Encode())
	f.Add(false, exchange(oidc, "urn:ietf:params:oauth:token-type:mtls", `["AAAA"]`).Encode())
	f.Add(true, `{"grantType":"`+grantExchange+`","audience":"`+oidc+`","subjectToken":"e30.e30.AA"}`)
	f.Add(true, `{"a":"b","A":"c"}`)
	f.Fuzz(func(t *testing.T, asJSON bool, body string) {
		req := httptest.NewRequest("POST", "/v1/token", strings.NewReader(body))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if asJSON {
			req.Header.Set("Content-Type", "application/json")
		}
		resp, answer := ask(t, i, req)
		if resp.StatusCode == 200 && answer["access_token"] == nil || resp.StatusCode != 200 && answer["error"] == nil || resp.StatusCode >= 500 {
			t.Errorf("exchange of %q = %d %v", body, resp.StatusCode, answer)
		}
	})
}
