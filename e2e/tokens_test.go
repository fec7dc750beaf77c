package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/auth/credentials/idtoken"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
)

const (
	cloudPlatform = "https://www.googleapis.com/auth/cloud-platform"
	audience      = "https://service.example.com/?a=b&c=d e"
)

func TestOAuth2(t *testing.T) {
	s := serve(t)
	s.setenv(t)

	t.Run("ComputeTokenSource", func(t *testing.T) {
		for _, account := range []string{"", "default", document.Instance.ServiceAccounts["default"].Email} {
			tok, err := google.ComputeTokenSource(account, cloudPlatform).Token()
			if err != nil {
				t.Fatalf("token of account %q: %v", account, err)
			}
			checkToken(t, s, tok)
		}
		if tok, err := google.ComputeTokenSource("nobody@example.com").Token(); err == nil {
			t.Errorf("token of an unknown account: %v, want an error", tok.Type())
		}
	})

	t.Run("FindDefaultCredentials", func(t *testing.T) {
		c, err := google.FindDefaultCredentials(t.Context(), cloudPlatform)
		if err != nil {
			t.Fatal(err)
		}
		if c.ProjectID != document.Project.ProjectID {
			t.Errorf("ProjectID = %q, want %q", c.ProjectID, document.Project.ProjectID)
		}
		if got, err := c.GetUniverseDomain(); err != nil || got != "googleapis.com" {
			t.Errorf("GetUniverseDomain() = %q, %v; want googleapis.com", got, err)
		}
		tok, err := c.TokenSource.Token()
		if err != nil {
			t.Fatal(err)
		}
		checkToken(t, s, tok)
	})
}

// checkToken asks the issuer whose token it is.
func checkToken(t *testing.T, s *server, tok *oauth2.Token) {
	t.Helper()
	if !tok.Valid() || tok.Type() != "Bearer" {
		t.Errorf("the token is of type %s and valid: %v; want a valid Bearer token", tok.Type(), tok.Valid())
	}
	if left := time.Until(tok.Expiry); left < 225*time.Second || left > time.Hour {
		t.Errorf("the token expires in %v, want 225 s to 1 h", left)
	}
	checkTokenInfo(t, s, tok.AccessToken)
}

func checkTokenInfo(t *testing.T, s *server, token string) {
	t.Helper()
	resp, err := http.Get(s.issuer + "/tokeninfo?access_token=" + token)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the issuer does not know the token: %s", resp.Status)
	}
}

func TestAuth(t *testing.T) {
	s := serve(t)
	s.setenv(t)
	account := document.Instance.ServiceAccounts["default"].Email

	t.Run("DetectDefault", func(t *testing.T) {
		c, err := credentials.DetectDefault(&credentials.DetectOptions{Scopes: []string{cloudPlatform}})
		if err != nil {
			t.Fatal(err)
		}
		tok, err := c.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if tok.Type != "Bearer" || time.Until(tok.Expiry) < 225*time.Second {
			t.Errorf("token of type %s, expires %v; want a Bearer token for more than 225 s", tok.Type, tok.Expiry)
		}
		checkTokenInfo(t, s, tok.Value)
		if got, err := c.ProjectID(t.Context()); err != nil || got != document.Project.ProjectID {
			t.Errorf("ProjectID() = %q, %v; want %q", got, err, document.Project.ProjectID)
		}
		if got, err := c.UniverseDomain(t.Context()); err != nil || got != "googleapis.com" {
			t.Errorf("UniverseDomain() = %q, %v; want googleapis.com", got, err)
		}
	})

	verifier, err := idtoken.NewValidator(&idtoken.ValidatorOptions{RS256CertsURL: s.issuer + "/oauth2/v3/certs"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		format               idtoken.ComputeTokenFormat
		vm, licenses, mailed bool
	}{
		"standard":           {idtoken.ComputeTokenFormatStandard, false, false, false},
		"full":               {idtoken.ComputeTokenFormatFull, true, false, true},
		"full with licences": {idtoken.ComputeTokenFormatFullWithLicense, true, true, true},
	} {
		t.Run("ID token "+name, func(t *testing.T) {
			creds, err := idtoken.NewCredentials(&idtoken.Options{Audience: audience, ComputeTokenFormat: c.format})
			if err != nil {
				t.Fatal(err)
			}
			tok, err := creds.Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			payload, err := verifier.Validate(t.Context(), tok.Value, audience)
			if err != nil {
				t.Fatalf("the ID token does not verify with the keys of the issuer: %v", err)
			}
			if payload.Issuer != "https://accounts.google.com" || payload.Subject == "" || payload.Subject != payload.Claims["azp"] {
				t.Errorf("iss %q, sub %q, azp %v; want Google's issuer and the same id twice", payload.Issuer, payload.Subject, payload.Claims["azp"])
			}
			if got := payload.Claims["email"] == account; got != c.mailed {
				t.Errorf("email = %v; want %s there: %v", payload.Claims["email"], account, c.mailed)
			}
			google, _ := payload.Claims["google"].(map[string]any)
			vm, _ := google["compute_engine"].(map[string]any)
			if got := vm["instance_name"] == document.Instance.Name && vm["instance_id"] == document.Instance.ID.String() &&
				vm["project_id"] == document.Project.ProjectID; got != c.vm {
				t.Errorf("claims of the VM = %v; want them there: %v", vm, c.vm)
			}
			if _, got := vm["license_id"]; got != c.licenses {
				t.Errorf("claims of the VM = %v; want licences there: %v", vm, c.licenses)
			}
			if _, err := verifier.Validate(t.Context(), tok.Value, "https://other.example.com"); err == nil || !strings.Contains(err.Error(), "audience") {
				t.Errorf("verified for another audience: %v; want an error about the audience", err)
			}
		})
	}
}
