package cli

import (
	"cmp"
	"context"
	"encoding/json"
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

// googleIssuer is where Google describes what its ID tokens are like.
const googleIssuer = "https://accounts.google.com"

func newIdentity() *cobra.Command {
	var a account
	var decode, verify bool
	var by verifier
	c := &cobra.Command{
		Use:   "identity AUDIENCE",
		Short: "Print an ID token from a metadata server",
		Long: `Print an ID token for an audience from a metadata server, in full format: it says
on which machine it was made. Whoever sees it can use it at that audience for as
long as it lives, an hour as a rule.

With --decode, print what is in it instead. With --verify, print it only if it is
good: for that audience, not expired, and signed with RS256 by Google, or by the
--issuer that you trust, such as the one that gcemds status shows. What its tokens
are like and where its keys are is asked at /.well-known/openid-configuration
there. --certs has keys instead: a JWK set or an object of certificates.`,
		Example: `  gcemds identity https://service.example.com
  gcemds identity https://service.example.com --decode
  gcemds identity https://service.example.com --verify
  gcemds identity https://service.example.com --verify --issuer http://127.0.0.1:8081
  gcemds identity https://service.example.com --verify --certs certs.json`,
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case by != (verifier{}) && !verify:
				return &usageError{errors.New("--issuer and --certs are for --verify, which is not there"), c.CommandPath()}
			case by.issuer != "" && by.certs != "":
				return &usageError{errors.New("--issuer says where its keys are, so it goes without --certs"), c.CommandPath()}
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
				if err := by.verify(c.Context(), t.Value, args[0]); err != nil {
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
	c.Flags().StringVar(&by.issuer, "issuer", "", "`URL` of whom to trust, for --verify; default "+googleIssuer)
	c.Flags().StringVar(&by.certs, "certs", "", "`URL|FILE` of the keys for --verify, whoever the issuer is")
	return c
}

// A verifier is whom a token has to be of: one of them is set, or none, and then
// it is Google.
type verifier struct {
	issuer, certs string
}

// verify says what is wrong with a token. Nothing in a token decides what it is
// checked with: it may be anybody's.
func (v verifier) verify(ctx context.Context, token, audience string) error {
	certs, made := v.certs, ""
	if certs == "" {
		var err error
		if certs, made, err = discover(ctx, cmp.Or(v.issuer, googleIssuer)); err != nil {
			return fmt.Errorf("cannot find the keys to verify with: %w%s", err, v.hint())
		}
	}
	data, err := read(ctx, certs)
	if err != nil {
		return fmt.Errorf("cannot read the keys to verify with: %w%s", err, v.hint())
	}
	_, keys, err := issuer.ParsePublicKeys(data)
	if err != nil {
		return fmt.Errorf("%s: %w", certs, err)
	}
	_, claims, err := issuer.VerifyJWT(keys, token, time.Now())
	if err != nil {
		return fmt.Errorf("the token is not good by the keys at %s: %w%s", certs, err, v.hint())
	}
	if claims["aud"] != audience {
		return fmt.Errorf("the token is for the audience %q, not %q", claims["aud"], audience)
	}
	if iss, _ := claims["iss"].(string); made != "" && iss != made && "https://"+iss != made { // Google has it either way
		return fmt.Errorf("the token is of the issuer %q, not of %q", iss, made)
	}
	return nil
}

// hint is for who has not said whom to trust.
func (v verifier) hint() string {
	if v != (verifier{}) {
		return ""
	}
	return "; if it is of another issuer than Google, and one that you trust, say so with --issuer (gcemds status shows that of a gcemds)"
}

// discover asks an issuer where its keys are, and what it calls itself in its
// tokens (OpenID Connect Discovery 1.0, section 4).
func discover(ctx context.Context, base string) (certs, name string, err error) {
	if !isURL(base) {
		return "", "", fmt.Errorf("the issuer %q is not a URL", base)
	}
	from := strings.TrimSuffix(base, "/") + "/.well-known/openid-configuration"
	data, err := read(ctx, from)
	if err != nil {
		return "", "", err
	}
	var document struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(data, &document); err != nil || document.Issuer == "" || !isURL(document.Keys) {
		return "", "", fmt.Errorf("%s does not say where the keys are, and of whom", from)
	}
	if isHTTPS(base) && !isHTTPS(document.Keys) {
		return "", "", fmt.Errorf("%s has its keys at %s, where anybody on the way could put others", from, document.Keys)
	}
	return document.Keys, document.Issuer, nil
}

func isURL(s string) bool   { return isHTTPS(s) || strings.HasPrefix(s, "http://") }
func isHTTPS(s string) bool { return strings.HasPrefix(s, "https://") }

// maxCerts bounds a list of keys, in bytes.
const maxCerts = 1 << 20

// read reads a file, or what is at a URL.
func read(ctx context.Context, name string) ([]byte, error) {
	var r io.Reader
	if isURL(name) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, name, nil)
		if err != nil {
			return nil, err
		}
		resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s answers %s", name, resp.Status)
		}
		r = resp.Body
	} else {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxCerts+1))
	if err == nil && len(data) > maxCerts {
		err = fmt.Errorf("%s has more than %d bytes", name, maxCerts)
	}
	return data, err
}
