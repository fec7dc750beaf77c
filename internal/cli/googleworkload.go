package cli

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/gcemds/gcemds/internal/issuer"
)

const (
	workloadPath    = "/demo/subject-token"
	workloadPool    = "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/demo"
	workloadSubject = "demo-workload"
)

// A googleWorkload is an identity provider, and one workload of it: what a
// person has who wants to try federation and has neither. As a handler it
// gives the workload its subject token, for a secret that is in the file.
type googleWorkload struct {
	key      *rsa.PrivateKey
	provider issuer.Provider
	member   string // the workload, in an IAM policy
	file     []byte // its external_account configuration
	secret   string
}

// newGoogleWorkload makes one for a fake Google at base, that acts as an
// account.
func newGoogleWorkload(base, account string) (*googleWorkload, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	w := &googleWorkload{
		key:      key,
		provider: issuer.Provider{Audience: workloadPool + "/providers/demo", Issuer: base + "/demo", Keys: []issuer.PublicKey{{Key: &key.PublicKey}}},
		member:   "principal:" + workloadPool + "/subject/" + workloadSubject,
		secret:   rand.Text(),
	}
	type source struct {
		URL     string            `json:"url"`
		Headers map[string]string `json:"headers"`
	}
	w.file, err = json.MarshalIndent(struct {
		Type        string `json:"type"`
		Audience    string `json:"audience"`
		SubjectType string `json:"subject_token_type"`
		Token       string `json:"token_url"`
		Impersonate string `json:"service_account_impersonation_url"`
		Source      source `json:"credential_source"`
	}{
		"external_account", w.provider.Audience, "urn:ietf:params:oauth:token-type:jwt", base + "/v1/token",
		base + "/v1/projects/-/serviceAccounts/" + url.PathEscape(account) + ":generateAccessToken",
		source{base + workloadPath, map[string]string{"Authorization": "Bearer " + w.secret}},
	}, "", "  ")
	return w, err
}

func (w *googleWorkload) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+w.secret)) != 1 {
		http.Error(out, "this token is for the demo workload; its file has the secret", http.StatusUnauthorized)
		return
	}
	now := time.Now()
	token, err := issuer.SignJWT(w.key, "", map[string]any{
		"iss": w.provider.Issuer, "sub": workloadSubject, "aud": w.provider.Audience,
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	if err != nil {
		http.Error(out, "cannot sign a token", http.StatusInternalServerError)
		return
	}
	out.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(out, token)
}
