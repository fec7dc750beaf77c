package credential

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
)

const (
	robot = "robot@my-project.iam.gserviceaccount.com"
)

// rsaKey is made once: RSA keys are slow to generate. A program that a test
// starts has the key of the test.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	if path := os.Getenv("GCEMDS_TEST_KEY"); path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			panic(err)
		}
		signer, err := parsePEM(string(data))
		if err != nil {
			panic(err)
		}
		return signer.(*rsa.PrivateKey)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// The short forms of YAML: key_file: sa.json, issuer: robot@….
func TestShortForms(t *testing.T) {
	file := KeyFile{TokenURI: "https://overwritten"}
	if err := file.UnmarshalText([]byte("sa.json")); err != nil || file != (KeyFile{File: "sa.json"}) {
		t.Errorf("key_file: sa.json = %+v, %v, want the file alone", file, err)
	}
	var offline Issuer
	if err := offline.UnmarshalText([]byte(robot)); err != nil || offline != (Issuer{Email: robot}) {
		t.Errorf("issuer: %s = %+v, %v, want the e-mail alone", robot, offline, err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{}, "a source needs one of: key_file, "},
		{Config{KeyFile: &KeyFile{}, Issuer: &Issuer{}}, "this one has 2: key_file, issuer"},
		{Config{KeyFile: &KeyFile{}}, "key_file: file is missing"},
		{Config{KeyFile: &KeyFile{File: "a", Permissions: "lax"}}, `permissions "lax" is neither strict nor relaxed`},
		{Config{KeyFile: &KeyFile{File: "a", TokenURI: "http://token.example/"}}, "use https"},
		{Config{KeyFile: &KeyFile{File: "a", TokenURI: "token.example"}}, "not of the form https://host/path"},
		{Config{KeyFile: &KeyFile{File: "a", TokenURI: "file:///etc/passwd"}}, "not of the form https://host/path"},
		{Config{KeyFile: &KeyFile{File: "a", TokenURI: "https://u:geheim@h/"}}, "user or a password"},
		{Config{KeyFile: &KeyFile{File: "a", TokenURI: "https://h/#x"}}, "fragment"},
		{Config{KeyFile: &KeyFile{File: "a", TokenURI: "http://127.0.0.1.example/"}}, "use https"},
		{Config{KeyFile: &KeyFile{File: "a", TokenURI: "http://127.3.2.1:80/token"}}, ""},
		{Config{KeyFile: &KeyFile{File: "a", TokenURI: "http://[::1]:80/token"}}, ""},
		{Config{KeyFile: &KeyFile{File: "a", TokenURI: "http://localhost/token"}}, ""},
		{Config{Issuer: &Issuer{Email: "robot"}}, `issuer: email "robot" is not the e-mail`},
		{Config{Issuer: &Issuer{Email: "a/b@c"}}, "is not the e-mail"},
		{Config{Issuer: &Issuer{Email: "a@b@c"}}, "is not the e-mail"},
	} {
		err := c.config.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("Validate(%+v) = %v, want %q", c.config, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("Validate shows a password: %v", err)
		}
		if c.want == "" {
			continue
		}
		if _, _, err := c.config.Open(t.Context(), Env{}); err == nil {
			t.Errorf("Open(%+v) opened what is not valid", c.config)
		}
	}
}

func TestFiles(t *testing.T) {
	if got, want := (Config{KeyFile: &KeyFile{File: "sa.json"}}).Files(), []string{"sa.json"}; !cmp.Equal(got, want) {
		t.Errorf("Files = %v, want %v", got, want)
	}
	if got := (Config{Issuer: &Issuer{Email: robot}}).Files(); len(got) != 0 {
		t.Errorf("Files of the issuer = %v, want none", got)
	}
}

func TestIssuer(t *testing.T) {
	i, err := issuer.New(issuer.Options{Keys: []*rsa.PrivateKey{rsaKey()}})
	if err != nil {
		t.Fatal(err)
	}
	config := Config{Issuer: &Issuer{Email: robot}}
	source, id, err := config.Open(t.Context(), Env{Issuer: i})
	if err != nil {
		t.Fatal(err)
	}
	if want := (Identity{Email: robot, ProjectID: "my-project", UniqueID: issuer.UniqueID(robot), Steps: []string{"offline issuer"}}); !cmp.Equal(id, want) {
		t.Errorf("identity = %+v, want %+v", id, want)
	}
	if got, err := source.Mint(t.Context(), token.Request{Audience: "a"}); err != nil || got.Value == "" {
		t.Errorf("ID token = %v, %v, want one", got, err)
	}
	if _, _, err := config.Open(t.Context(), Env{}); err == nil || !strings.Contains(err.Error(), "no offline issuer is running") {
		t.Errorf("Open without an issuer = %v, want the reason", err)
	}
	config = Config{Issuer: &Issuer{}}
	if _, id, err := config.Open(t.Context(), Env{Issuer: i, Email: "other@x.example"}); err != nil || id.Email != "other@x.example" {
		t.Errorf("an issuer without e-mail = %+v, %v, want the account's", id, err)
	}
	if _, _, err := config.Open(t.Context(), Env{Issuer: i}); err == nil || !strings.Contains(err.Error(), "field email is missing") {
		t.Errorf("an issuer for nobody = %v, want a refusal", err)
	}
	for email, want := range map[string]string{
		"123-compute@developer.gserviceaccount.com":  "",
		"a@p.example.com.iam.gserviceaccount.com":    "",
		"robot@my-project.iam.gserviceaccount.com":   "my-project",
		"robot@my-project.iam.gserviceaccount.com.x": "",
	} {
		if got := projectOf(email); got != want {
			t.Errorf("projectOf(%s) = %q, want %q", email, got, want)
		}
	}
}

// kindOf returns the kind of a token error.
func kindOf(t testing.TB, err error) token.Kind {
	t.Helper()
	var e *token.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v is not a token.Error", err)
	}
	return e.Kind
}
