package daemon

import (
	"context"
	"errors"
	"log/slog"

	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/token"
)

// logTo is the sink of the journal that writes log lines: one a request at
// debug, and what a person should know at higher levels. Entries hold no
// secrets; what a source says about a failed mint is in Err.
func logTo(log *slog.Logger) func(journal.Entry) {
	ctx := context.Background()
	debug := log.Enabled(ctx, slog.LevelDebug)
	return func(e journal.Entry) {
		if e.Kind == journal.Request && e.Err == nil && !debug { // nearly all of them
			return
		}
		level := slog.LevelInfo
		switch {
		case e.Kind == journal.Request && serious(e):
			level = slog.LevelWarn
		case e.Kind == journal.Request:
			level = slog.LevelDebug
		case e.Kind == journal.Write:
			level = slog.LevelDebug
		case e.Kind == journal.Token && e.Err != nil:
			level = slog.LevelWarn
		case e.Err != nil:
			level = slog.LevelError
		}
		if !log.Enabled(ctx, level) {
			return
		}
		attrs := make([]slog.Attr, 0, 8)
		text := func(name, value string) {
			if value != "" {
				attrs = append(attrs, slog.String(name, value))
			}
		}
		text("listener", e.Listener)
		text("instance", e.Instance)
		text("method", e.Method)
		text("path", e.Path)
		if e.Status != 0 {
			attrs = append(attrs, slog.Int("status", e.Status), slog.Duration("took", e.Took))
		}
		text("detail", e.Detail)
		if g := e.Grant; g != nil {
			text("account", g.Account)
			text("email", g.Email)
			text("token", g.Token)
			text("for", g.For)
			if !g.Expiry.IsZero() {
				attrs = append(attrs, slog.Time("expiry", g.Expiry))
			}
		}
		if e.Err != nil {
			attrs = append(attrs, slog.String("error", e.Err.Error()))
		}
		log.LogAttrs(ctx, level, string(e.Kind), attrs...)
	}
}

// serious reports whether a person should know why a request failed: it is the
// server's fault, or a credential was refused, of which the workload is told
// no more than that.
func serious(e journal.Entry) bool {
	var minting *token.Error
	return e.Err != nil && (e.Status >= 500 && e.Class != "wait" || errors.As(e.Err, &minting) && minting.Kind != token.InvalidRequest)
}
