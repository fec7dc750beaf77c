package gke

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// A filed reader has answers by path.
type filed map[string]string

func (f filed) Get(_ context.Context, path string) ([]byte, error) {
	if s, ok := f[path]; ok {
		return []byte(s), nil
	}
	return nil, &APIError{Status: 404, Err: errors.New("not found")}
}

func TestReadIssuer(t *testing.T) {
	r := filed{
		discoveryPath: `{"issuer":"https://cluster.example.com","jwks_uri":"https://10.0.0.1/openid/v1/jwks"}`,
		keysPath:      `{"keys":[{"kid":"b","kty":"RSA","n":"x","e":"AQAB","x5c":["secret"],"x5t":"y"},{"kid":"a","kty":"RSA"}]}`,
	}
	i, err := ReadIssuer(t.Context(), r)
	if err != nil || i.URL != "https://cluster.example.com" || strings.Join(i.KeyIDs, " ") != "a b" {
		t.Errorf("ReadIssuer = %+v, %v", i, err)
	}
	if strings.Contains(string(i.Keys), "x5") {
		t.Errorf("the keys have certificates, with which Google refuses them: %s", i.Keys)
	}
	for _, missing := range []string{discoveryPath, keysPath} {
		r := filed{discoveryPath: r[discoveryPath], keysPath: r[keysPath]}
		r[missing] = `{}`
		if _, err := ReadIssuer(t.Context(), r); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("with an empty %s: %v, want an error that names it", missing, err)
		}
	}
	// What the cluster says becomes part of commands, and of comments beside them.
	for path, answer := range map[string]string{
		discoveryPath: `{"issuer":"https://a.example\nrm -r ."}`,
		keysPath:      `{"keys":[{"kid":"a\nrm -r ."}]}`,
	} {
		r := filed{discoveryPath: r[discoveryPath], keysPath: r[keysPath]}
		r[path] = answer
		if i, err := ReadIssuer(t.Context(), r); err == nil {
			t.Errorf("with %s in %s: %+v, want an error", answer, path, i)
		}
	}
}

// FuzzIssuer: whatever a cluster says, its issuer and its keys are one word
// each, and what Google gets of the keys has no certificates.
func FuzzIssuer(f *testing.F) {
	f.Add(`{"issuer":"https://a.example"}`, `{"keys":[{"kid":"b","x5c":["x"]},{"kid":"a"}]}`)
	f.Add(`{"issuer":"a b"}`, `{"keys":[{}]}`)
	f.Add(`{"issuer":1}`, `{"keys":[{"kid":1}]}`)
	f.Add(`{}`, `{"keys":[null]}`)
	f.Add(`{"issuer":"${x}"}`, `[]`)
	f.Fuzz(func(t *testing.T, discovery, keys string) {
		i, err := ReadIssuer(t.Context(), filed{discoveryPath: discovery, keysPath: keys})
		if err != nil {
			return
		}
		i.Hidden()
		var set struct{ Keys []map[string]any }
		if err := json.Unmarshal(i.Keys, &set); err != nil || len(set.Keys) != len(i.KeyIDs) || !slices.IsSorted(i.KeyIDs) {
			t.Errorf("keys %s, ids %q, %v", i.Keys, i.KeyIDs, err)
		}
		for _, key := range set.Keys {
			if key["x5c"] != nil {
				t.Errorf("a key has certificates: %v", key)
			}
		}
		for _, word := range append(i.KeyIDs, i.URL) {
			if strings.ContainsAny(word, " \n\r") {
				t.Errorf("%q is taken", word)
			}
		}
	})
}

// An issuer that Google cannot reach is told by its address.
func TestHidden(t *testing.T) {
	for address, hidden := range map[string]bool{
		"https://container.googleapis.com/v1/projects/p/locations/l/clusters/c": false,
		"https://oidc.eks.eu-west-1.amazonaws.com/id/ABC":                       false,
		"https://oidc.example.org/":                                             false,
		"https://oidc.example.org:443":                                          false,
		"https://203.0.113.9":                                                   false,
		"https://kubernetes.default.svc.cluster.local":                          true,
		"https://kubernetes.default.svc":                                        true,
		"https://10.0.0.1":                                                      true,
		"https://100.64.0.1":                                                    true,
		"https://[::ffff:10.0.0.1]":                                             true,
		"https://[fd00::1]":                                                     true,
		"https://127.0.0.1":                                                     true,
		"https://oidc.example.org:6443":                                         true,
		"http://oidc.example.org":                                               true,
		"https://master":                                                        true,
		"kubernetes/serviceaccount":                                             true,
	} {
		if why := (Issuer{URL: address}).Hidden(); (why != "") != hidden {
			t.Errorf("%s is hidden because %q, want %v", address, why, hidden)
		}
	}
}

// An issuer that Google cannot reach is told by asking it, too.
func TestProbe(t *testing.T) {
	answers := map[string]string{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusUnauthorized)
		}
		io.WriteString(w, answer)
	}))
	defer server.Close()
	i := Issuer{URL: server.URL, KeyIDs: []string{"k1"}}
	for _, c := range []struct{ name, discovery, keys, why string }{
		{"as it should be", `{"issuer":"URL","jwks_uri":"URL/keys"}`, `{"keys":[{"kid":"k0"},{"kid":"k1"}]}`, ""},
		{"not for everybody", "", "", "answers 401"},
		{"another issuer", `{"issuer":"URL/"}`, "", "of another issuer"},
		{"a page", "<html>", "", "not JSON"},
		{"keys elsewhere", `{"issuer":"URL","jwks_uri":"http://10.0.0.1/keys"}`, "", "https://"},
		{"no keys", `{"issuer":"URL","jwks_uri":"URL/keys"}`, "{}", "no keys"},
		{"other keys", `{"issuer":"URL","jwks_uri":"URL/keys"}`, `{"keys":[{"kid":"k0"}]}`, "not have the key k1"},
	} {
		clear(answers)
		if c.discovery != "" {
			answers[discoveryPath] = strings.ReplaceAll(c.discovery, "URL", server.URL)
			answers["/keys"] = c.keys
		}
		if why := i.fetch(t.Context(), server.Client().Transport); (why == "") != (c.why == "") || !strings.Contains(why, c.why) {
			t.Errorf("%s: hidden because %q, want %q", c.name, why, c.why)
		}
	}
	// A name may lead anywhere, and the probe must not be led into a private network.
	if why := i.fetch(t.Context(), outward()); !strings.Contains(why, "private network") {
		t.Errorf("%s is hidden because %q, want that it is of a private network", i.URL, why)
	}
	if why := (Issuer{URL: "https://kubernetes.default.svc"}).Probe(t.Context()); why == "" {
		t.Error("a name of a private network is asked")
	}
}
