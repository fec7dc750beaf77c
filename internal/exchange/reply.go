package exchange

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

const (
	MaxValue = 16 << 10       // of a token; Google's longest are 12288 bytes
	maxLife  = 12 * time.Hour // longer answers are taken for this, Google gives no more
)

// errorKinds says what the error codes of OAuth and of Google's APIs mean for us
// (section 2.3).
var errorKinds = map[string]token.Kind{
	"access_denied":              token.Denied,
	"deleted_client":             token.Denied,
	"invalid_client":             token.Denied,
	"invalid_grant":              token.Denied,
	"invalid_scope":              token.Denied,
	"invalid_target":             token.Denied,
	"unauthorized_client":        token.Denied,
	"PERMISSION_DENIED":          token.Denied,
	"UNAUTHENTICATED":            token.Denied,
	"invalid_request":            token.Misconfigured,
	"unsupported_grant_type":     token.Misconfigured,
	"internal_failure":           token.Unavailable,
	"server_error":               token.Unavailable,
	"temporarily_unavailable":    token.Unavailable,
	"UNAVAILABLE":                token.Unavailable,
	"rate_limit_exceeded":        token.Throttled,
	"RESOURCE_EXHAUSTED":         token.Throttled,
	"org_internal":               token.Denied,
	"admin_policy_enforced":      token.Denied,
	"account_selection_required": token.Denied,
}

// hints are known descriptions of a refusal, and what to do about them. The
// first that fits counts.
var hints = []struct {
	part string // of the description, in lower case
	kind token.Kind
	hint string
}{
	{"reasonable timeframe", token.Clock, ""},
	{"short-lived token", token.Clock, ""},
	{"invalid jwt signature", token.Denied, "the key was deleted or is of another account: create one with gcloud iam service-accounts keys create, or upload the certificate of one that you have made with gcloud iam service-accounts keys upload"},
	{"account not found", token.Denied, "the service account was deleted or disabled"},
	{"invalid_rapt", token.Denied, "the organisation wants the person to confirm who they are; for a machine, use a service account or a federation"},
	{"is stale to sign-in", token.Denied, "the subject token is too old; does what renews it still run?"},
	{"audience in id token", token.Denied, "the aud of the subject token must be one of those that the provider allows: gcloud iam workload-identity-pools providers describe"},
	{"attribute condition", token.Denied, "the condition of the provider does not admit this subject: gcloud iam workload-identity-pools providers describe"},
	{"target service indicated", token.Denied, "the audience of the file names a pool or provider that is disabled, deleted or misspelt: gcloud iam workload-identity-pools providers describe"},
	{"has been deleted", token.Denied, "the service account was deleted"},
	{"serviceaccounts.getaccesstoken", token.Denied, "grant the caller roles/iam.serviceAccountTokenCreator on that account"},
	{"serviceaccounts.getopenidtoken", token.Denied, "grant the caller roles/iam.serviceAccountOpenIdTokenCreator on that account"},
	{"serviceaccounts.signjwt", token.Denied, "grant the caller roles/iam.serviceAccountTokenCreator on that account"},
	{"has not been used in project", token.Denied, "enable the API: gcloud services enable iamcredentials.googleapis.com"},
	{"disabled", token.Denied, "enable the service account with gcloud iam service-accounts enable"},
}

