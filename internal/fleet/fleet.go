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
	"strings"
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
	// Absent says why the document is not there yet, as an error of a
	// Resolver; nil, and a nil error: it is.
	Absent func() error
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
	// AnyScopes lets a request name scopes that Scopes does not have, and
	// gives it a token of exactly those.
	AnyScopes bool
}

// ErrNoInstance: the caller is nobody we serve.
var ErrNoInstance = errors.New("no instance for this caller")

// A Refusal is the error of a resolver that has something to say to the
// caller.
type Refusal struct {
	Status     int           // of HTTP: 403, or 503 for a caller who should ask again
	RetryAfter time.Duration // 0: nothing is said of it
	Text       string        // for the caller: what is wrong, and who can mend it how
	Err        error         // the cause, for the log; may be nil
}

// Error returns the cause, or else the text.
func (r *Refusal) Error() string {
	if r.Err != nil {
		return r.Err.Error()
	}
	return r.Text
}

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Err }

// A Resolver says which instance a caller is; ErrNoInstance or a *Refusal if
// none. It is asked at every request, from many goroutines, but by one at a
// time for each caller.
//
// A resolver that has a method Accept(*Caller) is told of each connection
// when it is accepted. Others wait for it there, so it must not block.
type Resolver interface {
	Resolve(ctx context.Context, c *Caller, a Ask) (*Instance, error)
}

// An Ask is what a request asks for. It proves nothing of who asks: the host
// may pick an instance among those that the caller may be, and some paths are
// the same for every caller.
type Ask struct {
	Host      string // the Host header
	Key       string // path below /computeMetadata/v1/, without a slash at its end
	Recursive bool   // everything below the key is asked for, too
}

// A Caller is what the connection says about who is at its other end. Nothing
// in it comes from the request.
type Caller struct {
	Listener      string // name in the configuration
	Local, Remote netip.AddrPort
	TLS           *tls.ConnectionState
	Peer          func(context.Context) (Peer, error) // asks the kernel, once per connection; nil: it cannot be asked
	Pin           any                                 // what the resolver keeps of the connection
}

// A Peer is the process at the other end of a connection, according to the
// kernel: the one that opened it.
type Peer struct {
	PID    int    // as this machine counts; 0: not known
	UID    uint32 // of the user
	PodUID string // of the Pod whose control group it is in; "": it is in none
	Cgroup string // path of its control group, from the root of its hierarchy
}

// Document returns doc with the service-accounts directory of these accounts:
// each under its e-mail and its aliases (protocol section 5.1); under its
// aliases alone where the e-mail is the name of a principal, which no path can
// have. Accounts that doc has and the list has not are removed.
func Document(doc *tree.Tree, accounts ...Account) (*tree.Tree, error) {
	const dir = "instance/service-accounts"
	edits := []tree.Edit{{Path: dir, Value: map[string]any{}}}
	for _, a := range accounts {
		aliases := slices.Sorted(slices.Values(a.Aliases))
		names := append([]string{a.Email}, aliases...)
		if strings.HasPrefix(a.Email, "principal://") {
			names = aliases
		}
		for _, name := range names {
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
