package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/client"
	"github.com/gcemds/gcemds/internal/admin"
)

// A ready is what wait --json prints.
type ready struct {
	Email  string    `json:"email"`
	Expiry time.Time `json:"expiry"` // of the token that shows it
}

func newWait() *cobra.Command {
	var a account
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "wait",
		Short: "Wait until a metadata server mints tokens",
		Long: `Wait until a metadata server mints an access token, and say whose. Use it where
something needs the server from its first moment: in a script that has just
started it, or in an init container of a Pod, since that of GKE comes up after
the Pod. It waits for what may pass; where the server refuses, it ends at once.`,
		Example: `  gcemds wait
  gcemds wait --host metadata.google.internal --timeout 2m`,
		RunE: func(c *cobra.Command, _ []string) error {
			p := &progress{began: time.Now()}
			if f, ok := c.ErrOrStderr().(*os.File); ok && isTerminal(f) {
				p.w = f
			}
			ctx, cancel := context.WithTimeoutCause(c.Context(), timeout, fmt.Errorf("nothing better came in %v", timeout))
			defer cancel()
			t, err := a.wait(ctx, p, timeout)
			p.clear()
			if err != nil {
				return err
			}
			out := ready{t.Email, t.Expiry.UTC().Truncate(time.Second)}
			if a.asJSON {
				return printJSON(c.OutOrStdout(), out)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s has tokens\n", out.Email)
			return err
		},
	}
	a.flags(c)
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait, such as 30s or 5m")
	return c
}

func (a *account) wait(ctx context.Context, p *progress, timeout time.Duration) (client.Token, error) {
	server, err := a.metadata(ctx)
	for errors.Is(err, admin.ErrNoAnswer) {
		p.show(err)
		select {
		case <-ctx.Done():
			return client.Token{}, err
		case <-time.After(100 * time.Millisecond):
		}
		server, err = a.metadata(ctx)
	}
	if err != nil {
		return client.Token{}, err
	}
	server.Patience, server.Logger = timeout, slog.New(p)
	return (&client.Tokens{Client: server, Account: a.name}).Mint(ctx)
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// A progress shows in one line of a terminal what is waited for. It is a
// handler of the client's log.
type progress struct {
	w     io.Writer // nil: nobody looks
	began time.Time
}

func (p *progress) show(why any) {
	if p.w != nil {
		line := fmt.Sprintf("waiting for %v: %s", time.Since(p.began).Truncate(time.Second), strings.Join(strings.Fields(fmt.Sprint(why)), " "))
		fmt.Fprintf(p.w, "\r\x1b[K%.79s", line)
	}
}

func (p *progress) clear() {
	if p.w != nil {
		io.WriteString(p.w, "\r\x1b[K")
	}
}

// Handle shows the error of a record.
func (p *progress) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" {
			p.show(a.Value)
		}
		return true
	})
	return nil
}

func (p *progress) Enabled(context.Context, slog.Level) bool { return true }
func (p *progress) WithAttrs([]slog.Attr) slog.Handler       { return p }
func (p *progress) WithGroup(string) slog.Handler            { return p }
