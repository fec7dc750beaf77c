package credential

import (
	"io"
	"net/http"
	"strings"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answer is what a fake endpoint says: a status, header lines, a body.
type answer struct {
	status int
	header string // "Name: value"
	body   string
}

func (a answer) response() *http.Response {
	h := http.Header{"Content-Type": {"application/json"}}
	if name, value, ok := strings.Cut(a.header, ": "); ok {
		h.Set(name, value)
	}
	return &http.Response{StatusCode: a.status, Header: h, Body: io.NopCloser(strings.NewReader(a.body))}
}

const good = `{"access_token":"ya29.good","expires_in":3599,"token_type":"Bearer"}`

var access = token.Request{Scopes: []string{exchange.CloudPlatform}}