// failure says what is wrong with an answer by its status, or nil.
func (r *Reply) failure() *token.Error {
	if r.status/100 == 2 {
		return nil
	}
	code, description := r.oauthError()
	e := &token.Error{RetryAfter: retryAfter(r.Header)}
	var hint string
	class, known := errorKinds[code]
	switch {
	case r.status == http.StatusTooManyRequests:
		e.Kind = token.Throttled
	case r.status == http.StatusLoopDetected:
		e.Kind, hint = token.Misconfigured, "this is our own server: "+r.field+" leads in a circle"
	case r.status == http.StatusRequestTimeout || r.status >= 500:
		e.Kind = token.Unavailable
	case known:
		e.Kind = class
	case r.status == http.StatusUnauthorized || r.status == http.StatusForbidden:
		e.Kind = token.Denied
	case r.status/100 == 3:
		e.Kind, hint = token.Misconfigured, "redirects are not followed; set "+r.field+" to the final address"
	default:
		e.Kind, hint = token.Misconfigured, "is "+r.field+" the right address?"
	}
	if strings.Contains(description, "Gaia id not found") {
		hint = "there is no such service account; is its e-mail right?"
	}
	if e.Kind == token.Denied {
		for _, h := range hints {
			if strings.Contains(strings.ToLower(description), h.part) {
				e.Kind, hint = h.kind, h.hint
				break
			}
		}
	}
	if e.Kind == token.Clock {
		hint = clockHint(r.Header, time.Now())
	}

	var text strings.Builder
	fmt.Fprintf(&text, "%s: %d", r.From, r.status)
	for _, s := range []string{code, description} {
		if s != "" {
			text.WriteString(" " + Redact(r.hide.Replace(s)))
		}
	}
	if code == "" && r.webPage() {
		text.WriteString(" with a web page")
	}
	if hint != "" {
		text.WriteString(" (" + hint + ")")
	}
	e.Err = &Failure{Status: r.status, Code: Redact(r.hide.Replace(code)), Message: Redact(r.hide.Replace(description)), text: text.String()}
	return e
}

// A Failure is the answer of a service that refused. It is the cause of the
// *token.Error of a Mint.
type Failure struct {
	Status  int    // of HTTP
	Code    string // of OAuth or of Google's APIs: invalid_grant, PERMISSION_DENIED; may be empty
	Message string // of the service, without secrets; may be empty
	text    string
}

// Error says who answered what, and what can be done.
func (f *Failure) Error() string { return f.text }

// Said is the status in words and the message: "403 Forbidden: Permission …".
func (f *Failure) Said() string {
	said := fmt.Sprintf("%d %s", f.Status, http.StatusText(f.Status))
	if f.Message != "" {
		said += ": " + f.Message
	}
	return said
}

// oauthError returns the code and the text of an error in the form of RFC
// 6749 or of Google's APIs; both are empty if it has neither.
func (r *Reply) oauthError() (code, description string) {
	var body struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
		Subtype     string          `json:"error_subtype"`
	}
	if json.Unmarshal(r.Body, &body) != nil || json.Unmarshal(body.Error, &code) == nil {
		if !strings.Contains(body.Description, body.Subtype) {
			body.Description += " (" + body.Subtype + ")"
		}
		return code, body.Description
	}
	var api struct{ Status, Message string }
	if json.Unmarshal(body.Error, &api) != nil {
		return "", body.Description
	}
	return api.Status, api.Message
}

func (r *Reply) webPage() bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "text/html") || strings.HasPrefix(strings.TrimSpace(string(r.Body)), "<")
}

// clockHint compares our clock with the server's.
func clockHint(h http.Header, now time.Time) string {
	date, err := http.ParseTime(h.Get("Date"))
	skew := now.Sub(date).Round(time.Second)
	switch {
	case err != nil || skew.Abs() < 30*time.Second:
		return "the clock of this machine is wrong: set it"
	case skew > 0:
		return fmt.Sprintf("the clock of this machine is %v ahead of the server's: set it", skew)
	}
	return fmt.Sprintf("the clock of this machine is %v behind the server's: set it", -skew)
}

// AccessToken reads the answer to a request for an access token.
func (r *Reply) AccessToken() (token.Token, error) {
	var body struct {
		Value  string          `json:"access_token"`
		Type   string          `json:"token_type"`
		Expiry json.RawMessage `json:"expires_in"`
	}
	if err := r.decode(&body); err != nil {
		return token.Token{}, err
	}
	if err := CheckValue("access_token", body.Value); err != nil {
		return token.Token{}, err
	}
	if body.Type != "" && !strings.EqualFold(body.Type, "Bearer") {
		return token.Token{}, Malformed("the token_type is %.20q, not Bearer", Redact(body.Type))
	}
	// Some servers write the number as a string.
	seconds, err := strconv.ParseFloat(strings.Trim(string(body.Expiry), `"`), 64)
	if err != nil || !(seconds >= 1) {
		return token.Token{}, Malformed("the answer does not say for how many seconds the token is good (expires_in)")
	}
	life := maxLife
	if seconds < maxLife.Seconds() {
		life = time.Duration(seconds) * time.Second
	}
	// Round: by the wall clock, which goes on while a laptop sleeps.
	return token.Token{Value: body.Value, Expiry: r.sent.Add(life).Round(0)}, nil
}

