package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
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
	logModule(t, "golang.org/x/oauth2")

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

// checkToken looks at a token, and asks the issuer about it.
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

// checkTokenInfo asks the issuer whose token it is and what it is good for.
func checkTokenInfo(t *testing.T, s *server, token string) {
	t.Helper()
	resp, err := http.Get(s.issuer + "/tokeninfo?access_token=" + url.QueryEscape(token))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var info struct{ Azp, Scope string }
	if err := json.NewDecoder(resp.Body).Decode(&info); err != nil {
		t.Fatalf("the issuer answers %s: %v", resp.Status, err)
	}
	if resp.StatusCode != http.StatusOK || len(info.Azp) != 21 || info.Scope != cloudPlatform {
		t.Errorf("the issuer says of the token: %s, azp %q, scope %q; want 21 digits and the scope %s", resp.Status, info.Azp, info.Scope, cloudPlatform)
	}
}

func TestAuth(t *testing.T) {
	s := serve(t)
	s.setenv(t)
	logModule(t, "cloud.google.com/go/auth")

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

	for name, format := range map[string]idtoken.ComputeTokenFormat{
		"standard":           idtoken.ComputeTokenFormatStandard,
		"full":               idtoken.ComputeTokenFormatFull,
		"full with licences": idtoken.ComputeTokenFormatFullWithLicense,
	} {
		t.Run("ID token "+name, func(t *testing.T) {
			creds, err := idtoken.NewCredentials(&idtoken.Options{Audience: audience, ComputeTokenFormat: format})
			if err != nil {
				t.Fatal(err)
			}
			tok, err := creds.Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			claims, err := verifiers(t, s)["cloud.google.com/go/auth"](t.Context(), tok.Value, audience)
			if err != nil {
				t.Fatalf("the ID token does not verify with the keys of the issuer: %v", err)
			}
			checkClaims(t, name, claims, idTokenFormats[name])
			if left := time.Until(tok.Expiry); left < 225*time.Second || left > time.Hour {
				t.Errorf("the ID token expires in %v, want 225 s to 1 h", left)
			}
		})
	}
}
