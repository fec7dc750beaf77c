package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/client"
	"github.com/gcemds/gcemds/internal/issuer"
)

// An identityToken is what identity --json prints.
type identityToken struct {
	Value    string         `json:"id_token"`
	Expiry   time.Time      `json:"expiry"`
	Email    string         `json:"email"`
	Header   map[string]any `json:"header"`
	Claims   map[string]any `json:"claims"`
	Verified bool           `json:"verified"` // with --verify
}

// googleCerts is where Google publishes the keys of its ID tokens.
const googleCerts = "https://www.googleapis.com/oauth2/v3/certs"

func newIdentity() *cobra.Command {
	var a account
	var decode, verify bool
	var certs string
	c := &cobra.Command{
		Use:   "identity AUDIENCE",
		Short: "Print an ID token from a metadata server",
		Long: `Print an ID token for an audience from a metadata server, in full format: it says
on which machine it was made. Whoever sees it can use it at that audience for as
long as it lives, an hour as a rule.

With --decode, print what is in it instead. With --verify, print it only if it is
good: signed with RS256 by one of the keys of Google, or of --certs, for that
audience, and not expired. Keys are a JWK set or an object of certificates, such
as https://www.googleapis.com/oauth2/v1/certs. Those of the offline issuer of a
gcemds are at the address that gcemds status shows, at /oauth2/v3/certs.`,
		Example: `  gcemds identity https://service.example.com
  gcemds identity https://service.example.com --decode
  gcemds identity https://service.example.com --verify --certs certs.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("certs") && !verify {
				return &usageError{errors.New("--certs are for --verify, which is not there"), c.CommandPath()}
			}
			if a.asJSON && decode {
				return &usageError{errors.New("--json has all that --decode prints, and the token"), c.CommandPath()}
			}
			server, err := a.metadata(c.Context())
			if err != nil {
				return err
			}
			tokens := &client.Tokens{Client: server, Account: a.name, Audience: args[0]}
			t, err := tokens.Mint(c.Context())
			if err != nil {
				return err
			}
			out := identityToken{Value: t.Value, Expiry: t.Expiry.UTC(), Email: t.Email, Verified: verify}
			if verify {
				if err := verifyIdentity(c.Context(), t.Value, args[0], certs); err != nil {
					return err
				}
			}
			if out.Header, out.Claims, err = issuer.DecodeJWT(t.Value); err != nil {
				return fmt.Errorf("what the server gives as ID token is %w", err)
			}
			switch {
			case a.asJSON:
				return printJSON(c.OutOrStdout(), out)
			case decode:
				return printJSON(c.OutOrStdout(), struct {
					Header map[string]any `json:"header"`
					Claims map[string]any `json:"claims"`
				}{out.Header, out.Claims})
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), t.Value)
			return err
		},
	}
	a.flags(c)
	c.Flags().BoolVar(&decode, "decode", false, "print what is in the token, as JSON, and not the token")
	c.Flags().BoolVar(&verify, "verify", false, "fail unless the token is good")
	c.Flags().StringVar(&certs, "certs", googleCerts, "`URL|FILE` of the keys for --verify")
	return c
}

// verifyIdentity says what is wrong with a token.
func verifyIdentity(ctx context.Context, token, audience, certs string) error {
	data, err := readCerts(ctx, certs)
	if err != nil {
		return fmt.Errorf("cannot read the keys to verify with: %w; for tokens of another issuer than Google give its keys with --certs, those of a gcemds being at the address that gcemds status shows", err)
	}
	_, keys, err := issuer.ParsePublicKeys(data)
	if err != nil {
		return fmt.Errorf("%s: %w", certs, err)
	}
	_, claims, err := issuer.VerifyJWT(keys, token, time.Now())
	if err != nil {
		return fmt.Errorf("the token is not good by the keys at %s (--certs): %w", certs, err)
	}
	if claims["aud"] != audience {
		return fmt.Errorf("the token is for the audience %q, not %q", claims["aud"], audience)
	}
	if iss := claims["iss"]; certs == googleCerts && iss != "https://accounts.google.com" && iss != "accounts.google.com" {
		return fmt.Errorf("the token is of the issuer %q, which is not Google", iss)
	}
	return nil
}

// maxCerts bounds a list of keys.
const maxCerts = 1 << 20

func readCerts(ctx context.Context, certs string) ([]byte, error) {
	var r io.Reader
	if strings.HasPrefix(certs, "https://") || strings.HasPrefix(certs, "http://") {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, certs, nil)
		if err != nil {
			return nil, err
		}
		resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s answers %s", certs, resp.Status)
		}
		r = resp.Body
	} else {
		f, err := os.Open(certs)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxCerts+1))
	if err == nil && len(data) > maxCerts {
		err = fmt.Errorf("%s has more than %d bytes", certs, maxCerts)
	}
	return data, err
}
