// Package fleet says who is being served: an Instance is a document and the
// accounts of one machine, a Caller is what is known of a connection without
// trusting a word of the request, and a Resolver says which instance a caller
// is. One virtual machine, fifty of them and a Pod are the same thing to
// everything above.
package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tree"
)

// An Instance is one machine as its workloads see it.
type Instance struct {
	Name     string
	Metadata *tree.Store
	Accounts []Account
	// Others mints for accounts that the document shows, because somebody
	// added them while running, and Accounts does not have; nil: nobody does.
	Others  func(email string) token.Source
	Created time.Time // for identity tokens; the document does not have it
	// EnforceScopes makes the scopes parameter of the token endpoint binding,
	// as the attribute enable-access-token-enforce-scopes does.
	EnforceScopes bool
}

// Account returns the account of an e-mail that the document shows, or nil.
func (i *Instance) Account(email string) *Account {
	for k := range i.Accounts {
		if i.Accounts[k].Email == email {
			return &i.Accounts[k]
		}
	}
	if i.Others != nil && email != "" {
		return &Account{Email: email, Source: i.Others(email)}
	}
	return nil
}

// An Account is a service account of an instance.
type Account struct {
	Email   string
	Aliases []string // "default" makes it the default account
	Scopes  []string
	Source  token.Source
}

// ErrNoInstance: the caller is nobody we serve.
var ErrNoInstance = errors.New("no instance for this caller")

// A Resolver says which instance a caller is; ErrNoInstance if none. The Host
// header of the request may pick an instance among those that the caller may
// be; it never proves one. A Resolver is asked at every request, from many
// goroutines.
type Resolver interface {
	Resolve(ctx context.Context, c *Caller, host string) (*Instance, error)
}

// A Caller is what the connection says about who is at its other end. Nothing
// in it comes from the request.
type Caller struct {
	Listener      string // name in the configuration
	Local, Remote netip.AddrPort
	TLS           *tls.ConnectionState
}

// Document returns doc with the service-accounts directory of these accounts:
// each under its e-mail and its aliases (protocol section 5.1). Accounts that
// doc has and the list has not are removed.
func Document(doc *tree.Tree, accounts ...Account) (*tree.Tree, error) {
	const dir = "instance/service-accounts"
	edits := []tree.Edit{{Path: dir, Value: map[string]any{}}}
	for _, a := range accounts {
		aliases := slices.Sorted(slices.Values(a.Aliases))
		for _, name := range append([]string{a.Email}, aliases...) {
			edits = append(edits,
				tree.Edit{Path: dir + "/" + name + "/aliases", Value: list(aliases)},
				tree.Edit{Path: dir + "/" + name + "/email", Value: a.Email},
				tree.Edit{Path: dir + "/" + name + "/scopes", Value: list(token.Scopes(a.Scopes...))},
			)
		}
	}
	return doc.With(edits...)
}

// list is never nil: JSON must say [], not null.
func list(s []string) []string { return append([]string{}, s...) }

// Accounts returns the accounts that a document shows, without sources: one
// for each directory that is named as its e-mail, with the scopes and aliases
// it lists.
func Accounts(doc *tree.Tree) []Account {
	dir, err := doc.Lookup("instance/service-accounts")
	if err != nil {
		return nil
	}
	var accounts []Account
	index := map[string]int{}
	for name, n := range dir.Children {
		email := n.Child("email").Value()
		if email == "" {
			email = name
		}
		i, known := index[email]
		if !known {
			i = len(accounts)
			index[email] = i
			accounts = append(accounts, Account{Email: email, Scopes: n.Child("scopes").Items()})
		}
		a := &accounts[i]
		a.Aliases = append(a.Aliases, n.Child("aliases").Items()...)
		if name != email {
			a.Aliases = append(a.Aliases, name)
		}
		slices.Sort(a.Aliases)
		a.Aliases = slices.Compact(a.Aliases)
	}
	return accounts
}
