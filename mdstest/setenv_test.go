package mdstest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/gcemds/gcemds/mdstest"
)

// TestOtherCredentials: what gcloud left in the home directory is out of
// sight, and a home without it stays.
func TestOtherCredentials(t *testing.T) {
	for name, config := range map[string]string{"HOME": ".config", "APPDATA": ""} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv(name, home)
			mdstest.NewServer(t)
			if got := os.Getenv(name); got != home {
				t.Errorf("%s is %q after NewServer; there are no credentials in it, so it should be left alone", name, got)
			}
			dir := filepath.Join(home, config, "gcloud")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "application_default_credentials.json"), []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
			mdstest.NewServer(t)
			if got := os.Getenv(name); got == home {
				t.Errorf("%s is still %q, where client libraries find other credentials", name, got)
			}
		})
	}
}

// TestUnset: what must not be set is not, and comes back: Python takes an empty
// name for one of a file.
func TestUnset(t *testing.T) {
	const name = "GOOGLE_APPLICATION_CREDENTIALS"
	t.Setenv(name, "key.json")
	t.Run("with a server", func(t *testing.T) {
		mdstest.NewServer(t)
		if value, set := os.LookupEnv(name); set {
			t.Errorf("%s is %q after NewServer, want it unset", name, value)
		}
	})
	if got := os.Getenv(name); got != "key.json" {
		t.Errorf("%s is %q after the test, want key.json again", name, got)
	}
}
