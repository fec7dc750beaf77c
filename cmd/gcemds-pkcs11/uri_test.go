package main

import (
	"fmt"
	"strings"
	"testing"
)

func number(n uint) *uint { return &n }

func (u uri) String() string {
	slot := "any"
	if u.slot != nil {
		slot = fmt.Sprint(*u.slot)
	}
	return fmt.Sprintf("%q %q %q %q %s %q %q %q", u.token, u.manufacturer, u.serial, u.model, slot, u.object, u.id, u.module)
}

func TestURI(t *testing.T) {
	for text, want := range map[string]uri{
		"pkcs11:":                   {},
		"pkcs11:token=mds;object=k": {token: "mds", object: "k"},
		"pkcs11:id=%01%ff;type=private;object=a%20b%3Bc":                  {id: "\x01\xff", object: "a b;c"},
		"pkcs11:slot-id=1416393003;id=%00":                                {slot: number(1416393003), id: "\x00"},
		"pkcs11:token=The%20Software%20PKCS%2311;manufacturer=S,Inc.":     {token: "The Software PKCS#11", manufacturer: "S,Inc."},
		"pkcs11:model=1.0;serial=DECC0401648?module-path=/usr/lib/p11.so": {model: "1.0", serial: "DECC0401648", module: "/usr/lib/p11.so"},
		"pkcs11:?module-path=/usr/lib/a%26b.so":                           {module: "/usr/lib/a&b.so"},
		"pkcs11:object=base64=;token=%c3%a9":                              {object: "base64=", token: "é"},
		"pkcs11:object=a+b":                                               {object: "a+b"},
	} {
		if got, err := parseURI(text); err != nil || got.String() != want.String() {
			t.Errorf("parseURI(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":                                    "begins with pkcs11:",
		"PKCS11:token=mds":                    "begins with pkcs11:",
		"pkcs11:mds":                          "not made of attributes",
		"pkcs11:token=mds;":                   "not made of attributes",
		"pkcs11:token=mds;;object=k":          "not made of attributes",
		"pkcs11:token=":                       `"token" in the URI is empty`,
		"pkcs11:token=a;token=b":              `"token" twice`,
		"pkcs11:library-version=3":            `"library-version", which is not looked at here`,
		"pkcs11:token=a?module-name=p11":      `"module-name", which is not looked at here`,
		"pkcs11:token=a b":                    "must be written as %XX",
		"pkcs11:token=é":                      "must be written as %XX",
		"pkcs11:token=a#b":                    "must be written as %XX",
		"pkcs11:token=%4":                     "two hexadecimal digits",
		"pkcs11:token=%zz":                    "two hexadecimal digits",
		"pkcs11:type=cert":                    "not private",
		"pkcs11:slot-id=-1":                   "not a number",
		"pkcs11:slot-id=99999999999999999999": "not a number",
		"pkcs11:token=a?pin-value=geheim":     "give it with --pin",
		"pkcs11:token=a?pin-source=file:/pin": "give it with --pin",
		"pkcs11:pin-value=geheim":             "not looked at here",
	} {
		_, err := parseURI(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("parseURI(%q) = %v, want an error with %q and no PIN", text, err, want)
		}
	}
}

// A URI that is read, written with every byte escaped, is read as the same.
func FuzzURI(f *testing.F) {
	for _, text := range []string{
		"pkcs11:token=mds;object=k;id=%01", "pkcs11:", "pkcs11:slot-id=0?module-path=/a.so", "pkcs11:token=%zz",
		"pkcs11:token=a;token=a", "pkcs11:?pin-value=1234", "pkcs11:type=private", "pkcs11:object==%3b;serial=x",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := parseURI(text)
		if err != nil {
			return
		}
		again, err := parseURI(u.text())
		if err != nil || again.String() != u.String() {
			t.Errorf("%q is %v, written as %q it is %v (%v)", text, u, u.text(), again, err)
		}
	})
}

func (u uri) text() string {
	var path []string
	add := func(name, value string) {
		if value != "" {
			path = append(path, name+"="+strings.ReplaceAll(fmt.Sprintf("% X", " "+value), " ", "%")[2:])
		}
	}
	add("token", u.token)
	add("manufacturer", u.manufacturer)
	add("serial", u.serial)
	add("model", u.model)
	add("object", u.object)
	add("id", u.id)
	if u.slot != nil {
		path = append(path, fmt.Sprintf("slot-id=%d", *u.slot))
	}
	text := "pkcs11:" + strings.Join(path, ";")
	path = nil
	add("module-path", u.module)
	if len(path) > 0 {
		text += "?" + path[0]
	}
	return text
}
