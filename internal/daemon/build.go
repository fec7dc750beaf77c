package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/credential"
	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/server"
	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tree"
)

// A plan is what a configuration asks for, opened and checked but not served
// yet: everything about a reload that can fail has happened when there is one.
type plan struct {
	sources   *sources
	instances []planned
	routes    []config.Route
	hosts     []string
}

type planned struct {
	fleet.Instance // without its store
	document       *tree.Tree
	follower       *follower // of an instance whose document is that of another server; nil of others
}

// plan opens sources and builds documents. It reports all that is wrong, an
// instance at a time; then nothing stays open.
func (d *Daemon) plan(ctx context.Context, c *config.Config) (*plan, error) {
	p := &plan{sources: d.sources(ctx, c), routes: c.Routes, hosts: c.Hosts}
	refresh := token.RefreshTokens{Limit: c.Limits.RefreshTokens}
	var errs []error
	for _, i := range c.Instances {
		made, err := d.planInstance(p.sources, i)
		for _, a := range made.Accounts {
			err = errors.Join(err, refresh.Add(a.Email, a.Scopes))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("instance %q: %w", i.Name, err))
			continue
		}
		p.instances = append(p.instances, made)
	}
	before := p.sources.before
	p.sources.before = nil // which has one before it, too
	if len(errs) > 0 {
		p.sources.close(before)
		return nil, errors.Join(errs...)
	}
	return p, nil
}

func (d *Daemon) planInstance(s *sources, i config.Instance) (planned, error) {
	p := planned{Instance: fleet.Instance{Name: i.Name, Created: i.Created, EnforceScopes: i.EnforceScopes}}
	if p.Created.IsZero() {
		p.Created = fleet.BuiltinCreated
	}
	doc := fleet.Builtin()
	switch {
	case i.Upstream != "":
		doc = nobody()
	case i.Metadata != "":
		data, err := readFile(i.Metadata, tree.MaxDocument)
		if err != nil {
			return p, err
		}
		if doc, err = tree.Parse(data); err != nil {
			return p, fmt.Errorf("%s: %w", i.Metadata, err)
		}
	}
	accounts, who, err := s.accounts(i, doc)
	if err != nil {
		return p, err
	}
	p.Accounts = accounts
	if len(i.Accounts) == 0 {
		p.Others = d.others
	}
	var edits []tree.Edit
	if i.Metadata == "" && i.Upstream == "" {
		edits = append(edits, moved(doc, i.Name, who)...)
	}
	if i.OSLogin != "" {
		data, err := readFile(i.OSLogin, tree.MaxDocument)
		if err != nil {
			return p, err
		}
		login, err := server.LoginData(data)
		if err != nil {
			return p, fmt.Errorf("%s: %w", i.OSLogin, err)
		}
		edits = append(edits, login...)
	}
	if d.issuesCertificates() {
		edits = append(edits, tree.Edit{Path: "instance/credentials/mds-client-certificate", Value: tree.Live("client-certificate")})
	}
	dress := func(doc *tree.Tree) (_ *tree.Tree, err error) {
		if i.Upstream == "" || len(accounts) > 0 {
			if doc, err = fleet.Document(doc, accounts...); err != nil {
				return nil, err
			}
		}
		if doc, err = doc.With(edits...); err == nil {
			doc, err = doc.With(i.Set...)
		}
		if err != nil {
			return nil, fmt.Errorf("set: %w", err)
		}
		return doc, nil
	}
	if p.document, err = dress(doc); err != nil || i.Upstream == "" {
		return p, err
	}
	if err := checkCircle(s.ctx, i.Upstream, s.own); err != nil {
		return p, fmt.Errorf("upstream: %w", err)
	}
	if p.follower, err = d.follow(i.Name, i.Upstream, dress); err != nil {
		return p, fmt.Errorf("upstream: %w", err)
	}
	p.Absent = p.follower.absent
	if len(i.Accounts) == 0 {
		p.Others = s.mints(p.follower)
	}
	return p, nil
}

// nobody is the document of a machine of which nothing is known yet.
var nobody = sync.OnceValue(func() *tree.Tree {
	doc, err := tree.Parse([]byte(`{"instance":{},"project":{}}`))
	if err != nil {
		panic(err)
	}
	return doc
})

// moved gives the built-in machine the name of the instance, and moves it to
// the project of its key, if that is known.
func moved(doc *tree.Tree, name string, who credential.Identity) []tree.Edit {
	is := func(path string) string {
		n, _ := doc.Lookup(path)
		return n.Value()
	}
	project := cmp.Or(who.ProjectID, is("project/project-id"))
	host := strings.NewReplacer(is("instance/name"), name, is("project/project-id"), project).Replace(is("instance/hostname"))
	edits := []tree.Edit{
		{Path: "instance/name", Value: name},
		{Path: "instance/hostname", Value: host},
		{Path: "project/project-id", Value: project},
	}
	if who.ProjectNumber != "" {
		edits = append(edits, tree.Edit{Path: "project/numeric-project-id", Value: json.Number(who.ProjectNumber)})
	}
	return edits
}

