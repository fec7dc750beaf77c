package token

import (
	"errors"
	"time"
)

// A Kind is a class of failure. It decides what a workload is told and how
// soon upstream is asked again; the cause is for the log.
type Kind uint8

// The kinds of failure.
const (
	Unavailable    Kind = iota // 503: upstream cannot be reached, fails, or answers nonsense
	Throttled                  // 429: upstream wants fewer requests
	Denied                     // 403: upstream refuses this identity or what it asks for
	Misconfigured              // 500: the credential cannot work as it is set up
	Clock                      // 500: the clock of this machine is wrong
	Unsupported                // 404: the source cannot mint this kind of token
	InvalidRequest             // 400: the request itself is wrong
)

// kinds has all that differs between kinds. Codes are those of OAuth (RFC
// 6749 section 5.2 and 4.1.2.1, RFC 7009 section 2.2.1); public sentences go
// into JSON as they are.
var kinds = [...]struct {
	name, code, public string
	status             int
}{
	Unavailable:    {"unavailable", "temporarily_unavailable", "No token could be obtained right now; try again.", 503},
	Throttled:      {"throttled", "temporarily_unavailable", "Too many tokens were requested; try again later.", 429},
	Denied:         {"denied", "access_denied", "The identity provider refused to issue this token.", 403},
	Misconfigured:  {"configuration", "server_error", "The credential of this account is not set up correctly; the log of the metadata server has the reason.", 500},
	Clock:          {"clock", "server_error", "The clock of the metadata server is wrong; its log has the details.", 500},
	Unsupported:    {"unsupported", "unsupported_token_type", "This account cannot issue this kind of token.", 404},
	InvalidRequest: {"invalid request", "invalid_request", "The request for a token is not valid.", 400},
}

// String returns the kind in lower-case words; "unavailable" for one that does
// not exist.
func (k Kind) String() string { return kinds[k.known()].name }

func (k Kind) known() Kind {
	if int(k) < len(kinds) {
		return k
	}
	return Unavailable
}

// An Error says why there is no token. Status, Code and Public are for the
// workload and depend on the kind alone, as is Text; Error is for the log. The zero Error
// is Unavailable for no stated reason.
type Error struct {
	Kind       Kind
	RetryAfter time.Duration // when to ask again, as upstream said; 0 if it did not
	Text       string        // for the workload, where there is more to say than Public: what is wrong and who can mend it how
	Err        error         // the cause, without secrets; may be nil
}

// Error returns the kind and the cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Kind.String()
	}
	return e.Kind.String() + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Status returns the HTTP status for the workload.
func (e *Error) Status() int { return kinds[e.Kind.known()].status }

// Code returns the OAuth error code for the workload.
func (e *Error) Code() string { return kinds[e.Kind.known()].code }

// Public returns a sentence for the workload. It has no quotation marks or
// backslashes, and nothing of the cause.
func (e *Error) Public() string { return kinds[e.Kind.known()].public }

// classify returns err as an *Error: itself, or an Error around it of the
// kind of the *Error inside, or else unavailable.
func classify(err error) *Error {
	if e, ok := err.(*Error); ok && e != nil {
		return e
	}
	var inner *Error
	if errors.As(err, &inner) && inner != nil {
		return &Error{Kind: inner.Kind, RetryAfter: inner.RetryAfter, Text: inner.Text, Err: err}
	}
	return &Error{Err: err}
}
