package tree

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func builtin(t testing.TB) *Tree {
	t.Helper()
	doc, err := os.ReadFile("../../testdata/corpus/default-instance.json")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func lookup(t testing.TB, tree *Tree, path string) *Node {
	t.Helper()
	n, err := tree.Lookup(path)
	if err != nil {
		t.Fatalf("Lookup(%q): %v", path, err)
	}
	return n
}

func with(t testing.TB, tree *Tree, edits ...Edit) *Tree {
	t.Helper()
	edited, err := tree.With(edits...)
	if err != nil {
		t.Fatal(err)
	}
	return edited
}

// What goes in comes out: the recursive answer is the document, whatever its
// year, whether or not it is wrapped, and with keys spelt either way.
func TestDocumentSurvives(t *testing.T) {
	for _, file := range documents(t) {
		doc, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want := compact(t, doc)
		first, err := Parse(doc)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		spelt, err := json.Marshal(pathNames(first.root))
		if err != nil {
			t.Fatal(err)
		}
		for form, doc := range map[string]string{
			"as it is":        string(doc),
			"wrapped":         "{\"computeMetadata\":\n{\"v1\":" + string(doc) + "}}",
			"with path names": string(spelt),
		} {
			tree, err := Parse([]byte(doc))
			if err != nil {
				t.Errorf("%s, %s: %v", file, form, err)
				continue
			}
			if got := string(tree.root.JSON().Body); got != want {
				t.Errorf("%s, %s, prints\n%s\nwant\n%s", file, form, got, want)
			}
			if got, want := tree.root.ETag(true), first.root.ETag(true); got != want {
				t.Errorf("%s, %s, has the ETag %s, want %s", file, form, got, want)
			}
		}
	}
}

// documents are those of the built-in machine and of others.
func documents(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/documents/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no documents in testdata", err)
	}
	return append(files, "../../testdata/corpus/default-instance.json")
}

func compact(t testing.TB, doc []byte) string {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.Encode(v)
	return strings.TrimSpace(b.String())
}

// pathNames is the document below n with keys as in paths.
func pathNames(n *Node) any {
	if !n.IsDir() {
		return json.RawMessage(n.JSON().Body)
	}
	object, list := map[string]any{}, []any{}
	for name, child := range n.Children {
		if child.live == "" {
			object[name] = pathNames(child)
			list = append(list, object[name])
		}
	}
	if n.kind == Indexed {
		return list
	}
	return object
}

