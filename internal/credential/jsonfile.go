package credential

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/gcemds/gcemds/internal/exchange"
)

// fileTypes are the types of credential files, what each of them is, and the
// kind of source that takes it.
var fileTypes = map[string]struct{ what, kind string }{
	"authorized_user":                  {"the credentials of a person, from gcloud auth application-default login", "user"},
	"external_account":                 {"a configuration of workload identity federation", "external"},
	"external_account_authorized_user": {"the credentials of a workforce user", "user"},
	"gdch_service_account":             {"a key of Google Distributed Cloud", "gdch"},
	"impersonated_service_account":     {"an impersonation, from gcloud auth application-default login --impersonate-service-account", "impersonate"},
	"service_account":                  {"a service account key", "key_file"},
}

// decodeFile reads a credential file of one of the types into v. Its errors
// never show a value that could be secret.
func decodeFile(data []byte, v any, types ...string) error {
	what := fileTypes[types[0]].what
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // editors on Windows
	if len(bytes.TrimSpace(data)) == 0 {
		return errors.New("the file is empty")
	}
	typ, err := typeOf(data)
	if err != nil {
		return fmt.Errorf("not %s: %w", what, err)
	}
	if !slices.Contains(types, typ) {
		return wrongType(typ, types)
	}
	return decodeFields(data, v)
}

// typeOf returns the field type of a credential file.
func typeOf(data []byte) (string, error) {
	var head struct {
		Type string `json:"type"`
	}
	err := json.Unmarshal(data, &head)
	var typ *json.UnmarshalTypeError
	switch {
	case err == nil:
		return head.Type, nil
	case errors.As(err, &typ) && typ.Field != "":
		return "", fmt.Errorf("field %s is not a string", typ.Field)
	case errors.As(err, &typ):
		return "", errors.New("it is JSON, but no object")
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN")):
		return "", errors.New("it is a bare PEM file; the JSON file that Google gives out is needed, for its other fields")
	}
	return "", fmt.Errorf("not JSON: %w", err)
}

// decodeFields decodes an object whose type is known.
func decodeFields(data []byte, v any) error {
	err := json.Unmarshal(data, v)
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &typ) && typ.Field != "": // its text could show the value
		return fmt.Errorf("field %s is not a %s", typ.Field, wordFor(typ))
	case err != nil:
		return errors.New("it has a field of the wrong type")
	}
	return nil
}

func wordFor(err *json.UnmarshalTypeError) string {
	switch kind := err.Type.Kind().String(); kind {
	case "string", "bool":
		return kind
	case "slice":
		return "list"
	case "struct", "map":
		return "JSON object"
	}
	return "number"
}

// wrongType tells what the file is instead.
func wrongType(typ string, types []string) error {
	want := fileTypes[types[0]].what
	has := `"` + strings.Join(types, `" or "`) + `"`
	is, known := fileTypes[typ]
	switch {
	case typ == "":
		return fmt.Errorf(`field type is missing; %s has "type": %s`, want, has)
	case !known:
		return fmt.Errorf("type is %.40q, %s has %s", typ, want, has)
	}
	return fmt.Errorf("type is %q, which is %s; %s has %s (a file of that type goes into a source of kind %s)", typ, is.what, want, has, is.kind)
}

// missingFields reports the names of fields that are empty.
func missingFields(fields ...[2]string) error {
	var missing []string
	for _, f := range fields {
		if f[1] == "" {
			missing = append(missing, f[0])
		}
	}
	switch len(missing) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("field %s is missing", missing[0])
	}
	return fmt.Errorf("fields %s are missing", strings.Join(missing, ", "))
}

// checkFileEndpoint refuses an address in a credential file that is not of
// that universe (section 7): such files come from elsewhere, and whoever is
// asked gets what the account has, or says what tokens are used. Addresses of this
// machine are its owner's; accounts.google.com is in old keys.
func checkFileEndpoint(field, address, universe string, allow bool) error {
	if err := exchange.CheckEndpoint(address); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	u, _ := url.Parse(address) // checked
	host := strings.ToLower(u.Hostname())
	if allow || exchange.Loopback(host) || host == universe || host == "accounts.google.com" || strings.HasSuffix(host, "."+universe) {
		return nil
	}
	return fmt.Errorf("%s leads to %s, which is not of %s; if that is meant, say allow_custom_endpoints: true", field, host, universe)
}
