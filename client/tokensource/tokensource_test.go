package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"golang.org/x/oauth2"

	"github.com/gcemds/gcemds"
	"github.com/gcemds/gcemds/client"
	"github.com/gcemds/gcemds/client/tokensource"
	"github.com/gcemds/gcemds/mdstest"
)

// TestNew: the real oauth2 library sends our token.
func TestNew(t *testing.T) {
	mds := mdstest.NewServer(t, mdstest.WithoutEnv())
	tokens := &client.Tokens{Client: &client.Client{Host: mds.Addr()}}
	var sent string
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { sent = r.Header.Get("Authorization") }))
	defer api.Close()

	source := tokensource.New(t.Context(), tokens)
	resp, err := oauth2.NewClient(t.Context(), source).Get(api.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	want, err := tokens.Token(t.Context())
	if err != nil || sent != "Bearer "+want.Value {
		t.Errorf("the API was sent %d bytes, want the token of the metadata server (%v)", len(sent), err)
	}
	got, err := source.Token()
	if err != nil || !got.Valid() || !got.Expiry.Equal(want.Expiry) {
		t.Errorf("Token is valid: %v, expires %v, want %v (%v)", got.Valid(), got.Expiry, want.Expiry, err)
	}
}

func TestErrors(t *testing.T) {
	mds := mdstest.NewServer(t, mdstest.WithoutEnv())
	c := &client.Client{Host: mds.Addr()}
	if _, err := tokensource.New(t.Context(), &client.Tokens{Client: c, Account: "nobody"}).Token(); !errors.Is(err, client.Denied) {
		t.Errorf("Token of an unknown account = %v, want kind Denied", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tokensource.New(ctx, &client.Tokens{Client: c}).Token(); !errors.Is(err, context.Canceled) {
		t.Errorf("Token after the end of its context = %v", err)
	}
}

func ExampleNew() {
	s, err := gcemds.New(gcemds.Options{})
	if err == nil {
		err = s.Start("127.0.0.1:0")
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	defer s.Shutdown(ctx)

	tokens := &client.Tokens{Client: &client.Client{Host: s.Addr()}} // on Google Cloud: new(client.Tokens)
	source := tokensource.New(ctx, tokens)                           // for option.WithTokenSource, or
	_ = oauth2.NewClient(ctx, source)                                // an HTTP client with a token in each request
	token, err := source.Token()
	fmt.Println(token.Type(), err)
	// Output: Bearer <nil>
}
