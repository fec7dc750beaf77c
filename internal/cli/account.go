package cli

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/client"
)

// An account is a service account of a metadata server.
type account struct {
	server
	name   string
	asJSON bool
}

func (a *account) flags(c *cobra.Command) {
	a.server.flags(c)
	c.Flags().StringVarP(&a.name, "account", "a", "default", "`E-MAIL` or alias of the service account")
	c.Flags().BoolVar(&a.asJSON, "json", false, "print JSON")
}

func newEmail() *cobra.Command {
	var a account
	c := &cobra.Command{
		Use:     "email",
		Short:   "Print the e-mail of a service account of a metadata server",
		Example: "  gcemds email\n  gcemds email --host metadata.google.internal",
		RunE: func(c *cobra.Command, _ []string) error {
			server, err := a.metadata(c.Context())
			if err != nil {
				return err
			}
			email, err := server.Email(c.Context(), a.name)
			if err != nil {
				return err
			}
			if a.asJSON {
				return printJSON(c.OutOrStdout(), email)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), email)
			return err
		},
	}
	a.flags(c)
	return c
}

func newScopes() *cobra.Command {
	var a account
	c := &cobra.Command{
		Use:     "scopes",
		Short:   "Print the scopes of a service account of a metadata server",
		Example: "  gcemds scopes",
		RunE: func(c *cobra.Command, _ []string) error {
			server, err := a.metadata(c.Context())
			if err != nil {
				return err
			}
			scopes, err := server.Scopes(c.Context(), a.name)
			if err != nil {
				return err
			}
			if a.asJSON {
				return printJSON(c.OutOrStdout(), slices.Concat([]string{}, scopes)) // [] rather than null
			}
			for _, scope := range scopes {
				if _, err := fmt.Fprintln(c.OutOrStdout(), scope); err != nil {
					return err
				}
			}
			return nil
		},
	}
	a.flags(c)
	return c
}

// An accessToken is what token --json prints.
type accessToken struct {
	Value  string    `json:"access_token"`
	Type   string    `json:"token_type"`
	Expiry time.Time `json:"expiry"`
	Email  string    `json:"email"`
}

func newToken() *cobra.Command {
	var a account
	var scopes []string
	var header bool
	c := &cobra.Command{
		Use:   "token",
		Short: "Print an access token from a metadata server",
		Long: `Print an access token from a metadata server. Whoever sees it can use it for as
long as it lives, an hour as a rule.`,
		Example: `  gcemds token
  gcemds token --header > header       # and then: curl -H @header https://…
  gcemds token --scopes https://www.googleapis.com/auth/pubsub --json`,
		RunE: func(c *cobra.Command, _ []string) error {
			if a.asJSON && header {
				return &usageError{errors.New("--json and --header are two forms of one token"), c.CommandPath()}
			}
			server, err := a.metadata(c.Context())
			if err != nil {
				return err
			}
			tokens := &client.Tokens{Client: server, Account: a.name, Scopes: scopes}
			t, err := tokens.Mint(c.Context())
			if err != nil {
				return err
			}
			format := "%s\n"
			switch {
			case a.asJSON:
				return printJSON(c.OutOrStdout(), accessToken{t.Value, "Bearer", t.Expiry.UTC().Truncate(time.Second), t.Email})
			case header:
				format = "Authorization: Bearer %s\n"
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), format, t.Value)
			return err
		},
	}
	a.flags(c)
	c.Flags().StringSliceVar(&scopes, "scopes", nil, "`SCOPE,...` to ask for; default those of the account")
	c.Flags().BoolVar(&header, "header", false, "print it as the header of a request")
	return c
}
