package client

import (
	"slices"
	"strings"
	"testing"

	"github.com/gcemds/gcemds/internal/token"
)

// scopes writes out a list such as "pubsub =openid", where = says that a scope
// has no prefix.
func scopes(list string) []string {
	names := strings.Fields(list)
	for i, n := range names {
		if plain, ok := strings.CutPrefix(n, "="); ok {
			names[i] = plain
		} else {
			names[i] = scopePrefix + n
		}
	}
	return names
}

func TestMissing(t *testing.T) {
	for _, c := range []struct{ held, asked, want string }{
		{"", "", ""},
		{"", "pubsub", "pubsub"},
		{"pubsub", "pubsub", ""},
		{"cloud-platform", "cloud-platform pubsub devstorage.read_only newproduct.readonly cloud-platform.read-only", ""},
		{"cloud-platform", "pubsub drive drive.readonly gerritcodereview userinfo.email", "drive drive.readonly gerritcodereview userinfo.email"},
		{"cloud-platform", "=https://mail.google.com/ =openid =email", "=https://mail.google.com/ =openid =email"},
		{"userinfo.email", "=email", ""},
		{"=email", "userinfo.email userinfo.profile", "userinfo.profile"},
		{"cloud-platform.read-only", "cloud-platform", "cloud-platform"},
		{"compute.readonly", "compute", "compute"},
		{"compute", "compute.readonly computer", "computer"},
		{"devstorage.full_control", "devstorage.read_write devstorage.read_only", ""},
		{"devstorage.read_only", "devstorage.read_write", "devstorage.read_write"},
		{"logging.admin source.read_write monitoring", "logging.write source.read_only monitoring.write source.full_control", "source.full_control"},
	} {
		if got, want := missing(scopes(c.held), scopes(c.asked)), scopes(c.want); !slices.Equal(got, want) {
			t.Errorf("with %q, %q is missing of %q; want %q", c.held, got, c.asked, want)
		}
	}
}

// FuzzMissing: the client never finds a scope missing that our server would give.
func FuzzMissing(f *testing.F) {
	f.Add("cloud-platform", "pubsub drive")
	f.Add("devstorage.full_control source.full_control", "devstorage.read_only source.read_write")
	f.Add("logging.admin bigquery monitoring", "logging.read bigquery.insertdata monitoring.write")
	f.Add("=email", "userinfo.email")
	f.Fuzz(func(t *testing.T, h, a string) {
		held, asked := scopes(h), scopes(a)
		refused := token.Uncovered(held, asked)
		for _, m := range missing(held, asked) {
			if !slices.Contains(refused, m) {
				t.Errorf("with %q, the client finds %q missing, but the server would give it", held, m)
			}
		}
	})
}
