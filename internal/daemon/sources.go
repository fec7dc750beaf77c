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
	before  *sources                  // that are in use; nil: none
	opened  map[string]*opened        // by name and e-mail
	signers map[string]signer         // of sources that sign for others, by name
	own     map[string]netip.AddrPort // our listeners
	closers []io.Closer               // of what is no source but ends with them
	opening []string                  // that wait for the one they need
}

// An opened source keeps its tokens, and knows where they come from.
type opened struct {
	token.Source // cached
	name         string
	identity     credential.Identity
	id           string    // changes with everything that its tokens depend on
	origin       string    // identifies what it was opened from
	closer       io.Closer // nil: it has nothing open
}

// A signer is the key of a source, and what it was opened from.
type signer struct {
	crypto.Signer
	origin string
}

func (d *Daemon) sources(ctx context.Context, c *config.Config) *sources {
	d.mu.Lock()
	before := d.opened
	d.mu.Unlock()
	s := &sources{ctx: ctx, config: c, cache: d.cache, env: d.env, before: before, own: d.ownAddresses(c), opened: map[string]*opened{}, signers: map[string]signer{}}
	s.env.Endpoints = c.Endpoints
	return s
}

// close ends what the sources have open, but for what others have too, and
// waits for that.
func (s *sources) close(others *sources) {
	var closing sync.WaitGroup
	for _, c := range s.closers {
		closing.Go(func() { c.Close() })
	}
	for key, o := range s.opened {
		if o.closer != nil && (others == nil || others.opened[key] != o) {
			closing.Go(func() { o.closer.Close() })
		}
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

	if c.Upstream != nil {
		if err := checkCircle(s.ctx, c.Upstream.Address, s.own); err != nil {
			return nil, fmt.Errorf("upstream: %w", err)
		}
	}
	o, err := steady(s, c, func(origin string) (*opened, error) {
		if s.before != nil {
			if o := s.before.opened[key]; o != nil && o.closer != nil && o.origin == origin {
				return o, nil // who was told no, about a PIN say, does not ask again
			}
		}
		return s.make(name, email, c, origin)
	})
	if err != nil {
		return nil, err
	}
	s.opened[key] = o
	return o, nil
}

// steady opens something, and once more if a file was replaced meanwhile. What
// is thrown away then has nothing open yet.
func steady[T any](s *sources, c credential.Config, open func(origin string) (T, error)) (made T, err error) {
	for range 5 {
		origin := s.origin(c)
		if made, err = open(origin); err != nil || s.origin(c) == origin {
			return made, err
		}
	}
	return made, fmt.Errorf("%s: changed each time it was read", strings.Join(c.Files(), ", "))
}

// origin identifies what a source is opened from: names and choices, and the
// files, which have the secrets.
func (s *sources) origin(c credential.Config) string {
	h := sha256.New()
	json.NewEncoder(h).Encode(c)
	json.NewEncoder(h).Encode(s.config.Endpoints)
	files := contents(c.Files())
	h.Write(files[:])
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// make opens a source. Its id has all that it is opened from, and whose it is.
func (s *sources) make(name, email string, c credential.Config, origin string) (*opened, error) {
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
		key, err := s.signer(name, env)
		io.WriteString(h, key.origin)
		return key.Signer, err
	}
	source, identity, err := c.Open(s.ctx, env)
	if err != nil {
		return nil, err
	}
	io.WriteString(h, origin)
	json.NewEncoder(h).Encode(identity)
	id := name + " " + email + " " + hex.EncodeToString(h.Sum(nil)[:16])
	closer, _ := source.(io.Closer)
	return &opened{s.cache.Source(id, source), name, identity, id, origin, closer}, nil
}

// signer returns the key of a source that signs for others; the one before, if
// it was opened from the same.
func (s *sources) signer(name string, env credential.Env) (signer, error) {
	if key, ok := s.signers[name]; ok {
		return key, nil
	}
	c := s.config.Sources[name]
	key, err := steady(s, c, func(origin string) (signer, error) {
		if s.before != nil {
			if key, ok := s.before.signers[name]; ok && key.origin == origin {
				return key, nil
			}
		}
		key, err := c.OpenSigner(s.ctx, env)
		return signer{key, origin}, err
	})
	if err == nil {
		s.signers[name] = key
	}
	return key, err
}
