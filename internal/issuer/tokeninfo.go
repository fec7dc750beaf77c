package issuer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

var (
	errInvalid = refusal{http.StatusBadRequest, "invalid_token", "Invalid Value"}
	errForm    = refusal{http.StatusBadRequest, "invalid_request", "The form cannot be read"}
	errAbsent  = refusal{http.StatusBadRequest, "invalid_request", "Give a token as parameter access_token or id_token, or as Authorization: Bearer"}
)

// tokeninfo says what a token of this issuer is, all values being strings as
// Google has them.
func (i *Issuer) tokeninfo(r *http.Request) (any, error) {
	if err := r.ParseForm(); err != nil { // the query, and the body of a POST
		return nil, errForm
	}
	if value := r.Form.Get("access_token"); value != "" {
		return i.accessInfo(value)
	}
	if value := r.Form.Get("id_token"); value != "" {
		return i.idInfo(r, value)
	}
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if value = strings.TrimSpace(value); !strings.EqualFold(scheme, "Bearer") || value == "" {
		return nil, errAbsent
	}
	if info, err := i.accessInfo(value); err == nil {
		return info, nil
	}
	return i.idInfo(r, value)
}

func (i *Issuer) accessInfo(value string) (any, error) {
	c, err := i.verifyAccess(value)
	if err != nil || c.Email == "" { // of federated tokens the real one knows nothing
		return nil, errInvalid
	}
	id := UniqueID(c.Email)
	info := map[string]string{
		"azp":         id,
		"aud":         id,
		"sub":         id,
		"scope":       c.Scope,
		"exp":         strconv.FormatInt(c.Expiry, 10),
		"expires_in":  strconv.FormatInt(int64(time.Unix(c.Expiry, 0).Sub(i.now())/time.Second), 10),
		"access_type": "online",
	}
	if hasEmail(c.Scope) {
		info["email"] = c.Email
		info["email_verified"] = "true"
	}
	return info, nil
}

func (i *Issuer) idInfo(r *http.Request, value string) (any, error) {
	keys, err := i.ready(r.Context())
	if err != nil {
		return nil, err
	}
	head, claims, err := i.verifyID(keys, value)
	if err != nil {
		return nil, errInvalid
	}
	info := map[string]string{}
	for name, v := range claims {
		info[name] = text(v)
	}
	info["alg"], info["kid"], info["typ"] = head.Alg, head.Kid, head.Typ
	return info, nil
}

// text is a claim as a string; what has parts is compact JSON.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number, bool:
		return fmt.Sprint(v)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(data)
}