// accounts opens the source of each account of an instance, and says who the
// default one is. Where the configuration names none, those of the document
// get offline tokens.
func (s *sources) accounts(i config.Instance, doc *tree.Tree) (accounts []fleet.Account, who credential.Identity, err error) {
	shown := fleet.Accounts(doc)
	if len(i.Accounts) == 0 {
		for _, a := range shown {
			opened, err := s.open(offline, a.Email)
			if err != nil {
				return nil, who, fmt.Errorf("account %q: %w", a.Email, err)
			}
			a.Source = opened
			accounts = append(accounts, a)
		}
		return accounts, who, nil
	}
	for _, a := range i.Accounts {
		account := fleet.Account{Email: a.Email, Aliases: slices.Clone(a.Aliases), Scopes: a.Scopes}
		if a.Name == "default" {
			account.Aliases = append(account.Aliases, "default")
			for _, here := range shown { // the offline issuer knows no e-mail of its own
				if account.Email == "" && a.Source == offline && slices.Contains(here.Aliases, "default") {
					account.Email = here.Email
				}
			}
		} else if a.Email != "" && a.Name != a.Email {
			account.Aliases = append(account.Aliases, a.Name)
		} else {
			account.Email = a.Name
		}
		slices.Sort(account.Aliases)
		account.Aliases = slices.Compact(account.Aliases)
		opened, err := s.open(a.Source, account.Email)
		if err != nil {
			return nil, who, fmt.Errorf("account %q: source %q: %w", a.Name, a.Source, err)
		}
		whose := opened.identity.Email
		switch {
		case account.Email == "" && whose == "":
			return nil, who, fmt.Errorf("account %q: the source does not know whose it is; give the account an email", a.Name)
		case account.Email == "":
			account.Email = whose
		case whose != "" && whose != account.Email:
			return nil, who, fmt.Errorf("account %q: source %q has the tokens of %s, not of %s; list the account under that e-mail, or impersonate this one", a.Name, a.Source, whose, account.Email)
		}
		if slices.Contains(account.Aliases, "default") {
			who = opened.identity
		}
		account.Source = opened
		accounts = append(accounts, account)
	}
	return accounts, who, nil
}

// others is the source of an account that the configuration does not name.
func (d *Daemon) others(email string) token.Source {
	id := "offline " + email
	source, identity := d.issuer.Source(email), credential.Identity{Email: email, Steps: []string{"offline issuer"}}
	return &opened{Source: d.cache.Source(id, source), name: offline, identity: identity, id: id}
}

// serve makes the plan what is served, and closes those sources of the one
// before that it has not kept. It cannot fail.
func (d *Daemon) serve(p *plan) {
	if old := d.show(p); old != nil {
		old.close(p.sources)
	}
}

// show makes the plan what requests see. It returns the sources they saw
// before, if any.
func (d *Daemon) show(p *plan) *sources {
	d.mu.Lock()
	defer d.mu.Unlock()
	var routes []fleet.Route
	instances := make([]*fleet.Instance, len(p.instances))
	byName := map[string]*fleet.Instance{}
	followers := map[string]*follower{}
	for k, planned := range p.instances {
		i := planned.Instance
		var parts map[string]string
		if before := d.followers[i.Name]; before != nil {
			known := before.retire() // from here on the store is not its own
			if f := planned.follower; f != nil && f.address == before.address {
				parts = known
			}
		}
		if old := d.byName[i.Name]; old != nil && planned.follower != nil {
			i.Metadata = old.Metadata // who waits does so until there is a document
		} else if old != nil {
			i.Metadata = old.Metadata
			for _, e := range i.Metadata.SetBase(planned.document) {
				d.log.Warn("an edit made while running does not fit the new document and is dropped", "instance", i.Name, "path", e.Path)
			}
		} else {
			i.Metadata = tree.NewStore(planned.document)
		}
		instances[k], byName[i.Name] = &i, &i
		if f := planned.follower; f != nil {
			f.start(d.base, i.Metadata, parts)
			followers[i.Name] = f
			p.sources.closers = append(p.sources.closers, f)
		}
	}
	for _, r := range p.routes {
		routes = append(routes, fleet.Route{Listener: r.Listener, Host: r.Host, Local: r.Local, Source: r.Source, Instance: byName[r.Instance]})
	}
	if len(p.routes) == 0 && len(instances) > 0 {
		routes = append(routes, fleet.Route{Instance: instances[0]})
	}
	d.instances, d.byName, d.followers = instances, byName, followers
	d.router.Set(routes...)
	d.server.SetHosts(p.hosts...)
	old := d.opened
	d.opened = p.sources
	return old
}

// readFile reads a file of at most limit bytes; its errors name the file.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: larger than %d bytes", name, limit)
	}
	return data, err
}
