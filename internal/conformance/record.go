package conformance

import (
	"encoding/json"
	"regexp"
	"strings"
)

// secrets match what must not leave the machine that it was made on: Google's
// access tokens, signed JWTs, and whatever stands in a token answer.
var secrets = regexp.MustCompile(`ya29\.[\w.-]+|eyJ[\w-]{5,}\.[\w-]+\.?[\w-]*|"(?:access_token|id_token|refresh_token|private_key)"\s*:\s*"(?:[^"\\]|\\.)*"?`)

// Redacted stands for a secret.
const Redacted = "(redacted)"

// maxShown is how much of a value a fault shows.
const maxShown = 500

// redact makes what a server said fit to be shown. The body of a token answer
// is a secret of whatever form.
func redact(s string, token bool) string {
	if token {
		return Redacted
	}
	s = secrets.ReplaceAllString(s[:min(len(s), maxRecorded)], Redacted)
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	return s
}

// maxRecorded is how long a body may be to be recorded, in bytes: a server that
// is wrong may send one of any length to each request.
const maxRecorded = 64 << 10

// Recorded returns what a server answers instead of what was expected, as a
// case of the corpus. Tokens are not in it, and of a document other than the
// default one no values.
func (r Result) Recorded(source string) Case {
	c := r.Case
	c.Confidence, c.Source = "observed", source
	c.Note = strings.TrimPrefix(c.Note+"; the corpus expects otherwise", "; ")
	c.MinMS, c.MaxMS = 0, 0
	c.Status = r.Answer.Status
	contentType := r.Answer.Headers["Content-Type"]
	c.ContentType = &contentType
	c.Body, c.BodyJSON, c.BodyRegex = nil, nil, ""
	switch body := r.Answer.Body; {
	case len(body) > maxRecorded || r.Other && c.Status < 400 || secrets.MatchString(body) || c.token() && c.Status < 300:
	case contentType == "application/json" && json.Valid([]byte(body)):
		c.BodyJSON = json.RawMessage(body)
	default:
		c.Body = &body
	}
	c.Expected = map[string]*string{}
	for name, want := range r.Case.Expected {
		got, there := r.Answer.Headers[name]
		switch {
		case !there:
			want = nil
		case want == nil || !strings.HasPrefix(*want, "~") || !regexp.MustCompile((*want)[1:]).MatchString(got):
			got = secrets.ReplaceAllString(got, Redacted)
			want = &got
		}
		c.Expected[name] = want
	}
	return c
}
