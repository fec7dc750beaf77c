package fleet_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tree"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const (
	cloud = "https://www.googleapis.com/auth/cloud-platform"
	email = "https://www.googleapis.com/auth/userinfo.email"
)

func lookup(t *testing.T, doc *tree.Tree, path string) *tree.Node {
	t.Helper()
	n, err := doc.Lookup(path)
	if err != nil {
		t.Fatalf("Lookup(%q): %v", path, err)
	}
	return n
}

func document(t *testing.T, accounts ...fleet.Account) *tree.Tree {
	t.Helper()
	doc, err := fleet.Document(fleet.Builtin(), accounts...)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// What Document writes, Accounts reads.
func TestDocumentAndAccounts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name           string
		accounts, want []fleet.Account
		listing        string
	}{
		{"none", nil, nil, ""},
		{"one", []fleet.Account{{Email: "a@p.test"}}, []fleet.Account{{Email: "a@p.test"}}, "a@p.test/\n"},
		{
			"the default",
			[]fleet.Account{{Email: "z@p.test", Aliases: []string{"default"}, Scopes: []string{cloud}}},
			[]fleet.Account{{Email: "z@p.test", Aliases: []string{"default"}, Scopes: []string{cloud}}},
			"default/\nz@p.test/\n",
		},
		{
			"several, in any order, with scopes in any order",
			[]fleet.Account{
				{Email: "c@p.test", Scopes: []string{email, cloud, email, ""}},
				{Email: "a@p.test", Aliases: []string{"second", "default"}, Scopes: []string{cloud}},
				{Email: "b@p.test", Aliases: []string{"first"}},
			},
			[]fleet.Account{
				{Email: "a@p.test", Aliases: []string{"default", "second"}, Scopes: []string{cloud}},
				{Email: "b@p.test", Aliases: []string{"first"}},
				{Email: "c@p.test", Scopes: []string{cloud, email}},
			},
			"a@p.test/\nb@p.test/\nc@p.test/\ndefault/\nfirst/\nsecond/\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			doc := document(t, test.accounts...)
			if got := string(lookup(t, doc, "instance/service-accounts").Text(false).Body); got != test.listing {
				t.Errorf("listing %q, want %q", got, test.listing)
			}
			got := fleet.Accounts(doc)
			slices.SortFunc(got, func(a, b fleet.Account) int { return len(a.Email) - len(b.Email) + int(a.Email[0]) - int(b.Email[0]) })
			if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(fleet.Account{}, "Source")); diff != "" {
				t.Errorf("Accounts of the document (-want +got):\n%s", diff)
			}
			// And once more: a document that went through a VM is the same.
			again := document(t, got...)
			if a, b := doc, again; lookup(t, a, "").ETag(true) != lookup(t, b, "").ETag(true) {
				t.Errorf("the accounts that were read make another document:\n%s\nwas\n%s", lookup(t, b, "instance/service-accounts").JSON().Body, lookup(t, a, "instance/service-accounts").JSON().Body)
			}
		})
	}
}

