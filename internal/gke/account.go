package gke

import (
	"context"
	"iter"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// A key is the name of a service account.
type key struct{ namespace, name string }

// An account is a service account that Pods of this node use. It is watched
// for as long as they do.
type account struct {
	key
	users    int // Pods; the lock of the cluster guards it
	stop     context.CancelFunc
	identity atomic.Pointer[identity] // nil until it is known
	mints    *rate.Limiter            // of what its Pods can make us ask upstream
}

// use returns the account of that name, watched. The lock is held.
func (c *Cluster) use(k key) *account {
	a := c.accounts[k]
	if a == nil {
		ctx, stop := context.WithCancel(c.ctx)
		a = &account{key: k, stop: stop, mints: rate.NewLimiter(accountRate, accountBurst)}
		c.accounts[k] = a
		c.work.Go(func() {
			follows(c, "a service account", c.api.ServiceAccount(ctx, k.namespace, k.name), new(atomic.Pointer[error]), func(change Change[ServiceAccount]) { c.applyAccount(a, change) })
		})
	}
	a.users++
	return a
}

// release ends a use. The lock is held.
func (c *Cluster) release(a *account) {
	if a.users--; a.users == 0 {
		a.stop()
		delete(c.accounts, a.key)
	}
}

// applyAccount takes in what the watch of an account has seen: another uid or
// another annotation is another identity, and the tokens of the one before are
// not handed out any more.
func (c *Cluster) applyAccount(a *account, change Change[ServiceAccount]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := a.identity.Load()
	var id *identity
	for _, sa := range change.Items {
		switch {
		case sa.Name != a.name || sa.Namespace != a.namespace:
		case change.Gone && old != nil && old.account.UID != sa.UID: // the news of one that has a successor
			return
		case !change.Gone:
			id = c.newIdentity(sa)
		}
	}
	if id == nil {
		id = &identity{account: ServiceAccount{Namespace: a.namespace, Name: a.name}, missing: true}
	}
	if old != nil && old.same(id) {
		return
	}
	a.identity.Store(id)
	c.tell()
	for _, t := range c.pods.Load().users[a] {
		c.renew(t)
	}
}

// follows takes in what a watch sees, until it ends.
func follows[T any](c *Cluster, what string, seen iter.Seq2[Change[T], error], met *atomic.Pointer[error], apply func(Change[T])) {
	for change, err := range seen {
		if err != nil {
			c.counts.watchErrors.Add(1)
			met.Store(&err)
			if c.logged.first("watch of "+what, time.Now()) { // all of them end when the API server does
				c.log.Warn("the watch of "+what+" was interrupted; it begins again by itself", "error", err)
			}
			continue
		}
		met.Store(nil)
		apply(change)
	}
}
