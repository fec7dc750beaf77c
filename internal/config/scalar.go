package config

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// A scalarType says how a type is written in one word.
type scalarType struct {
	what  string
	parse func(string) (any, error)
	tag   string // that it must have; "": any, as it is written
}

func (t *scalarType) must(n *yaml.Node) string {
	return "must be " + t.what + ", not " + describe(n)
}

var errForm = errors.New("wrong form")

var scalars = map[reflect.Type]*scalarType{
	reflect.TypeFor[time.Duration](): {what: "a duration with a unit, such as 90s or 1h30m", parse: func(s string) (any, error) {
		v, err := time.ParseDuration(s)
		if err == nil && v <= 0 {
			err = errForm
		}
		return v, err
	}},
	reflect.TypeFor[time.Time]():    {what: "a time such as 2025-08-12T00:00:00Z", parse: func(s string) (any, error) { return time.Parse(time.RFC3339, s) }},
	reflect.TypeFor[netip.Addr]():   {what: "an IP address such as 127.0.0.2", parse: func(s string) (any, error) { a, err := netip.ParseAddr(s); return a.Unmap(), err }},
	reflect.TypeFor[netip.Prefix](): {what: "a range of addresses such as 10.1.0.0/16 (of one: 10.1.2.3/32)", parse: func(s string) (any, error) { return netip.ParsePrefix(s) }},
	reflect.TypeFor[fs.FileMode](): {what: `permissions in octal, such as "0660"`, parse: func(s string) (any, error) {
		v, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
		if v == 0 || v > 0o777 {
			err = errForm
		}
		return fs.FileMode(v), err
	}},
	reflect.TypeFor[slog.Level](): {what: "a level", parse: func(s string) (any, error) {
		var v slog.Level
		err := v.UnmarshalText([]byte(s))
		return v, err
	}},
}

// kinds are the scalars without a type of their own.
var kinds = map[reflect.Kind]*scalarType{
	reflect.String: {what: "text", parse: func(s string) (any, error) { return s, nil }},
	reflect.Bool:   {what: "true or false", parse: func(s string) (any, error) { return strconv.ParseBool(s) }, tag: "!!bool"},
	reflect.Int: {what: "a whole number above 0, without quotes", parse: func(s string) (any, error) {
		v, err := strconv.ParseInt(s, 10, 32)
		if err == nil && (v <= 0 || s[0] == '0') {
			err = errForm
		}
		return int(v), err
	}, tag: "!!int"},
}

// scalar decodes a word into v and checks it.
func (d *decoder) scalar(path string, n *yaml.Node, v reflect.Value, is string) {
	st := scalars[v.Type()]
	if st == nil {
		st = kinds[v.Kind()]
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || st.tag != "" && n.Tag != st.tag {
		d.fault(n, path, st.must(n))
		return
	}
	switch words := strings.Split(is, "|"); {
	case len(words) > 1 && !slices.Contains(words, n.Value):
		d.fault(n, path, unknown("value", n.Value, words))
		return
	case is == "file", is == "place", is == "socket":
		d.place(n, is == "file")
	case is == "secret":
		d.secret(n)
	}
	if check := checks[is]; check != nil && n.Value != "" {
		if err := check(n.Value); err != nil {
			d.fault(n, path, err.Error())
			return
		}
	}
	x, err := st.parse(n.Value)
	if err != nil {
		d.fault(n, path, st.must(n))
		return
	}
	v.Set(reflect.ValueOf(x).Convert(v.Type()))
}
