package credential

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
)

// A subjectFormat says how a token stands in a file or in an answer.
type subjectFormat struct {
	Type  string `json:"type"`
	Field string `json:"subject_token_field_name"`
}

func (f subjectFormat) validate() error {
	switch {
	case f.Type != "" && f.Type != "text" && f.Type != "json":
		return fmt.Errorf("credential_source.format.type is %.20q, neither text nor json", f.Type)
	case f.Type == "json" && f.Field == "":
		return errors.New("field credential_source.format.subject_token_field_name is missing")
	}
	return nil
}

// token takes the token out of the data.
func (f subjectFormat) token(data []byte) (string, error) {
	if f.Type != "json" {
		return string(bytes.TrimSpace(data)), nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil {
		return "", &token.Error{Kind: token.Unavailable, Err: errors.New("it is not a JSON object")}
	}
	var value string
	if json.Unmarshal(fields[f.Field], &value) != nil || value == "" {
		return "", &token.Error{Kind: token.Unavailable, Err: fmt.Errorf("it has no text in field %s", f.Field)}
	}
	return value, nil
}

// subjectFile reads a token from a file, anew for each exchange.
func subjectFile(path string, format subjectFormat) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		data, err := issuer.ReadSecretFile(path, true, exchange.MaxSubject)
		if err != nil {
			return "", &token.Error{Kind: token.Unavailable, Err: err}
		}
		return format.token(data)
	}
}

// subjectURL asks for a token at an address. Where that is a metadata server,
// it might be our own.
func subjectURL(address string, headers map[string]string, format subjectFormat, env Env) func(context.Context) (string, error) {
	u, _ := url.Parse(address) // checked
	c := exchange.Call{What: "subject token", Address: address, Field: "credential_source.url", Header: headers, Near: onLink(u.Hostname())}
	if c.Near {
		c.Header = map[string]string{}
		maps.Copy(c.Header, env.Header)
		maps.Copy(c.Header, headers)
	}
	client := env.client()
	return func(ctx context.Context) (string, error) {
		r, err := client.Do(ctx, c)
		if err != nil {
			return "", err
		}
		return format.token(r.Body)
	}
}

// checkSubjectURL refuses an address from which tokens should not be fetched.
// It need not be Google's, the tokens are of another provider; nothing of ours
// is sent there. Without encryption it must be as near as a metadata server.
func checkSubjectURL(field, address string, allow bool) error {
	u, err := url.Parse(address)
	if err == nil && u.Scheme == "http" && (allow || onLink(u.Hostname())) {
		u.Scheme = "https" // for the rest of the check
		address = u.String()
	}
	if err := exchange.CheckEndpoint(address); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	return nil
}

// onLink reports whether a host is this machine or on the same link, where
// metadata servers of clouds are.
func onLink(host string) bool {
	if exchange.Loopback(host) || host == "metadata.google.internal" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && (ip.IsLinkLocalUnicast() || ip == awsIPv6)
}

var awsIPv6 = netip.MustParseAddr("fd00:ec2::254")