// Each form of a key, before and after an edit.
func TestForms(t *testing.T) {
	for _, test := range []struct {
		path, set, listing, text, json string
	}{
		{"instance/attributes/x", `"5"`, "", "5", `"5"`},
		{"instance/attributes/x", `5`, "", "5", `"5"`},
		{"instance/attributes/x", `true`, "", "true", `"true"`},
		{"instance/attributes/x", `""`, "", "", `""`},
		{"instance/attributes/x", `"a\nb"`, "", "a\nb", `"a\nb"`},
		{"instance/attributes/x", `"<&>é\u2028"`, "", "<&>é\u2028", `"<&>é\u2028"`},
		{"instance/id", `"18446744073709551615"`, "", "18446744073709551615", "18446744073709551615"},
		{"instance/licenses/0/id", `123`, "", "123", `"123"`},
		{"instance/tags", `[]`, "", "", "[]"},
		{"instance/tags", `["b","a"]`, "", "b\na\n", `["b","a"]`},
		{"instance/network-interfaces/0/forwarded-ips", `["10.0.0.1","10.0.0.2"]`, "0\n1\n", "0 10.0.0.1\n1 10.0.0.2\n", `["10.0.0.1","10.0.0.2"]`},
		{"instance/network-interfaces/0/forwarded-ips/0", `"10.0.0.1"`, "", "10.0.0.1", `"10.0.0.1"`},
		{"instance/network-interfaces/0/ipv6s", `["fd20::1"]`, "", "fd20::1\n", `["fd20::1"]`},
		{"instance/scheduling", `{"b-c":"1","bB":"2"}`, "b-b\nb-c\n", "b-b 2\nb-c 1\n", `{"bB":"2","bC":"1"}`},
		{"instance/partner-attributes", `{"iam.googleapis.com":{"key_algorithm":{"a-b":"x"}}}`, "iam.googleapis.com/\n", "iam.googleapis.com/key_algorithm/a-b x\n", `{"iam.googleapis.com":{"key_algorithm":{"a-b":"x"}}}`},
		{"instance/upcoming-maintenance", `{"can_reschedule":"TRUE", "type":"SCHEDULED"}`, "", `{"can_reschedule":"TRUE","type":"SCHEDULED"}`, `{"can_reschedule":"TRUE","type":"SCHEDULED"}`},
		{"instance/gce-workload-certificates/trust-anchors", `{"a":{"b":"c"}}`, "", "{\n \"a\": {\n  \"b\": \"c\"\n }\n}", `{"a":{"b":"c"}}`},
		{"instance/vlan-network-interfaces", `{"0":{"5":{"vlan":5,"parentInterface":"/x"}}}`, "0/\n", "0/5/parent-interface /x\n0/5/vlan 5\n", `{"0":{"5":{"parentInterface":"/x","vlan":5}}}`},
		{"instance/workload-identities", `{"a_b":{}}`, "", "{\n \"a_b\": {}\n}", `{"a_b":{}}`},
		{"instance/vlan-network-interfaces/0/5/vlan", `"5"`, "", "5", "5"},
		{"instance/legacy-endpoint-access/v1beta1", `"7"`, "", "7", "7"},
		{"instance/service-accounts/a@b", `{"email":"a@b"}`, "email\nidentity\ntoken\n", "email a@b\n", `{"email":"a@b"}`},
		{"instance/new/key", `-1.5e300`, "", "-1.5e300", "-1.5e300"},
	} {
		n := lookup(t, with(t, builtin(t), Edit{test.path, json.RawMessage(test.set)}), test.path)
		listing, text := string(n.Text(false).Body), string(n.Text(true).Body)
		if n.IsDir() && listing != test.listing {
			t.Errorf("%s = %s: listing %q, want %q", test.path, test.set, listing, test.listing)
		}
		if text != test.text {
			t.Errorf("%s = %s: text %q, want %q", test.path, test.set, text, test.text)
		}
		if got := string(n.JSON().Body); got != test.json && !equalJSON(got, test.json) {
			t.Errorf("%s = %s: JSON %s, want %s", test.path, test.set, got, test.json)
		}
	}
}

func equalJSON(a, b string) bool {
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && a == b || x == y && x != nil
}

// A wrong edit changes nothing and says where it is wrong.
func TestEditErrors(t *testing.T) {
	for _, test := range []struct {
		path, set, want string
	}{
		{"instance/name/x", `"y"`, "instance/name/x: instance/name is a leaf"},
		{"instance/attributes", `"y"`, "is a directory"},
		{"instance/disks", `"y"`, "is a list"},
		{"instance/disks", `{"a":"b"}`, "is a list"},
		{"instance/tags", `"a"`, "is a list"},
		{"instance/tags", `[1]`, "element 0 of a list is not a string"},
		{"instance/tags", `["a",["b"]]`, "element 1 of a list is not a string"},
		{"instance/disks/7", `{}`, "index 7 is past the end; the next free one is 1"},
		{"instance/disks/x", `{}`, "is not an index"},
		{"instance/disks/01", `{}`, "is not an index"},
		{"instance/new", `[{"a":"b"},"x"]`, "strings or objects, not both"},
		{"instance/id", `"abc"`, `is a number; "abc" is not`},
		{"instance/id", `{}`, "is a number"},
		{"instance/machineType", `"x"`, `"machine-type", not "machineType"`},
		{"instance/attributes/x", `{"a":"b"}`, "values here are strings"},
		{"instance/attributes/x", `["a"]`, "values here are strings"},
		{"instance/attributes/x", `null`, "null is not a value"},
		{"instance//x", `"y"`, "empty part"},
		{"instance/--", `"y"`, "needs letters"},
		{"instance/attributes/\xff", `"y"`, "not UTF-8"},
		{"instance/../x", `"y"`, "cannot be . or .."},
		{"instance/a\nb", `"y"`, "control characters"},
		{"instance/scheduling", `{"a":1`, "ends too early"},
		{"instance/scheduling", `{"a":1} x`, "more after the end"},
		{"instance/scheduling", `{"aB":1,"a-b":2}`, `"a-b" is there twice`},
		{"", `"x"`, "is a directory"},
		{"oslogin/users", `"x"`, "is data"},
	} {
		before := builtin(t)
		after, err := before.With(Edit{"instance/attributes/first", "1"}, Edit{test.path, json.RawMessage(test.set)})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("set %s = %s: error %v, want %q", test.path, test.set, err, test.want)
		}
		if after != nil {
			t.Errorf("set %s = %s: half of the edits were made", test.path, test.set)
		}
	}
}

