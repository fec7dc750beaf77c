package issuer

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gcemds/gcemds/internal/token"
)

// encode is the key file of some keys.
func encode(t testing.TB, keys ...any) []byte {
	t.Helper()
	var file bytes.Buffer
	for _, k := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		if err := pem.Encode(&file, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes()
}

func load(t testing.TB, path string) []*rsa.PrivateKey {
	t.Helper()
	keys, err := LoadKeys(t.Context(), path, false)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestKeyFileOutlivesTheIssuer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "issuer.pem")
	first := open(t, Options{Keys: load(t, path)})
	access := mint(t, first, token.Request{Scopes: []string{"s"}}).Value
	id := mint(t, first, token.Request{Audience: "a"}).Value

	if runtime.GOOS != "windows" {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("mode of the new key file is %04o, want 0600", got)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("beside the key file there is more: %v, %v", entries, err)
	}

	second := open(t, Options{Keys: load(t, path)})
	if first.keys[0].id != second.keys[0].id {
		t.Errorf("kid was %s, is %s after a restart", first.keys[0].id, second.keys[0].id)
	}
	for _, target := range []string{"/tokeninfo?access_token=" + access, "/tokeninfo?id_token=" + id} {
		if resp, _ := get(t, second, target); resp.StatusCode != 200 {
			t.Errorf("a token is unknown (%d) after a restart with the same key file", resp.StatusCode)
		}
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "issuer.pem")
	old, fresh := testKeys()[0], testKeys()[1]
	before := open(t, Options{Keys: []*rsa.PrivateKey{old}})
	access := mint(t, before, token.Request{Scopes: []string{"s"}}).Value
	id := mint(t, before, token.Request{Audience: "a"}).Value

	if err := os.WriteFile(path, encode(t, fresh, old), 0o600); err != nil {
		t.Fatal(err)
	}
	after := open(t, Options{Keys: load(t, path)})
	keys := published(t, after)
	if len(keys) != 2 {
		t.Errorf("%d keys are published, want both", len(keys))
	}
	header, _ := verify(t, keys, mint(t, after, token.Request{Audience: "a"}).Value)
	if header["kid"] == before.keys[0].id {
		t.Error("the old key still signs")
	}
	verify(t, keys, id)
	if resp, _ := get(t, after, "/tokeninfo?access_token="+access); resp.StatusCode != 200 {
		t.Errorf("an access token of the old key gets %d, want 200", resp.StatusCode)
	}
}

func TestConcurrentCreation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "issuer.pem")
	var wg sync.WaitGroup
	keys := make([][]*rsa.PrivateKey, 4)
	for n := range keys {
		wg.Go(func() {
			var err error
			if keys[n], err = LoadKeys(t.Context(), path, false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for n := range keys {
		if len(keys[n]) != 1 || !keys[n][0].Equal(keys[0][0]) {
			t.Errorf("process %d has another key than process 0", n)
		}
	}
}

func TestLoadKeysRefuses(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := encode(t, testKeys()[0])
	bad := map[string][]byte{
		"there is no key in it":                nil,
		"there is text that is no PEM block":   append(slices.Clone(good), "garbage"...),
		"block 1 is not an RSA key":            encode(t, ec),
		"block 2 is the same key":              append(slices.Clone(good), good...),
		`block 1 is "CERTIFICATE"`:             pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}),
		"block 1: asn1":                        pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}),
		"is longer than 65536 bytes":           make([]byte, maxKeyBytes+1),
		"repair it, or remove it to get a new": []byte("no key"),
	}
	if !fips140.Enforced() { // else there are no such keys
		small, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			t.Fatal(err)
		}
		bad["block 2: the RSA key has 1024 bits"] = encode(t, testKeys()[0], small)
	}
	for want, content := range bad {
		path := filepath.Join(t.TempDir(), "issuer.pem")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadKeys(t.Context(), path, false)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("LoadKeys of %.20q = %v, want the path and %q", content, err, want)
		}
	}
	dir := t.TempDir()
	if _, err := LoadKeys(t.Context(), dir, false); err == nil || !strings.Contains(err.Error(), "is a directory") && runtime.GOOS != "windows" {
		t.Errorf("LoadKeys of a directory = %v, want a refusal", err)
	}
	if _, err := LoadKeys(t.Context(), filepath.Join(dir, "none", "issuer.pem"), false); err == nil {
		t.Error("LoadKeys in a folder that does not exist found a key")
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(dir, "issuer.pem")
	if _, err := LoadKeys(canceled, path, false); err == nil {
		t.Error("LoadKeys with a cancelled context made a key")
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("LoadKeys with a cancelled context left a file")
	}
}

func TestPermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no permission bits")
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode    os.FileMode
		relaxed bool
		want    string
	}{
		{0o600, false, ""},
		{0o400, false, ""},
		{0o640, false, "chmod 600 " + path},
		{0o604, false, "chmod 600 " + path},
		{0o644, true, ""},
		{0o660, true, ""},
		{0o646, true, "chmod o-w " + path},
	} {
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		_, err := ReadSecretFile(path, c.relaxed, 10)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("mode %04o, relaxed %v: %v, want %q", c.mode, c.relaxed, err, c.want)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add(encode(f, testKeys()[0]))
	f.Add(encode(f, testKeys()[0], testKeys()[1]))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(testKeys()[0])}))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseKeys(data)
		if (err == nil) == (len(keys) == 0) {
			t.Fatalf("parseKeys = %d keys, %v, want either", len(keys), err)
		}
		if err != nil {
			return
		}
		if _, err := New(Options{Keys: keys}); err != nil {
			t.Errorf("the keys of a good file make no issuer: %v", err)
		}
	})
}
