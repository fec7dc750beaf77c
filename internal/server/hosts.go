package server

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/gcemds/gcemds/internal/fleet"
)

// hosts is the set of Host names that a request may carry. A browser that was
// lured to a name which resolves to us sends that name; no workload does.
type hosts struct {
	names    map[string]bool
	suffixes []string // ".example.test"
}

// official are the names of the real server (section 1.1) and of a container's host.
var official = []string{"metadata.google.internal", "metadata.goog", "host.docker.internal", "*.localhost"}

// SetHosts adds names to those that are always allowed: the official ones,
// addresses, localhost and names without a dot. "*.example.test" allows every
// name below example.test. It replaces what an earlier call added.
func (s *Server) SetHosts(names ...string) {
	h := &hosts{names: map[string]bool{}}
	for _, name := range slices.Concat(names, official) {
		name = strings.ToLower(fleet.HostName(name))
		if suffix, ok := strings.CutPrefix(name, "*"); ok {
			h.suffixes = append(h.suffixes, suffix)
		} else {
			h.names[name] = true
		}
	}
	s.hosts.Store(h)
}

// AllowsHost reports whether a request may carry that Host header.
func (s *Server) AllowsHost(host string) bool { return s.hosts.Load().allow(host) }

// allow judges a Host header.
func (h *hosts) allow(host string) bool {
	if !strings.Contains(host, ".") {
		return true // none (HTTP/1.0), localhost, a single label, an IPv6 address
	}
	if c := host[0]; '0' <= c && c <= '9' || c == '[' {
		if _, err := netip.ParseAddrPort(host); err == nil {
			return true
		}
		if _, err := netip.ParseAddr(fleet.HostName(host)); err == nil {
			return true
		}
	}
	name := strings.ToLower(fleet.HostName(host))
	if h.names[name] || !strings.Contains(name, ".") {
		return true
	}
	for _, suffix := range h.suffixes {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// forwarded reports whether a proxy has passed the request on: then it is not
// the workload that asks (section 1.3).
func forwarded(h http.Header) bool {
	for _, name := range [...]string{"X-Forwarded-For", "Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip"} {
		if _, ok := h[name]; ok {
			return true
		}
	}
	return false
}

// markHeader is in requests of servers like this one; see Server.Mark.
const markHeader = "Gcemds-Server"

// circular reports whether the request is from this server itself: then it
// would wait for its own answer.
func (s *Server) circular(h http.Header) bool { return slices.Contains(h[markHeader], s.mark) }

// Mark is a header for requests of this process to other metadata servers. A
// request that has it and arrives here has gone in a circle, and is refused
// with status 508.
func (s *Server) Mark() (name, value string) { return markHeader, s.mark }

// flavored reports whether the request says that it wants metadata. The value
// is compared exactly; the older header is still accepted (section 1.3).
func flavored(h http.Header) bool {
	if v := h["Metadata-Flavor"]; len(v) == 1 && v[0] == "Google" {
		return true
	}
	v := h["X-Google-Metadata-Request"]
	return len(v) == 1 && strings.EqualFold(v[0], "true")
}
