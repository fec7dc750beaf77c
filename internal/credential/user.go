package credential

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// A User is the login of a person: the file that "gcloud auth
// application-default login" writes, also with --login-config for a workforce
// pool. In YAML it may be the file alone.
//
// The file is read anew for each token, so a new login of the same person
// counts from the next one on, which is when those of the old login end, within
// the hour. It is not watched, since we write to it ourselves.
type User struct {
	File string `yaml:"file,omitempty" is:"place"`

	// Gcloud takes the file from where gcloud has put it, for the user that
	// runs us.
	Gcloud bool `yaml:"gcloud,omitempty"`

	// Permissions is "strict" (the default) or "relaxed"; see KeyFile.
	Permissions string `yaml:"permissions,omitempty"`

	// AllowCustomEndpoints lets the file name a token endpoint that is not
	// Google's. Whoever answers there gets the login.
	AllowCustomEndpoints bool `yaml:"allow_custom_endpoints,omitempty"`
}

// UnmarshalText reads the short form.
func (c *User) UnmarshalText(text []byte) error {
	*c = User{File: string(text)}
	return nil
}

func (c *User) validate() error {
	faults := []error{checkPermissions(c.Permissions)}
	switch {
	case c.File == "" && !c.Gcloud:
		faults = append(faults, errors.New("file is missing: what gcloud auth application-default login has written (gcloud: true finds it)"))
	case c.File != "" && c.Gcloud:
		faults = append(faults, errors.New("either file or gcloud: true, not both"))
	}
	return errors.Join(faults...)
}

func (c *User) files() []string { return nil }

func (c *User) path() string {
	if c.Gcloud {
		return filepath.Join(gcloudFolder(), "application_default_credentials.json")
	}
	return c.File
}

func (c *User) read() ([]byte, error) {
	data, err := readKeyFile(c.path(), c.Permissions)
	if c.Gcloud && errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w; log in first: gcloud auth application-default login", err)
	}
	return data, err
}

func (c *User) open(_ context.Context, env Env) (token.Source, Identity, error) {
	s := c.source(c.read, env)
	f, err := s.login()
	if err != nil {
		return nil, Identity{}, err
	}
	s.email = f.email()
	if f.workforce() {
		if err := writable(c.path()); err != nil {
			env.log().Warn("the login cannot be kept: Google replaces its refresh token from time to time, and the file cannot be written; after the next start it may be necessary to log in again",
				"file", c.path(), "error", err)
		}
	}
	return s, s.identity(f), nil
}

// load opens the JSON form inside another file.
func (c *User) load(data []byte, env Env) (token.Source, Identity, error) {
	s := c.source(func() ([]byte, error) { return data, nil }, env)
	f, err := s.parse(data)
	if err != nil {
		return nil, Identity{}, err
	}
	s.email = f.email()
	return s, s.identity(f), nil
}

func (c *User) source(read func() ([]byte, error), env Env) *userSource {
	return &userSource{config: c, read: read, endpoints: env.Endpoints, client: env.client(), log: env.log(), check: env.Check, slot: make(chan struct{}, 1)}
}

// A userFile is the JSON form of a login (sections 3.4 and 3.5).
type userFile struct {
	Type         string `json:"type"`
	Audience     string `json:"audience"` // of a workforce login
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	RefreshToken string `json:"refresh_token"`
	TokenURL     string `json:"token_url"` // of a workforce login
	TokenURI     string `json:"token_uri"` // of any other
	Account      string `json:"account"`
	QuotaProject string `json:"quota_project_id"`
	Universe     string `json:"universe_domain"`
}

// Format shows whose login it is, whatever the verb, and no secret.
func (f userFile) Format(s fmt.State, _ rune) { fmt.Fprintf(s, "[login of %s]", f.Account) }

func (f *userFile) workforce() bool { return f.Type == "external_account_authorized_user" }

func parseUser(data []byte) (*userFile, error) {
	var f userFile
	if err := decodeFile(data, &f, "authorized_user", "external_account_authorized_user"); err != nil {
		return nil, err
	}
	need := [][2]string{{"client_id", f.ClientID}, {"client_secret", f.ClientSecret}, {"refresh_token", f.RefreshToken}}
	if f.workforce() {
		need = append(need, [2]string{"token_url", f.TokenURL})
	}
	if err := missingFields(need...); err != nil {
		return nil, fmt.Errorf("%w; log in again: %s", err, f.command())
	}
	return &f, nil
}

