package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/credential"
)

// checks are those of the tag "is", of a single word that is not empty.
var checks = map[string]func(string) error{
	"address": func(s string) error { _, err := address(s); return err },
	"email": func(s string) error {
		name, domain, _ := strings.Cut(s, "@")
		if name == "" || !word(name, "/?#%,;:<>\"'\\") || !hostname(domain) {
			return fmt.Errorf("%s is not an e-mail such as robot@my-project.iam.gserviceaccount.com", quote(s))
		}
		return nil
	},
	"host": host,
	"hosts": func(s string) error { // names below one, too
		return host(strings.TrimPrefix(s, "*."))
	},
	"name": func(s string) error {
		if s == "" || len(s) > 320 || !word(s, "/\"'\\,") {
			return fmt.Errorf("%s cannot be a name; take letters, digits and . - _", quote(s))
		}
		return nil
	},
	"path": func(s string) error {
		parts := strings.Split(strings.TrimSuffix(s, "/"), "/")
		switch {
		case slices.Contains(parts, "computeMetadata"):
			return errors.New("a path begins after /computeMetadata/v1/, for example instance/attributes/env")
		case slices.Contains(parts, ""), slices.Contains(parts, "."), slices.Contains(parts, ".."), strings.ContainsFunc(s, control):
			return fmt.Errorf("%s is not a path such as instance/attributes/env", quote(s))
		}
		return nil
	},
	"socket": func(s string) error {
		const most = 103 // of the systems we run on, the least
		if len(s) > most {
			return fmt.Errorf("the name of a Unix socket can have %d bytes, this has %d; choose a shorter folder", most, len(s))
		}
		return nil
	},
	"upstream": func(s string) error { _, err := credential.MetadataServer(s); return err },
	"url": func(s string) error {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return errors.New("is not of the form https://HOST or http://HOST") // not shown: it may hold a password
		}
		return nil
	},
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

// word reports whether s is visible ASCII without these characters.
func word(s, without string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(without, r) })
}

func host(s string) error {
	if _, err := netip.ParseAddr(s); err != nil && !hostname(s) {
		return fmt.Errorf("%s is not a host name; write it without scheme, port and path", quote(s))
	}
	return nil
}

func hostname(s string) bool {
	return s != "" && len(s) <= 253 && s[0] != '.' && !strings.Contains(s, "..") && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '.' || r == '_')
	})
}

// address reads HOST:PORT. The host is an IP address or localhost, so that it
// is known without a resolver who can reach it; no host is all addresses.
func address(s string) (netip.AddrPort, error) {
	i := strings.LastIndexByte(s, ':')
	host, port := s[:max(0, i)], s[i+1:]
	if i < 0 || strings.Contains(host, ":") != strings.HasPrefix(host, "[") {
		return netip.AddrPort{}, fmt.Errorf("%s is not of the form HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080", quote(s))
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s is not a port; take one from 1 to 65535, or 0 for any that is free", quote(port))
	}
	switch host {
	case "localhost":
		host = "127.0.0.1"
	case "":
		host = "0.0.0.0"
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s is not an IP address or localhost", quote(host))
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(p)), nil
}

