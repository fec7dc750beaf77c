// Package tokensource makes an oauth2.TokenSource of [client.Tokens], for the
// many libraries that take one. It keeps no tokens itself; those do.
package tokensource

import (
	"context"

	"golang.org/x/oauth2"

	"github.com/gcemds/gcemds/client"
)

// New returns a token source that takes its tokens from t. An interface without
// contexts cannot tell when its caller has lost interest, so ctx stands for all
// of them: once it ends, there are no more tokens but cached ones. The source
// may be used concurrently. Errors are those of t.
//
// It need not be wrapped in oauth2.ReuseTokenSource: that would keep a token
// until 10 seconds before its expiry.
func New(ctx context.Context, t *client.Tokens) oauth2.TokenSource {
	return source{ctx, t}
}

type source struct {
	ctx    context.Context
	tokens *client.Tokens
}

func (s source) Token() (*oauth2.Token, error) {
	t, err := s.tokens.Token(s.ctx)
	if err != nil {
		return nil, err
	}
	return &oauth2.Token{AccessToken: t.Value, TokenType: "Bearer", Expiry: t.Expiry}, nil
}
