package issuer

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A subject is who a subject token says that it is, and until when it does.
type subject struct {
	name   string
	expiry time.Time // zero: it does not say
}

// subjectTypes are the kinds of subject tokens and who reads them.
var subjectTypes = map[string]func(*Issuer, *http.Request, *Provider, string) (subject, error){
	"urn:ietf:params:oauth:token-type:jwt":        (*Issuer).subjectJWT,
	"urn:ietf:params:oauth:token-type:id_token":   (*Issuer).subjectJWT,
	"urn:ietf:params:oauth:token-type:saml2":      (*Issuer).subjectSAML,
	"urn:ietf:params:oauth:token-type:mtls":       (*Issuer).subjectCertificate,
	"urn:ietf:params:aws:token-type:aws4_request": (*Issuer).subjectAWS,
}

const (
	subjectSkew = time.Minute    // measured at the real service
	subjectAge  = 24 * time.Hour // of iat, at most
)

// subjectJWT reads a token of an OIDC provider. The errors, and the order of
// the checks, are those of the real service as far as they are known.
func (i *Issuer) subjectJWT(_ *http.Request, p *Provider, value string) (subject, error) {
	var c struct {
		Issuer   any         `json:"iss"`
		Subject  string      `json:"sub"`
		Audience any         `json:"aud"`
		Issued   json.Number `json:"iat"`
		Expiry   json.Number `json:"exp"`
	}
	j, err := parseJWT(value)
	if err != nil || decodeJSON(j.claims, &c) != nil {
		return subject{}, bad("invalid_request", "Invalid value for \"subject_token\": it is not a JSON Web Token")
	}
	if p.Issuer == "" || c.Issuer != p.Issuer {
		return subject{}, bad("invalid_grant", "The issuer in ID Token %.200v does not match the expected one in config", orNull(c.Issuer))
	}
	if !slices.ContainsFunc(p.Keys, func(k PublicKey) bool { return k.ID == "" || k.ID == j.head.Kid }) {
		return subject{}, bad("invalid_grant", "Error connecting to the given credential's issuer.")
	}
	if !slices.ContainsFunc(p.Keys, func(k PublicKey) bool { return k.signed(j) }) {
		return subject{}, bad("invalid_grant", "Unable to verify the ID Token signature.")
	}
	audiences := stringsOf(c.Audience)
	if !slices.ContainsFunc(audiences, func(a string) bool { return slices.Contains(p.audiences(), a) }) {
		return subject{}, bad("invalid_grant", "The audience in ID Token [%.200s] does not match the expected audience.", strings.Join(audiences, ", "))
	}
	issued, expiry, ok := times(c.Issued, c.Expiry)
	now := i.now()
	if !ok || issued.After(now.Add(subjectSkew)) || issued.Before(now.Add(-subjectAge)) || expiry.Add(subjectSkew).Before(now) {
		return subject{}, bad("invalid_grant", "ID Token issued at %.20s is stale to sign-in.", orNull(c.Issued.String()))
	}
	return subject{c.Subject, expiry}, nil
}

func orNull(v any) any {
	if v == nil || v == "" {
		return "null"
	}
	return v
}

// stringsOf is a claim that is a string or a list of them.
func stringsOf(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var list []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				list = append(list, s)
			}
		}
		return list
	}
	return nil
}

// subjectSAML recognises the assertions that were given to the directory.
func (i *Issuer) subjectSAML(_ *http.Request, p *Provider, value string) (subject, error) {
	for known, name := range p.SAML {
		if same(known, value) {
			return subject{name: name}, nil
		}
	}
	return subject{}, bad("invalid_grant", "Unable to verify the SAML assertion.")
}

// subjectCertificate reads the certificate of a workload, which must be that
// of the connection: base64 DER in a list, the leaf first.
func (i *Issuer) subjectCertificate(r *http.Request, p *Provider, value string) (subject, error) {
	none := func(what string) (subject, error) {
		return subject{}, bad("invalid_grant", "Unable to verify the client certificate: %s.", what)
	}
	var list [][]byte // encoding/json reads base64
	if json.Unmarshal([]byte(value), &list) != nil || len(list) == 0 {
		return subject{}, bad("invalid_request", "Invalid value for \"subject_token\": it is not a list of certificates")
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return none("the connection has none")
	}
	leaf := r.TLS.PeerCertificates[0]
	if string(leaf.Raw) != string(list[0]) {
		return none("it is not that of the connection")
	}
	if p.Roots == nil {
		return none("the provider trusts none")
	}
	between := x509.NewCertPool()
	for _, der := range list[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return none("the chain is damaged")
		}
		between.AddCert(cert)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: p.Roots, Intermediates: between, CurrentTime: i.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return none("it does not lead to the trust anchors of the provider")
	}
	return subject{leaf.Subject.CommonName, leaf.NotAfter}, nil
}

