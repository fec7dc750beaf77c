package cli

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/internal/daemon"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/proxy"
)

// googleFlags are what the command line says about a fake Google.
type googleFlags struct {
	listen, proxy       string
	allowRemote         bool
	config              string
	keys                []string
	account             string
	keyOut, externalOut string
	caOut               string
}

func newGoogle() *cobra.Command {
	var f googleFlags
	c := &cobra.Command{
		Use:   "google",
		Short: "Run a fake Google that hands out and checks tokens",
		Long: `Run a fake Google until it is interrupted: a token endpoint, a Security Token
Service, the IAM credentials API, certificates, OpenID discovery and tokeninfo.
Programs and libraries that can be pointed at it get tokens in Google's format
without a network. Google accepts none of them.

It verifies what it is sent, and knows only the accounts, logins and identity
providers that it is told of: in a file (--config, read again when it changes),
by their keys (--keys), or made for this run (--key-out, --external-out). Files
that it writes are removed when it ends.

Programs in which Google's addresses are built in reach it through --proxy.`,
		Example: `  gcemds google --key-out sa.json
  gcemds google --external-out external.json
  gcemds google --config google.yaml
  gcemds google --keys keys/ --proxy 127.0.0.1:8086 --ca-out ca.pem`,
		RunE: func(c *cobra.Command, _ []string) error {
			if (f.proxy == "") != (f.caOut == "") {
				return &usageError{errors.New("--proxy and --ca-out go together: programs must trust the certificates of the proxy"), c.CommandPath()}
			}
			return google(c.Context(), f, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	c.Flags().SortFlags = false
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:8085", "`ADDRESS` to serve on")
	c.Flags().BoolVar(&f.allowRemote, "allow-remote", false, "serve other machines too")
	c.Flags().StringVar(&f.config, "config", "", "`FILE` with accounts, users, providers and faults")
	c.Flags().StringArrayVar(&f.keys, "keys", nil, "`FILE` with the JSON key of an account, or a directory of them; repeatable")
	c.Flags().StringVar(&f.account, "account", "robot@my-project.iam.gserviceaccount.com", "`EMAIL` of the account that --key-out and --external-out are for")
	c.Flags().StringVar(&f.keyOut, "key-out", "", "`FILE` to write a new key of that account to")
	c.Flags().StringVar(&f.externalOut, "external-out", "", "`FILE` to write the configuration of a federated workload to, which may act as that account")
	c.Flags().StringVar(&f.proxy, "proxy", "", "`ADDRESS` to serve an HTTPS proxy on that stands for Google's hosts")
	c.Flags().StringVar(&f.caOut, "ca-out", "", "`FILE` to write the certificate to that programs behind the proxy must trust")
	return c
}

// A fakeGoogle is a running one.
type fakeGoogle struct {
	flags  googleFlags
	base   string // its URL
	issuer *issuer.Issuer
	own    issuer.Directory // what was made for this run
	log    *slog.Logger
	out    []string // files that it wrote

	mu     sync.Mutex
	file   googleFile
	rotate *time.Ticker
}

func google(ctx context.Context, f googleFlags, stdout, stderr io.Writer) (err error) {
	l, err := daemon.Listen(f.listen, f.allowRemote)
	if err != nil {
		return err
	}
	defer l.Close()
	g := &fakeGoogle{flags: f, base: "http://" + pasteable(l.Addr()), log: slog.New(slog.NewTextHandler(stderr, nil)), rotate: time.NewTicker(time.Hour)}
	g.rotate.Stop()
	defer g.remove()
	mux := http.NewServeMux()
	if err := g.make(mux); err != nil {
		return err
	}
	if g.issuer, err = issuer.New(issuer.Options{Directory: &issuer.Directory{}, Log: g.log}); err != nil {
		return err
	}
	defer g.issuer.Close()
	if err := g.load(); err != nil {
		return fmt.Errorf("%w; nothing was started", err)
	}
	mux.Handle("/", g.issuer.Handler())

	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel(nil)
	var through net.Addr
	if f.proxy != "" {
		authority, err := proxy.NewAuthority(proxy.GoogleHosts...)
		if err != nil {
			return err
		}
		if err := g.write(f.caOut, authority.PEM(), 0o644); err != nil {
			return err
		}
		pl, err := daemon.Listen(f.proxy, f.allowRemote)
		if err != nil {
			return fmt.Errorf("--proxy: %w", err)
		}
		through = pl.Addr()
		background.Go(func() { cancel(proxy.New(authority, mux, g.log).Serve(running, pl)) })
	}
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		BaseContext: func(net.Listener) context.Context { return running },
		ErrorLog:    slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	background.Go(func() { cancel(server.Serve(l)) })
	background.Go(func() {
		daemon.Watch(running, g.files, func() {
			if err := g.load(); err != nil {
				g.log.Error("what has changed is wrong; all stays as it was", "error", err)
				return
			}
			g.log.Info("what has changed is in use")
		})
	})
	background.Go(func() { g.rotateKeys(running) })
	g.banner(stdout, through)

	<-running.Done()
	server.Close()
	if err := context.Cause(running); ctx.Err() == nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// make makes what the flags ask for: keys, and the files that programs need.
func (g *fakeGoogle) make(mux *http.ServeMux) error {
	account := issuer.Account{Email: g.flags.account}
	if g.flags.keyOut != "" {
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return err
		}
		key, err := issuer.AccountKeyJSON(account.Email, private, g.base)
		if err != nil {
			return err
		}
		if err := g.write(g.flags.keyOut, key, 0o600); err != nil {
			return err
		}
		if _, account.Keys, err = issuer.ParsePublicKeys(key); err != nil {
			return err
		}
	}
	if g.flags.externalOut != "" {
		w, err := newGoogleWorkload(g.base, account.Email)
		if err != nil {
			return err
		}
		if err := g.write(g.flags.externalOut, w.file, 0o600); err != nil {
			return err
		}
		mux.Handle("GET "+workloadPath, w)
		account.Grants = map[string][]string{"roles/iam.workloadIdentityUser": {w.member}}
		g.own.Providers = []issuer.Provider{w.provider}
	}
	if account.Keys != nil || account.Grants != nil {
		g.own.Accounts = []issuer.Account{account}
	}
	return nil
}

// load reads the files and puts them in use, or changes nothing.
func (g *fakeGoogle) load() error {
	file, err := loadGoogleFile(g.flags.config, g.flags.keys)
	if err != nil {
		return err
	}
	directory := file.directory
	directory.Providers = slices.Concat(g.own.Providers, directory.Providers)
	for _, own := range g.own.Accounts {
		directory.Accounts = addAccount(directory.Accounts, own)
	}
	if err := file.knobs.Check(); err != nil {
		return err
	}
	if err := g.issuer.SetDirectory(directory); err != nil {
		return err
	}
	if err := g.issuer.SetKnobs(file.knobs); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if file.rotateEvery != g.file.rotateEvery {
		g.rotate.Stop()
		if file.rotateEvery > 0 {
			g.rotate.Reset(file.rotateEvery)
		}
	}
	g.file = file
	return nil
}

func (g *fakeGoogle) files() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.file.files
}

func (g *fakeGoogle) rotateKeys(ctx context.Context) {
	defer g.rotate.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.rotate.C:
			if err := g.issuer.Rotate(ctx); err != nil && ctx.Err() == nil {
				g.log.Error("the key is not rotated", "error", err)
				continue
			}
			g.log.Info("a new key signs from now on")
		}
	}
}