// idToken reads the answer to a request for an ID token.
func (r *Reply) idToken() (token.Token, error) {
	var body struct {
		Value string `json:"id_token"`
	}
	if err := r.decode(&body); err != nil {
		return token.Token{}, err
	}
	if err := CheckValue("id_token", body.Value); err != nil {
		return token.Token{}, err
	}
	expiry, err := ExpiryOf(body.Value)
	if err != nil {
		return token.Token{}, Malformed("the id_token is no JWT: %w", err)
	}
	return r.Dated(body.Value, expiry, "ID token")
}

// Dated is a token whose expiry somebody else's clock says. The header Date is
// of that clock, too: by ours, which may be wrong, the token ends when it has
// lived for as long as they say.
func (r *Reply) Dated(value string, expiry time.Time, what string) (token.Token, error) {
	now := time.Now()
	if theirs, err := http.ParseTime(r.Header.Get("Date")); err == nil && now.Sub(theirs).Abs() > maxSkew {
		expiry = r.sent.Add(expiry.Sub(theirs)).Round(0)
	}
	return r.Until(value, expiry, what)
}

// Until is a token that ends then by any clock that is right.
func (r *Reply) Until(value string, expiry time.Time, what string) (token.Token, error) {
	now := time.Now()
	if !expiry.After(now) {
		return token.Token{}, &token.Error{Kind: token.Clock, Err: fmt.Errorf("the new %s has already expired (%s)", what, clockHint(r.Header, now))}
	}
	return token.Token{Value: value, Expiry: expiry}, nil
}

// maxSkew is by how much our clock may differ from that of a server before that
// is reported (section 6.2), and counts.
const maxSkew = time.Minute

func (r *Reply) decode(v any) error {
	err := json.Unmarshal(r.Body, v)
	var typ *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case r.webPage():
		return Malformed("the answer is a web page, not JSON; is a proxy or a login page in between?")
	case errors.As(err, &typ) && typ.Field != "": // its text could show the value
		return Malformed("the answer has a %s of the wrong type", typ.Field)
	}
	return Malformed("the answer is not a JSON object")
}

// CheckValue refuses what cannot be put into a header.
func CheckValue(name, value string) error {
	switch {
	case value == "":
		return Malformed("the answer has no %s", name)
	case len(value) > MaxValue:
		return Malformed("the %s is longer than %d characters", name, MaxValue)
	case strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }):
		return Malformed("the %s has characters that a token cannot have", name)
	}
	return nil
}

// Malformed is an answer that makes no sense. The next one may.
func Malformed(format string, args ...any) error {
	return &token.Error{Kind: token.Unavailable, Err: fmt.Errorf(format, args...)}
}

// About says in front of an error what it is about, and keeps its kind. An
// error without a kind is ours: a signer that does not sign.
func About(what string, err error) *token.Error { return about(what, err, token.Misconfigured) }

// fromOutside is About for the errors of what embedders provide: one without a
// kind may be gone the next time.
func fromOutside(what string, err error) *token.Error { return about(what, err, token.Unavailable) }

func about(what string, err error, kind token.Kind) *token.Error {
	told := &token.Error{Kind: kind, Err: fmt.Errorf("%s: %w", what, err)}
	if e, ok := errors.AsType[*token.Error](err); ok {
		told.Kind, told.RetryAfter, told.Text = e.Kind, e.RetryAfter, e.Text
		if err == error(e) { // without the name of its kind
			told.Err = fmt.Errorf("%s: %w", what, e.Err)
		}
	}
	return told
}
