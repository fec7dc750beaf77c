package token

import (
	"slices"
	"strings"
	"testing"
)

func TestScopes(t *testing.T) {
	for _, c := range []struct{ list, want []string }{
		{nil, nil},
		{[]string{"", " "}, []string{}},
		{[]string{"b", "a"}, []string{"a", "b"}},
		{[]string{" a\n", "a", "", "B"}, []string{"B", "a"}},
		{[]string{"email", "https://www.googleapis.com/auth/cloud-platform"}, []string{"email", "https://www.googleapis.com/auth/cloud-platform"}},
	} {
		before := slices.Clone(c.list)
		if got := Scopes(c.list...); !slices.Equal(got, c.want) {
			t.Errorf("Scopes(%q) = %q, want %q", c.list, got, c.want)
		}
		if !slices.Equal(c.list, before) {
			t.Errorf("Scopes(%q) changed its argument to %q", before, c.list)
		}
	}
	list := []string{"a", "b"}
	if got := Scopes(list...); &got[0] != &list[0] {
		t.Error("a canonical list was copied")
	}
}

func FuzzScopes(f *testing.F) {
	f.Add("b,a")
	f.Add("0,00")
	f.Add(" a,,a , \t,é,\xff")
	f.Fuzz(func(t *testing.T, joined string) {
		list := strings.Split(joined, ",")
		got := Scopes(list...)
		for i, s := range got {
			if s == "" || s != strings.TrimSpace(s) || i > 0 && got[i-1] >= s {
				t.Fatalf("Scopes(%q) = %q, which is not canonical", list, got)
			}
		}
		for _, s := range list {
			if s = strings.TrimSpace(s); s != "" && !slices.Contains(got, s) {
				t.Fatalf("Scopes(%q) = %q lost %q", list, got, s)
			}
		}
		if len(got) > 0 && &Scopes(got...)[0] != &got[0] {
			t.Fatalf("%q is canonical, but not for Scopes", got)
		}
		reversed := slices.Clone(list)
		slices.Reverse(reversed)
		if again := Scopes(reversed...); !slices.Equal(again, got) {
			t.Fatalf("the order of %q matters: %q and %q", list, got, again)
		}
	})
}

func TestUncovered(t *testing.T) {
	for _, c := range []struct{ held, asked, want string }{
		{"cloud-platform", "cloud-platform devstorage.read_only compute.readonly trace.append ndev.clouddns.readwrite", ""},
		{"cloud-platform", "userinfo.email drive gerritcodereview admin.directory.user computer", "userinfo.email drive gerritcodereview admin.directory.user computer"},
		{"devstorage.full_control", "devstorage.read_only devstorage.read_write", ""},
		{"devstorage.read_only", "devstorage.read_write", "devstorage.read_write"},
		{"monitoring logging.write", "monitoring.read logging.read logging.write", "logging.read"},
		{"", "pubsub", "pubsub"},
		{"pubsub", "", ""},
		{"cloud-platform.read-only", "cloud-platform", "cloud-platform"},
	} {
		full := func(list string) []string {
			names := strings.Fields(list)
			for i, n := range names {
				names[i] = scopePrefix + n
			}
			return names
		}
		if got := Uncovered(full(c.held), full(c.asked)); !slices.Equal(got, full(c.want)) {
			t.Errorf("holding %q and asking for %q lacks %q, want %q", c.held, c.asked, got, c.want)
		}
	}
	if got := Uncovered([]string{"email"}, []string{scopePrefix + "userinfo.email"}); len(got) > 0 {
		t.Errorf("email does not cover what it is short for: %q is missing", got)
	}
	if got := Uncovered([]string{scopePrefix + "cloud-platform"}, []string{"openid", "https://example.com/auth/compute"}); len(got) != 2 {
		t.Errorf("cloud-platform covers foreign scopes; missing are only %q", got)
	}
}
