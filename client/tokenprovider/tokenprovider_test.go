package tokenprovider_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"cloud.google.com/go/auth"

	"github.com/gcemds/gcemds"
	"github.com/gcemds/gcemds/client"
	"github.com/gcemds/gcemds/client/tokenprovider"
	"github.com/gcemds/gcemds/mdstest"
)

// TestNew: Google's library takes our token, and takes it to be good.
func TestNew(t *testing.T) {
	mds := mdstest.NewServer(t, mdstest.WithoutEnv())
	tokens := &client.Tokens{Client: &client.Client{Host: mds.Addr()}}
	credentials := auth.NewCredentials(&auth.CredentialsOptions{TokenProvider: tokenprovider.New(tokens)})
	got, err := credentials.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want, err := tokens.Token(t.Context())
	if err != nil || got.Value != want.Value || !got.Expiry.Equal(want.Expiry) || got.Type != "Bearer" || !got.IsValid() {
		t.Errorf("the token is of type %s, valid: %v, and expires %v; want that of the metadata server, which expires %v (%v)",
			got.Type, got.IsValid(), got.Expiry, want.Expiry, err)
	}
}

func TestErrors(t *testing.T) {
	mds := mdstest.NewServer(t, mdstest.WithoutEnv())
	c := &client.Client{Host: mds.Addr()}
	if _, err := tokenprovider.New(&client.Tokens{Client: c, Account: "nobody"}).Token(t.Context()); !errors.Is(err, client.Denied) {
		t.Errorf("Token of an unknown account = %v, want kind Denied", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tokenprovider.New(&client.Tokens{Client: c}).Token(ctx); !errors.Is(err, context.Canceled) {
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
	credentials := auth.NewCredentials(&auth.CredentialsOptions{     // for option.WithAuthCredentials
		TokenProvider: tokenprovider.New(tokens),
	})
	token, err := credentials.Token(ctx)
	fmt.Println(token.Type, err)
	// Output: Bearer <nil>
}
