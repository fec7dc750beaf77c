package issuer

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// A refusal is an error answer in the form of RFC 6749 section 5.2.
type refusal struct {
	status            int
	code, description string
}

func (r refusal) Error() string { return r.code + ": " + r.description }

// bad is a refusal with status 400, which most are.
func bad(code, format string, args ...any) error {
	return refusal{http.StatusBadRequest, code, fmt.Sprintf(format, args...)}
}

// An apiError is an error answer in the form of Google's APIs.
type apiError struct {
	status   int
	code     string // of google.rpc.Code
	message  string
	reason   string // of google.rpc.ErrorInfo; empty: there is no such detail
	domain   string
	metadata map[string]string
}

func (e apiError) Error() string { return e.code + ": " + e.message }

func (e apiError) body() any {
	type info struct {
		Type     string            `json:"@type"`
		Reason   string            `json:"reason"`
		Domain   string            `json:"domain"`
		Metadata map[string]string `json:"metadata,omitempty"`
	}
	type inner struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Status  string `json:"status"`
		Details []info `json:"details,omitempty"`
	}
	body := inner{Code: e.status, Message: e.message, Status: e.code}
	if e.reason != "" {
		body.Details = []info{{"type.googleapis.com/google.rpc.ErrorInfo", e.reason, e.domain, e.metadata}}
	}
	return map[string]inner{"error": body}
}

func invalidArgument(format string, args ...any) error {
	return apiError{status: http.StatusBadRequest, code: "INVALID_ARGUMENT", message: fmt.Sprintf(format, args...)}
}

// refuse answers with an error in the form that it has.
func refuse(w http.ResponseWriter, err error) {
	w.Header().Set("Cache-Control", cacheNever.header(false))
	var api apiError
	if errors.As(err, &api) {
		if api.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Bearer realm="https://accounts.google.com/"`)
		}
		writeJSON(w, api.status, api.body())
		return
	}
	var r refusal
	if !errors.As(err, &r) {
		r = refusal{http.StatusServiceUnavailable, "temporarily_unavailable", "The issuer has no key yet"}
	}
	writeJSON(w, r.status, map[string]string{"error": r.code, "error_description": r.description})
}

// codes are what Google's two forms of errors have for a status.
var codes = map[int]struct{ oauth, api string }{
	400: {"invalid_grant", "INVALID_ARGUMENT"},
	401: {"invalid_client", "UNAUTHENTICATED"},
	403: {"access_denied", "PERMISSION_DENIED"},
	404: {"invalid_request", "NOT_FOUND"},
	429: {"rate_limit_exceeded", "RESOURCE_EXHAUSTED"},
	500: {"internal_failure", "INTERNAL"},
	503: {"temporarily_unavailable", "UNAVAILABLE"},
	504: {"temporarily_unavailable", "DEADLINE_EXCEEDED"},
}

// faultOf is the error of a status, in the form that is usual for the path.
func faultOf(path string, status int) error {
	code, ok := codes[status]
	if !ok {
		code.oauth, code.api = "internal_failure", "UNKNOWN"
	}
	if strings.HasPrefix(path, "/v1/projects/") || strings.HasPrefix(path, "/service_accounts/") {
		return apiError{status: status, code: code.api, message: "The fake Google was told to fail."}
	}
	return refusal{status, code.oauth, "The fake Google was told to fail."}
}
