package server

import (
	"net/http"
	"strconv"
	"strings"
)

// A target is what the request line asks for, before anything is decoded.
type target struct {
	raw   string // path and query as sent, for error pages
	path  string // slashes collapsed, see decoded for escapes
	query string
}

func newTarget(r *http.Request) target {
	raw := r.RequestURI
	if raw == "" { // a request that was never on the wire
		raw = r.URL.RequestURI()
	}
	if !strings.HasPrefix(raw, "/") { // absolute form: http://host/path
		if _, rest, ok := strings.Cut(raw, "://"); ok {
			host, _, _ := strings.Cut(rest, "?")
			host, _, _ = strings.Cut(host, "/")
			if raw = rest[len(host):]; !strings.HasPrefix(raw, "/") {
				raw = "/" + raw
			}
		}
	}
	t := target{raw: raw}
	t.path, t.query, _ = strings.Cut(raw, "?")
	if strings.Contains(t.path, "//") {
		t.path = collapsed(t.path)
	}
	if strings.Contains(t.path, "%") {
		t.path = decoded(t.path)
	}
	return t
}

// below returns the path below /computeMetadata/v1/, without a slash at its
// end, and whether the target lies there.
func (t target) below() (string, bool) {
	path, ok := strings.CutPrefix(t.path, "/computeMetadata/v1/")
	return strings.TrimSuffix(path, "/"), ok
}

func (t target) slash() bool { return strings.HasSuffix(t.path, "/") }

// legacy reports whether the target lies in a tree that is switched off today
// (section 2.4). Those never needed the flavor header.
func (t target) legacy() bool {
	for _, tree := range [...]string{"/0.1", "/computeMetadata/v1beta1"} {
		if rest, ok := strings.CutPrefix(t.path, tree); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// collapsed makes one slash of several (section 2.2).
func collapsed(path string) string {
	b := make([]byte, 0, len(path))
	for i := range len(path) {
		if path[i] != '/' || i == 0 || path[i-1] != '/' {
			b = append(b, path[i])
		}
	}
	return string(b)
}

// decoded decodes the escapes that a path cannot do without, such as those of
// a space or of ö. The server does not support others (section 2.2): an
// escaped @ stays as it is, and no key is spelt like that.
func decoded(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) {
			if c, err := strconv.ParseUint(path[i+1:i+3], 16, 8); err == nil && !sendable(byte(c)) {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

// sendable reports whether a path can hold the character as itself (RFC 3986
// section 3.3).
func sendable(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~!$&'()*+,;=:@/", c) >= 0
}
