package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"cloud.google.com/go/auth/credentials/idtoken"
	"cloud.google.com/go/compute/metadata"
	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"
)

const googleIssuer = "https://accounts.google.com"

// verifiers are the ways in which Go programs check an ID token, each with the
// keys of this server's issuer in the place of Google's. Those of other
// languages are in node and python.
func verifiers(t *testing.T, s *server) map[string]func(ctx context.Context, token, audience string) (map[string]any, error) {
	t.Helper()
	validator, err := idtoken.NewValidator(&idtoken.ValidatorOptions{RS256CertsURL: s.issuer + "/oauth2/v3/certs"})
	if err != nil {
		t.Fatal(err)
	}
	keys := oidc.NewRemoteKeySet(t.Context(), s.issuer+"/oauth2/v3/certs")
	certificates := map[string]string{}
	resp, err := http.Get(s.issuer + "/oauth2/v1/certs")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&certificates); err != nil {
		t.Fatal(err)
	}
	return map[string]func(context.Context, string, string) (map[string]any, error){
		"cloud.google.com/go/auth": func(ctx context.Context, token, audience string) (map[string]any, error) {
			payload, err := validator.Validate(ctx, token, audience)
			if err != nil {
				return nil, err
			}
			return payload.Claims, nil
		},
		"github.com/coreos/go-oidc/v3": func(ctx context.Context, token, audience string) (claims map[string]any, err error) {
			id, err := oidc.NewVerifier(googleIssuer, keys, &oidc.Config{ClientID: audience}).Verify(ctx, token)
			if err != nil {
				return nil, err
			}
			return claims, id.Claims(&claims)
		},
		"github.com/golang-jwt/jwt/v5": func(_ context.Context, token, audience string) (map[string]any, error) {
			claims := jwt.MapClaims{}
			_, err := jwt.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
				kid, _ := t.Header["kid"].(string)
				if certificates[kid] == "" {
					return nil, errors.New("no certificate for the key " + kid)
				}
				return jwt.ParseRSAPublicKeyFromPEM([]byte(certificates[kid]))
			}, jwt.WithValidMethods([]string{"RS256"}), jwt.WithIssuer(googleIssuer), jwt.WithAudience(audience),
				jwt.WithIssuedAt(), jwt.WithExpirationRequired())
			return claims, err
		},
	}
}

// An idTokenFormat is what a workload may ask of an ID token.
type idTokenFormat struct {
	query                string
	vm, licenses, mailed bool // what the token says then
}

var idTokenFormats = map[string]idTokenFormat{
	"standard":           {"", false, false, false},
	"full":               {"&format=full", true, false, true},
	"full with licences": {"&format=full&licenses=TRUE", true, true, true},
}

// TestVerifiers: what a service that is called with an ID token makes of it.
func TestVerifiers(t *testing.T) {
	s := serve(t)
	s.setenv(t)
	for module, verify := range verifiers(t, s) {
		logModule(t, module)
		for name, format := range idTokenFormats {
			token, err := metadata.GetWithContext(t.Context(),
				"instance/service-accounts/default/identity?audience="+url.QueryEscape(audience)+format.query)
			if err != nil {
				t.Fatal(err)
			}
			claims, err := verify(t.Context(), token, audience)
			if err != nil {
				t.Errorf("%s: the ID token (%s) does not verify with the keys of the issuer: %v", module, name, err)
				continue
			}
			checkClaims(t, module+", "+name, claims, format)

			if _, err := verify(t.Context(), token, "https://other.example.com"); err == nil || !strings.Contains(err.Error(), "aud") {
				t.Errorf("%s: verified (%s) for another audience: %v; want an error about the audience", module, name, err)
			}
			// The same claims under the signature of another token.
			other, err := metadata.GetWithContext(t.Context(), "instance/service-accounts/default/identity?audience=other")
			if err != nil {
				t.Fatal(err)
			}
			forged := token[:strings.LastIndex(token, ".")] + other[strings.LastIndex(other, "."):]
			if _, err := verify(t.Context(), forged, audience); err == nil {
				t.Errorf("%s: a token (%s) with a wrong signature verifies", module, name)
			}
		}
	}
}

func checkClaims(t *testing.T, what string, claims map[string]any, format idTokenFormat) {
	t.Helper()
	if sub, _ := claims["sub"].(string); claims["iss"] != googleIssuer || sub == "" || sub != claims["azp"] {
		t.Errorf("%s: iss %v, sub %v, azp %v; want Google's issuer and the same id twice", what, claims["iss"], sub, claims["azp"])
	}
	account := document.Instance.ServiceAccounts["default"].Email
	if got := claims["email"] == account && claims["email_verified"] == true; got != format.mailed {
		t.Errorf("%s: email %v, verified %v; want %s there: %v", what, claims["email"], claims["email_verified"], account, format.mailed)
	}
	google, _ := claims["google"].(map[string]any)
	vm, _ := google["compute_engine"].(map[string]any)
	_, zone, _ := strings.Cut(document.Instance.Zone, "/zones/")
	if got := vm["instance_name"] == document.Instance.Name && vm["instance_id"] == document.Instance.ID.String() &&
		vm["project_id"] == document.Project.ProjectID && vm["zone"] == zone; got != format.vm {
		t.Errorf("%s: claims of the VM = %v; want them there: %v", what, vm, format.vm)
	}
	licenses, _ := vm["license_id"].([]any)
	if got := len(licenses) == 1 && licenses[0] == document.Instance.Licenses[0].ID.String(); got != format.licenses {
		t.Errorf("%s: claims of the VM = %v; want licences there: %v", what, vm, format.licenses)
	}
}
