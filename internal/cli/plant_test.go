package cli

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A plantation knows secrets, by what they are, and finds them in text.
type plantation struct {
	mu    sync.Mutex
	kinds map[string]map[string]bool
}

// plant adds a secret.
func (p *plantation) plant(kind, secret string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kinds == nil {
		p.kinds = map[string]map[string]bool{}
	}
	if p.kinds[kind] == nil {
		p.kinds[kind] = map[string]bool{}
	}
	p.kinds[kind][secret] = true
}

func (p *plantation) all() map[string][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[string][]string{}
	for kind, secrets := range p.kinds {
		all[kind] = slices.Sorted(maps.Keys(secrets))
	}
	return all
}

// piece is how much of a long secret is enough to be one.
const piece = 20

// needles are what shows that a secret is in a text: itself or a piece of it,
// as it is or as it is written in a URL, in JSON or in base64.
func needles(secret string) []string {
	parts := []string{secret}
	if len(secret) > 2*piece {
		parts = nil
		for _, line := range strings.Fields(secret) { // the lines of a key in PEM
			for ; len(line) >= piece; line = line[piece:] {
				if part := line[:piece]; !strings.HasPrefix(part, "-----") {
					parts = append(parts, part)
				}
			}
		}
	}
	var list []string
	for _, part := range parts {
		quoted, _ := json.Marshal(part)
		encoded := base64.StdEncoding.EncodeToString([]byte(part))
		list = append(list, part, url.QueryEscape(part), strings.Trim(string(quoted), `"`), encoded[:len(encoded)/4*4-4])
	}
	return list
}

// A needle is one of a secret of that kind.
type needle struct{ kind, text string }

// An index has needles by how they begin, so that a long text is read once. One
// that is shorter than that is by itself.
type index struct {
	long  map[string][]needle
	short []needle
}

const beginning = 12

// index returns that of all secrets there are.
func (p *plantation) index() *index {
	x := &index{long: map[string][]needle{}}
	for kind, secrets := range p.all() {
		for _, secret := range secrets {
			for _, text := range needles(secret) {
				if n := (needle{kind, text}); len(text) < beginning {
					x.short = append(x.short, n)
				} else {
					x.long[text[:beginning]] = append(x.long[text[:beginning]], n)
				}
			}
		}
	}
	return x
}

// find returns the kinds of secrets that are in a text.
func (x *index) find(text string) (found []string) {
	for _, n := range x.short {
		if strings.Contains(text, n.text) {
			found = append(found, n.kind)
		}
	}
	for i := 0; i+beginning <= len(text); i++ {
		for _, n := range x.long[text[i:i+beginning]] {
			if strings.HasPrefix(text[i:], n.text) {
				found = append(found, n.kind)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// shows are the names of fields that have secrets, in what is sent to Google and
// what it answers.
var shows = map[string]*regexp.Regexp{}

func init() {
	for kind, names := range map[string]string{
		"assertion":     "assertion|signedJwt",
		"subject token": "subject_token",
		"refresh token": "refresh_token",
		"client secret": "client_secret",
		"access token":  "access_token|accessToken",
		"ID token":      "id_token|token",
	} {
		shows[kind] = regexp.MustCompile(`"(?:` + names + `)": ?"([^"]+)"`)
	}
}

// plantJSON adds the secrets of a JSON object.
func (p *plantation) plantJSON(text string) {
	for kind, field := range shows {
		for _, m := range field.FindAllStringSubmatch(text, -1) {
			p.plant(kind, m[1])
		}
	}
}

// plantForm adds the secrets of a form.
func (p *plantation) plantForm(form url.Values) {
	for name, values := range form {
		for _, v := range values {
			if name == "subject_token" && (strings.HasPrefix(v, "{") || strings.HasPrefix(v, "[")) {
				continue // a signed request of AWS, of which most is no secret, or certificates
			}
			p.plantJSON(fmt.Sprintf("%q: %q", name, v))
		}
	}
}

// TestPlantation: a secret is found wherever it is, and nothing else is.
func TestPlantation(t *testing.T) {
	long := "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2FjY291bnRzLmdvb2dsZS5jb20ifQ.c2lnbmF0dXJlLXRoYXQtaXMtbG9uZw"
	key := "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END PRIVATE KEY-----\n"
	for kind, c := range map[string]struct{ secret, part string }{
		"short":           {`pa"ss+w/ord`, `pa"ss+w/ord`},
		"long":            {long, long},
		"piece of a long": {long, long[40:80]},
		"key":             {key, key},
		"line of a key":   {key, "BKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"},
	} {
		var p plantation
		p.plant(kind, c.secret)
		quoted, _ := json.Marshal(c.part)
		for form, text := range map[string]string{
			"as it is": c.part, "in a URL": url.QueryEscape(c.part), "in JSON": string(quoted),
			"in Go": fmt.Sprintf("%+v", struct{ S string }{c.part}), "in base64": base64.StdEncoding.EncodeToString([]byte(c.secret)),
		} {
			if got := p.index().find("before " + text + " after"); form != "in base64" && !slices.Equal(got, []string{kind}) || form == "in base64" && kind == "short" && got == nil {
				t.Errorf("%s, %s, is not found: %v", kind, form, got)
			}
		}
		if got := p.index().find("-----BEGIN PRIVATE KEY----- eyJ ya29. nothing"); got != nil {
			t.Errorf("%v is found where it is not", got)
		}
	}
	var p plantation
	p.plantJSON(`{"access_token": "one","id_token":"two","accessToken":"three","refresh_token":"four","expires_in":1}`)
	p.plantForm(url.Values{"assertion": {"five"}, "subject_token": {"six", `{"url":"x"}`}, "audience": {"none"}})
	if got := fmt.Sprint(p.all()); got != "map[ID token:[two] access token:[one three] assertion:[five] refresh token:[four] subject token:[six]]" {
		t.Errorf("what is sent and answered has the secrets %s", got)
	}
}
