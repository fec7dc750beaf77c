// Package daemon puts the parts together: it opens what the configuration
// names, listens, reloads, counts and stops. What the parts do is theirs.
package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gcemds/gcemds/internal/admin"
	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/credential"
	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/gke"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/server"
	"github.com/gcemds/gcemds/internal/token"
)

// Options of a daemon.
type Options struct {
	Config *config.Config
	// Load reads the configuration again; nil: there is nothing to reload.
	Load    func() (*config.Config, error)
	Log     *slog.Logger         // default: nowhere
	Metrics *prometheus.Registry // default: one of its own
	Version string

	// Peer asks the kernel who is at the other end of a connection, see
	// server.Server.Peer; nil: package attest does, where the section gke of
	// the configuration wants it.
	Peer func(*fleet.Caller) func(context.Context) (fleet.Peer, error)
}

// A Daemon is everything that runs in one process. Its methods may be called
// concurrently.
type Daemon struct {
	options Options
	log     *slog.Logger
	journal *journal.Journal
	issuer  *issuer.Issuer
	cache   *token.Cache
	env     credential.Env
	router  fleet.Router
	cluster *gke.Cluster // the resolver instead of router; nil: callers are no Pods
	server  *server.Server
	started time.Time

	listeners []*listener       // of workloads, in the order of the configuration
	shared    []*sharedListener // of side and listeners
	side      []*listener       // admin socket, admin HTTP, issuer
	issuerURL string

	kept    [sha256.Size]byte // content of keptFiles
	watched watch             // of the goroutine that watches, once Run has begun

	base context.Context // of all requests; ends with the cause ErrShutdown
	stop context.CancelCauseFunc

	reloading sync.Mutex // one reload at a time
	mu        sync.Mutex // of what follows
	config    *config.Config
	rejected  error // why the configuration on disk is not in use
	instances []*fleet.Instance
	byName    map[string]*fleet.Instance
	followers map[string]*follower // by instance
	opened    *sources             // of the instances
	ready     bool
}

// A listener is a socket, who serves it, and its certificates.
type listener struct {
	net.Listener
	name      string
	http      *http.Server
	authority *authority
	clientDir string
}

// New opens and binds everything; nothing is served yet. When it fails nothing
// stays open. Errors are sentences that name the place and the fix.
func New(ctx context.Context, o Options) (_ *Daemon, err error) {
	d := &Daemon{options: o, log: o.Log, config: o.Config, started: time.Now()}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.options.Metrics == nil {
		d.options.Metrics = prometheus.NewRegistry()
	}
	d.base, d.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			d.close()
		}
	}()

	c := o.Config
	metrics, err := newMetrics(d.options.Metrics, func() int { return d.server.Waiting() })
	if err != nil {
		return nil, err
	}
	d.journal = journal.New(1024, metrics.add, logTo(d.log))
	d.cache = token.NewCache(token.Limits{})
	if d.issuer, err = openIssuer(ctx, c.Issuer); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	d.watched.changed(c.Files()) // from here on no change is missed
	d.kept = contents(keptFiles(c))
	d.env = credential.Env{Client: &exchange.Client{Log: d.log}, Issuer: d.issuer, Log: d.log}
	callers, err := d.resolver(c)
	if err != nil {
		return nil, fmt.Errorf("gke: %w", err)
	}
	d.server = server.New(callers, d.journal, server.Limits{
		HangingGets: c.Limits.HangingGets, Connections: c.Limits.Connections, GuestAttributes: c.Limits.GuestAttributes, PerSource: c.Limits.PerSource,
	})
	d.server.ClientCertificate, d.server.NoLegacy = d.clientCertificate, d.cluster != nil
	d.peers(c)
	name, value := d.server.Mark()
	d.env.Header = map[string]string{name: value}

	if err := d.listen(c); err != nil {
		return nil, err
	}
	p, err := d.plan(ctx, c)
	if err != nil {
		return nil, err
	}
	d.serve(p)
	return d, d.writeClientCertificates()
}

