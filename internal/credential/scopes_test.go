package credential

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// full adds the prefix to scopes that are no URL.
func full(short ...string) []string {
	var scopes []string
	for _, s := range short {
		scopes = append(scopes, scopePrefix+s)
	}
	return scopes
}

func TestExpandScopes(t *testing.T) {
	for _, c := range []struct{ list, want []string }{
		{nil, nil},
		{[]string{"", "  "}, nil},
		{[]string{"cloud-platform"}, full("cloud-platform")},
		{[]string{" storage-rw ", "compute-ro", "storage-rw"}, full("compute.readonly", "devstorage.read_write")},
		{[]string{"default"}, full("devstorage.read_only", "logging.write", "monitoring.write", "pubsub", "service.management.readonly", "servicecontrol", "trace.append")},
		{[]string{"gke-default", "monitoring"}, full("devstorage.read_only", "logging.write", "monitoring", "service.management.readonly", "servicecontrol", "trace.append")},
		{[]string{"openid", "email", "profile"}, []string{"email", "openid", "profile"}},
		{[]string{"https://mail.google.com/", scopePrefix + "unheard.of"}, []string{"https://mail.google.com/", scopePrefix + "unheard.of"}},
		{[]string{"sql", "cloudsql"}, full("sqlservice")},
	} {
		got, err := ExpandScopes(c.list)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("ExpandScopes(%q) = %q, %v, want %q", c.list, got, err, c.want)
		}
	}
}

func TestUnknownScopes(t *testing.T) {
	for entry, want := range map[string]string{
		"storage-ful":          `did you mean "storage-full"?`,
		"cloudplatform":        `did you mean "cloud-platform"?`,
		"Cloud-Platform":       `did you mean "cloud-platform"?`,
		"emial":                `did you mean "email"?`,
		"devstorage.read_only": `did you mean "storage-ro"?`,
		"xyzzy":                `unknown scope "xyzzy";`,
		"https://":             `unknown scope "https://"`,
		"https://a,https://b":  `unknown scope "https://a,https://b"`,
		"https://a https://b":  `unknown scope`,
	} {
		got, err := ExpandScopes([]string{"cloud-platform", entry})
		if err == nil || !strings.Contains(err.Error(), want) || got != nil {
			t.Errorf("ExpandScopes(%q) = %q, %v, want %s", entry, got, err, want)
		}
	}
	if _, err := ExpandScopes([]string{"storage-wr", "xyzzy"}); err == nil || !strings.Contains(err.Error(), "storage-wr") || !strings.Contains(err.Error(), "xyzzy") {
		t.Errorf("two unknown scopes: %v, want both named", err)
	}
}

func TestAliases(t *testing.T) {
	if len(aliases) != 25 {
		t.Errorf("%d aliases, want the 24 of gcloud and cloudsql", len(aliases))
	}
	for _, name := range slices.Sorted(maps.Keys(aliases)) {
		got, err := ExpandScopes([]string{name})
		if err != nil || len(got) == 0 {
			t.Errorf("alias %s = %v, %v", name, got, err)
		}
		again, err := ExpandScopes(got)
		if err != nil || !slices.Equal(got, again) {
			t.Errorf("alias %s expands to %v, and that to %v, %v", name, got, again, err)
		}
	}
}

func FuzzExpandScopes(f *testing.F) {
	for _, s := range []string{"default", "cloud-platform,storage-rw", "https://mail.google.com/", "email\nopenid", "storage-wr", "ſ", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list := strings.Split(text, "\n")
		got, err := ExpandScopes(list)
		if err != nil {
			if got != nil {
				t.Errorf("ExpandScopes(%q) = %q and %v, want one of them", list, got, err)
			}
			return
		}
		again, err := ExpandScopes(got)
		if err != nil || !slices.Equal(got, again) {
			t.Errorf("ExpandScopes(%q) = %q, and of that %q, %v, want the same", list, got, again, err)
		}
		for _, s := range got {
			if strings.ContainsAny(s, " ,\t\r\n") {
				t.Errorf("ExpandScopes(%q) has %q, which is no single scope", list, s)
			}
		}
	})
}
