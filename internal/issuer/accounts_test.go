package issuer

import (
	"crypto/ed25519"
	"strings"
	"testing"
)

// TestSetDirectory: a wrong directory is refused with all that is wrong, and
// changes nothing.
func TestSetDirectory(t *testing.T) {
	i := fake(t, robotKey())
	for want, d := range map[string]Directory{
		"an account has no e-mail":             {Accounts: []Account{{}}},
		"account " + robot + " is there twice": {Accounts: []Account{{Email: robot}, {Email: robot}}},
		`role "roles/owner" is not one of roles/iam.serviceAccountOpenIdTokenCreator, `: {Accounts: []Account{{Email: robot, Grants: map[string][]string{"roles/owner": nil}}}},
		"neither RSA nor EC":             {Accounts: []Account{{Email: robot, Keys: []PublicKey{{Key: ed25519.PublicKey{}}}}}},
		"user 1 needs a client id":       {Users: []User{{Email: person}}},
		"user 2 needs either":            {Users: []User{logins().Users[0], {ClientID: "a", ClientSecret: "b", RefreshToken: "c"}}},
		"an audience begins with":        {Providers: []Provider{{Audience: "https:" + oidc}}},
		"provider " + oidc + " is there": {Providers: []Provider{{Audience: oidc}, {Audience: oidc}}},
		"an issuer needs keys":           {Providers: []Provider{{Audience: oidc, Issuer: idp}}},
		"keys need an issuer":            {Providers: []Provider{{Audience: oidc, Keys: []PublicKey{{Key: &testEC().PublicKey}}}}},
		"an AWS key needs":               {Providers: []Provider{{Audience: oidc, AWS: []AWSKey{{ID: "a", Secret: "b"}}}}},
	} {
		if err := i.SetDirectory(d); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("SetDirectory = %v, want an error with %q", err, want)
		}
		if _, err := New(Options{Directory: &d}); err == nil {
			t.Errorf("New with a directory that is wrong (%s) = nil", want)
		}
	}
	if resp, _ := ask(t, i, form("/token", bearerForm(sign(t, testKeys()[1], "key-1", claims(nil))))); resp.StatusCode != 200 {
		t.Errorf("after wrong directories an assertion gets %d, want 200", resp.StatusCode)
	}
	if err := i.SetDirectory(Directory{}); err != nil {
		t.Fatal(err)
	}
	checkRefusal(t, "removed", i, form("/token", bearerForm(sign(t, testKeys()[1], "key-1", claims(nil)))), 400, "invalid_grant", "account not found")
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		named, member string
		want          bool
	}{
		{"user:a", "user:a", true},
		{"user:a", "serviceAccount:a", false},
		{"principalSet:" + pool + "/*", "principal:" + pool + "/subject/x", true},
		{"principalSet:" + pool + "/*", "principal:" + pool + "2/subject/x", false},
		{"principalSet:" + pool, "principal:" + pool + "/subject/x", false},
		{"principalSet:" + pool + "/*", "user:" + pool, false},
	} {
		if got := covers(c.named, c.member); got != c.want {
			t.Errorf("covers(%q, %q) = %v, want %v", c.named, c.member, got, c.want)
		}
	}
}
