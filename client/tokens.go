package client

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// Tokens gives out tokens of one service account: access tokens, or ID tokens
// for one audience. The zero value gives access tokens of the default account.
// Its methods may be called concurrently; its fields must not change and it
// must not be copied once one of them has been.
//
// Before the first token it learns the account's address, and its scopes if some
// are asked for. Only if that fails it finds out whether there is a metadata
// server at all: a late server would not pass a quick test, but it does answer
// in the end.
//
// Errors are an *[Error] of kind Denied if there is no such account, or it
// lacks a scope.
type Tokens struct {
	// Client asks the server. Default: a zero Client.
	Client *Client

	// Account is an alias or the address of the account. Default: "default".
	Account string

	// Scopes are asked for, and must be among those of the account, be implied
	// by one of them, or be of Google Cloud if the account has cloud-platform.
	// Default: those of the account. Compute Engine gives all scopes of the
	// account anyway; GKE and Cloud Run give those that are asked for.
	Scopes []string

	// Audience makes these ID tokens for that audience, in full format, which
	// says on which machine they were made. Scopes are ignored then.
	Audience string

	own   Client // if Client is nil
	email atomic.Pointer[string]
	cache cache
}

// A Token is an access or ID token. Printing or logging one with fmt, slog or
// encoding/json does not show it; only the field Value does.
type Token struct {
	Value  string
	Expiry time.Time // on the wall clock
	Email  string    // of the account
}

// A Key identifies all tokens that are as good as each other on one machine. It
// is comparable, for those who keep tokens in maps. Tokens are made in moments
// and last an hour, so a disk is no place for them.
type Key struct {
	Account  string // as given; never ""
	Scopes   string // sorted, with spaces between them; "" for those of the account
	Audience string
}

// Key returns what tells these tokens from others. It asks nobody.
func (t *Tokens) Key() Key {
	k := Key{Account: t.Account, Audience: t.Audience}
	if k.Account == "" {
		k.Account = "default"
	}
	if k.Audience == "" {
		k.Scopes = strings.Join(canonical(t.Scopes), " ")
	}
	return k
}

// Token returns a token from the cache, at once if it has 5 minutes to live.
// Servers keep a token until about that time before its expiry, and only then
// have a new one. So from then on, or up to 30 seconds later to be out of step
// with others, a request for the new one runs in the background, again after a
// pause if need be. Callers get the old one meanwhile, but with less than 225
// seconds to live, when all servers have a new one, those who come at the
// beginning of a request wait for it for up to 5 seconds. In the last 30 seconds
// callers wait as long as their contexts allow.
//
// All who wait share one request. It goes on when they leave, until it succeeds
// or the client's patience ends.
func (t *Tokens) Token(ctx context.Context) (Token, error) {
	return t.cache.token(ctx, t)
}

// Refresh returns a new token and puts it into the cache, even if the old one
// has not expired: some API may have refused it. The server may have the same
// one again.
func (t *Tokens) Refresh(ctx context.Context) (Token, error) {
	return t.cache.refresh(ctx, t)
}

// Mint asks the server for a token, and leaves the cache alone. It is for those
// who have a cache of their own.
func (t *Tokens) Mint(ctx context.Context) (Token, error) {
	if err := t.learn(ctx); err != nil {
		return Token{}, err
	}
	r, parse := request{path: accountPath(t.Account) + "token"}, parseAccess
	if t.Audience != "" {
		r = request{path: accountPath(t.Account) + "identity", query: url.Values{"audience": {t.Audience}, "format": {"full"}}.Encode()}
		parse = parseIdentity
	} else if scopes := canonical(t.Scopes); len(scopes) > 0 {
		r.query = url.Values{"scopes": {strings.Join(scopes, ",")}}.Encode()
	}
	a, err := t.client().ask(ctx, r)
	if err != nil {
		return Token{}, ofAccount("token", t.Account, err)
	}
	token, err := parse(a.body, time.Now())
	if err != nil {
		return Token{}, a.malformed(err)
	}
	token.Email = *t.email.Load()
	return token, nil
}

// learn gets to know the account, unless it has before.
func (t *Tokens) learn(ctx context.Context) error {
	if t.email.Load() != nil {
		return nil
	}
	email, err := t.client().Email(ctx, t.Account)
	if err != nil {
		return err
	}
	if asked := canonical(t.Scopes); t.Audience == "" && len(asked) > 0 {
		a, err := t.client().ask(ctx, request{path: accountPath(t.Account) + "scopes"})
		if err != nil {
			return ofAccount("scopes", t.Account, err)
		}
		held := strings.Fields(a.body)
		if lacks := missing(held, asked); len(lacks) > 0 {
			return &Error{Kind: Denied, URL: a.url, Status: a.status, Attempts: a.attempts, Elapsed: a.elapsed,
				Err:  fmt.Errorf("account %s lacks the scope %s; it has %s", email, strings.Join(lacks, " "), cmp.Or(strings.Join(held, " "), "none")),
				Hint: "The scopes of a machine can be changed when it is stopped. Scopes of Google Workspace need delegation instead."}
		}
	}
	t.email.Store(&email)
	return nil
}

func (t *Tokens) client() *Client {
	if t.Client != nil {
		return t.Client
	}
	return &t.own
}

// maxLife is longer than any token lives.
const maxLife = 366 * 24 * time.Hour

// parseAccess reads the answer of the endpoint token.
func parseAccess(body string, now time.Time) (Token, error) {
	var v struct {
		Value string      `json:"access_token"`
		Life  json.Number `json:"expires_in"` // in seconds; some servers make it a string
		Type  string      `json:"token_type"`
	}
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		return Token{}, errors.New("not the JSON of an access token") // without err, which may quote it
	}
	life, err := v.Life.Float64()
	switch {
	case !printable(v.Value):
		return Token{}, errors.New("no access_token in it that fits into a header")
	case v.Type != "" && !strings.EqualFold(v.Type, "Bearer"):
		return Token{}, fmt.Errorf("a token of type %q", v.Type)
	case err != nil || life < 1 || life > maxLife.Seconds():
		return Token{}, fmt.Errorf("expires_in is %q", v.Life)
	}
	return Token{Value: v.Value, Expiry: now.Round(0).Add(time.Duration(life) * time.Second)}, nil
}

// parseIdentity reads the answer of the endpoint identity. It checks no
// signature: the token is not for us.
func parseIdentity(body string, _ time.Time) (Token, error) {
	value := strings.TrimSpace(body)
	parts := strings.Split(value, ".")
	if len(parts) != 3 || !printable(value) {
		return Token{}, errors.New("not an ID token")
	}
	var claims struct {
		Expiry float64 `json:"exp"`
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(payload, &claims)
	}
	if err != nil || claims.Expiry < 1 || claims.Expiry > 1<<40 {
		return Token{}, errors.New("an ID token whose expiry cannot be read")
	}
	return Token{Value: value, Expiry: time.Unix(int64(claims.Expiry), 0)}, nil
}

// printable says whether a token can be sent in a header.
func printable(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// String returns what may be logged: the account, the expiry, and 8
// hexadecimal digits that are the same for the same token.
func (t Token) String() string {
	if t.Value == "" {
		return "[no token]"
	}
	sum := sha256.Sum256([]byte(t.Value))
	return fmt.Sprintf("[token %x of %s, expires %s]", sum[:4], t.Email, t.Expiry.UTC().Format(time.RFC3339))
}

// Format writes String whatever the verb, so that none shows the value.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprint(f, t.String()) }

// LogValue returns String, for log/slog.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalJSON returns String, for those who log with encoding/json.
func (t Token) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }
