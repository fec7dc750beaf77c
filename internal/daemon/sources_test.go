package daemon

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/credential"
	"github.com/gcemds/gcemds/internal/token"
)

// A hook is a log that does something at a message.
type hook func(message string)

func (h hook) Enabled(context.Context, slog.Level) bool { return true }
func (h hook) Handle(_ context.Context, r slog.Record) error {
	h(r.Message)
	return nil
}
func (h hook) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h hook) WithGroup(string) slog.Handler      { return h }

// TestKeyReplacedWhileOpened: tokens of a key are never kept under the name of
// the key that came while it was opened.
func TestKeyReplacedWhileOpened(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sa.json")
	write := func(email string) {
		data, err := json.Marshal(map[string]string{
			"type": "service_account", "project_id": "p", "private_key_id": "k", "client_email": email, "client_id": "1",
			"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		})
		if err == nil {
			err = os.WriteFile(file, data, 0o600)
		}
		if err != nil {
			t.Error(err)
		}
	}
	write("old@p.iam.gserviceaccount.com")
	loaded, forever := 0, false
	log := slog.New(hook(func(message string) {
		if message == "service account key loaded" {
			if loaded++; loaded == 1 || forever {
				write(fmt.Sprintf("new%d@p.iam.gserviceaccount.com", loaded))
			}
		}
	}))
	d := &Daemon{log: log, cache: token.NewCache(token.Limits{}), env: credential.Env{Log: log}}
	defer d.cache.Close()
	c := &config.Config{Sources: map[string]credential.Config{"k": {KeyFile: &credential.KeyFile{File: file}}}}
	o, err := d.sources(t.Context(), c).open("k", "")
	if err != nil || o.identity.Email != "new1@p.iam.gserviceaccount.com" || loaded != 2 {
		t.Errorf("a key that is replaced while it is opened: %+v, %v after %d times, want the new one at the second", o, err, loaded)
	}
	forever = true
	if o, err := d.sources(t.Context(), c).open("k", ""); err == nil {
		t.Errorf("a key that is replaced each time it is opened is %+v, want an error", o)
	}
}

// TestSignerForOthersIsKept: the key with which another source proves who it
// is stays over reloads, and with it what it knows of wrong passwords.
func TestSignerForOthersIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &Daemon{}
	c := &config.Config{Sources: map[string]credential.Config{"chip": {TPM: &credential.TPM{
		ServiceAccount: credential.ServiceAccount{Email: "robot@p.iam.gserviceaccount.com"},
		TPMKey:         credential.TPMKey{Device: "unix:" + filepath.Join(dir, "none"), Handle: "0x81010002", KeyPassword: credential.Secret("file:" + password)},
	}}}}
	first := d.sources(t.Context(), c)
	var key crypto.Signer = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	first.signers["chip"] = signer{key, first.origin(c.Sources["chip"])}
	d.opened = first

	next := d.sources(t.Context(), c)
	if kept, err := next.signer("chip", next.env); err != nil || !key.(ed25519.PrivateKey).Equal(kept.Signer) || next.signers["chip"].Signer == nil {
		t.Errorf("after a reload of the same the signer is %v, %v, want the one before", kept, err)
	}
	if err := os.WriteFile(password, []byte("2"), 0o600); err != nil {
		t.Fatal(err)
	}
	changed := d.sources(t.Context(), c)
	if kept, err := changed.signer("chip", changed.env); err == nil {
		t.Errorf("with another password the signer is %v, want that it is opened again", kept)
	}
}
