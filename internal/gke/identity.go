package gke

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tree"
)

// An identity is what a service account of Kubernetes is to Google: it changes
// with its uid and its annotations. It does not change itself.
type identity struct {
	account ServiceAccount
	missing bool // there is no such account

	email    string // as its Pods see it (section 2.2)
	gsa      string // the service account of Google that it acts as; "": none
	quota    string // the project that pays for that
	member   string // as IAM policies name it, with PROJECT_NUMBER if that is not known; "": cannot be told
	provider Provider
	fault    *token.Error // why there can be no tokens; nil: nothing known

	shown atomic.Pointer[shown]
	kept  atomic.Pointer[token.Source] // a view of the principal's tokens, so that they are kept while no Pod has one
}

// shown is the document of an identity on a node.
type shown struct {
	node     *node
	document *tree.Tree
}

func (i *identity) same(j *identity) bool {
	return i.missing == j.missing && i.account.UID == j.account.UID && maps.Equal(i.account.Annotations, j.account.Annotations)
}

// scopes are those that an account shows, and those of a token for which a
// request names none (section 1.8).
var scopes = []string{cloudPlatform, "https://www.googleapis.com/auth/userinfo.email"}

const cloudPlatform = "https://www.googleapis.com/auth/cloud-platform"

// newIdentity reads the annotations. What is wrong with them is told to who
// asks for a token; everything else is served.
func (c *Cluster) newIdentity(sa ServiceAccount) *identity {
	i := &identity{account: sa, provider: c.config.Provider, gsa: sa.Annotations[annotationGSA], quota: sa.Annotations[annotationQuota]}
	if name := sa.Annotations[annotationProvider]; name != "" {
		p, ok := c.config.Providers[name]
		if !ok {
			i.fault = faultProvider(sa, name, slices.Sorted(maps.Keys(c.config.Providers)))
		}
		i.provider = p
	}
	i.member = i.provider.Principal(c.config.ProjectID, cmp.Or(c.config.ProjectNumber, "PROJECT_NUMBER"), sa.Namespace, sa.Name)
	i.email = c.config.Pool
	switch {
	case i.gsa != "" && !isEmail(i.gsa):
		i.fault, i.gsa = faultGSA(sa, i.gsa), ""
	case i.gsa != "":
		i.email = i.gsa
	case tree.True(sa.Annotations[annotationPrincipal]):
		i.email = cmp.Or(i.provider.Principal(c.config.ProjectID, c.config.ProjectNumber, sa.Namespace, sa.Name), i.email)
	}
	if i.quota != "" && !projectID.MatchString(i.quota) && !projectNumber.MatchString(i.quota) {
		i.fault, i.quota = faultQuota(sa, i.quota), ""
	}
	if s := subject(sa.Namespace, sa.Name); len(s) > maxSubject {
		i.fault = faultSubject(sa, len(s))
	}
	return i
}

// isEmail accepts what has the form of an e-mail, whatever its domain, and
// keeps out what would change the address that it becomes part of (section 1.6).
func isEmail(s string) bool {
	name, domain, ok := strings.Cut(s, "@")
	return ok && name != "" && strings.Contains(domain, ".") && len(s) <= 320 && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("@.-_+", r))
	}) && !strings.Contains(domain, "@") && !strings.Contains(domain, "..") && domain[0] != '.'
}

// A place is an instance of a Pod, and what it was made from.
type place struct {
	identity *identity
	node     *node
	instance *fleet.Instance
}

// current returns the instance of the Pod, unless there is none yet or it is
// not of today.
func (t *tenant) current(n *node) *fleet.Instance {
	if p := t.place.Load(); p != nil && p.node == n && p.identity == t.account.identity.Load() {
		return p.instance
	}
	return nil
}

// instance returns the instance of a Pod. It waits for its account to be known.
func (c *Cluster) instance(ctx context.Context, t *tenant) (*fleet.Instance, error) {
	for {
		x := c.pods.Load() // before the look: what comes after it closes changed
		switch id := t.account.identity.Load(); {
		case id != nil && id.missing:
			return nil, refusal(reasonAccount, t.pod().String())
		case id != nil:
			return c.make(t)
		}
		select {
		case <-x.changed:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, ctx.Err()
			}
			return nil, refusal(reasonAccountPending, t.pod().String())
		}
	}
}

// renew makes the instance of a Pod again if somebody has one already: whoever
// waits for a change of it then sees one.
func (c *Cluster) renew(t *tenant) {
	if t.place.Load() == nil || t.account.identity.Load().missing {
		return
	}
	if _, err := c.make(t); err != nil {
		c.log.Error("the instance of a Pod cannot be made", "pod", t.pod().String(), "error", err)
	}
}

// make makes the instance, unless that was done.
func (c *Cluster) make(t *tenant) (*fleet.Instance, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	node, id := c.node.Load(), t.account.identity.Load()
	old := t.place.Load()
	if i := t.current(node); i != nil {
		return i, nil
	}
	if id.missing {
		return nil, refusal(reasonAccount, t.pod().String())
	}
	account := fleet.Account{Email: id.email, Aliases: []string{"default"}, Scopes: scopes, AnyScopes: true}
	s := id.shown.Load()
	if s == nil || s.node != node {
		doc, err := fleet.Document(node.document, account)
		if err != nil {
			return nil, fmt.Errorf("document of %s: %w", t.pod(), err)
		}
		s = &shown{node, doc}
		id.shown.Store(s)
	}
	account.Source = c.grant(t, id)
	i := &fleet.Instance{Name: t.pod().String(), Accounts: []fleet.Account{account}}
	if old == nil {
		i.Metadata = tree.NewStore(s.document)
		t.place.Store(&place{id, node, i})
		return i, nil
	}
	// The store stays, so that whoever waits on it sees the change. Until it
	// has the new document, the old e-mail is the account.
	i.Metadata = old.instance.Metadata
	if before := old.instance.Accounts[0].Email; before != account.Email {
		account.Email = before
		i.Accounts = append(i.Accounts, account)
	}
	t.place.Store(&place{id, node, i})
	i.Metadata.SetBase(s.document)
	return i, nil
}
