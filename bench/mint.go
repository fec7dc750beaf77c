package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

const (
	mintsOfRound = 10
	tokenPath    = "instance/service-accounts/default/identity?audience="
)

// A serviceAccount is the JSON key that the fake Google made.
type serviceAccount struct {
	Email    string `json:"client_email"`
	KeyID    string `json:"private_key_id"`
	PEM      string `json:"private_key"`
	TokenURI string `json:"token_uri"`

	key *rsa.PrivateKey
}

// A mint is one way to a token: the source of gcemds, and the least that a
// program needs for the same, which is done by this one.
type mint struct {
	what   string
	source string // in YAML
	bare   func(ctx context.Context, audience string) error
	stop   func()
}

// errNoTool: what a mint needs is not on this machine.
var errNoTool = errors.New("left out")

// mints measures how long the first token takes by each source, next to a bare
// signature and bare requests. All ask the same fake Google on loopback.
func (b *bench) mints(ctx context.Context) ([]row, error) {
	at, err := freeAddr()
	if err != nil {
		return nil, err
	}
	keyFile, external := filepath.Join(b.dir, "sa.json"), filepath.Join(b.dir, "external.json")
	google, err := b.start(ctx, b.gcemds, at, nil, "google", "--listen", at, "--key-out", keyFile, "--external-out", external)
	if err != nil {
		return nil, err
	}
	defer google.stop()
	for deadline := time.Now().Add(patience); ; {
		if _, err := os.Stat(external); err == nil { // the last thing it writes before it serves
			break
		}
		if err := google.pause(ctx, time.Millisecond, deadline); err != nil {
			return nil, err
		}
	}
	if err := google.ready(ctx); err != nil {
		return nil, err
	}
	sa, err := readServiceAccount(keyFile)
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, way := range []struct {
		what string
		make func(context.Context, serviceAccount, string) (mint, error)
		file string
	}{
		{"key file", b.mintByKey, keyFile},
		{"TPM (swtpm)", b.mintByTPM, keyFile},
		{"PKCS#11 (SoftHSM)", b.mintByPKCS11, keyFile},
		{"federation and impersonation", b.mintByFederation, external},
	} {
		m, err := way.make(ctx, sa, way.file)
		m.what = "cold mint, " + way.what
		var r row
		if err == nil {
			r, err = b.mint(ctx, m)
			m.stop()
		}
		if err != nil {
			r = row{what: m.what, note: err.Error(), pass: errors.Is(err, errNoTool)}
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func readServiceAccount(name string) (sa serviceAccount, err error) {
	data, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(data, &sa)
	}
	if err != nil {
		return sa, err
	}
	block, _ := pem.Decode([]byte(sa.PEM))
	if block == nil {
		return sa, fmt.Errorf("%s has no key", name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	sa.key, _ = key.(*rsa.PrivateKey)
	return sa, err
}

// mint takes turns with the floor. Each token is for an audience that nobody
// has asked for, so none comes from the cache.
func (b *bench) mint(ctx context.Context, m mint) (row, error) {
	p, err := b.serve(ctx, "sources: {s: {"+m.source+"}}\ninstances: {vm: {accounts: {default: {source: s}}}}\n")
	if err != nil {
		return row{}, err
	}
	defer p.stop()
	if _, err := p.firstReply(ctx, "instance/name"); err != nil {
		return row{}, err
	}
	n := 0
	ours := func() error {
		n++
		return get(ctx, "http://"+p.addr+dataPath+tokenPath+fmt.Sprintf("https://a%d.example", n), nil)
	}
	bare := func() error {
		n++
		return m.bare(ctx, fmt.Sprintf("https://a%d.example", n))
	}
	var gcemds, floor []float64
	for round := range b.rounds + 1 {
		var mine, theirs []float64
		for range mintsOfRound {
			for _, one := range []struct {
				do   func() error
				took *[]float64
			}{{bare, &theirs}, {ours, &mine}} {
				start := time.Now()
				if err := one.do(); err != nil {
					return row{}, err
				}
				*one.took = append(*one.took, float64(time.Since(start).Microseconds())/1000)
			}
		}
		if round > 0 { // the first opens connections
			gcemds, floor = append(gcemds, spreadOf(mine).median), append(floor, spreadOf(theirs).median)
		}
	}
	g, f := spreadOf(gcemds), spreadOf(floor)
	return row{
		what:   m.what,
		gcemds: fmt.Sprintf("%.2f ms (%.2f to %.2f)", g.median, g.min, g.max),
		floor:  fmt.Sprintf("%.2f ms (%.2f to %.2f)", f.median, f.min, f.max),
		ratio:  spreadOf(quotients(floor, gcemds)).String(),
		pass:   true,
	}, nil
}

// assert is the bare exchange of an assertion: it is signed, sent, and the
// answer read.
func (sa serviceAccount) assert(ctx context.Context, audience string, sign func(digest []byte) ([]byte, error)) error {
	now := time.Now()
	header, err := json.Marshal(map[string]string{"alg": "RS256", "typ": "JWT", "kid": sa.KeyID})
	if err != nil {
		return err
	}
	claims, err := json.Marshal(map[string]any{"iss": sa.Email, "aud": sa.TokenURI, "target_audience": audience, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()})
	if err != nil {
		return err
	}
	jwt := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	digest := sha256.Sum256([]byte(jwt))
	signature, err := sign(digest[:])
	if err != nil {
		return err
	}
	_, err = post(ctx, sa.TokenURI, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {jwt + "." + base64.RawURLEncoding.EncodeToString(signature)}}, "")
	return err
}

func (b *bench) mintByKey(_ context.Context, sa serviceAccount, file string) (mint, error) {
	return mint{source: "key_file: " + file, stop: func() {}, bare: func(ctx context.Context, audience string) error {
		return sa.assert(ctx, audience, func(digest []byte) ([]byte, error) { return rsa.SignPKCS1v15(nil, sa.key, crypto.SHA256, digest) })
	}}, nil
}

// mintByFederation exchanges a subject token and then impersonates.
func (b *bench) mintByFederation(_ context.Context, _ serviceAccount, file string) (mint, error) {
	var f struct {
		Audience, Subject string
		Type              string `json:"subject_token_type"`
		TokenURL          string `json:"token_url"`
		Target            string `json:"service_account_impersonation_url"`
		Source            struct {
			URL     string
			Headers map[string]string
		} `json:"credential_source"`
	}
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		return mint{}, err
	}
	return mint{source: "external: " + file, stop: func() {}, bare: func(ctx context.Context, audience string) error {
		var subject bytes.Buffer
		header := http.Header{}
		for name, value := range f.Source.Headers {
			header.Set(name, value)
		}
		if err := fetch(ctx, f.Source.URL, header, &subject); err != nil {
			return err
		}
		answer, err := post(ctx, f.TokenURL, url.Values{
			"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "audience": {f.Audience}, "scope": {"https://www.googleapis.com/auth/cloud-platform"},
			"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"}, "subject_token": {subject.String()}, "subject_token_type": {f.Type},
		}, "")
		if err != nil {
			return err
		}
		var caller struct {
			Token string `json:"access_token"`
		}
		if err := json.Unmarshal(answer, &caller); err != nil {
			return err
		}
		target := f.Target[:len(f.Target)-len("generateAccessToken")] + "generateIdToken"
		_, err = post(ctx, target, map[string]any{"audience": audience, "includeEmail": true}, caller.Token)
		return err
	}}, nil
}

// serve starts the server under test with a configuration.
func (b *bench) serve(ctx context.Context, yaml string) (*process, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	b.sockets++
	config := filepath.Join(b.dir, fmt.Sprintf("mds-%d.yaml", b.sockets))
	if err := os.WriteFile(config, []byte(yaml), 0o600); err != nil {
		return nil, err
	}
	return b.start(ctx, b.gcemds, addr, nil, "serve", "--config", config, "--listen", addr, "--admin", filepath.Join(b.dir, fmt.Sprintf("admin-%d.sock", b.sockets)))
}

// get asks for metadata.
func get(ctx context.Context, address string, into io.Writer) error {
	return fetch(ctx, address, http.Header{"Metadata-Flavor": {"Google"}}, into)
}

// fetch reads what is at an address.
func fetch(ctx context.Context, address string, header http.Header, into io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	req.Header = header
	body, err := send(req)
	if err == nil && into != nil {
		_, err = into.Write(body)
	}
	return err
}

// post sends a form, or JSON with a token.
func post(ctx context.Context, address string, what any, bearer string) ([]byte, error) {
	kind, body := "application/json", []byte(nil)
	if form, ok := what.(url.Values); ok {
		kind, body = "application/x-www-form-urlencoded", []byte(form.Encode())
	} else {
		var err error
		if body, err = json.Marshal(what); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", kind)
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	return send(req)
}

func send(req *http.Request) ([]byte, error) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", req.URL.Path, resp.Status)
	}
	return body, err
}
