package server

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func targetOf(raw string) target {
	return newTarget(&http.Request{RequestURI: raw, URL: &url.URL{}})
}

func TestTarget(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]target{
		"/":                             {raw: "/", path: "/"},
		"/a?b?c":                        {raw: "/a?b?c", path: "/a", query: "b?c"},
		"/a?":                           {raw: "/a?", path: "/a"},
		"//a///b//?c//d":                {raw: "//a///b//?c//d", path: "/a/b/", query: "c//d"},
		"/a%20b%C3%B6":                  {raw: "/a%20b%C3%B6", path: "/a bö"},
		"/a%2Fb%2fc%40%24%2C%21%28%29":  {raw: "/a%2Fb%2fc%40%24%2C%21%28%29", path: "/a%2Fb%2fc%40%24%2C%21%28%29"},
		"/a%2A%27":                      {raw: "/a%2A%27", path: "/a%2A%27"},
		"/%2520%":                       {raw: "/%2520%", path: "/%20%"},
		"http://host/a?b":               {raw: "/a?b", path: "/a", query: "b"},
		"http://host":                   {raw: "/", path: "/"},
		"http://host/":                  {raw: "/", path: "/"},
		"HTTPS://user@host:1/a/b":       {raw: "/a/b", path: "/a/b"},
		"*":                             {raw: "*", path: "*"},
		"host:80":                       {raw: "host:80", path: "host:80"},
		"/a?b=http://c/d":               {raw: "/a?b=http://c/d", path: "/a", query: "b=http://c/d"},
		"/computeMetadata/v1/a/b/?c=%2": {raw: "/computeMetadata/v1/a/b/?c=%2", path: "/computeMetadata/v1/a/b/", query: "c=%2"},
	} {
		if got := targetOf(raw); got != want {
			t.Errorf("target of %q = %+v, want %+v", raw, got, want)
		}
	}
	wire := &http.Request{URL: &url.URL{Path: "/a b", RawQuery: "c"}}
	if got := newTarget(wire); got.path != "/a b" || got.query != "c" {
		t.Errorf("target of a request that was never on the wire = %+v", got)
	}
}

// Whatever the request line, there is an answer to "which node", and no
// way to reach one by spelling another.
func FuzzTarget(f *testing.F) {
	for _, seed := range []string{
		"", "/", "//", "/a//b", "/a%20b", "/%2F%2f", "/%25", "/%2", "/%", "/%zz", "/%C3%B6", "http://h/a", "http://h", "http://h?q", "://", "://?", "*", "a:b",
		"/computeMetadata/v1", "/computeMetadata/v1/", "/computeMetadata//v1//instance/?recursive=true", "/0.1/meta-data/", "/0.1", "/0.12", "/computeMetadata/v1beta1", "/a?b//c", "/../..%2F", "/%00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got := targetOf(raw)
		if strings.Contains(got.path, "//") {
			t.Errorf("%q: slashes are left in %q", raw, got.path)
		}
		if data, ok := got.below(); ok && (strings.HasPrefix(data, "/") || strings.HasSuffix(data, "/") || len(data) > len(got.path)) {
			t.Errorf("%q: data %q", raw, data)
		}
		if _, data := got.below(); data && got.legacy() {
			t.Errorf("%q is data and legacy", raw)
		}
		if strings.HasPrefix(raw, "/") {
			path, query, _ := strings.Cut(raw, "?")
			if got.raw != raw || got.query != query {
				t.Errorf("%q: raw %q, query %q", raw, got.raw, got.query)
			}
			if !strings.Contains(path, "//") && !strings.Contains(path, "%") && got.path != path {
				t.Errorf("%q: path %q, nothing was to be changed", raw, got.path)
			}
			if got.slash() != strings.HasSuffix(path, "/") {
				t.Errorf("%q: slash %v", raw, got.slash())
			}
		}

		c := collapsed(raw)
		if strings.Contains(c, "//") || collapsed(c) != c || strings.HasPrefix(raw, "/") != strings.HasPrefix(c, "/") || strings.HasSuffix(raw, "/") != strings.HasSuffix(c, "/") {
			t.Errorf("collapsed(%q) = %q", raw, c)
		}
		if strings.ReplaceAll(c, "/", "") != strings.ReplaceAll(raw, "/", "") {
			t.Errorf("collapsed(%q) = %q changes more than slashes", raw, c)
		}

		d := decoded(raw)
		if len(d) > len(raw) || strings.Count(d, "/") != strings.Count(raw, "/") {
			t.Errorf("decoded(%q) = %q makes slashes or bytes", raw, d)
		}
		if !strings.Contains(raw, "%") && d != raw {
			t.Errorf("decoded(%q) = %q", raw, d)
		}
		if plain, err := url.PathUnescape(raw); err == nil {
			if again, err := url.PathUnescape(d); err == nil && !strings.Contains(plain, "%") && again != plain {
				t.Errorf("decoded(%q) = %q means %q, not %q", raw, d, again, plain)
			}
		}
		// The characters that must be sent as they are (section 2.2) come
		// only from themselves.
		for _, c := range "!$'()*,@" {
			if strings.Count(d, string(c)) != strings.Count(raw, string(c)) {
				t.Errorf("decoded(%q) = %q has %q from an escape", raw, d, c)
			}
		}
	})
}
