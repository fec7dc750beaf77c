package credential

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// minSecret is less than any secret access key has. Shorter ones, FIPS 140
// forbids for an HMAC.
const minSecret = 16

// An aws proves who we are by a request to AWS that is signed and not sent:
// GetCallerIdentity. Google sends it (section 3.3).
type aws struct {
	region, credentials, session string // addresses of the instance metadata; may be empty
	verification                 string // with {region}
	audience                     string
	client                       *exchange.Client
}

func newAWS(s credentialSource, audience string, allow bool, c *exchange.Client) (*aws, error) {
	if s.EnvironmentID != "aws1" {
		return nil, fmt.Errorf("environment_id is %.20q, only aws1 is known", s.EnvironmentID)
	}
	u, err := url.Parse(strings.ReplaceAll(s.VerificationURL, "{region}", "region"))
	if err != nil || u.Scheme != "https" || u.Query().Get("Action") != "GetCallerIdentity" {
		return nil, errors.New("regional_cred_verification_url is not a request for GetCallerIdentity by https")
	}
	for field, address := range map[string]string{"region_url": s.RegionURL, "url": s.URL, "imdsv2_session_token_url": s.SessionTokenURL} {
		if address == "" {
			continue
		}
		if err := exchange.CheckEndpoint(strings.Replace(address, "http://", "https://", 1)); err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		if u, _ := url.Parse(address); !allow && !onLink(u.Hostname()) {
			return nil, fmt.Errorf("%s leads to %s, which is not the instance metadata of AWS; if that is meant, say allow_custom_endpoints: true", field, u.Hostname())
		}
	}
	return &aws{s.RegionURL, s.URL, s.SessionTokenURL, s.VerificationURL, audience, c}, nil
}

// subject returns the signed request, encoded as Google wants it.
func (a *aws) subject(ctx context.Context) (string, error) {
	im := &imds{aws: a}
	region, err := im.findRegion(ctx)
	if err != nil {
		return "", err
	}
	keys, err := im.findKeys(ctx)
	if err != nil {
		return "", err
	}
	if len(keys.Secret) < minSecret {
		return "", &token.Error{Kind: token.Misconfigured, Err: errors.New("the secret access key is too short to be one; is AWS_SECRET_ACCESS_KEY complete?")}
	}
	u, err := url.Parse(strings.ReplaceAll(a.verification, "{region}", region))
	if err != nil {
		return "", errors.New("regional_cred_verification_url is no address")
	}
	headers := map[string]string{"x-goog-cloud-target-resource": a.audience}
	keys.sign(u, region, headers, time.Now())

	type header struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	request := struct {
		URL     string   `json:"url"`
		Method  string   `json:"method"`
		Headers []header `json:"headers"`
	}{URL: u.String(), Method: "POST"}
	for _, key := range slices.Sorted(maps.Keys(headers)) {
		request.Headers = append(request.Headers, header{http.CanonicalHeaderKey(key), headers[key]})
	}
	data, err := json.Marshal(request)
	return url.QueryEscape(string(data)), err
}

// imds asks the instance metadata of AWS, for one subject.
type imds struct {
	*aws
	token string // of the session, when there is one
}

func (m *imds) get(ctx context.Context, field, address string) (string, error) {
	if address == "" {
		return "", &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("the environment does not say, and %s is missing", field)}
	}
	if m.session != "" && m.token == "" {
		r, err := m.client.Do(ctx, exchange.Call{
			What: "AWS instance metadata", Method: "PUT", Address: m.session, Field: "imdsv2_session_token_url", Near: true,
			Header: map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "300"},
		})
		if err != nil {
			return "", err
		}
		m.token = strings.TrimSpace(string(r.Body))
	}
	c := exchange.Call{What: "AWS instance metadata", Address: address, Field: field, Near: true}
	if m.token != "" {
		c.Header = map[string]string{"X-aws-ec2-metadata-token": m.token}
	}
	r, err := m.client.Do(ctx, c)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(r.Body)), nil
}

func (m *imds) findRegion(ctx context.Context) (string, error) {
	region := cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
	if region == "" {
		zone, err := m.get(ctx, "region_url", m.region)
		if err != nil {
			return "", exchange.About("region (AWS_REGION is not set)", err)
		}
		region = zone[:max(0, len(zone)-1)] // us-east-2b is in us-east-2
	}
	if region == "" || len(region) > 64 || strings.ContainsFunc(region, func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-')
	}) {
		return "", &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("%.64q is no region of AWS", exchange.Redact(region))}
	}
	return region, nil
}

// awsKeys are the credentials of a role or a user.
type awsKeys struct {
	ID      string `json:"AccessKeyId"`
	Secret  string `json:"SecretAccessKey"`
	Session string `json:"Token"` // empty for those of a user
}

func (m *imds) findKeys(ctx context.Context) (awsKeys, error) {
	keys := awsKeys{os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), os.Getenv("AWS_SESSION_TOKEN")}
	if keys.ID != "" && keys.Secret != "" {
		return keys, nil
	}
	const unset = "keys (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set)"
	role, err := m.get(ctx, "url", m.credentials)
	if err != nil {
		return keys, exchange.About(unset, err)
	}
	role, _, _ = strings.Cut(role, "\n")
	if role == "" || len(role) > 128 {
		return keys, &token.Error{Kind: token.Misconfigured, Err: errors.New("the instance has no role; attach one")}
	}
	data, err := m.get(ctx, "url", strings.TrimSuffix(m.credentials, "/")+"/"+url.PathEscape(role))
	if err != nil {
		return keys, exchange.About(unset, err)
	}
	keys = awsKeys{}
	if json.Unmarshal([]byte(data), &keys) != nil || keys.ID == "" || keys.Secret == "" {
		return keys, &token.Error{Kind: token.Unavailable, Err: errors.New("the instance metadata of AWS has no keys for the role")}
	}
	return keys, nil
}

// sign adds to the headers of an empty POST what makes it one of ours, by
// version 4 of AWS's signatures.
func (k awsKeys) sign(u *url.URL, region string, headers map[string]string, now time.Time) {
	service, _, _ := strings.Cut(u.Hostname(), ".")
	service = strings.TrimSuffix(service, "-fips")
	stamp := now.UTC().Format("20060102T150405Z")
	scope := strings.Join([]string{stamp[:8], region, service, "aws4_request"}, "/")

	headers["host"], headers["x-amz-date"] = u.Host, stamp
	if k.Session != "" {
		headers["x-amz-security-token"] = k.Session
	}
	names := slices.Sorted(maps.Keys(headers))
	var lines strings.Builder
	for _, name := range names {
		lines.WriteString(name + ":" + strings.TrimSpace(headers[name]) + "\n")
	}
	signed := strings.Join(names, ";")
	canonical := strings.Join([]string{
		"POST", cmp.Or(u.EscapedPath(), "/"), strings.ReplaceAll(u.Query().Encode(), "+", "%20"),
		lines.String(), signed, hexHash(""),
	}, "\n")

	key := []byte("AWS4" + k.Secret)
	for _, part := range strings.Split(scope, "/") {
		key = hmacOf(key, part)
	}
	signature := hex.EncodeToString(hmacOf(key, strings.Join([]string{"AWS4-HMAC-SHA256", stamp, scope, hexHash(canonical)}, "\n")))
	headers["authorization"] = fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", k.ID, scope, signed, signature)
}

func hmacOf(key []byte, data string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(data))
	return h.Sum(nil)
}

func hexHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
