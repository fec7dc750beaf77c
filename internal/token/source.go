// Package token says what a token is and keeps tokens.
//
// A [Source] mints tokens for one identity and does nothing else. A [Cache]
// wraps any source in a view that hands out one token until it grows old,
// renews it in the background, asks upstream once for any number of callers,
// and lives through failures for as long as a token is good.
//
// The package knows no kind of credential and no protocol, logs nothing and
// writes nothing to disk. Numbers are those of the credentials specification,
// section 6.2.
package token

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"
)

// A Source mints tokens for one identity. It has no cache, retry or limit of
// its own: wrap it with [Cache.Source].
//
// Mint may be called concurrently. It returns when ctx ends, and its tokens
// carry the true expiry. An *[Error] says what went wrong; any other error
// counts as [Unavailable]. Where a second try can do harm, as with the PIN of
// a security module, the source itself must remember to refuse it.
type Source interface {
	Mint(ctx context.Context, req Request) (Token, error)
}

// A Request says which token is wanted.
type Request struct {
	Scopes   []string // of an access token: full addresses, as Scopes returns them
	Audience string   // set: an ID token for this audience is wanted, and Scopes is ignored
	Claims   string   // extra claims of an ID token as a JSON object, or "" for none; a source that cannot add claims ignores them
}

// A Token is what a source mints. Formatting, logging or marshalling one
// shows a redaction; only the field Value has the secret.
type Token struct {
	Value  string    // printable ASCII
	Expiry time.Time // on the wall clock; never zero
}

// String returns what may be logged: the expiry, and 8 hexadecimal digits
// that are the same for the same token.
func (t Token) String() string {
	if t.Value == "" {
		return "[no token]"
	}
	sum := sha256.Sum256([]byte(t.Value))
	return fmt.Sprintf("[token %x, expires %s]", sum[:4], t.Expiry.UTC().Format(time.RFC3339))
}

// GoString is String, for %#v.
func (t Token) GoString() string { return t.String() }

// Format is String whatever the verb, so that none shows the value.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprint(f, t.String()) }

// LogValue is String, for log/slog.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalJSON is String, for those who log with encoding/json.
func (t Token) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }
