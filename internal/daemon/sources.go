package daemon

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/credential"
	"github.com/gcemds/gcemds/internal/token"
)

// sources opens those of a configuration, each once, and caches their tokens.
type sources struct {
	ctx     context.Context
	config  *config.Config
	cache   *token.Cache
	env     credential.Env
	opened  map[string]*opened        // by name and e-mail
	own     map[string]netip.AddrPort // our listeners
	closers []io.Closer               // of the sources that have something open
	opening []string                  // that wait for the one they need
}

// An opened source keeps its tokens, and knows where they come from.
type opened struct {
	token.Source // cached
	name         string
	identity     credential.Identity
	id           string // changes with everything that its tokens depend on
}

func (d *Daemon) sources(ctx context.Context, c *config.Config) *sources {
	s := &sources{ctx: ctx, config: c, cache: d.cache, env: d.env, own: d.ownAddresses(c), opened: map[string]*opened{}}
	s.env.Endpoints = c.Endpoints
	return s
}

// close ends what the sources have open, and waits for that.
func (s *sources) close() {
	var closing sync.WaitGroup
	for _, c := range s.closers {
		closing.Go(func() { c.Close() })
	}
	closing.Wait()
}

// offline is the name of the source of accounts that name none: the offline
// issuer.
const offline = ""

// open returns the source of that name. The e-mail is for a credential that
// can be anybody.
func (s *sources) open(name, email string) (*opened, error) {
	c, known := s.config.Sources[name]
	switch {
	case name == offline:
		c = credential.Config{Issuer: &credential.Issuer{}}
	case !known:
		return nil, fmt.Errorf("there is no source %q", name)
	case slices.Contains(s.opening, name):
		return nil, fmt.Errorf("it needs itself: %s", strings.Join(append(s.opening, name), " → "))
	}
	if c.Issuer == nil {
		email = "" // whose it is, it knows itself
	}
	key := name + " " + email
	if o, ok := s.opened[key]; ok {
		return o, nil
	}
	s.opening = append(s.opening, name)
	defer func() { s.opening = s.opening[:len(s.opening)-1] }()

	h := sha256.New()
	env := s.env
	env.Email = email
	env.Named = func(name string) (token.Source, credential.Identity, error) {
		o, err := s.open(name, "")
		if err != nil {
			return nil, credential.Identity{}, err
		}
		io.WriteString(h, o.id)
		return o, o.identity, nil
	}
	env.Signer = func(name string) (crypto.Signer, error) {
		c := s.config.Sources[name]
		json.NewEncoder(h).Encode(c)
		return c.OpenSigner(s.ctx, env)
	}
	if c.Upstream != nil {
		if err := checkCircle(s.ctx, c.Upstream.Address, s.own); err != nil {
			return nil, fmt.Errorf("upstream: %w", err)
		}
	}
	source, identity, err := c.Open(s.ctx, env)
	if err != nil {
		return nil, err
	}
	json.NewEncoder(h).Encode(c) // names and choices; secrets are in the files
	json.NewEncoder(h).Encode(s.config.Endpoints)
	for _, file := range c.Files() {
		if f, err := os.Open(file); err == nil {
			io.Copy(h, io.LimitReader(f, 1<<20))
			f.Close()
		}
	}
	if c, ok := source.(io.Closer); ok {
		s.closers = append(s.closers, c)
	}
	id := key + " " + hex.EncodeToString(h.Sum(nil)[:16])
	o := &opened{s.cache.Source(id, source), name, identity, id}
	s.opened[key] = o
	return o, nil
}