// check reports what a single value cannot show, and completes c.
func (d *decoder) check(c *Config) {
	if 0 < c.Issuer.Life && c.Issuer.Life < time.Second {
		d.at("issuer.life", "must be at least 1s")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		if path := "sources." + name; d.sound(path) {
			if err := validate(c.Sources[name]); err != nil {
				d.at(path, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
			}
			for _, need := range c.Sources[name].Needs() {
				d.refers(path, "source", need, slices.Sorted(maps.Keys(c.Sources)))
			}
			if loop := loop(c.Sources, name); loop != nil {
				d.at(path, "it needs itself: %s", strings.Join(loop, " → "))
			}
		}
	}

	var instances, listeners []string
	if len(c.Instances) == 0 && c.GKE == nil && d.sound("instances") {
		d.at("instances", "needs at least one instance")
	}
	d.pods(c)
	if c.Passthrough != nil && d.sound("passthrough") {
		if err := c.Passthrough.Validate(); err != nil {
			d.at("passthrough", "%v", err)
		}
	}
	for i := range c.Instances {
		instances = append(instances, c.Instances[i].Name)
		path := join("instances", c.Instances[i].Name)
		if c.Instances[i].Metadata != "" && c.Instances[i].Upstream != "" {
			d.at(path, "has metadata and upstream; the document is that of a file or that of another server, so keep one")
		}
		d.accounts(path+".accounts", c, &c.Instances[i])
	}
	if len(c.Listen) == 0 && d.sound("listen") {
		d.at("listen", "needs at least one listener")
	}
	taken := map[string]string{}
	for i := range c.Listen {
		listeners = append(listeners, c.Listen[i].Name)
		d.listener(join("listen", c.Listen[i].Name), &c.Listen[i], taken)
	}
	d.take("admin.socket", c.Admin.Socket, taken)
	d.take("admin.http", c.Admin.HTTP, taken)
	if c.Admin.ReusePort && c.Admin.HTTP == "" {
		d.at("admin.reuse_port", "is for admin.http, and there is none")
	}
	d.take("issuer.listen", c.Issuer.Listen, taken)

	for i, r := range c.Routes {
		path := fmt.Sprintf("routes[%d]", i)
		d.refers(path+".listener", "listener", r.Listener, listeners)
		d.refers(path+".instance", "instance", r.Instance, instances)
		if r.Instance == "" && d.sound(path) {
			d.at(path, "needs the field instance")
		}
	}
}

// perPod is how many connections a Pod may have.
const perPod = 200

// pods checks the section gke.
func (d *decoder) pods(c *Config) {
	if c.GKE == nil {
		return
	}
	if len(c.Instances) > 0 {
		d.at("instances", "with gke every Pod is an instance; remove either instances or gke")
	}
	if len(c.Routes) > 0 {
		d.at("routes", "with gke a caller is the Pod it comes from; remove either routes or gke")
	}
	for i := range c.Listen {
		if t := c.Listen[i].TLS; t != nil && t.ClientDir != "" {
			d.at(join("listen", c.Listen[i].Name)+".tls.client_dir", "is for a machine; with gke there is none")
		}
	}
	if c.Limits.PerSource == 0 {
		c.Limits.PerSource = perPod
	}
	if err := c.GKE.Validate(); err != nil && d.sound("gke") {
		d.at("gke", "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

// loop returns the way from a source through those it needs back to itself, or nil.
func loop(sources map[string]credential.Config, way ...string) []string {
	for _, need := range sources[way[len(way)-1]].Needs() {
		next := append(way[:len(way):len(way)], need)
		if need == way[0] {
			return next
		}
		if slices.Contains(way, need) {
			continue // a loop of others, which is reported there
		}
		if found := loop(sources, next...); found != nil {
			return found
		}
	}
	return nil
}

// validate asks the credential. An issuer without an e-mail is complete here:
// it mints for the e-mail of the account.
func validate(s credential.Config) error {
	if s.Issuer != nil && s.Issuer.Email == "" {
		s.Issuer = &credential.Issuer{Email: "account@example.test"}
	}
	return s.Validate()
}

// refers checks a reference by name.
func (d *decoder) refers(path, what, name string, names []string) {
	if name != "" && !slices.Contains(names, name) {
		d.at(path, "%s", unknown(what, name, names))
	}
}

func (d *decoder) accounts(path string, c *Config, instance *Instance) {
	taken := map[string]string{}
	for i := range instance.Accounts {
		a := &instance.Accounts[i]
		path := join(path, a.Name)
		d.refers(path+".source", "source", a.Source, slices.Sorted(maps.Keys(c.Sources)))
		if len(a.Scopes) == 0 {
			a.Scopes = []string{"cloud-platform"}
		}
		scopes, err := credential.ExpandScopes(a.Scopes)
		if err != nil {
			d.at(path+".scopes", "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		a.Scopes = scopes

		isEmail := checks["email"](a.Name) == nil
		switch {
		case isEmail && a.Email == "":
			a.Email = a.Name
		case isEmail && a.Email != a.Name && d.sound(path):
			d.at(path+".email", "is not the e-mail that the account is listed under; keep one of the two")
		case a.Email == "" && a.Name != "default" && d.sound(path):
			d.at(path, "%s is not an e-mail; list the account under its e-mail, or add the field email", quote(a.Name))
		}
		if !isEmail {
			a.Aliases = append(a.Aliases, a.Name)
		}
		slices.Sort(a.Aliases)
		a.Aliases = slices.Compact(a.Aliases)
		for _, name := range append([]string{a.Email}, a.Aliases...) {
			if other, twice := taken[name]; twice && name != "" {
				d.at(path, "%s is already a name of the account %s", quote(name), quote(other))
			}
			taken[name] = a.Name
		}
	}
}

func (d *decoder) listener(path string, l *Listener, taken map[string]string) {
	if !d.sound(path) {
		return
	}
	var kinds []string
	for name, value := range map[string]string{"fd": l.FD, "tcp": l.TCP, "unix": l.Unix} {
		if value != "" {
			kinds = append(kinds, name)
		}
	}
	slices.Sort(kinds)
	switch {
	case len(kinds) == 0:
		d.at(path, "needs one of tcp, unix and fd")
	case len(kinds) > 1:
		d.at(path, "has %s; keep one", strings.Join(kinds, " and "))
	case l.TCP != "":
		if at, _ := address(l.TCP); !at.Addr().IsLoopback() && !l.AllowRemote {
			d.at(path+".tcp", "%s can be reached from other machines, and whoever reaches it gets tokens; if you want that, say allow_remote: true (--allow-remote)", l.TCP)
		}
	}
	d.take(path+".tcp", l.TCP, taken)
	d.take(path+".unix", l.Unix, taken)
	d.take(path+".fd", l.FD, taken)
	switch {
	case l.Unix != "" && l.Mode == 0:
		l.Mode = 0o660
	case l.Unix == "" && l.Mode != 0:
		d.at(path+".mode", "is for Unix sockets only")
	}
	if l.ReusePort && l.TCP == "" {
		d.at(path+".reuse_port", "is for tcp only")
	}
	if l.Optional && l.TCP == "" {
		d.at(path+".optional", "is for tcp only")
	}
	if t := l.TLS; t != nil && (t.CA == "") != (t.CAKey == "") {
		d.at(path+".tls", "ca and ca_key belong together; give both, or none to have them made in dir")
	} else if t != nil && t.CA == "" && t.Dir == "" {
		d.at(path+".tls", "needs dir, a folder to keep a certificate authority in, or ca and ca_key, one of your own")
	}
}

// take reports an address or a socket that something else has.
func (d *decoder) take(path, where string, taken map[string]string) {
	at, err := address(where)
	switch {
	case where == "", err == nil && at.Port() == 0:
		return
	case err == nil:
		where = at.String()
	}
	if other, twice := taken[where]; twice {
		d.at(path, "%s is already the address of %s", where, other)
		return
	}
	taken[where] = path
}
