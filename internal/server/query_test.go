package server

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestIsTrue(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"true", "TRUE", "True", "tRuE", "on", "On", "ON", "yes", "Yes", "YES", "1"} {
		if !isTrue(value) {
			t.Errorf("%q is false, want true", value)
		}
	}
	for _, value := range []string{"", "0", "2", "11", "y", "t", "no", "off", "false", "true ", " true", "truee", "\u0001", "ye\u017f", "y\x00s", "oN\n"} {
		if isTrue(value) {
			t.Errorf("%q is true, want false", value)
		}
	}
}

// Where net/url understands a query, we read the same from it, without
// decoding what nobody asks for; otherwise we refuse or ignore it.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{
		"", "recursive=true", "recursive=true&alt=json", "alt=%6Ason&re%63ursive=1", "a&b&&=&recursive", "recursive=true&recursive=false",
		"wait_for_change=true&last_etag=0&timeout_sec=60", "wait_for_change=on&timeout_sec=-1", "wait_for_change=1&timeout_sec=9223372036854775807",
		"wait_for_change=true&timeout_sec=-9223372037", "alt=a+b%20c", "alt=%zz", "%zz=1&alt=text", "alt=text;recursive=true", "recursive=ye\u017f", "a=b=c&alt==", "+alt=x&%61lt=y",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q := parseQuery(raw)
		values, invalid := url.ParseQuery(raw)
		if invalid != nil {
			return // no panic is all that can be said
		}
		for _, name := range []string{"recursive", "alt", "wait_for_change", "last_etag", "timeout_sec", "scopes", "audience", "no-such"} {
			value, ok, err := q.lookup(name)
			if err != nil || ok != values.Has(name) || value != values.Get(name) {
				t.Errorf("lookup(%q) in %q = %q, %v, %v; want %q, %v", name, raw, value, ok, err, values.Get(name), values.Has(name))
			}
		}
		for name, first := range values {
			if value, ok, err := q.lookup(name); name != "" && (value != first[0] || !ok || err != nil) {
				t.Errorf("lookup(%q) in %q = %q, %v, %v; want %q", name, raw, value, ok, err, first[0])
			}
		}
		is := func(name string) bool {
			return slices.Contains([]string{"true", "on", "yes", "1"}, strings.ToLower(values.Get(name)))
		}
		if q.recursive != is("recursive") || q.alt != values.Get("alt") || q.wait != is("wait_for_change") {
			t.Errorf("parseQuery(%q) = %+v, want recursive %v, wait %v", raw, q, is("recursive"), is("wait_for_change"))
		}
		if q.timeout < 0 || q.timeout > maxTimeout || q.timeout != 0 && !q.timed || q.timed && !q.wait {
			t.Errorf("parseQuery(%q): timeout %v, timed %v, wait %v", raw, q.timeout, q.timed, q.wait)
		}
		if q.wait && strings.HasPrefix(values.Get("timeout_sec"), "-") && q.timeout != 0 {
			t.Errorf("parseQuery(%q): a negative timeout_sec is %v", raw, q.timeout)
		}
	})
}
