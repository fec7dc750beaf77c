package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gcemds/gcemds"
	"github.com/gcemds/gcemds/mdstest"
)

// TestCorpus: what the corpus says of a plain GET is what Get returns. Cases
// about headers, other methods and changes are not for a client.
func TestCorpus(t *testing.T) {
	document, err := os.ReadFile("../testdata/corpus/default-instance.json")
	if err != nil {
		t.Fatal(err)
	}
	mds := mdstest.NewServer(t, mdstest.WithoutEnv(), mdstest.Options(gcemds.Options{
		Document: document, Set: map[string]any{"universe/universe-domain": "googleapis.com"},
	}))
	c := Client{Host: mds.Addr()}
	ran := map[Kind]int{}
	const fine = Kind(100)
	for _, file := range []string{"protocol.json", "rules.json"} {
		data, err := os.ReadFile("../testdata/corpus/" + file)
		if err != nil {
			t.Fatal(err)
		}
		var cases []struct {
			ID, Method, Path string
			Headers          map[string]string
			Status           int
			Body             *string
			BodyJSON         json.RawMessage `json:"body_json"`
			BodyRegex        string          `json:"body_regex"`
			Setup            any
		}
		if err := json.Unmarshal(data, &cases); err != nil {
			t.Fatal(err)
		}
		for _, k := range cases {
			path, data := strings.CutPrefix(k.Path, "/computeMetadata/v1/")
			if !data || k.Method != "GET" || k.Setup != nil || len(k.Headers) != 1 || k.Headers["Metadata-Flavor"] != "Google" ||
				strings.Contains(path, "{{etag:") || strings.Contains(path, "wait_for_change") {
				continue
			}
			got, err := c.Get(t.Context(), path)
			if k.Status == 301 {
				continue // followed; what comes then is another case
			}
			want := fine
			switch {
			case k.Status == 404:
				want = NotFound
			case k.Status/100 == 4:
				want = Denied
			}
			ran[want]++
			if want != fine {
				if !errors.Is(err, want) || asError(t, err).Status != k.Status {
					t.Errorf("Get(%q) = %q, %v; want status %d, kind %q (case %s)", path, got, err, k.Status, want, k.ID)
				}
				continue
			}
			if err != nil || !regexp.MustCompile(k.BodyRegex).MatchString(got) {
				t.Errorf("Get(%q) = %q, %v; want %s (case %s)", path, got, err, k.BodyRegex, k.ID)
			} else if k.Body != nil && got != *k.Body {
				t.Errorf("Get(%q) = %q, want %q (case %s)", path, got, *k.Body, k.ID)
			}
			if k.BodyJSON == nil {
				continue
			}
			var value, wanted any
			d := json.NewDecoder(bytes.NewReader(k.BodyJSON))
			d.UseNumber()
			if err := d.Decode(&wanted); err != nil {
				t.Fatal(err)
			}
			if err := c.Tree(t.Context(), path, &value); err == nil && !strings.Contains(path, "?") && !reflect.DeepEqual(value, wanted) {
				t.Errorf("Tree(%q) = %v, want %v (case %s)", path, value, wanted, k.ID)
			}
		}
	}
	if ran[fine] < 100 || ran[NotFound] < 30 || ran[Denied] < 10 {
		t.Errorf("of the corpus, %d values, %d unknown paths and %d refusals were asked for; there were more", ran[fine], ran[NotFound], ran[Denied])
	}
}

// TestOurServer: tokens and watching on a real socket.
func TestOurServer(t *testing.T) {
	mds := mdstest.NewServer(t, mdstest.WithoutEnv())
	c := &Client{Host: mds.Addr()}

	for _, tokens := range []*Tokens{{Client: c}, {Client: c, Scopes: []string{scopePrefix + "pubsub"}}, {Client: c, Audience: "https://example.com"}} {
		token, err := tokens.Token(t.Context())
		if err != nil || token.Value == "" || time.Until(token.Expiry) < 5*time.Minute || !strings.HasSuffix(token.Email, "@developer.gserviceaccount.com") {
			t.Errorf("Token of %+v = %v, %v", tokens.Key(), token, err)
		}
	}
	_, err := (&Tokens{Client: c, Scopes: []string{scopePrefix + "drive"}}).Token(t.Context())
	if !errors.Is(err, Denied) {
		t.Errorf("Token with a scope that the account lacks = %v, want kind Denied", err)
	}

	var seen []string
	for v, err := range c.Watch(t.Context(), "instance/attributes/x") {
		switch {
		case errors.Is(err, NotFound) && len(seen) == 0:
			mds.Set("instance/attributes/x", "1")
			v = "none"
		case errors.Is(err, NotFound):
			v = "deleted"
		case err != nil:
			t.Fatal(err)
		case v == "1":
			mds.Set("instance/attributes/x", "2")
		case v == "2":
			mds.Delete("instance/attributes/x")
		}
		if seen = append(seen, v); v == "deleted" {
			break
		}
	}
	if got, want := strings.Join(seen, " "), "none 1 2 deleted"; got != want {
		t.Errorf("Watch yields %s, want %s", got, want)
	}
	for v, err := range c.Watch(t.Context(), "instance/scheduling") {
		if !strings.HasPrefix(v, "{") || err != nil {
			t.Errorf("Watch of a directory yields %q, %v; want JSON", v, err)
		}
		break
	}
	if d := c.Detect(t.Context()); !d.Answers || !d.OnGoogleCloud || len(d.Evidence) != 3 {
		t.Errorf("Detect = %+v, want an answer, and no DNS for a server that is named", d)
	}
}