func TestParseErrors(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 80) + "1" + strings.Repeat("}", 80)
	for _, test := range []struct{ doc, want string }{
		{"", "the document is empty"},
		{"{}", `neither "instance" nor "project"`},
		{"[]", "is a directory"},
		{"{\n\"instance\": {\n\"id\": \"x\"}}", "line 3: instance/id: is a number"},
		{"{\"instance\":{\"name\":\"a\",\n\"name\":\"b\"}}", `line 2: instance: key "name" is there twice`},
		{"{\"instance\":\n{\"name\": nul}}", "line 2: instance/name: not JSON"},
		{`{"instance":{"disks":[{"mode":"x"},"y"]}}`, "instance/disks/1: is a directory; give a JSON object"},
		{`{"instance":{"x":[{"mode":"x"},"y"]}}`, "strings or objects, not both"},
		{`{"instance":{"":"x"}}`, "empty part"},
		{`{"instance":` + deep + `}`, "nested more than 64 deep"},
		{"{\"computeMetadata\":\n{\"v1\":{\n\"instance\":{\"id\":[]}}}}", "line 3: instance/id: is a number"},
	} {
		_, err := Parse([]byte(test.doc))
		var placed *ParseError
		if !errors.As(err, &placed) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Parse(%.60q): error %v, want %q", test.doc, err, test.want)
		}
	}
}

func TestLookupErrors(t *testing.T) {
	tree := builtin(t)
	for path, want := range map[string]error{
		"instance/nope":     ErrNotFound,
		"instance/name/x":   ErrNotFound,
		"instance/disks/1":  ErrNotFound,
		"instance/disks/00": ErrNotFound,
		"instance/disks/-0": ErrNotFound,
		"instance/tags/0":   ErrNotFound,
		"instance//name":    ErrNotFound,
		"instance/gce-workload-certificates/config-status":    ErrUnset,
		"instance/gce-workload-certificates/config-status/x":  ErrNotFound,
		"instance/gce-workload-certificates/x":                ErrNotFound,
		"instance/guest-attributes/none":                      ErrNotFound,
		"instance/network-interfaces/0/forwarded-ips/0":       ErrNotFound,
		"instance/service-accounts/nobody@example.test/token": ErrNotFound,
	} {
		if n, err := tree.Lookup(path); !errors.Is(err, want) {
			t.Errorf("Lookup(%q) = %v, %v; want %v", path, n, err, want)
		}
	}
}

// However an account comes into a document, it has the leaves that make tokens.
func TestAccountLeaves(t *testing.T) {
	tree := with(t, builtin(t),
		Edit{"instance/service-accounts/a@b/email", "a@b"},
		Edit{"instance/service-accounts/default", json.RawMessage(`{"email":"c@d","token":"fixed"}`)})
	for path, want := range map[string]Live{
		"instance/service-accounts/a@b/token":                                                "token",
		"instance/service-accounts/a@b/identity":                                             "identity",
		"instance/service-accounts/default/identity":                                         "identity",
		"instance/service-accounts/default/token":                                            "", // a value of its own
		"instance/service-accounts/123456789012-compute@developer.gserviceaccount.com/token": "token",
	} {
		if got := lookup(t, tree, path).Live(); got != want {
			t.Errorf("%s is computed by %q, want %q", path, got, want)
		}
	}
}

// What an edit makes of a list is what a document could have.
func TestListsAreOfOneKind(t *testing.T) {
	const list = "instance/network-interfaces/0/forwarded-ips"
	strings := with(t, builtin(t), Edit{list, []string{"10.0.0.1"}})
	if _, err := strings.With(Edit{list + "/1", map[string]string{"a": "b"}}); !errors.Is(err, errMixed) {
		t.Errorf("an object among strings: %v, want %v", err, errMixed)
	}
	with(t, strings, Edit{list + "/0", map[string]string{"a": "b"}}, Edit{list + "/0/c", "d"})
}

