// Package conformance compares a metadata server with the corpus: what each of
// its requests must get, and what it got. The tests of our own server and the
// command line use it alike, and it speaks to any server.
//
// It judges answers, not clients, and knows nothing of how a server works.
package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/gcemds/gcemds/testdata/corpus"
)

// A Case is one request and what it must get; testdata/corpus/README.md
// describes the fields.
type Case struct {
	ID          string             `json:"id"`
	Method      string             `json:"method"`
	Path        string             `json:"path"`
	Headers     map[string]string  `json:"headers"`
	RequestBody string             `json:"request_body,omitempty"`
	Setup       *Setup             `json:"setup,omitempty"`
	Status      int                `json:"status"`
	ContentType *string            `json:"content_type"`
	Body        *string            `json:"body,omitempty"`
	BodyJSON    json.RawMessage    `json:"body_json,omitempty"`
	BodyRegex   string             `json:"body_regex,omitempty"`
	Expected    map[string]*string `json:"headers_expected,omitempty"`
	MinMS       int                `json:"min_ms,omitempty"`
	MaxMS       int                `json:"max_ms,omitempty"`
	Confidence  string             `json:"confidence"`
	Source      string             `json:"source"`
	Note        string             `json:"note,omitempty"`
}

// A Setup is what separates a case from the default document.
type Setup struct {
	Set      map[string]any `json:"set,omitempty"`
	Delete   []string       `json:"delete,omitempty"`
	Requests []Case         `json:"requests,omitempty"`
	AfterMS  int            `json:"after_ms,omitempty"`
}

// Cases returns the cases of the corpus, in its order.
func Cases() ([]Case, error) {
	names, err := corpus.Files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	var all []Case
	for _, n := range names {
		if n.Name() == corpus.Document {
			continue
		}
		data, err := corpus.Files.ReadFile(n.Name())
		if err != nil {
			return nil, err
		}
		cases, err := Parse(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n.Name(), err)
		}
		all = append(all, cases...)
	}
	return all, nil
}

// Parse reads a file of cases. Fields that do not exist and regular
// expressions that do not compile are errors.
func Parse(data []byte) ([]Case, error) {
	var cases []Case
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	dec.DisallowUnknownFields()
	if err := dec.Decode(&cases); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, c := range cases {
		if c.ID == "" || seen[c.ID] {
			return nil, fmt.Errorf("the id %q is empty, or there twice", c.ID)
		}
		seen[c.ID] = true
		expressions := []string{c.BodyRegex}
		for _, want := range c.Expected {
			if want != nil && strings.HasPrefix(*want, "~") {
				expressions = append(expressions, (*want)[1:])
			}
		}
		for _, e := range expressions {
			if _, err := regexp.Compile(e); err != nil {
				return nil, fmt.Errorf("case %s: %w", c.ID, err)
			}
		}
	}
	return cases, nil
}

// topics are what people ask about. A case belongs to the one that has the
// longest of the words that its id begins with.
var topics = []struct{ name, words string }{
	{"top of the tree", "root above universe unlisted"},
	{"request headers", "flavor noheader header host xff forwarded"},
	{"methods", "method head put"},
	{"paths", "absolute bad camel case child dots double escape index leaf-slash list-leaf list-not nic-index no-slash percent slash slashes"},
	{"redirects", "redirect"},
	{"errors", "page unknown"},
	{"legacy trees", "legacy"},
	{"values", "attribute attributes cluster empty leaf number project region startup value"},
	{"listings", "list listing"},
	{"recursion", "bool rec rectext recursive"},
	{"alt and parameters", "alt altjson alttext etag param tags"},
	{"tokens", "dir no none nosa other second token two"},
	{"identity tokens", "identity"},
	{"waiting", "timeout wait"},
	{"guest attributes", "ga guest"},
	{"network interfaces", "forwarded-ips forwarded-ipv6s ip ipv6 ipv6s nic nics vlan"},
	{"disks", "disk disks"},
	{"maintenance", "maintenance scheduling shutdown stop upcoming"},
	{"OS Login", "oslogin"},
	{"certificates", "credentials partner s2a workload"},
}

// Topic is what the case is about; a new kind of case has the first word of
// its id.
func (c Case) Topic() string {
	topic, longest := strings.SplitN(c.ID, "-", 2)[0], ""
	for _, t := range topics {
		for word := range strings.FieldsSeq(t.words) {
			if len(word) > len(longest) && strings.HasPrefix(c.ID+"-", word+"-") {
				topic, longest = t.name, word
			}
		}
	}
	return topic
}

// changes reports whether the case wants another document than the default
// one, or may leave another one behind.
func (c Case) changes() bool {
	return c.Setup != nil || slices.Contains([]string{"PUT", "DELETE", "POST", "PATCH"}, c.Method)
}

// shows reports whether what the case expects is in the document, as values
// are, and not in the protocol, as errors are.
func (c Case) shows() bool {
	p, _, _ := strings.Cut(c.Path, "?")
	return c.Status < 400 && c.Status >= 200 && strings.Contains(p, "/v1/") && !c.token()
}

// token reports whether the answer may be a secret that the server makes.
func (c Case) token() bool {
	p, _, _ := strings.Cut(c.Path, "?")
	return slices.Contains([]string{"token", "identity"}, path.Base(p))
}
