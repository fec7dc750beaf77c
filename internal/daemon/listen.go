package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/gcemds/gcemds/internal/admin"
	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/tree"
)

// listen binds every listener, those of workloads last: whoever finds one of
// them finds the others too.
func (d *Daemon) listen(c *config.Config) error {
	socket := c.Admin.Socket
	if socket == "" {
		socket = admin.DefaultSocket()
	}
	l, err := listenUnix(socket, 0o600)
	if err == nil {
		if err = admin.CheckSocket(socket); err != nil {
			l.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("admin: %w (--admin, GCEMDS_ADMIN or admin.socket)", err)
	}
	api := &admin.Server{Status: d.Status, Instance: d.instance, Reload: d.Reload, WhoAmI: whoami, Journal: d.journal}
	d.side = append(d.side, d.sideListener("admin socket", l, api.Handler()))

	if c.Admin.HTTP != "" {
		if l, err = listenTCP(c.Admin.HTTP, c.Admin.ReusePort); err != nil {
			return fmt.Errorf("admin.http: %w", err)
		}
		if c.Admin.ReusePort {
			l = d.share(l)
		}
		d.side = append(d.side, d.sideListener("admin http", d.server.Bound(l), d.health()))
	}
	if l, err = listenTCP(c.Issuer.Listen, false); err != nil {
		return fmt.Errorf("issuer.listen: %w", err)
	}
	d.issuerURL = "http://" + l.Addr().String()
	if c.Issuer.URL != "" {
		d.issuerURL = c.Issuer.URL
	}
	d.side = append(d.side, d.sideListener("issuer", d.server.Bound(l), d.issuer.Handler()))

	passed, err := activation.ListenersWithNames()
	if err != nil {
		return fmt.Errorf("sockets of systemd: %w", err)
	}
	for i, lc := range c.Listen {
		l, err := d.workloadListener(lc, passed)
		last := i == len(c.Listen)-1 // somebody has to be served
		if lc.Optional && errors.Is(err, errNotHere) && (!last || len(d.listeners) > 0) {
			d.log.Warn("a listener is left out", "listener", lc.Name, "error", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("listen.%s: %w", lc.Name, err)
		}
		d.listeners = append(d.listeners, l)
	}
	for name, spare := range passed {
		for _, l := range spare {
			d.log.Warn("systemd passed a socket that no listener takes; who connects there gets no answer", "name", name, "address", l.Addr())
		}
	}
	return nil
}

// sideListener serves something other than metadata.
func (d *Daemon) sideListener(name string, l net.Listener, h http.Handler) *listener {
	return &listener{Listener: l, name: name, http: &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		BaseContext:       func(net.Listener) context.Context { return d.base },
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}}
}

func (d *Daemon) workloadListener(c config.Listener, passed map[string][]net.Listener) (_ *listener, err error) {
	out := &listener{name: c.Name, http: d.server.HTTP(d.base, c.Name, d.log)}
	if out.http.Handler, err = d.passes(out.http.Handler); err != nil {
		return nil, err
	}
	var l net.Listener
	switch {
	case c.TCP != "":
		l, err = listenTCP(c.TCP, c.ReusePort)
	case c.Unix != "":
		l, err = listenUnix(c.Unix, c.Mode)
	default:
		if len(passed[c.FD]) == 0 {
			return nil, fmt.Errorf("systemd passed no socket named %q (FileDescriptorName= in the socket unit)", c.FD)
		}
		l, passed[c.FD] = passed[c.FD][0], passed[c.FD][1:]
	}
	if err != nil {
		return nil, err
	}
	if !c.AllowRemote && !loopback(l.Addr()) {
		l.Close()
		return nil, fmt.Errorf("%w (allow_remote: true)", tooOpen(l.Addr()))
	}
	if c.ReusePort {
		l = d.share(l)
	}
	l = d.server.Bound(l)
	if c.TLS != nil {
		cert, key := c.TLS.CA, c.TLS.CAKey
		if cert == "" {
			cert, key = filepath.Join(c.TLS.Dir, "root.crt"), filepath.Join(c.TLS.Dir, "root.key")
		}
		if out.authority, err = openAuthority(cert, key, c.TLS.CA == "", c.TLS.Hosts); err != nil {
			l.Close()
			return nil, err
		}
		out.clientDir = c.TLS.ClientDir
		l = tls.NewListener(l, out.authority.config())
	}
	out.Listener = l
	return out, nil
}

// issuesCertificates reports whether there is an authority to ask.
func (d *Daemon) issuesCertificates() bool { return d.certifier() != nil }

func (d *Daemon) certifier() *listener {
	for _, l := range d.listeners {
		if l.authority != nil {
			return l
		}
	}
	return nil
}

// clientCertificate makes what an instance needs to connect with mutual TLS.
func (d *Daemon) clientCertificate(i *fleet.Instance) (client, root []byte, err error) {
	l := d.certifier()
	if l == nil {
		return nil, nil, tree.ErrNotFound
	}
	client, err = l.authority.client(nameOf(i))
	return client, l.authority.pem, err
}

func nameOf(i *fleet.Instance) (name, project string) {
	t := i.Metadata.Tree()
	n, _ := t.Lookup("instance/name")
	p, _ := t.Lookup("project/project-id")
	return n.Value(), p.Value()
}

// writeClientCertificates puts a certificate for the first instance where a
// listener is told to, in the files of a virtual machine (section 8).
func (d *Daemon) writeClientCertificates() error {
	var errs []error
	for _, l := range d.listeners {
		if l.clientDir == "" {
			continue
		}
		client, err := l.authority.client(nameOf(d.instance("")))
		if err == nil {
			err = os.MkdirAll(l.clientDir, 0o755)
		}
		if err == nil {
			err = errors.Join(
				writeFile(filepath.Join(l.clientDir, "root.crt"), l.authority.pem, 0o644),
				writeFile(filepath.Join(l.clientDir, "client.key"), client, 0o600))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("listen.%s.tls.client_dir: %w", l.name, err))
		}
	}
	return errors.Join(errs...)
}

func (d *Daemon) renewClientCertificates(ctx context.Context) {
	every(ctx, renewEvery, func() {
		if err := d.writeClientCertificates(); err != nil {
			d.log.Error("client certificates are not renewed", "error", err)
		}
	})
}
