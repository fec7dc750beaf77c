package client

import (
	"encoding/json"
	"fmt"
	"html"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// A Kind is a class of failure. It is an error itself, so that
// errors.Is(err, client.NotFound) tells the kind of an [Error].
type Kind uint8

// The kinds of failure. Only Transient ones may be gone at the next call.
const (
	Transient Kind = iota // the server cannot be reached, is overloaded or failing
	NoServer              // what is at the address is no metadata server, or there is no reason to expect one
	NotFound              // the server has no such value
	Denied                // the server refuses; of an account: there is none of that name, or it lacks a scope
	Malformed             // the answer makes no sense
)

var kinds = [...]string{
	Transient: "transient failure",
	NoServer:  "no metadata server",
	NotFound:  "not found",
	Denied:    "denied",
	Malformed: "malformed answer",
}

// Error returns the kind in words.
func (k Kind) Error() string {
	if int(k) < len(kinds) {
		return kinds[k]
	}
	return fmt.Sprintf("unknown kind %d", uint8(k))
}

// An Error says why there is no answer. It never contains a token.
type Error struct {
	Kind     Kind
	URL      string        // what was asked last; "" if nothing could be
	Status   int           // of the last answer; 0 without one
	Attempts int           // how many requests were made
	Elapsed  time.Duration // since the call began
	Hint     string        // a sentence on what to do; may be ""
	Err      error         // the last cause; wraps the context's error if that ended the call
}

// Error returns all fields in a sentence or two.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Kind.Error())
	if e.URL != "" {
		fmt.Fprintf(&b, ": %s", e.URL)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Attempts > 1 {
		fmt.Fprintf(&b, " (%d attempts in %v)", e.Attempts, e.Elapsed.Round(time.Millisecond))
	}
	if e.Hint != "" {
		if text := b.String(); !strings.HasSuffix(text, ".") {
			b.WriteString(".")
		}
		fmt.Fprintf(&b, " %s", e.Hint)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is says whether target is the kind of e.
func (e *Error) Is(target error) bool { return target == e.Kind }

// maxReason is how much of a refusal goes into an error, in bytes.
const maxReason = 300

// reason returns what the body of a refusal says, on one line: the fields of
// an OAuth error (RFC 6749 section 5.2), the last paragraph of an HTML page, as
// Google's have it, or plain text.
func reason(body string) string {
	body = strings.ToValidUTF8(body[:min(len(body), 16*maxReason)], "")
	var oauth struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal([]byte(body), &oauth) == nil && oauth.Error != "" {
		body = strings.TrimSuffix(oauth.Error+": "+oauth.Description, ": ")
	} else if strings.HasPrefix(strings.TrimSpace(body), "<") {
		last := strings.LastIndex(body, "<p>")
		if last < 0 {
			return ""
		}
		body = html.UnescapeString(tags.ReplaceAllString(body[last:], ""))
	}
	body = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, body)
	body = strings.Join(strings.Fields(body), " ")
	if len(body) <= maxReason {
		return body
	}
	end := maxReason
	for !utf8.RuneStart(body[end]) {
		end--
	}
	return body[:end] + "…"
}

var tags = regexp.MustCompile(`<[^>]*>`)
