package issuer

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// routes are all endpoints: the pattern, how long the answer may be cached,
// and the function that gives it.
var routes = []struct {
	pattern string
	cache   caching
	answer  func(*Issuer, *http.Request) (any, error)
}{
	{"GET /oauth2/v3/certs", cacheKeys, (*Issuer).jwks},
	{"GET /oauth2/v1/certs", cacheKeys, (*Issuer).certificates},
	{"GET /.well-known/openid-configuration", cacheKeys, (*Issuer).discovery},
	{"GET /tokeninfo", cacheNever, (*Issuer).tokeninfo},
	{"POST /tokeninfo", cacheNever, (*Issuer).tokeninfo},
	{"GET /oauth2/v3/tokeninfo", cacheNever, (*Issuer).tokeninfo},
	{"POST /oauth2/v3/tokeninfo", cacheNever, (*Issuer).tokeninfo},
}

type caching uint8

const (
	cacheNever caching = iota
	cacheKeys          // as long as the keys can be relied upon
)

// header is the Cache-Control of an answer. Keys that end with the process
// are cached briefly: after a restart on the same port, a verifier would
// otherwise refuse good tokens for hours.
func (c caching) header(persistent bool) string {
	switch {
	case c == cacheNever:
		return "no-cache, no-store, max-age=0, must-revalidate"
	case persistent:
		return "public, max-age=20000, must-revalidate, no-transform"
	}
	return "public, max-age=60, must-revalidate, no-transform"
}

// A refusal is an error answer in the form of RFC 6749 section 5.2.
type refusal struct {
	status            int
	code, description string
}

func (r refusal) Error() string { return r.code + ": " + r.description }

// maxForm bounds the body of a POST: one token.
const maxForm = 4 * maxToken

// Handler serves the keys of the issuer and tokeninfo. All of it is public:
// it tells about a token only to those who have it.
func (i *Issuer) Handler() http.Handler {
	mux := http.NewServeMux()
	var index strings.Builder
	index.WriteString("gcemds offline issuer. Google accepts none of its tokens.\n\n")
	for _, route := range routes {
		fmt.Fprintln(&index, route.pattern)
		cache := route.cache.header(len(i.options.Keys) > 0)
		mux.HandleFunc(route.pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			body, err := route.answer(i, r)
			if err != nil {
				refuse(w, err)
				return
			}
			w.Header().Set("Cache-Control", cache)
			writeJSON(w, http.StatusOK, body)
		})
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write([]byte(index.String()))
	})
	return mux
}

func refuse(w http.ResponseWriter, err error) {
	var r refusal
	if !errors.As(err, &r) {
		r = refusal{http.StatusServiceUnavailable, "temporarily_unavailable", "The issuer has no key yet"}
	}
	w.Header().Set("Cache-Control", cacheNever.header(false))
	writeJSON(w, r.status, map[string]string{"error": r.code, "error_description": r.description})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil { // cannot be: all answers are made of strings
		http.Error(w, "cannot encode the answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}

// jwks is the JWK set (RFC 7517).
func (i *Issuer) jwks(r *http.Request) (any, error) {
	keys, err := i.ready(r.Context())
	set := struct {
		Keys []jwk `json:"keys"`
	}{Keys: []jwk{}}
	for _, k := range keys {
		set.Keys = append(set.Keys, k.web)
	}
	return set, err
}

// certificates is the older form: kid to certificate. Python's google-auth
// reads only this one.
func (i *Issuer) certificates(r *http.Request) (any, error) {
	keys, err := i.ready(r.Context())
	set := map[string]string{}
	for _, k := range keys {
		set[k.id] = k.cert
	}
	return set, err
}

// discovery names what this issuer has and nothing else: there is no
// authorization endpoint, since nobody logs in here.
func (i *Issuer) discovery(r *http.Request) (any, error) {
	return struct {
		Issuer    string   `json:"issuer"`
		JWKS      string   `json:"jwks_uri"`
		Responses []string `json:"response_types_supported"`
		Subjects  []string `json:"subject_types_supported"`
		Algs      []string `json:"id_token_signing_alg_values_supported"`
		Scopes    []string `json:"scopes_supported"`
		Claims    []string `json:"claims_supported"`
	}{
		Issuer:    i.options.URL,
		JWKS:      i.base(r) + "/oauth2/v3/certs",
		Responses: []string{"id_token"},
		Subjects:  []string{"public"},
		Algs:      []string{"RS256"},
		Scopes:    []string{"openid", "email", "profile"},
		Claims:    []string{"aud", "azp", "email", "email_verified", "exp", "iat", "iss", "sub"},
	}, nil
}

// base is the URL under which the client sees us.
func (i *Issuer) base(r *http.Request) string {
	switch {
	case i.options.BaseURL != "":
		return i.options.BaseURL
	case r.TLS != nil:
		return "https://" + r.Host
	}
	return "http://" + r.Host
}
