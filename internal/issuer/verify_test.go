package issuer

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

// tokenAndKeys returns a token of an issuer, and its keys in the form of a path.
func tokenAndKeys(t testing.TB, path string) (value string, keys []byte) {
	t.Helper()
	i, err := New(Options{Keys: testKeys()[:1]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	made, err := i.Source("a@example.com").Mint(t.Context(), token.Request{Audience: "aud"})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	i.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return made.Value, w.Body.Bytes()
}

// TestVerify: a token is good by both forms of the keys, and nothing else is.
func TestVerify(t *testing.T) {
	for _, path := range []string{"/oauth2/v3/certs", "/oauth2/v1/certs"} {
		value, data := tokenAndKeys(t, path)
		_, keys, err := ParsePublicKeys(data)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if _, claims, err := VerifyJWT(keys, value, time.Now()); err != nil || claims["aud"] != "aud" {
			t.Errorf("%s: a good token has claims %v, %v", path, claims, err)
		}
		part := strings.Split(value, ".")
		none := base64url.EncodeToString([]byte(`{"alg":"none"}`))
		hs := base64url.EncodeToString([]byte(`{"alg":"HS256","kid":"` + testKid(t, value) + `"}`))
		other := base64url.EncodeToString([]byte(`{"aud":"aud","exp":99999999999}`))
		for name, c := range map[string]struct {
			value, want string
			now         time.Time
		}{
			"expired":         {value, "it expired at 20", time.Now().Add(2 * time.Hour)},
			"other claims":    {part[0] + "." + other + "." + part[2], "the signature is wrong", time.Now()},
			"no signature":    {part[0] + "." + part[1] + ".", "the signature is wrong", time.Now()},
			"algorithm none":  {none + "." + part[1] + ".", `the algorithm is "none"`, time.Now()},
			"algorithm HS256": {hs + "." + part[1] + "." + part[2], `the algorithm is "HS256"`, time.Now()},
			"two parts":       {part[0] + "." + part[1], "not a JWT", time.Now()},
			"too long":        {value + strings.Repeat("A", maxToken), "not a JWT", time.Now()},
		} {
			if _, _, err := VerifyJWT(keys, c.value, c.now); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %s: %v, want %s", path, name, err, c.want)
			} else if strings.Contains(err.Error(), part[1]) {
				t.Errorf("%s: %s: the error has the token in it: %v", path, name, err)
			}
		}
		keys = slices.DeleteFunc(keys, func(k PublicKey) bool { return k.ID == testKid(t, value) })
		if _, _, err := VerifyJWT(keys, value, time.Now()); err == nil || !strings.Contains(err.Error(), "none of those of the issuer") {
			t.Errorf("%s: a token of a key that is not published: %v", path, err)
		}
	}
}

func testKid(t *testing.T, value string) string {
	header, _, err := DecodeJWT(value)
	if err != nil {
		t.Fatal(err)
	}
	return header["kid"].(string)
}