func openIssuer(ctx context.Context, c config.Issuer) (*issuer.Issuer, error) {
	o := issuer.Options{URL: c.Issuer, BaseURL: c.URL, Life: c.Life}
	if c.KeyFile != "" {
		keys, err := issuer.LoadKeys(ctx, c.KeyFile, false)
		if err != nil {
			return nil, err
		}
		o.Keys = keys
	}
	return issuer.New(o)
}

// Run serves until the context ends, then answers what is under way and
// returns nil; or the error that stopped it.
func (d *Daemon) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var serving sync.WaitGroup
	for _, l := range d.all() {
		serving.Go(func() {
			if err := l.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				cancel(fmt.Errorf("listener %s stopped: %w", l.name, err))
			}
		})
	}
	var background sync.WaitGroup
	background.Go(func() { d.watch(ctx) })
	if d.cluster != nil {
		background.Go(func() { d.cluster.Run(ctx) })
	}
	background.Go(func() { d.renewClientCertificates(ctx) })

	d.setReady(true)
	sd.SdNotify(false, sd.SdNotifyReady)
	<-ctx.Done()
	sd.SdNotify(false, sd.SdNotifyStopping)
	d.setReady(false)

	d.shutdown()
	serving.Wait()
	background.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// drain is how long requests that are under way have at the end.
const drain = 5 * time.Second

// handover is how long a listener is served after connections have begun to go
// to the next at its port: those that the kernel was about to give it would be
// reset if it were closed at once.
const handover = 100 * time.Millisecond

func (d *Daemon) shutdown() {
	leaving := false
	for _, l := range d.shared {
		leaving = l.leave() || leaving
	}
	if leaving {
		time.Sleep(handover)
	}
	d.stop(server.ErrShutdown) // hanging requests are answered now
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	var stopping sync.WaitGroup
	for _, l := range d.all() {
		stopping.Go(func() {
			if l.http.Shutdown(ctx) != nil {
				l.http.Close()
			}
		})
	}
	stopping.Wait()
	d.close()
}

// close releases what New opened. A reload that is under way ends first.
func (d *Daemon) close() {
	d.stop(server.ErrShutdown)
	d.reloading.Lock()
	defer d.reloading.Unlock()
	for _, l := range d.all() {
		l.Close()
	}
	if d.cache != nil {
		d.cache.Close() // from here on nobody mints
	}
	if d.opened != nil {
		d.opened.close(nil)
	}
	if d.issuer != nil {
		d.issuer.Close()
	}
}

// all returns every listener.
func (d *Daemon) all() []*listener { return slices.Concat(d.side, d.listeners) }

// Addr is where a listener listens, nil if there is none of that name.
func (d *Daemon) Addr(name string) net.Addr {
	for _, l := range d.all() {
		if l.name == name {
			return l.Addr()
		}
	}
	return nil
}

// Reload reads the configuration again. A configuration that is wrong in any
// way changes nothing and is the error; hanging requests see the new one as a
// change, and edits made while running stay.
func (d *Daemon) Reload(ctx context.Context) error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if d.base.Err() != nil {
		return context.Cause(d.base)
	}
	err := d.reload(ctx)
	d.mu.Lock()
	d.rejected = err
	d.mu.Unlock()
	d.journal.Add(journal.Entry{Kind: journal.Reload, Detail: d.config.Name, Err: err})
	return err
}

func (d *Daemon) reload(ctx context.Context) error {
	if d.options.Load == nil {
		return errors.New("there is nothing to reload")
	}
	c, err := d.options.Load()
	if err != nil {
		return err
	}
	old := d.current()
	for _, fixed := range []struct {
		name     string
		now, new any
	}{
		{"listen", old.Listen, c.Listen}, {"admin", old.Admin, c.Admin}, {"issuer", old.Issuer, c.Issuer},
		{"limits", old.Limits, c.Limits}, {"log", old.Log, c.Log}, {"gke", old.GKE, c.GKE}, {"endpoints", endpoints(old), endpoints(c)},
		{"passthrough", old.Passthrough, c.Passthrough}, {"intercept", old.Intercept, c.Intercept},
		{"dumpable", old.Dumpable, c.Dumpable},
	} {
		if !reflect.DeepEqual(fixed.now, fixed.new) {
			return fmt.Errorf("%s: a change of %s needs a restart; nothing was changed", c.Name, fixed.name)
		}
	}
	if kept := keptFiles(c); contents(kept) != d.kept {
		return fmt.Errorf("one of %s has changed; the new content needs a restart, and nothing was changed", strings.Join(kept, ", "))
	}
	p, err := d.plan(ctx, c)
	if err != nil {
		return err
	}
	d.serve(p)
	d.mu.Lock()
	d.config = c
	d.mu.Unlock()
	return nil
}