// email is that of the person, or "" if the file does not have it.
func (f *userFile) email() string {
	if isEmail(f.Account) {
		return f.Account
	}
	return ""
}

// command is what a person enters to log in again.
func (f *userFile) command() string {
	if f.workforce() {
		return "gcloud auth application-default login --login-config=FILE"
	}
	return "gcloud auth application-default login"
}

// A userSource exchanges a refresh token for access tokens.
type userSource struct {
	config    *User
	read      func() ([]byte, error)
	email     string // in the file when it was opened, may be empty
	endpoints Endpoints
	client    *exchange.Client
	log       *slog.Logger
	check     bool          // see Env
	slot      chan struct{} // who has it may use the refresh token
}

func (s *userSource) identity(f *userFile) Identity {
	return Identity{Email: f.email(), ProjectID: f.QuotaProject, Steps: []string{"login in " + s.config.path(), "token endpoint " + hostOf(f.TokenURL)}}
}

// parse reads the JSON form and completes it.
func (s *userSource) parse(data []byte) (*userFile, error) {
	f, err := parseUser(data)
	if err != nil {
		return nil, err
	}
	universe, allow := cmp.Or(f.Universe, googleUniverse), s.config.AllowCustomEndpoints
	field := "token_url"
	if !f.workforce() {
		field = "token_uri"
		f.TokenURL = cmp.Or(s.endpoints.Token, f.TokenURI)
		if f.TokenURL == "" && universe != googleUniverse {
			return nil, fmt.Errorf("field token_uri is missing, and universe_domain is %.100q", universe)
		}
		f.TokenURL = cmp.Or(f.TokenURL, s.endpoints.token())
		allow = allow || s.endpoints.Token != ""
	}
	return f, checkFileEndpoint(field, f.TokenURL, googleUniverse, allow)
}

// login reads the file as it is now.
func (s *userSource) login() (*userFile, error) {
	data, err := s.read()
	if err != nil {
		return nil, err
	}
	f, err := s.parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.config.path(), err)
	}
	return f, nil
}

// Mint implements token.Source. What scopes a token has, the login decides.
func (s *userSource) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	t, err := s.mint(ctx, req)
	if err != nil {
		return token.Token{}, exchange.About("login in "+s.config.path(), err)
	}
	return t, nil
}

func (s *userSource) mint(ctx context.Context, req token.Request) (token.Token, error) {
	if req.Audience != "" {
		return token.Token{}, &token.Error{Kind: token.Unsupported, Err: errors.New("the audience of a person's ID token cannot be chosen; impersonate a service account over this source to get that one's")}
	}
	select {
	case s.slot <- struct{}{}:
		defer func() { <-s.slot }()
	case <-ctx.Done():
		return token.Token{}, &token.Error{Kind: token.Unavailable, Err: ctx.Err()}
	}
	for again := false; ; again = true {
		f, err := s.login()
		if err != nil {
			return token.Token{}, err
		}
		if now := f.email(); now != s.email {
			return token.Token{}, &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("the file has the login of %s by now, not of %s; if that is meant, gcemds reload",
				cmp.Or(now, "somebody it does not name"), cmp.Or(s.email, "whom it did not name before"))}
		}
		if s.check && f.workforce() {
			if err := writable(s.config.path()); err != nil {
				return token.Token{}, &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("not tried: the refresh token may be replaced, and the new one would be lost with this command, since the file cannot be written: %w", err)}
			}
		}
		t, err := s.refresh(ctx, f, unwritten.newest(f.RefreshToken))
		var failure *token.Error
		if errors.As(err, &failure) && failure.Kind == token.Denied {
			// Another process may have renewed it while we asked.
			if !again && s.changed(f.RefreshToken) {
				continue
			}
			return t, &token.Error{Kind: token.Denied, Err: fmt.Errorf("%w; if the login is no longer good, log in again: %s", failure.Err, f.command())}
		}
		return t, err
	}
}

// changed reports whether the file has another refresh token by now.
func (s *userSource) changed(was string) bool {
	f, err := s.login()
	return err == nil && f.RefreshToken != was
}

