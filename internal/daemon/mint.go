package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"

	"github.com/gcemds/gcemds/internal/admin"
	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/credential"
	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/gke"
	"github.com/gcemds/gcemds/internal/token"
)

// Check opens and builds what a configuration names, as New does, and serves
// nothing: it is what can be known of a configuration without listening. With
// mint it also gets a token from each source; what fails there is not an
// error but part of the answer.
func Check(ctx context.Context, c *config.Config, log *slog.Logger, mint bool) ([]admin.Minted, error) {
	d := &Daemon{log: log, cache: token.NewCache(token.Limits{})}
	defer d.cache.Close()
	var err error
	own := c.Issuer
	if _, err := os.Stat(own.KeyFile); err != nil {
		own.KeyFile = "" // it is made at the first use, and a check makes nothing
	}
	if d.issuer, err = openIssuer(ctx, own); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	defer d.issuer.Close()
	for _, l := range c.Listen {
		if l.TLS == nil || l.TLS.CA == "" {
			continue // one is made at the first use
		}
		if _, err := openAuthority(l.TLS.CA, l.TLS.CAKey, false, l.TLS.Hosts); err != nil {
			return nil, fmt.Errorf("listen.%s: %w", l.Name, err)
		}
	}
	if c.GKE != nil && c.GKE.Kubeconfig != "" {
		if _, err := gke.OpenKubernetes(c.GKE.Kubeconfig, "gcemds"); err != nil {
			return nil, fmt.Errorf("gke.kubeconfig: %w", err)
		}
	}
	d.env = credential.Env{Client: &exchange.Client{Log: log}, Issuer: d.issuer, Log: log, Check: true}
	p, err := d.plan(ctx, c)
	if err == nil {
		defer p.sources.close(nil)
	}
	s := d.sources(ctx, c)
	defer s.close(nil)
	var minted []admin.Minted
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		email, scopes, used := uses(c, name)
		o, failed := s.open(name, cmp.Or(email, "nobody@example.test"))
		switch {
		case failed != nil && !used: // else the plan has failed with it
			err = errors.Join(err, fmt.Errorf("source %q: %w", name, failed))
		case failed == nil && mint:
			minted = append(minted, o.mint(ctx, scopes))
		}
	}
	return minted, err
}

// uses returns the e-mail of the first account that has the source, the scopes
// of all, and whether there is any.
func uses(c *config.Config, source string) (email string, scopes []string, used bool) {
	for _, i := range c.Instances {
		for _, a := range i.Accounts {
			if a.Source == source {
				email = cmp.Or(email, a.Email)
				scopes = append(scopes, a.Scopes...)
				used = true
			}
		}
	}
	return email, token.Scopes(scopes...), used
}

// whoami mints for each account of an instance, as a workload would.
func whoami(ctx context.Context, instance *fleet.Instance) []admin.Minted {
	minted := []admin.Minted{}
	accounts := instance.Accounts
	if len(accounts) == 0 { // those of the document, whatever it is by now
		for _, a := range fleet.Accounts(instance.Metadata.Tree()) {
			if known := instance.Account(a.Email); known != nil {
				a.Source = known.Source
				accounts = append(accounts, a)
			}
		}
	}
	for _, a := range accounts {
		m := a.Source.(*opened).mint(ctx, a.Scopes)
		m.Instance, m.Account, m.Aliases = instance.Name, a.Email, a.Aliases
		minted = append(minted, m)
	}
	return minted
}

const cloudPlatform = "https://www.googleapis.com/auth/cloud-platform"

// mint gets an access token, or, from a source that has none, an ID token.
func (o *opened) mint(ctx context.Context, scopes []string) admin.Minted {
	m := admin.Minted{Source: o.name, Account: o.identity.Email, Steps: o.identity.Steps, Token: "access token", Scopes: scopes}
	if len(scopes) == 0 {
		m.Scopes = []string{cloudPlatform}
	}
	t, err := o.Mint(ctx, token.Request{Scopes: m.Scopes})
	var failure *token.Error
	if errors.As(err, &failure) && failure.Kind == token.Unsupported {
		m.Token, m.Scopes = "ID token", nil
		t, err = o.Mint(ctx, token.Request{Audience: "https://gcemds.example"})
	}
	switch {
	case err == nil:
		m.Expiry = &t.Expiry
	case errors.As(err, &failure):
		m.Failure, m.Error = failure.Kind.String(), failure.Error()
		if failure.Err != nil {
			m.Error = failure.Err.Error()
		}
	default: // the context ended
		m.Failure, m.Error = token.Unavailable.String(), err.Error()
	}
	return m
}
