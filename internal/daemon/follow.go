package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/gcemds/gcemds/client"
	"github.com/gcemds/gcemds/internal/credential"
	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tree"
)

// followed are the paths that make a document: the whole tree, and what the
// tree does not show although it changes what workloads do (protocol sections
// 4.2 and 4.5).
var followed = []string{"", "universe/", "instance/upcoming-maintenance"}

const (
	followPatience = 30 * time.Second // until a server that does not answer is trouble
	followAgain    = 10 * time.Second // after an answer that will hardly be another one soon
)

// A follower keeps the document of an instance that of another metadata
// server. Until it has the first one there is nothing to serve; from then on
// the last one that could be had is served, whatever becomes of the server.
type follower struct {
	instance string
	address  string // scheme and host
	client   *client.Client
	dress    func(*tree.Tree) (*tree.Tree, error) // puts on what the configuration says
	log      *slog.Logger

	stop    context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	store   *tree.Store       // nil: nobody sees it yet, or any more
	parts   map[string]string // what is at the paths; one that is missing has not been asked for yet
	there   bool              // store has a document of the server
	trouble error             // the last thing that went wrong, nil if something was right since
}

// follow returns a follower of the server at that address, which does nothing
// before start.
func (d *Daemon) follow(instance, address string, dress func(*tree.Tree) (*tree.Tree, error)) (*follower, error) {
	base, err := credential.MetadataServer(address)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	log := d.log.With("instance", instance, "upstream", base)
	return &follower{
		instance: instance, address: base, dress: dress, log: log, stop: func() {},
		client: &client.Client{
			Host: u.Host, Patience: followPatience, Logger: log,
			HTTP: &http.Client{Transport: marked{d.env.Client.Near(), u.Scheme, d.env.Header}},
		},
		parts: map[string]string{},
	}, nil
}

// marked sends requests with our mark, so that we refuse them if they come
// back to us, and by the scheme of the configuration.
type marked struct {
	http.RoundTripper
	scheme string
	mark   map[string]string
}

func (m marked) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme = m.scheme
	for name, value := range m.mark {
		r.Header.Set(name, value)
	}
	return m.RoundTripper.RoundTrip(r)
}

// start follows the server into the store, until Close. It goes on where
// another one of the same server has ended, of which these are the parts.
func (f *follower) start(ctx context.Context, store *tree.Store, parts map[string]string) {
	f.mu.Lock()
	f.store = store
	maps.Copy(f.parts, parts)
	f.publish()
	f.mu.Unlock()
	ctx, f.stop = context.WithCancel(ctx)
	for _, path := range followed {
		f.running.Go(func() { f.watch(ctx, path) })
	}
}

// retire ends what a follower does to its store, and returns what it knows.
func (f *follower) retire() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.store = nil
	return maps.Clone(f.parts)
}

// Close ends the follower and waits for that.
func (f *follower) Close() error {
	f.stop()
	f.running.Wait()
	return nil
}

// watch keeps one part up to date.
func (f *follower) watch(ctx context.Context, path string) {
	for ctx.Err() == nil {
		for value, err := range f.client.Watch(ctx, path) {
			f.learn(path, value, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(followAgain):
		}
	}
}

// learn takes in what the server says of a path.
func (f *follower) learn(path, value string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var failed *client.Error
	switch {
	case err == nil:
	case path == "":
		if errors.As(err, &failed) && failed.Status == http.StatusLoopDetected {
			err = errors.New("this is our own server: its upstream leads in a circle")
		}
		f.fail(err)
		return
	case errors.Is(err, client.NotFound):
		value = ""
	case f.parts[path] != "":
		return // better an old value than none
	}
	if old, known := f.parts[path]; known && old == value {
		f.trouble = nil
		return
	}
	f.parts[path] = value
	f.publish()
}

// publish makes the document of the parts that of the store, once all of them
// have been asked for.
func (f *follower) publish() {
	if f.store == nil || len(f.parts) < len(followed) || f.parts[""] == "" {
		return
	}
	doc, err := f.document()
	if err != nil {
		f.fail(err)
		return
	}
	f.trouble = nil
	for _, e := range f.store.SetBase(doc) {
		f.log.Warn("an edit made while running does not fit the new document and is dropped", "path", e.Path)
	}
	if !f.there {
		f.there = true
		f.log.Info("the document of the other metadata server is there")
	}
}

// document puts the parts together.
func (f *follower) document() (*tree.Tree, error) {
	doc, err := tree.Parse([]byte(f.parts[""]))
	if err != nil {
		return nil, fmt.Errorf("what it has at the top is no document: %w", err)
	}
	for _, path := range followed[1:] {
		var value any = json.RawMessage(f.parts[path])
		switch {
		case f.parts[path] == "":
			continue
		case !json.Valid([]byte(f.parts[path])):
			value = f.parts[path]
		}
		with, err := doc.With(tree.Edit{Path: path, Value: value})
		if err != nil {
			f.log.Debug("a value of the other metadata server is left out", "path", path, "error", err)
			continue
		}
		doc = with
	}
	return f.dress(doc)
}

// fail logs that something is wrong, once.
func (f *follower) fail(err error) {
	if f.trouble == nil {
		f.log.Error("the other metadata server cannot be followed", "served", f.there, "error", err)
	}
	f.trouble = err
}

// absent is the Absent of the instance.
func (f *follower) absent() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.there {
		return nil
	}
	r := &fleet.Refusal{
		Status: http.StatusServiceUnavailable, RetryAfter: time.Second, Err: f.trouble,
		Text: "This machine is that of another metadata server, which has not answered yet; its owner finds the reason with: gcemds status",
	}
	if r.Err == nil {
		r.Err = fmt.Errorf("the metadata server at %s has not answered yet", f.address)
	}
	return r
}

// state says what is wrong, "" if nothing is.
func (f *follower) state() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.trouble != nil:
		return f.trouble.Error()
	case !f.there:
		return "has not answered yet"
	}
	return ""
}

// mints is where the accounts of the document have their tokens from: the same
// server.
func (s *sources) mints(f *follower) func(email string) token.Source {
	name := "upstream " + f.address
	return func(email string) token.Source {
		c := credential.Config{Upstream: &credential.Upstream{Address: f.address, Account: email}}
		source, identity, err := c.Open(s.ctx, s.env)
		if err != nil {
			source = failing{&token.Error{Kind: token.Misconfigured, Err: err}}
		}
		id := name + " " + email
		return &opened{Source: s.cache.Source(id, source), name: name, identity: identity, id: id}
	}
}

// failing is the source of an account that cannot have one.
type failing struct{ err error }

func (s failing) Mint(context.Context, token.Request) (token.Token, error) {
	return token.Token{}, s.err
}
