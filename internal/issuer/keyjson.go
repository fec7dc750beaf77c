package issuer

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/url"
	"strings"
)

// AccountKeyJSON returns the key of a service account in the form in which
// Google gives it out, with a fake Google at base as its token endpoint.
func AccountKeyJSON(email string, private *rsa.PrivateKey, base string) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	id, err := keyID(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	_, domain, _ := strings.Cut(email, "@")
	project, _, _ := strings.Cut(domain, ".")
	return json.MarshalIndent(struct {
		Type     string `json:"type"`
		Project  string `json:"project_id"`
		KeyID    string `json:"private_key_id"`
		Key      string `json:"private_key"`
		Email    string `json:"client_email"`
		ID       string `json:"client_id"`
		Auth     string `json:"auth_uri"`
		Token    string `json:"token_uri"`
		Certs    string `json:"auth_provider_x509_cert_url"`
		X509     string `json:"client_x509_cert_url"`
		Universe string `json:"universe_domain"`
	}{
		"service_account", project, id, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), email, UniqueID(email),
		base + "/o/oauth2/auth", base + "/token", base + "/oauth2/v1/certs", base + "/robot/v1/metadata/x509/" + url.PathEscape(email), "googleapis.com",
	}, "", "  ")
}
