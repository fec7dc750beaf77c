package token_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

// counter is a source that numbers its tokens.
type counter struct{ n int }

func (c *counter) Mint(_ context.Context, req token.Request) (token.Token, error) {
	if req.Audience != "" {
		return token.Token{}, &token.Error{Kind: token.Unsupported, Err: errors.New("a counter has no ID tokens")}
	}
	c.n++
	return token.Token{Value: fmt.Sprint("token-", c.n), Expiry: time.Now().Add(time.Hour)}, nil
}

func ExampleCache() {
	cache := token.NewCache(token.Limits{})
	defer cache.Close()
	robot := cache.Source("robot", &counter{})

	for range 3 {
		t, err := robot.Mint(context.Background(), token.Request{Scopes: []string{"email"}})
		fmt.Println(t.Value, err)
	}
	t, _ := robot.Mint(context.Background(), token.Request{Scopes: []string{"openid"}})
	fmt.Println(t.Value)

	_, err := robot.Mint(context.Background(), token.Request{Audience: "https://service.example"})
	var refused *token.Error
	if errors.As(err, &refused) {
		fmt.Println(refused.Status(), refused.Public())
		fmt.Println(refused)
	}
	// Output:
	// token-1 <nil>
	// token-1 <nil>
	// token-1 <nil>
	// token-2
	// 404 This account cannot issue this kind of token.
	// unsupported: a counter has no ID tokens
}

func ExampleScopes() {
	fmt.Println(token.Scopes(" openid", "email", "", "openid"))
	// Output: [email openid]
}
