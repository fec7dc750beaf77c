// Package tokenprovider makes an auth.TokenProvider of [client.Tokens], for
// Google's own Go libraries. It keeps no tokens itself; those do.
package tokenprovider

import (
	"context"

	"cloud.google.com/go/auth"

	"github.com/gcemds/gcemds/client"
)

// New returns a provider that takes its tokens from t. It may be used
// concurrently. Errors are those of t.
//
// It need not be wrapped in a cached provider of package auth, where one
// caller's context ends the request that others wait for.
func New(t *client.Tokens) auth.TokenProvider {
	return provider{t}
}

type provider struct{ tokens *client.Tokens }

func (p provider) Token(ctx context.Context) (*auth.Token, error) {
	t, err := p.tokens.Token(ctx)
	if err != nil {
		return nil, err
	}
	return &auth.Token{Value: t.Value, Type: "Bearer", Expiry: t.Expiry}, nil
}
