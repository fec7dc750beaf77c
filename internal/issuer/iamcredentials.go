package issuer

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

// A method of the IAM Service Account Credentials API: what it needs, and the
// fields that its request may have.
type method struct {
	name       string // as Google's errors have it
	permission string
	fields     []string
	answer     func(*Issuer, *http.Request, *Account, iamRequest) (any, error)
}

var methods = map[string]method{
	"generateAccessToken": {"GenerateAccessToken", "iam.serviceAccounts.getAccessToken", []string{"delegates", "scope", "lifetime"}, (*Issuer).generateAccessToken},
	"generateIdToken":     {"GenerateIdToken", "iam.serviceAccounts.getOpenIdToken", []string{"delegates", "audience", "includeEmail", "organizationNumberIncluded", "useEmailAzp"}, (*Issuer).generateIDToken},
	"signBlob":            {"SignBlob", "iam.serviceAccounts.signBlob", []string{"delegates", "payload"}, (*Issuer).signBlob},
	"signJwt":             {"SignJwt", "iam.serviceAccounts.signJwt", []string{"delegates", "payload"}, (*Issuer).signJWT},
}

// An iamRequest has the fields of all methods.
type iamRequest struct {
	Delegates    []string
	Scope        []string
	Lifetime     string
	Audience     string
	IncludeEmail bool
	Payload      string
}

const (
	accountPrefix = "projects/-/serviceAccounts/"
	maxDelegates  = 16
	maxSigned     = 12 * time.Hour // from now, the exp of a JWT to sign
)

// credentials answers POST …/serviceAccounts/ACCOUNT:METHOD.
func (i *Issuer) credentials(r *http.Request) (any, error) {
	name, verb := r.PathValue("call"), ""
	if colon := strings.LastIndexByte(name, ':'); colon >= 0 {
		name, verb = name[:colon], name[colon+1:]
	}
	m, ok := methods[verb]
	if !ok {
		return nil, apiError{status: http.StatusNotFound, code: "NOT_FOUND", message: "Method not found."}
	}
	caller, err := i.caller(r)
	if err != nil {
		return nil, err
	}
	identified(r, caller.member())
	if scopes := strings.Fields(caller.Scope); !slices.Contains(scopes, scopeCloud) && !slices.Contains(scopes, scopeIAM) {
		return nil, apiError{http.StatusForbidden, "PERMISSION_DENIED", "Request had insufficient authentication scopes.",
			"ACCESS_TOKEN_SCOPE_INSUFFICIENT", "googleapis.com",
			map[string]string{"service": "iamcredentials.googleapis.com", "method": "google.iam.credentials.v1.IAMCredentials." + m.name}}
	}
	req, err := readIAM(r.Body, m.fields)
	if err != nil {
		return nil, err
	}
	account, err := i.reach(caller.member(), append(req.Delegates, accountPrefix+name), m.permission)
	if err != nil {
		return nil, err
	}
	return m.answer(i, r, account, req)
}

// caller returns whose access token came with the request. A JWT that a
// service account signed itself is one too (section 3.1).
func (i *Issuer) caller(r *http.Request) (accessClaims, error) {
	refused := func(begin, reason string) (accessClaims, error) {
		return accessClaims{}, apiError{http.StatusUnauthorized, "UNAUTHENTICATED",
			begin + " Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
			reason, "googleapis.com", map[string]string{"service": "iamcredentials.googleapis.com"}}
	}
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	value = strings.TrimSpace(value)
	if !strings.EqualFold(scheme, "Bearer") || value == "" {
		return refused("Request is missing required authentication credential.", "CREDENTIALS_MISSING")
	}
	if c, err := i.verifyAccess(value); err == nil {
		return c, nil
	}
	const api = "https://iamcredentials.googleapis.com/"
	account, a, err := i.verifyAssertion(value, []string{api, i.base(r) + "/", ""})
	if err == nil && a.Subject == account.Email && (a.Audience == "") == (a.Scope != "") {
		if a.Audience != "" {
			a.Scope = scopeCloud // an audience is all of an API
		}
		return accessClaims{Email: account.Email, Scope: a.Scope}, nil
	}
	return refused("Request had invalid authentication credentials.", "ACCESS_TOKEN_TYPE_UNSUPPORTED")
}

// readIAM reads a request that has no other fields than these.
func readIAM(body io.Reader, fields []string) (iamRequest, error) {
	var req iamRequest
	data, err := io.ReadAll(body)
	if err != nil {
		return req, invalidArgument("Request payload size exceeds the limit: %d bytes.", maxForm)
	}
	var names map[string]json.RawMessage
	if json.Unmarshal(data, &names) != nil {
		return req, invalidArgument("Invalid JSON payload received. It is not a JSON object.")
	}
	for name := range names {
		if !slices.Contains(fields, name) {
			return req, invalidArgument("Invalid JSON payload received. Unknown name %.60q: Cannot find field.", name)
		}
	}
	if err := json.Unmarshal(data, &req); err != nil {
		return req, invalidArgument("Invalid JSON payload received. A field has the wrong type.")
	}
	if len(req.Delegates) > maxDelegates {
		return req, invalidArgument("There are more than %d delegates.", maxDelegates)
	}
	return req, nil
}

