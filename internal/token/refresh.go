package token

import (
	"errors"
	"fmt"
	"strings"
)

// ErrTooManyTokens: an account would have more refresh tokens than it may.
var ErrTooManyTokens = errors.New("SERVICE_ACCOUNT_TOO_MANY_TOKENS")

// A RefreshTokens counts refresh tokens as Google does for the instances of a
// project: one for each account and set of scopes, in whatever order, which
// all instances with that set share (credentials section 5.4). The zero value
// has no limit. It is for one goroutine.
type RefreshTokens struct {
	Limit int // for each account; 0: none

	sets map[string]map[string]bool // of an account
}

// Add counts an instance's account. It refuses a new set of an account that
// has as many as it may, with ErrTooManyTokens, and a known set never.
func (r *RefreshTokens) Add(account string, scopes []string) error {
	set := strings.Join(Scopes(scopes...), " ")
	known := r.sets[account]
	if r.Limit <= 0 || known[set] {
		return nil
	}
	if len(known) >= r.Limit {
		return fmt.Errorf("%w: %s has %d sets of scopes, and no more are allowed (limits.refresh_tokens); give the instance one of those", ErrTooManyTokens, account, r.Limit)
	}
	if known == nil {
		if known = map[string]bool{}; r.sets == nil {
			r.sets = map[string]map[string]bool{}
		}
		r.sets[account] = known
	}
	known[set] = true
	return nil
}