// write writes a file that must not be there yet: it could be a real key.
func (g *fakeGoogle) write(name string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists and is not overwritten; remove it, or choose another name", name)
	}
	if err != nil {
		return err
	}
	g.out = append(g.out, name)
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// remove removes what write wrote: without this process it is good for
// nothing.
func (g *fakeGoogle) remove() {
	for _, name := range g.out {
		os.Remove(name)
	}
}

// banner says what is there, and what to paste to use it.
func (g *fakeGoogle) banner(w io.Writer, through net.Addr) {
	fmt.Fprintf(w, "fake Google on %s; Google accepts none of its tokens\n", g.base)
	if name := g.flags.keyOut; name != "" {
		fmt.Fprintf(w, "  export GOOGLE_APPLICATION_CREDENTIALS=%s\n", anywhere(name))
	}
	if name := g.flags.externalOut; name != "" {
		// Unlike a key, this file does not tell libraries the project.
		_, domain, _ := strings.Cut(g.flags.account, "@")
		project, _, _ := strings.Cut(domain, ".")
		or := ""
		if g.flags.keyOut != "" {
			or = " # or this one"
		}
		fmt.Fprintf(w, "  export GOOGLE_APPLICATION_CREDENTIALS=%s GOOGLE_CLOUD_PROJECT=%s%s\n", anywhere(name), project, or)
	}
	if through != nil {
		ca := anywhere(g.flags.caOut)
		fmt.Fprintf(w, "  export HTTPS_PROXY=http://%s SSL_CERT_FILE=%s REQUESTS_CA_BUNDLE=%s NODE_EXTRA_CA_CERTS=%s\n", pasteable(through), ca, ca, ca)
	}
	fmt.Fprintf(w, "  certificates %s/oauth2/v3/certs\n", g.base)
}

// anywhere is the name of a file for a shell in any folder.
func anywhere(name string) string {
	if abs, err := filepath.Abs(name); err == nil {
		name = abs
	}
	if strings.ContainsAny(name, " \t'\"$&;()<>|*?`\\") {
		return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
	}
	return name
}

// pasteable is an address that this machine can connect to.
func pasteable(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