// reach follows a chain of accounts, each of which must let the one before it
// do something: the last what is asked for, the others delegate.
func (i *Issuer) reach(member string, chain []string, permission string) (*Account, error) {
	x := i.directory.Load()
	var account *Account
	for n, resource := range chain {
		name, ok := strings.CutPrefix(resource, accountPrefix)
		if !ok {
			return nil, invalidArgument("Invalid form of delegate %.100q: it must be %sACCOUNT_EMAIL_OR_UNIQUEID.", resource, accountPrefix)
		}
		if account = x.accounts[name]; account == nil {
			return nil, apiError{status: http.StatusNotFound, code: "NOT_FOUND", message: "Not found; Gaia id not found for email " + name}
		}
		need := permission
		if n < len(chain)-1 {
			need = "iam.serviceAccounts.implicitDelegation"
		}
		if !account.permits(member, need) {
			return nil, apiError{http.StatusForbidden, "PERMISSION_DENIED",
				"Permission '" + need + "' denied on resource (or it may not exist).",
				"IAM_PERMISSION_DENIED", "iam.googleapis.com", map[string]string{"permission": need}}
		}
		member = "serviceAccount:" + account.Email
	}
	return account, nil
}

func (i *Issuer) generateAccessToken(_ *http.Request, a *Account, req iamRequest) (any, error) {
	scopes := slices.DeleteFunc(req.Scope, func(s string) bool { return s == "" })
	if len(req.Scope) == 0 {
		return nil, invalidArgument("Request contains an invalid argument. At least one scope is required.")
	}
	if len(scopes) == 0 {
		scopes = []string{scopeCloud} // as the real one does
	}
	life := i.options.Life
	if req.Lifetime != "" {
		seconds, err := strconv.ParseFloat(strings.TrimSuffix(req.Lifetime, "s"), 64)
		if err != nil || !strings.HasSuffix(req.Lifetime, "s") || seconds < -1e9 || seconds > 1e9 || seconds != seconds {
			return nil, invalidArgument("Invalid value at 'lifetime' (type.googleapis.com/google.protobuf.Duration), Illegal duration format; duration must end with 's'")
		}
		life = time.Duration(seconds * float64(time.Second))
	}
	switch {
	case life <= 0:
		return nil, invalidArgument("Lifetime of access token must be larger then zero.")
	case life > a.maxLife() && a.LongLived:
		return nil, invalidArgument("Access tokens can not have lifetimes of more than 12 hours.")
	case life > a.maxLife():
		return nil, invalidArgument("Access tokens can not have lifetimes of more than 1 hour. Use the Org Policy Constraint constraints/iam.allowServiceAccountCredentialLifetimeExtension to allow up to 12 hours.")
	}
	t, err := i.access(i.options.Prefix, accessClaims{Email: a.Email, Scope: strings.Join(scopes, " ")}, i.life(life))
	if err != nil {
		return nil, err
	}
	if len(t.Value) > maxToken {
		return nil, invalidArgument("The token would be longer than %d characters.", maxToken)
	}
	return map[string]string{"accessToken": t.Value, "expireTime": t.Expiry.UTC().Format(time.RFC3339)}, nil
}

func (i *Issuer) generateIDToken(r *http.Request, a *Account, req iamRequest) (any, error) {
	if req.Audience == "" {
		return nil, invalidArgument("Request contains an invalid argument. An audience is required.")
	}
	want := token.Request{Audience: req.Audience}
	if req.IncludeEmail {
		want.Claims = emailClaims(a.Email)
	}
	t, err := i.Source(a.Email).Mint(r.Context(), want)
	if err != nil {
		return nil, err
	}
	return map[string]string{"token": t.Value}, nil
}

func (i *Issuer) signBlob(r *http.Request, a *Account, req iamRequest) (any, error) {
	var payload []byte // encoding/json reads base64
	if data, err := json.Marshal(req.Payload); err != nil || json.Unmarshal(data, &payload) != nil {
		return nil, invalidArgument("Invalid value at 'payload' (TYPE_BYTES), Base64 decoding failed.")
	}
	k, err := i.makeKey(r.Context(), a.Email)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(payload)
	sig, err := k.private.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return struct {
		Key    string `json:"keyId"`
		Signed []byte `json:"signedBlob"`
	}{k.id, sig}, nil
}

func (i *Issuer) signJWT(r *http.Request, a *Account, req iamRequest) (any, error) {
	var claims map[string]json.RawMessage
	if json.Unmarshal([]byte(req.Payload), &claims) != nil || claims == nil {
		return nil, invalidArgument("Request contains an invalid argument. The payload is not a JSON object.")
	}
	if exp, ok := claims["exp"]; ok {
		seconds, err := strconv.ParseFloat(string(exp), 64)
		if err != nil || seconds > float64(i.now().Add(maxSigned).Unix()) {
			return nil, invalidArgument("Request contains an invalid argument. The claim exp must be a time in seconds, at most 12 hours from now.")
		}
	}
	k, err := i.makeKey(r.Context(), a.Email)
	if err != nil {
		return nil, err
	}
	value, err := SignJWT(k.private, k.id, json.RawMessage(req.Payload))
	if err != nil {
		return nil, err
	}
	return map[string]string{"keyId": k.id, "signedJwt": value}, nil
}