// keptFiles are those whose content is read at the start only.
func keptFiles(c *config.Config) (files []string) {
	for _, l := range c.Listen {
		if l.TLS != nil && l.TLS.CA != "" {
			files = append(files, l.TLS.CA, l.TLS.CAKey)
		}
	}
	if c.Issuer.KeyFile != "" {
		files = append(files, c.Issuer.KeyFile)
	}
	if c.GKE != nil && c.GKE.Kubeconfig != "" {
		files = append(files, c.GKE.Kubeconfig)
	}
	return files
}

func (d *Daemon) current() *config.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.config
}

// watch reloads when a file of the configuration has changed.
func (d *Daemon) watch(ctx context.Context) {
	if d.options.Load == nil {
		return
	}
	d.watched.run(ctx, func() []string { return d.current().Files() }, func() { d.Reload(ctx) }) // the journal has the error
}

func (d *Daemon) setReady(ready bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ready = ready
}

// unready is why nobody should come yet, or any more; nil when all may.
func (d *Daemon) unready() error {
	d.mu.Lock()
	ready, followers := d.ready, d.followers
	d.mu.Unlock()
	if !ready {
		return errors.New("starting or stopping")
	}
	for name, f := range followers {
		if f.absent() != nil {
			return fmt.Errorf("instance %s has no document yet: its metadata server has not answered", name)
		}
	}
	if d.cluster != nil {
		return d.cluster.Ready()
	}
	return nil
}

// Status is what gcemds status shows.
func (d *Daemon) Status() admin.Status {
	unready := d.unready()
	d.mu.Lock()
	defer d.mu.Unlock()
	s := admin.Status{
		Version: d.options.Version, PID: os.Getpid(), Started: d.started,
		Config: d.config.Name, Issuer: d.issuerURL, Hanging: d.server.Waiting(),
	}
	if unready != nil {
		s.Unready = unready.Error()
	}
	if d.rejected != nil {
		s.ConfigError = d.rejected.Error()
	}
	for _, l := range d.listeners {
		s.Listeners = append(s.Listeners, admin.Listener{Name: l.name, Address: l.Addr().String(), TLS: l.authority != nil})
	}
	if d.cluster != nil {
		s.Node = d.cluster.Node()
	}
	for _, i := range d.instances {
		shown := admin.Instance{Name: i.Name, Accounts: []admin.Account{}}
		if f := d.followers[i.Name]; f != nil {
			shown.Upstream, shown.Trouble = f.address, f.state()
		}
		if called, _ := nameOf(i); called != i.Name {
			shown.Called = called
		}
		for _, a := range fleet.Accounts(i.Metadata.Tree()) {
			shown.Accounts = append(shown.Accounts, admin.Account{Email: a.Email, Aliases: a.Aliases, Scopes: a.Scopes})
		}
		for _, e := range i.Metadata.Edits() {
			shown.Edits = append(shown.Edits, e.Path)
		}
		s.Instances = append(s.Instances, shown)
	}
	return s
}

// instance finds one for the admin API: by name, or the first.
func (d *Daemon) instance(name string) *fleet.Instance {
	d.mu.Lock()
	defer d.mu.Unlock()
	if name == "" && len(d.instances) > 0 {
		return d.instances[0]
	}
	return d.byName[name]
}

// health answers /healthz, /readyz and /metrics, for who may know the names
// of this server.
func (d *Daemon) health() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := d.unready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.options.Metrics, promhttp.HandlerOpts{}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !d.server.AllowsHost(r.Host) {
			http.Error(w, "this is not a name of this server", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}