// refresh asks for an access token, and keeps the refresh token that may come
// with it.
func (s *userSource) refresh(ctx context.Context, f *userFile, refresh string) (token.Token, error) {
	c := exchange.Call{
		What: "token endpoint", Address: f.TokenURL, Field: "token_uri",
		Form: url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}},
	}
	if f.workforce() {
		c.Field = "token_url"
		c.Header = map[string]string{"Authorization": exchange.Basic(f.ClientID, f.ClientSecret)}
	} else {
		c.Form.Set("client_id", f.ClientID)
		c.Form.Set("client_secret", f.ClientSecret)
	}
	r, err := s.client.Post(ctx, c)
	if err != nil {
		return token.Token{}, err
	}
	var answer struct {
		Refresh string `json:"refresh_token"`
	}
	if json.Unmarshal(r.Body, &answer) == nil && f.workforce() && answer.Refresh != "" && answer.Refresh != refresh {
		s.keep(f.RefreshToken, answer.Refresh)
	}
	t, err := r.AccessToken()
	if err != nil {
		return token.Token{}, exchange.About(r.From, err)
	}
	return t, nil
}

// keep puts a new refresh token in the place of the one in the file. A file
// that was changed meanwhile stays: a login is newer than what we have. Only
// what is written in the moment between the last look and the rename is lost;
// gcloud has no lock that we could take.
func (s *userSource) keep(was, refresh string) {
	path := s.config.path()
	err := errChanged
	for range 3 {
		if err == errChanged { // by gcloud perhaps, but with the old refresh token
			err = s.put(path, was, refresh)
		}
	}
	if err != nil {
		unwritten.add(was, refresh)
		s.log.Warn("a new refresh token could not be written; after the next start it may be necessary to log in again", "file", path, "error", err)
	}
}

var errChanged = errors.New("the file is changed all the time")

// put is one try to keep it.
func (s *userSource) put(path, was, refresh string) error {
	data, err := s.read()
	if err != nil {
		return err
	}
	changed, err := replaceRefreshToken(data, was, refresh)
	if err != nil || changed == nil {
		return err
	}
	return replaceFile(path, changed, func() bool {
		now, err := s.read()
		return err == nil && bytes.Equal(now, data)
	})
}

// replaceRefreshToken returns the JSON form with another refresh token and all
// else as it is; nil if it has not the old one any more.
func replaceRefreshToken(data []byte, was, refresh string) ([]byte, error) {
	f, err := parseUser(data)
	if err != nil || f.RefreshToken != was {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\ufeff")), &fields); err != nil {
		return nil, err
	}
	if fields["refresh_token"], err = json.Marshal(refresh); err != nil {
		return nil, err
	}
	return json.MarshalIndent(fields, "", "  ")
}

// replaceFile gives a file new content, whole and for its owner alone. It
// fails with errChanged if that is not the same any more when all is ready.
func replaceFile(path string, data []byte, same func() bool) error {
	path, f, err := createBeside(path)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil && !same() {
		err = errChanged
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// writable reports why replaceFile would fail.
func writable(path string) error {
	_, f, err := createBeside(path)
	if err != nil {
		return err
	}
	f.Close()
	return os.Remove(f.Name())
}

// createBeside makes a file that can take the place of another: in the same
// folder, with mode 0600 and of the same owner. It returns where that one is,
// since a rename would replace a link.
func createBeside(path string) (string, *os.File, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", nil, err
	}
	was, err := os.Stat(path)
	if err != nil {
		return "", nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return "", nil, err
	}
	if err := giveTo(f, was); err != nil {
		f.Close()
		os.Remove(f.Name())
		return "", nil, fmt.Errorf("the file has another owner: %w", err)
	}
	return path, f, nil
}

// unwritten has the refresh tokens that could not be written, by those in
// their files: sources are opened again at each reload.
var unwritten = refreshTokens{newer: map[string]string{}}

type refreshTokens struct {
	mu    sync.Mutex
	newer map[string]string
}

func (r *refreshTokens) newest(refresh string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return cmp.Or(r.newer[refresh], refresh)
}

func (r *refreshTokens) add(was, refresh string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newer[was] = refresh
}
