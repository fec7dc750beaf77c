package main

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// A uri is what a PKCS#11 URI (RFC 7512) says of a token and a key. What is empty fits everything.
type uri struct {
	token, manufacturer, serial, model string
	slot                               *uint
	object                             string
	id                                 string // bytes
	module                             string // path
}

// parseURI reads a URI. An attribute that we do not compare is an error, since without it the URI would fit more than
// is meant. Errors do not show values: one could be a PIN.
func parseURI(text string) (uri, error) {
	rest, ok := strings.CutPrefix(text, "pkcs11:")
	if !ok {
		return uri{}, errors.New("a PKCS#11 URI begins with pkcs11:, for example pkcs11:token=mds;object=robot")
	}
	var u uri
	path, query, _ := strings.Cut(rest, "?")
	fields := map[string]*string{
		"token": &u.token, "manufacturer": &u.manufacturer, "serial": &u.serial, "model": &u.model,
		"object": &u.object, "id": &u.id, "slot-id": new(string), "type": new(string),
	}
	if err := attributes(path, ";", fields); err != nil {
		return uri{}, err
	}
	queries := map[string]*string{"module-path": &u.module, "pin-value": new(string), "pin-source": new(string)}
	if err := attributes(query, "&", queries); err != nil {
		return uri{}, err
	}
	if t := *fields["type"]; t != "" && t != "private" {
		return uri{}, errors.New("the type in the URI is not private: it takes a private key to sign")
	}
	if *queries["pin-value"] != "" || *queries["pin-source"] != "" {
		return uri{}, errors.New("the URI has the PIN, which would be seen in the list of processes; give it with --pin")
	}
	if s := *fields["slot-id"]; s != "" {
		n, err := strconv.ParseUint(s, 10, strconv.IntSize-1)
		if err != nil {
			return uri{}, errors.New("slot-id in the URI is not a number")
		}
		slot := uint(n)
		u.slot = &slot
	}
	return u, nil
}

// attributes reads name=value pairs into the fields of these names.
func attributes(text, separator string, fields map[string]*string) error {
	if text == "" {
		return nil
	}
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(text, separator) {
		name, value, ok := strings.Cut(pair, "=")
		field := fields[name]
		switch {
		case !ok:
			return fmt.Errorf("the URI is not made of attributes name=value with %q between them", separator)
		case field == nil:
			return fmt.Errorf("the URI has the attribute %.40q, which is not looked at here; leave it out", name)
		case seen[name]:
			return fmt.Errorf("the URI has the attribute %q twice", name)
		case value == "":
			return fmt.Errorf("the attribute %q in the URI is empty", name)
		case strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || r == '#' }):
			return fmt.Errorf("the attribute %q in the URI has a character that must be written as %%XX", name)
		}
		seen[name] = true
		var err error
		if *field, err = url.PathUnescape(value); err != nil {
			return fmt.Errorf("the attribute %q in the URI has a %% that is not followed by two hexadecimal digits", name)
		}
	}
	return nil
}