// Guest attributes are behind an attribute, the instance's before the
// project's, whether or not the document has the directory.
func TestGate(t *testing.T) {
	on, off := "TRUE", "FALSE"
	for _, test := range []struct {
		instance, project *string
		open              bool
	}{
		{nil, nil, false}, {&on, nil, true}, {nil, &on, true}, {&off, &on, false}, {&on, &off, true},
	} {
		for _, present := range []bool{true, false} {
			doc := builtin(t)
			edits := []Edit{{"instance/guest-attributes", nil}, {"instance/attributes/enable-guest-attributes", nil}}
			if present {
				edits = append(edits, Edit{"instance/guest-attributes/ns/key", "v"})
			}
			if test.instance != nil {
				edits = append(edits, Edit{"instance/attributes/enable-guest-attributes", *test.instance})
			}
			if test.project != nil {
				edits = append(edits, Edit{"project/attributes/enable-guest-attributes", *test.project})
			}
			doc = with(t, doc, edits...)
			_, err := doc.Lookup("instance/guest-attributes/ns/key")
			if got := !errors.Is(err, ErrClosed); got != test.open {
				t.Errorf("instance %v project %v present %v: open = %v, want %v", test.instance, test.project, present, got, test.open)
			}
			shown := strings.Contains(string(doc.root.JSON().Body), `"guestAttributes":{"ns":{"key":"v"}}`)
			if shown != (test.open && present) {
				t.Errorf("instance %v project %v present %v: shown in recursive output = %v", test.instance, test.project, present, shown)
			}
		}
	}
}

// The rules of section 6.2.
func TestETags(t *testing.T) {
	doc := builtin(t)
	scheduling := lookup(t, doc, "instance/scheduling")
	if scheduling.ETag(true) == scheduling.ETag(false) {
		t.Error("the listing and the recursive form of a directory share an ETag")
	}
	if a, b := scheduling.ETag(true), lookup(t, builtin(t), "instance/scheduling").ETag(true); a != b {
		t.Errorf("the same document has ETags %s and %s", a, b)
	}
	// Fixed for ever: clients keep ETags across our restarts and releases.
	for path, want := range map[string]string{"instance/name": "57c1fd293b635a60", "instance/tags": "05fe1d4943c01631", "": "ae72c7cc6b16c34c"} {
		if got := lookup(t, doc, path).ETag(true); got != want {
			t.Errorf("ETag of %q = %q, it was %q in releases before", path, got, want)
		}
	}
	changed := with(t, doc, Edit{"instance/scheduling/preemptible", "TRUE"})
	for _, path := range []string{"", "instance", "instance/scheduling", "instance/scheduling/preemptible"} {
		if lookup(t, doc, path).ETag(true) == lookup(t, changed, path).ETag(true) {
			t.Errorf("a change of preemptible does not change the recursive ETag of %q", path)
		}
	}
	if lookup(t, doc, "instance/scheduling").ETag(false) != lookup(t, changed, "instance/scheduling").ETag(false) {
		t.Error("a change of a value changes the ETag of a listing")
	}
	if lookup(t, doc, "project").ETag(true) != lookup(t, changed, "project").ETag(true) {
		t.Error("a change of the instance changes the ETag of project")
	}
	back := with(t, changed, Edit{"instance/scheduling/preemptible", "FALSE"})
	if doc.root.ETag(true) != back.root.ETag(true) {
		t.Error("a value that is restored does not restore its ETag")
	}
	if lookup(t, changed, "project") != lookup(t, doc, "project") {
		t.Error("an edit copies nodes that it does not touch")
	}
	number, text := with(t, doc, Edit{"instance/x", json.RawMessage("1")}), with(t, doc, Edit{"instance/x", "1"})
	if number.root.ETag(true) == text.root.ETag(true) {
		t.Error(`1 and "1" share an ETag, but print different JSON`)
	}
}

// The guest agent writes while it hangs on the whole tree; see Store too.
func TestGuestAttributesAreQuiet(t *testing.T) {
	doc := builtin(t)
	written := with(t, doc, Edit{"instance/guest-attributes/hostkeys/ssh-rsa", "AAAA"})
	for _, path := range []string{"", "instance"} {
		for _, recursive := range []bool{true, false} {
			if lookup(t, doc, path).ETag(recursive) != lookup(t, written, path).ETag(recursive) {
				t.Errorf("a guest attribute changes the ETag of %q (recursive %v)", path, recursive)
			}
		}
	}
	for _, path := range []string{"instance/guest-attributes"} {
		if lookup(t, doc, path).ETag(true) == lookup(t, written, path).ETag(true) {
			t.Errorf("a guest attribute does not change the ETag of %q", path)
		}
	}
}

