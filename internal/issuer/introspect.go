package issuer

import (
	"net/http"
	"slices"
)

// introspect is the endpoint of the Security Token Service that says whose a
// federated token is (RFC 7662), which tokeninfo does not know.
func (i *Issuer) introspect(r *http.Request) (any, error) {
	form, err := parameters(r)
	if err != nil {
		return nil, err
	}
	value := form.Get("token")
	if value == "" {
		return nil, bad("invalid_request", "Missing required parameter: token")
	}
	if hint := form.Get("token_type_hint"); !slices.Contains([]string{"", "access_token", typeAccess}, hint) {
		return nil, bad("invalid_request", "Invalid value for \"token_type_hint\"")
	}
	type answer struct {
		Active   bool   `json:"active"`
		Issuer   string `json:"iss,omitempty"`
		Username string `json:"username,omitempty"` // the principal
		Scope    string `json:"scope,omitempty"`
		Issued   int64  `json:"iat,omitempty,string"` // a string, as Google's APIs have numbers of 64 bits
		Expiry   int64  `json:"exp,omitempty,string"`
	}
	c, err := i.verifyAccess(value)
	if err != nil || c.Principal == "" {
		return answer{}, nil
	}
	return answer{true, "https://sts.googleapis.com/", c.Principal, c.Scope, c.Issued, c.Expiry}, nil
}
