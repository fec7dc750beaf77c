package token_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/gcemds/gcemds/internal/token"
)

// 600 sets of scopes are allowed, the 601st is refused; known ones never are,
// in whatever order; another account has a count of its own.
func TestRefreshTokens(t *testing.T) {
	t.Parallel()
	r := token.RefreshTokens{Limit: 600}
	for i := range 600 {
		if err := r.Add("a", []string{"https://x/common", fmt.Sprintf("https://x/%d", i)}); err != nil {
			t.Fatalf("set %d of 600: %v", i+1, err)
		}
	}
	if err := r.Add("a", []string{"https://x/new"}); !errors.Is(err, token.ErrTooManyTokens) {
		t.Errorf("set 601 = %v, want %v", err, token.ErrTooManyTokens)
	}
	for _, known := range [][]string{{"https://x/7", "https://x/common"}, {"https://x/common", "https://x/7", "https://x/7"}} {
		if err := r.Add("a", known); err != nil {
			t.Errorf("the known set %v is refused: %v", known, err)
		}
	}
	if err := r.Add("b", []string{"https://x/new"}); err != nil {
		t.Errorf("another account is refused: %v", err)
	}
	var none token.RefreshTokens
	for i := range 1000 {
		if err := none.Add("a", []string{fmt.Sprint(i)}); err != nil {
			t.Fatalf("without a limit: %v", err)
		}
	}
}