// subjectAWS reads a signed request for GetCallerIdentity. The real service
// sends it to Amazon; here the signature is checked with the keys of the
// directory.
func (i *Issuer) subjectAWS(_ *http.Request, p *Provider, value string) (subject, error) {
	none := func(format string, args ...any) (subject, error) {
		return subject{}, bad("invalid_grant", "Unable to verify the AWS request: "+format+".", args...)
	}
	text, err := url.QueryUnescape(value)
	var req struct {
		URL, Method string
		Headers     []struct{ Key, Value string }
	}
	if err != nil || json.Unmarshal([]byte(text), &req) != nil {
		return subject{}, bad("invalid_request", "Invalid value for \"subject_token\": it is not a serialized request")
	}
	headers := map[string]string{}
	for _, h := range req.Headers {
		name := strings.ToLower(h.Key)
		if _, twice := headers[name]; twice {
			return none("header %.40q is there twice", name)
		}
		headers[name] = strings.Join(strings.Fields(h.Value), " ")
	}
	u, err := url.Parse(req.URL)
	if err != nil || u.Scheme != "https" || u.Host != headers["host"] || !strings.HasPrefix(u.Host, "sts.") ||
		!(strings.HasSuffix(u.Host, ".amazonaws.com") || strings.HasSuffix(u.Host, ".amazonaws.com.cn")) ||
		req.Method != http.MethodPost || u.Query().Get("Action") != "GetCallerIdentity" {
		return none("it is not a POST of GetCallerIdentity to the STS of AWS")
	}
	if headers["x-goog-cloud-target-resource"] != p.Audience {
		return none("it is for another audience")
	}
	date, err := time.Parse("20060102T150405Z", headers["x-amz-date"])
	if age := i.now().Sub(date); err != nil || age.Abs() > 15*time.Minute { // AWS allows that much
		return none("its x-amz-date is not now")
	}

	// Signature Version 4.
	fields, ok := strings.CutPrefix(headers["authorization"], "AWS4-HMAC-SHA256 ")
	part := map[string]string{}
	for _, f := range strings.Split(fields, ",") {
		name, v, _ := strings.Cut(strings.TrimSpace(f), "=")
		part[name] = v
	}
	scope := strings.Split(part["Credential"], "/") // id, day, region, service, aws4_request
	if !ok || len(scope) != 5 || scope[1] != date.Format("20060102") || scope[4] != "aws4_request" {
		return none("it has no signature of version 4")
	}
	n := slices.IndexFunc(p.AWS, func(k AWSKey) bool { return k.ID == scope[0] })
	if n < 0 {
		return none("the access key is not known")
	}
	key := p.AWS[n]
	if !same(key.Token, headers["x-amz-security-token"]) {
		return none("the session token is not that of the key")
	}
	names := strings.Split(part["SignedHeaders"], ";")
	for _, must := range []string{"host", "x-amz-date", "x-goog-cloud-target-resource"} {
		if !slices.Contains(names, must) {
			return none("header %s is not signed", must)
		}
	}
	var canonical strings.Builder
	fmt.Fprintf(&canonical, "POST\n%s\n%s\n", "/"+strings.TrimPrefix(u.EscapedPath(), "/"), strings.ReplaceAll(u.Query().Encode(), "+", "%20"))
	for _, name := range names {
		fmt.Fprintf(&canonical, "%s:%s\n", name, headers[name])
	}
	fmt.Fprintf(&canonical, "\n%s\n%s", part["SignedHeaders"], hashHex("")) // the body is empty
	toSign := strings.Join([]string{"AWS4-HMAC-SHA256", headers["x-amz-date"], strings.Join(scope[1:], "/"), hashHex(canonical.String())}, "\n")
	secret := []byte("AWS4" + key.Secret)
	for _, s := range append(scope[1:len(scope):len(scope)], toSign) {
		h := hmac.New(sha256.New, secret)
		h.Write([]byte(s))
		secret = h.Sum(nil)
	}
	if !hmac.Equal([]byte(hex.EncodeToString(secret)), []byte(part["Signature"])) {
		return none("the signature does not match")
	}
	return subject{name: key.ARN}, nil
}

func hashHex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