func TestImplied(t *testing.T) {
	doc := builtin(t)
	if got := lookup(t, doc, "universe/universe-domain").Value(); got != "googleapis.com" {
		t.Errorf("universe-domain = %q", got)
	}
	if n := lookup(t, doc, "instance/upcoming-maintenance"); string(n.JSON().Body) != `"NONE"` {
		t.Errorf("upcoming-maintenance = %s", n.JSON().Body)
	}
	for _, hidden := range []string{"universe", "upcoming"} {
		if strings.Contains(string(doc.root.JSON().Body)+string(lookup(t, doc, "instance").Text(false).Body)+string(doc.root.Text(false).Body), hidden) {
			t.Errorf("%s is implied, but listed", hidden)
		}
	}
	set := with(t, doc, Edit{"instance/upcoming-maintenance", json.RawMessage(`{"type":"SCHEDULED"}`)})
	if !strings.Contains(string(lookup(t, set, "instance").Text(false).Body), "upcoming-maintenance\n") {
		t.Error("upcoming-maintenance is configured, but not listed")
	}
	own, err := Parse([]byte(`{"project":{},"universe":{"universeDomain":"example.test"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := lookup(t, own, "universe/universe-domain").Value(); got != "example.test" {
		t.Errorf("universe-domain of the document = %q", got)
	}
}

// An edit of a megabyte costs the way to the root, not the megabyte.
func BenchmarkEditLargeDocument(b *testing.B) {
	doc := builtin(b)
	for range 4 {
		doc = with(b, doc, Edit{"instance/attributes/large-" + strings.Repeat("x", b.N%7), strings.Repeat("x", 256<<10)})
	}
	var edits []Edit
	for i := range 4000 {
		edits = append(edits, Edit{"project/attributes/key-" + strings.Repeat("k", i%50) + string(rune('a'+i%26)) + strings.Repeat("v", i/50), "value"})
	}
	doc = with(b, doc, edits...)
	store := NewStore(doc)
	i := 0
	for b.Loop() {
		i++
		if err := store.Edit(Edit{"instance/attributes/x", []string{"a", "b"}[i%2]}); err != nil {
			b.Fatal(err)
		}
		store.Tree().root.ETag(true)
	}
}

func BenchmarkLookup(b *testing.B) {
	doc := builtin(b)
	b.ReportAllocs()
	for b.Loop() {
		n, err := doc.Lookup("instance/network-interfaces/0/access-configs/0/external-ip")
		if err != nil || len(n.Text(false).Body) == 0 {
			b.Fatal(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range documents(f) {
		doc, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(doc)
	}
	for _, seed := range []string{"", "{}", `{"instance":{"disks":[]}}`, `{"computeMetadata":{"v1":{"project":{}}}}`,
		`{"instance":{"tags":["a"],"id":1e5,"x":true,"y":{"z":[]}}}`, `{"instance":{"attributes":{"a":{"b":null}}}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		tree, err := Parse(doc)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		// What it prints parses again, prints the same and has the same ETag.
		first := tree.root.JSON()
		if !json.Valid(first.Body) {
			t.Fatalf("not JSON: %s", first.Body)
		}
		tree.root.Text(true)
		tree.root.Text(false)
		again, err := Parse(first.Body)
		if err != nil {
			return // "instance" may have been all unrecursed
		}
		if second := again.root.JSON(); string(second.Body) != string(first.Body) {
			t.Errorf("printed\n%s\nthen\n%s", first.Body, second.Body)
		}
	})
}

func FuzzEdit(f *testing.F) {
	f.Add("instance/attributes/a", "b", "instance/disks/0")
	f.Add("instance/network-interfaces/1", "x", "instance")
	f.Add("", "", "/")
	f.Add("instance/disks/1", "x", "instance/disks/0")
	f.Add("instance/service-accounts/a@b/email", "a@b", "instance/service-accounts/default/token")
	f.Fuzz(func(t *testing.T, path, value, gone string) {
		doc := builtin(t)
		edited, err := doc.With(Edit{path, value})
		if err == nil {
			if n, err := edited.Lookup(path); err == nil && n.Kind() == Leaf && n.Value() != value {
				t.Errorf("set %q = %q, got %q", path, value, n.Value())
			}
			if _, err := Parse(edited.root.JSON().Body); err != nil {
				t.Errorf("set %q = %q: what it prints is no document: %v", path, value, err)
			}
			doc = edited
		}
		if edited, err := doc.With(Edit{gone, nil}); err == nil && gone != "" {
			if _, err := edited.Lookup(gone); err == nil && !strings.Contains(gone, "/") {
				t.Errorf("%q is still there", gone)
			}
			edited.root.JSON()
		}
	})
}
