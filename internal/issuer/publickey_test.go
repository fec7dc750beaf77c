package issuer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
)

func pemText(t testing.TB, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func keyText(t testing.TB, change map[string]any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(testKeys()[1])
	f := map[string]any{"type": "service_account", "client_email": robot, "private_key_id": "key-1", "private_key": pemText(t, "PRIVATE KEY", der, err)}
	for k, v := range change {
		f[k] = v
	}
	data, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestParsePublicKeys: every form in which people have a key gives the same
// key, and only its public half.
func TestParsePublicKeys(t *testing.T) {
	spki, err := x509.MarshalPKIXPublicKey(&testKeys()[1].PublicKey)
	public := pemText(t, "PUBLIC KEY", spki, err)
	cert, err := certify(&testKeys()[1].PublicKey, testKeys()[0], robot)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := x509.MarshalECPrivateKey(testEC())
	ecText := pemText(t, "EC PRIVATE KEY", ec, err)
	set := func(keys ...any) string {
		data, err := json.Marshal(map[string]any{"keys": keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	point, err := testEC().PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	ecJWK := map[string]string{"kty": "EC", "crv": "P-256", "kid": "ec", "x": base64url.EncodeToString(point[1:33]), "y": base64url.EncodeToString(point[33:])}
	same := func(a, b crypto.PublicKey) bool {
		return a.(interface{ Equal(crypto.PublicKey) bool }).Equal(b)
	}
	for name, c := range map[string]struct {
		text, owner, id string
		key             crypto.PublicKey
	}{
		"account key": {keyText(t, nil), robot, "key-1", &testKeys()[1].PublicKey},
		"PKCS#1":      {keyText(t, map[string]any{"private_key": pemText(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(testKeys()[1]), nil)}), robot, "key-1", &testKeys()[1].PublicKey},
		"GDCH":        {keyText(t, map[string]any{"type": "gdch_service_account", "project": "p", "name": "n", "private_key": ecText}), "system:serviceaccount:p:n", "key-1", &testEC().PublicKey},
		"PEM":         {"\n" + public, "", "", &testKeys()[1].PublicKey},
		"PEM, PKCS#1": {pemText(t, "RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&testKeys()[1].PublicKey), nil), "", "", &testKeys()[1].PublicKey},
		"certificate": {cert, "", "", &testKeys()[1].PublicKey},
		"JWK set":     {set(webKey("rsa", &testKeys()[1].PublicKey)), "", "rsa", &testKeys()[1].PublicKey},
		"JWK set, EC": {set(ecJWK), "", "ec", &testEC().PublicKey},
	} {
		owner, keys, err := ParsePublicKeys([]byte(c.text))
		if err != nil || owner != c.owner || len(keys) != 1 || keys[0].ID != c.id || !same(keys[0].Key, c.key) {
			t.Errorf("%s: owner %q, keys %v, %v; want the key of %q with id %q", name, owner, keys, err, c.owner, c.id)
		}
	}
	if _, keys, err := ParsePublicKeys([]byte(public + cert)); err != nil || len(keys) != 2 {
		t.Errorf("two PEM blocks give %d keys, %v", len(keys), err)
	}

	small, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: testKeys()[1].Primes[0], E: 65537})
	smallText := pemText(t, "PUBLIC KEY", small, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384DER, err := x509.MarshalPKIXPublicKey(&p384.PublicKey)
	p384Text := pemText(t, "PUBLIC KEY", p384DER, err)
	const secret = "TOPSECRET"
	for text, want := range map[string]string{
		"":                   "there is no key",
		"x":                  "neither JSON nor PEM",
		"{":                  "not JSON",
		`{"client_email":7}`: "wrong types",
		`{}`:                 "neither the key of a service account, nor a JWK set",
		`{"keys":[]}`:        "there is no key",
		`{"keys":[{}]}`:      "key 1 of the set: it is of kind",
		`{"keys":[1]}`:       "key 1 of the set",
		`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`:                                          "has 17 bits",
		`{"keys":[{"kty":"RSA","n":"AQAB","e":"` + strings.Repeat("A", 9) + `"}]}`:                "exponent",
		`{"keys":[{"kty":"EC","crv":"P-256","x":"AQ","y":"AQ"}]}`:                                 "not on the curve",
		`{"keys":[{"kty":"OKP","crv":"Ed25519"}]}`:                                                "only RSA and EC on P-256",
		keyText(t, map[string]any{"client_email": ""}):                                            "client_email is missing",
		keyText(t, map[string]any{"private_key": secret}):                                         "private_key: it is not PEM",
		keyText(t, map[string]any{"private_key": pemText(t, "PRIVATE KEY", []byte(secret), nil)}): "private_key: it is damaged",
		pemText(t, "PRIVATE KEY", []byte(secret), nil):                                            `PEM block 1 is "PRIVATE KEY"`,
		pemText(t, "PUBLIC KEY", []byte(secret), nil):                                             "PEM block 1",
		public + "x": "neither JSON nor PEM",
		smallText:    "at least 2048 are needed",
		p384Text:     "not on curve P-256",
	} {
		_, keys, err := ParsePublicKeys([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || len(keys) > 0 {
			t.Errorf("ParsePublicKeys(%.80q) = %v, %v; want an error with %q", text, keys, err, want)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
}

func FuzzParsePublicKeys(f *testing.F) {
	f.Add([]byte(keyText(f, nil)))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AQ","y":"AQ"},{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, keys, err := ParsePublicKeys(data)
		if (err == nil) == (len(keys) == 0) {
			t.Errorf("ParsePublicKeys(%q) = %d keys and error %v", data, len(keys), err)
		}
		for _, k := range keys {
			if err := k.check(); err != nil {
				t.Errorf("ParsePublicKeys(%q) returns a key that is %v", data, err)
			}
		}
	})
}