// Each account is there under its e-mail and its aliases (section 5.1).
func TestDocumentForms(t *testing.T) {
	t.Parallel()
	before := fleet.Builtin()
	doc, err := fleet.Document(before, fleet.Account{Email: "a@p.test", Aliases: []string{"default"}, Scopes: []string{email, cloud}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"aliases":["default"],"email":"a@p.test","scopes":["` + cloud + `","` + email + `"]}`
	for _, name := range []string{"a@p.test", "default"} {
		dir := lookup(t, doc, "instance/service-accounts/"+name)
		if got := string(dir.JSON().Body); got != want {
			t.Errorf("%s = %s, want %s", name, got, want)
		}
		if got := string(dir.Text(false).Body); got != "aliases\nemail\nidentity\nscopes\ntoken\n" {
			t.Errorf("%s lists %q", name, got)
		}
		for _, leaf := range []string{"identity", "token"} {
			if got := dir.Child(leaf).Live(); string(got) != leaf {
				t.Errorf("%s/%s is computed by %q", name, leaf, got)
			}
		}
	}
	if _, err := doc.Lookup("instance/service-accounts/123456789012-compute@developer.gserviceaccount.com"); err == nil {
		t.Error("an account that is not in the list is still in the document")
	}
	if got := string(lookup(t, document(t, fleet.Account{Email: "x@p.test"}), "instance/service-accounts/x@p.test").JSON().Body); got != `{"aliases":[],"email":"x@p.test","scopes":[]}` {
		t.Errorf("an account with nothing = %s; lists are never null", got)
	}
	if lookup(t, before, "").ETag(true) != lookup(t, fleet.Builtin(), "").ETag(true) {
		t.Error("Document changed its argument")
	}
}

func TestDocumentErrors(t *testing.T) {
	t.Parallel()
	for _, a := range []fleet.Account{{}, {Email: ".."}, {Email: "a\nb"}, {Email: "a@p.test", Aliases: []string{""}}} {
		if doc, err := fleet.Document(fleet.Builtin(), a); err == nil || doc != nil {
			t.Errorf("Document with %+v: %v, want an error", a, err)
		}
	}
}

// Documents of real machines come in more shapes than ours.
func TestAccounts(t *testing.T) {
	t.Parallel()
	for dir, want := range map[string][]fleet.Account{
		`{}`: nil,
		`{"default":{"email":"a@p.test","scopes":["s"]}}`: {{Email: "a@p.test", Aliases: []string{"default"}, Scopes: []string{"s"}}},
		`{"a@p.test":{"scopes":["s"]}}`:                   {{Email: "a@p.test", Scopes: []string{"s"}}},
		`{"a@p.test":{"aliases":["default"],"email":"a@p.test"},"default":{"aliases":["default"],"email":"a@p.test"}}`: {{Email: "a@p.test", Aliases: []string{"default"}}},
		`{"a@p.test":{"email":"a@p.test"},"b@p.test":{"email":"b@p.test"},"default":{"email":"b@p.test"}}`:             {{Email: "a@p.test"}, {Email: "b@p.test", Aliases: []string{"default"}}},
		`{"x":{"email":"a@p.test","aliases":["y"]},"y":{"email":"a@p.test","aliases":["x","y"]}}`:                      {{Email: "a@p.test", Aliases: []string{"x", "y"}}},
		`{"a@p.test":{"email":"a@p.test","aliases":"no list","scopes":"no list"}}`:                                     {{Email: "a@p.test"}},
		`{"a@p.test":"no directory"}`: {{Email: "a@p.test"}},
	} {
		doc, err := fleet.Builtin().With(tree.Edit{Path: "instance/service-accounts", Value: json.RawMessage(dir)})
		if err != nil {
			t.Fatalf("%s: %v", dir, err)
		}
		if diff := cmp.Diff(want, fleet.Accounts(doc), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("Accounts of %s (-want +got):\n%s", dir, diff)
		}
	}
	doc, err := fleet.Builtin().With(tree.Edit{Path: "instance/service-accounts"})
	if err != nil {
		t.Fatal(err)
	}
	if got := fleet.Accounts(doc); len(got) != 0 {
		t.Errorf("accounts %v of a document without the directory", got)
	}
}

func TestBuiltin(t *testing.T) {
	t.Parallel()
	accounts := fleet.Accounts(fleet.Builtin())
	if len(accounts) != 1 || !slices.Contains(accounts[0].Aliases, "default") || len(accounts[0].Scopes) == 0 {
		t.Errorf("the built-in machine has the accounts %+v, want one default account with scopes", accounts)
	}
	if fleet.BuiltinCreated.After(time.Now()) || fleet.BuiltinCreated.Unix() <= 0 {
		t.Errorf("the built-in machine was made in the future or never: %v", fleet.BuiltinCreated)
	}
}

func TestAccount(t *testing.T) {
	t.Parallel()
	i := &fleet.Instance{Accounts: []fleet.Account{{Email: "a@p.test"}, {Email: "b@p.test", Aliases: []string{"default"}}}}
	if a := i.Account("b@p.test"); a != &i.Accounts[1] {
		t.Errorf("Account(b) = %+v", a)
	}
	for _, name := range []string{"", "default", "c@p.test", "A@p.test"} {
		if a := i.Account(name); a != nil {
			t.Errorf("Account(%q) = %+v, want none", name, a)
		}
	}

	var asked []string
	i.Others = func(email string) token.Source { asked = append(asked, email); return nil }
	if a := i.Account("c@p.test"); a == nil || a.Email != "c@p.test" {
		t.Errorf("Account(c) = %+v, want one of Others", a)
	}
	i.Account("a@p.test")
	i.Account("")
	if !slices.Equal(asked, []string{"c@p.test"}) {
		t.Errorf("Others was asked for %q, want only for the account that is not listed", asked)
	}
}
