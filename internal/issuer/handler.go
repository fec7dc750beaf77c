package issuer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// routes are all endpoints: the pattern, how long the answer may be cached,
// and the function that gives it.
var routes = []route{
	{"GET /oauth2/v3/certs", cacheKeys, (*Issuer).jwks},
	{"GET /oauth2/v1/certs", cacheKeys, (*Issuer).certificates},
	{"GET /.well-known/openid-configuration", cacheKeys, (*Issuer).discovery},
	{"GET /tokeninfo", cacheNever, (*Issuer).tokeninfo},
	{"POST /tokeninfo", cacheNever, (*Issuer).tokeninfo},
	{"GET /oauth2/v3/tokeninfo", cacheNever, (*Issuer).tokeninfo},
	{"POST /oauth2/v3/tokeninfo", cacheNever, (*Issuer).tokeninfo},
}

// fakeRoutes are the endpoints of a fake Google beside those, under their
// paths of today and of the years before.
var fakeRoutes = []route{
	{"POST /token", cacheNever, (*Issuer).token},
	{"POST /oauth2/v3/token", cacheNever, (*Issuer).token},
	{"POST /oauth2/v4/token", cacheNever, (*Issuer).token},
	{"POST /o/oauth2/token", cacheNever, (*Issuer).token},
	{"POST /v1/token", cacheNever, (*Issuer).exchange},
	{"POST /v1/identitybindingtoken", cacheNever, (*Issuer).exchange},
	{"POST /v1/introspect", cacheNever, (*Issuer).introspect},
	{"POST /v1/oauthtoken", cacheNever, (*Issuer).workforceToken},
	{"POST /v1/projects/-/serviceAccounts/{call}", cacheNever, (*Issuer).credentials},
	{"GET /service_accounts/v1/metadata/x509/{account}", cacheKeys, (*Issuer).accountX509},
	{"GET /service_accounts/v1/metadata/jwk/{account}", cacheKeys, (*Issuer).accountJWK},
	{"GET /service_accounts/v1/metadata/raw/{account}", cacheKeys, (*Issuer).accountRaw},
	{"GET /robot/v1/metadata/x509/{account}", cacheKeys, (*Issuer).accountX509},
}

type route struct {
	pattern string
	cache   caching
	answer  func(*Issuer, *http.Request) (any, error)
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

// maxForm bounds the body of a POST: a few tokens.
const maxForm = 4 * maxToken

// Handler serves the keys of the issuer and tokeninfo: all of it public, it
// tells about a token only to those who have it. With a Directory it serves
// what a fake Google has besides.
func (i *Issuer) Handler() http.Handler {
	mux := http.NewServeMux()
	served := routes
	if i.directory.Load() != nil {
		served = slices.Concat(routes, fakeRoutes)
	}
	var index strings.Builder
	index.WriteString("gcemds offline issuer. Google accepts none of its tokens.\n\n")
	for _, route := range served {
		fmt.Fprintln(&index, route.pattern)
		cache := route.cache.header(len(i.options.Keys) > 0)
		mux.HandleFunc(route.pattern, func(w http.ResponseWriter, r *http.Request) {
			r = r.WithContext(context.WithValue(r.Context(), whoKey{}, new(string)))
			body, err := route.answer(i, r)
			if err != nil {
				i.log(r, err)
				refuse(w, err)
				return
			}
			i.log(r, nil)
			w.Header().Set("Cache-Control", cache)
			writeJSON(w, http.StatusOK, body)
		})
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write([]byte(index.String()))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if f, ok := i.knobs.fault(r.URL.Path); ok && f.serve(w, r) {
			i.log(r, errors.New("a fault was due"))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// log writes a line for an answer. The path names accounts and methods, and
// who asked is known once a token of theirs was verified; the rest of a request
// is not shown, since that is where secrets are.
func (i *Issuer) log(r *http.Request, err error) {
	args := []any{"method", r.Method, "path", r.URL.Path}
	if who, ok := r.Context().Value(whoKey{}).(*string); ok && *who != "" {
		args = append(args, "who", *who)
	}
	if err != nil {
		i.options.Log.Warn("refused", append(args, "error", err)...)
		return
	}
	i.options.Log.Info("answered", args...)
}

// whoKey is the key of a *string in the context of a request.
type whoKey struct{}

// identified notes for the log who asks, as IAM policies name it.
func identified(r *http.Request, member string) {
	if who, ok := r.Context().Value(whoKey{}).(*string); ok {
		*who = member
	}
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
	document := struct {
		Issuer    string   `json:"issuer"`
		Token     string   `json:"token_endpoint,omitempty"`
		JWKS      string   `json:"jwks_uri"`
		Responses []string `json:"response_types_supported"`
		Subjects  []string `json:"subject_types_supported"`
		Algs      []string `json:"id_token_signing_alg_values_supported"`
		Scopes    []string `json:"scopes_supported"`
		Methods   []string `json:"token_endpoint_auth_methods_supported,omitempty"`
		Grants    []string `json:"grant_types_supported,omitempty"`
		Claims    []string `json:"claims_supported"`
	}{
		Issuer:    i.options.URL,
		JWKS:      i.base(r) + "/oauth2/v3/certs",
		Responses: []string{"id_token"},
		Subjects:  []string{"public"},
		Algs:      []string{"RS256"},
		Scopes:    []string{"openid", "email", "profile"},
		Claims:    []string{"aud", "azp", "email", "email_verified", "exp", "iat", "iss", "sub"},
	}
	if i.directory.Load() != nil {
		document.Token = i.base(r) + "/token"
		document.Methods = []string{"client_secret_post", "client_secret_basic"}
		document.Grants = []string{"refresh_token", grantJWT}
	}
	return document, nil
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
