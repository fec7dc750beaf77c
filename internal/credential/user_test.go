package credential

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// userFile is the file of a login with some fields changed; nil removes one.
func loginFile(t testing.TB, address string, change map[string]any) string {
	t.Helper()
	fields := map[string]any{
		"type": "authorized_user", "client_id": "id", "client_secret": "planted-client", "refresh_token": "planted-1",
		"token_uri": address, "account": "ann@example.com", "quota_project_id": "my-project",
	}
	maps.Copy(fields, change)
	return jsonFile(t, fields)
}

func workforceFile(t testing.TB, address string, change map[string]any) string {
	t.Helper()
	fields := map[string]any{
		"type": "external_account_authorized_user", "audience": workforce, "client_id": "id", "client_secret": "planted-client",
		"refresh_token": "planted-1", "token_url": address, "token_uri": nil, "account": nil, "universe_domain": "googleapis.com",
	}
	maps.Copy(fields, change)
	return loginFile(t, address, fields)
}

// The refresh grant is in the words of its two endpoints.
func TestUser(t *testing.T) {
	var form url.Values
	var basic string
	google := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
			t.Errorf("%s with %v", r.Method, r.Header)
		}
		r.ParseForm()
		form = r.PostForm
		id, secret, _ := r.BasicAuth()
		basic = id + ":" + secret
		io.WriteString(w, `{"access_token":"ya29.ann","expires_in":3599,"token_type":"Bearer","scope":"openid","id_token":"eyJplanted.x.y","refresh_token":"planted-1"}`)
	}))
	defer google.Close()
	for name, tc := range map[string]struct {
		path  string
		env   Env
		form  url.Values
		basic string
		email string
	}{
		"a person": {loginFile(t, google.URL, nil), Env{},
			url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"planted-1"}, "client_id": {"id"}, "client_secret": {"planted-client"}}, ":", "ann@example.com"},
		"a person, elsewhere": {loginFile(t, "https://oauth2.googleapis.com/token", map[string]any{"account": ""}), Env{Endpoints: Endpoints{Token: google.URL}},
			url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"planted-1"}, "client_id": {"id"}, "client_secret": {"planted-client"}}, ":", ""},
		"a workforce user": {workforceFile(t, google.URL, nil), Env{Endpoints: Endpoints{Token: "https://unused.example"}},
			url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"planted-1"}}, "id:planted-client", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, id, err := mint(t, Config{User: &User{File: tc.path}}, tc.env, access)
			if err != nil || got.Value != "ya29.ann" {
				t.Fatalf("Mint = %q, %v", got.Value, err)
			}
			if diff := cmp.Diff(tc.form, form); diff != "" || basic != tc.basic {
				t.Errorf("the client is %q, want %q; the form (-want +got):\n%s", basic, tc.basic, diff)
			}
			if want := []string{"login in " + tc.path, "token endpoint " + strings.TrimPrefix(google.URL, "http://")}; id.Email != tc.email || id.ProjectID != "my-project" || !cmp.Equal(id.Steps, want) {
				t.Errorf("identity = %+v, want %q and %v", id, tc.email, want)
			}
			_, _, err = mint(t, Config{User: &User{File: tc.path}}, tc.env, token.Request{Audience: "a"})
			if err == nil || kindOf(t, err) != token.Unsupported || !strings.Contains(err.Error(), "impersonate a service account") {
				t.Errorf("ID token = %v, want Unsupported and the way out", err)
			}
		})
	}
}

func TestUserGcloud(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CLOUDSDK_CONFIG", dir)
	c := Config{User: &User{Gcloud: true}}
	if _, _, err := c.Open(t.Context(), Env{}); err == nil || !strings.Contains(err.Error(), "log in first: gcloud auth application-default login") {
		t.Errorf("Open before the login = %v, want the command", err)
	}
	data, _ := os.ReadFile(loginFile(t, "https://oauth2.googleapis.com/token", nil))
	if err := os.WriteFile(filepath.Join(dir, "application_default_credentials.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, id, err := c.Open(t.Context(), Env{}); err != nil || id.Email != "ann@example.com" {
		t.Errorf("Open after the login = %+v, %v, want the login", id, err)
	}
	t.Setenv("CLOUDSDK_CONFIG", "")
	t.Setenv("HOME", "/folder-of-ann")
	t.Setenv("APPDATA", `C:\Users\ann\AppData\Roaming`)
	want := "/folder-of-ann/.config/gcloud/application_default_credentials.json"
	if runtime.GOOS == "windows" {
		want = `C:\Users\ann\AppData\Roaming\gcloud\application_default_credentials.json`
	}
	if got := c.User.path(); got != want {
		t.Errorf("gcloud: true = %s, want %s", got, want)
	}
}

func TestUserRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		path   string
		config User
		want   string
	}{
		"a key":               {keyPath(t, keyJSON(t, nil)), User{}, "kind key_file"},
		"no refresh token":    {loginFile(t, "", map[string]any{"refresh_token": nil}), User{}, "field refresh_token is missing; log in again: gcloud auth application-default login"},
		"no token_url":        {workforceFile(t, "", map[string]any{"client_id": nil}), User{}, "fields client_id, token_url are missing; log in again: gcloud auth application-default login --login-config"},
		"elsewhere":           {loginFile(t, "https://evil.example/token", nil), User{}, "token_uri leads to evil.example"},
		"workforce elsewhere": {workforceFile(t, "https://evil.example/token", nil), User{}, "token_url leads to evil.example"},
		"a universe":          {loginFile(t, "", map[string]any{"universe_domain": "u.example"}), User{}, "token_uri is missing"},
		"a universe, ours":    {loginFile(t, "https://oauth2.u.example/token", map[string]any{"universe_domain": "u.example"}), User{}, "not of googleapis.com"},
		"in the clear":        {loginFile(t, "http://oauth2.googleapis.com/token", nil), User{AllowCustomEndpoints: true}, "use https"},
		"two places":          {"f", User{Gcloud: true}, "not both"},
		"no file":             {"", User{}, "file is missing"},
		"permissions":         {"f", User{Permissions: "lax"}, "neither strict nor relaxed"},
	} {
		tc.config.File = tc.path
		_, _, err := mint(t, Config{User: &tc.config}, Env{}, access)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Open = %v, want %q", name, err, tc.want)
		}
	}
	custom := User{File: loginFile(t, "https://sso.example/token", nil), AllowCustomEndpoints: true}
	if _, _, err := (Config{User: &custom}).Open(t.Context(), Env{}); err != nil {
		t.Errorf("a custom endpoint that is allowed: %v", err)
	}
	if runtime.GOOS != "windows" {
		path := loginFile(t, "https://oauth2.googleapis.com/token", nil)
		os.Chmod(path, 0o640)
		if _, _, err := (Config{User: &User{File: path}}).Open(t.Context(), Env{}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("a login that others can read = %v, want a refusal", err)
		}
	}
}

func TestUserFails(t *testing.T) {
	for name, tc := range map[string]struct {
		answer answer
		kind   token.Kind
		want   string
	}{
		"revoked":          {answer{400, "", `{"error":"invalid_grant","error_description":"Token has been expired or revoked."}`}, token.Denied, "log in again: gcloud auth application-default login"},
		"reauthentication": {answer{400, "", `{"error":"invalid_grant","error_description":"reauth related error","error_subtype":"invalid_rapt"}`}, token.Denied, "reauth related error (invalid_rapt) (the organisation wants the person to confirm"},
		"Bad Request":      {answer{400, "", `{"error":"invalid_grant","error_description":"Bad Request"}`}, token.Denied, "log in again"},
		"deleted":          {answer{401, "", `{"error":"deleted_client"}`}, token.Denied, "deleted_client"},
		"echo":             {answer{400, "", `{"error":"invalid_grant","error_description":"bad 1//planted-refresh"}`}, token.Denied, "bad [redacted]"},
		"501":              {answer{501, "", ""}, token.Unavailable, "501"},
		"429":              {answer{429, "Retry-After: 3600", ""}, token.Throttled, "429"},
		"a page":           {answer{200, "Content-Type: text/html", "<html>planted"}, token.Unavailable, "web page"},
		"expires_in 0":     {answer{200, "", `{"access_token":"ya29.x","expires_in":0}`}, token.Unavailable, "expires_in"},
		"a redirect":       {answer{302, "Location: https://evil.example/", ""}, token.Misconfigured, "redirects are not followed"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &exchange.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return tc.answer.response(), nil })}
			path := loginFile(t, "https://oauth2.googleapis.com/token", nil)
			_, _, err := mint(t, Config{User: &User{File: path}}, Env{Client: c}, access)
			if err == nil || kindOf(t, err) != tc.kind || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "login in "+path) {
				t.Errorf("Mint = %v, want %v and %q", err, tc.kind, tc.want)
			}
		})
	}
}

// A login of somebody else is not used in the name of who was logged in when
// the file was opened.
func TestUserIsAnother(t *testing.T) {
	google := newRotation(t)
	for _, tc := range []struct {
		before, now string
		want        string // of the error; "": none
	}{
		{"ann@example.com", "ann@example.com", ""},
		{"", "", ""},
		{"ann@example.com", "bob@example.com", "the login of bob@example.com by now, not of ann@example.com; if that is meant, gcemds reload"},
		{"", "bob@example.com", "the login of bob@example.com by now"},
		{"ann@example.com", "", "not of ann@example.com"},
	} {
		google.last = 1
		path := loginFile(t, google.URL, map[string]any{"account": tc.before})
		config := Config{User: &User{File: path}}
		source, _, err := config.Open(t.Context(), Env{})
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(loginFile(t, google.URL, map[string]any{"account": tc.now}))
		if err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		switch _, err := source.Mint(t.Context(), access); {
		case tc.want == "" && err != nil:
			t.Errorf("after a new login of the same %q: %v", tc.now, err)
		case tc.want != "" && (err == nil || kindOf(t, err) != token.Misconfigured || !strings.Contains(err.Error(), tc.want) || google.last != 1):
			t.Errorf("after a login of %q instead of %q: %v and %d calls, want Misconfigured, %q and none", tc.now, tc.before, err, google.last-1, tc.want)
		}
		google.last = 1
		if _, id, err := mint(t, config, Env{}, access); err != nil || id.Email != tc.now {
			t.Errorf("opened again it is of %q, %v, want %q", id.Email, err, tc.now)
		}
	}
}

// A rotation is a token endpoint that replaces the refresh token each time and
// takes only the last one.
type rotation struct {
	*httptest.Server
	mu   sync.Mutex
	last int
	hook func() // before it answers
}

func newRotation(t testing.TB) *rotation {
	r := &rotation{last: 1}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.hook != nil {
			r.hook()
		}
		if got := q.PostFormValue("refresh_token"); got != fmt.Sprintf("planted-%d", r.last) {
			w.WriteHeader(400)
			io.WriteString(w, `{"error":"invalid_grant"}`)
			return
		}
		r.last++
		fmt.Fprintf(w, `{"access_token":"ya29.ann","expires_in":3599,"refresh_token":"planted-%d"}`, r.last)
	}))
	t.Cleanup(r.Close)
	return r
}

func refreshTokenIn(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseUser(data)
	if err != nil {
		t.Fatal(err)
	}
	return f.RefreshToken
}

// A refresh token that was replaced is written back, so that the next start,
// and another process, have it.
func TestRefreshTokenIsKept(t *testing.T) {
	google := newRotation(t)
	path := workforceFile(t, google.URL, map[string]any{"token_info_url": "https://sts.googleapis.com/v1/introspect"})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Skip("no symbolic links here: ", err)
	}
	for n := 2; n <= 4; n++ { // opened anew each time
		if _, _, err := mint(t, Config{User: &User{File: link}}, Env{}, access); err != nil {
			t.Fatal(err)
		}
		if got, want := refreshTokenIn(t, path), fmt.Sprintf("planted-%d", n); got != want {
			t.Errorf("the file has %s, want %s", got, want)
		}
	}
	info, err := os.Lstat(path)
	if err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
		t.Errorf("the file has mode %v, %v, want 0600", info.Mode(), err)
	}
	var fields map[string]any
	data, _ := os.ReadFile(path)
	if json.Unmarshal(data, &fields) != nil || fields["token_info_url"] != "https://sts.googleapis.com/v1/introspect" || fields["audience"] != workforce {
		t.Errorf("the file has lost something: %s", data)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	// Two at a time, as two processes: who comes second takes what the first has written.
	var wg sync.WaitGroup
	for range 2 {
		source, _, err := Config{User: &User{File: path}}.Open(t.Context(), Env{})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for range 5 {
				if _, err := source.Mint(t.Context(), access); err != nil && kindOf(t, err) != token.Denied {
					t.Errorf("Mint beside another = %v", err)
				}
			}
		})
	}
	wg.Wait()
	if got, want := refreshTokenIn(t, path), fmt.Sprintf("planted-%d", google.last); got != want {
		t.Errorf("after two at a time the file has %s, want the last, %s", got, want)
	}

	// A login meanwhile is newer than the token that we got.
	google.hook = func() {
		data, _ := os.ReadFile(path)
		os.WriteFile(path, bytes.ReplaceAll(data, []byte("planted-"), []byte("planted-login-")), 0o600)
	}
	if _, _, err := mint(t, Config{User: &User{File: path}}, Env{}, access); err != nil {
		t.Fatal(err)
	}
	if got := refreshTokenIn(t, path); !strings.HasPrefix(got, "planted-login-") {
		t.Errorf("the file has %s, want the new login", got)
	}
}

// A login in the last moment before the file is replaced stays; what else is
// changed then is no reason to lose the new refresh token.
func TestRefreshTokenAndLogin(t *testing.T) {
	for name, meanwhile := range map[string]map[string]any{
		"a login":             {"refresh_token": "planted-login"},
		"a new quota project": {"quota_project_id": "payer-project"},
	} {
		google := newRotation(t)
		path := workforceFile(t, google.URL, nil)
		source, _, err := Config{User: &User{File: path}}.Open(t.Context(), Env{})
		if err != nil {
			t.Fatal(err)
		}
		before := refreshTokenIn(t, path)
		change, err := os.ReadFile(workforceFile(t, google.URL, meanwhile))
		if err != nil {
			t.Fatal(err)
		}
		s := source.(*userSource)
		read, reads := s.read, 0
		s.read = func() ([]byte, error) {
			if reads++; reads == 3 { // after that for the mint, and that for the new refresh token
				if err := os.WriteFile(path, change, 0o600); err != nil {
					t.Error(err)
				}
			}
			return read()
		}
		if _, err := source.Mint(t.Context(), access); err != nil {
			t.Fatal(err)
		}
		got, login := refreshTokenIn(t, path), meanwhile["refresh_token"]
		switch {
		case reads < 3:
			t.Errorf("%s: the file was read %d times, so nothing came in between", name, reads)
		case login != nil && got != login:
			t.Errorf("%s in the last moment: the file has %s, want the login", name, got)
		case login == nil && got == before:
			t.Errorf("%s in the last moment: the file has the old refresh token, which is dead", name)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*.tmp")); len(left) > 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
}

// A file that root replaces stays that of its owner.
func TestRefreshTokenOfAnotherUser(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have their owner from their folder here")
	}
	google := newRotation(t)
	path := workforceFile(t, google.URL, nil)
	const nobody = 65534
	if err := os.Chown(path, nobody, nobody); err != nil {
		t.Skip("only root can give a file to another user; sudo go test ./internal/credential: ", err)
	}
	if _, _, err := mint(t, Config{User: &User{File: path}}, Env{}, access); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	owner := reflect.Indirect(reflect.ValueOf(info.Sys()))
	if uid := owner.FieldByName("Uid").Uint(); uid != nobody || info.Mode() != 0o600 || refreshTokenIn(t, path) != "planted-2" {
		t.Errorf("the new file with %s is of user %d with mode %v, want that of its owner, %d", refreshTokenIn(t, path), uid, info.Mode(), nobody)
	}
}

// A check whose new refresh token would be lost asks for none: the server that
// runs has the old one.
func TestCheckKeepsTheLogin(t *testing.T) {
	google := newRotation(t)
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 250)) // see TestRefreshTokenCannotBeKept
	if err := os.Rename(workforceFile(t, google.URL, nil), path); err != nil {
		t.Fatal(err)
	}
	_, _, err := mint(t, Config{User: &User{File: path}}, Env{Check: true}, access)
	if err == nil || kindOf(t, err) != token.Misconfigured || !strings.Contains(err.Error(), "not tried") || google.last != 1 {
		t.Errorf("a check with a file that cannot be written = %v after %d rotations, want Misconfigured and none", err, google.last-1)
	}
	path = workforceFile(t, google.URL, nil)
	if _, _, err := mint(t, Config{User: &User{File: path}}, Env{Check: true}, access); err != nil || refreshTokenIn(t, path) != "planted-2" {
		t.Errorf("a check with a file that can be written = %v, want a token and the new refresh token there", err)
	}
}

// Another process has replaced the refresh token while we asked with the old one.
func TestRefreshTokenOfAnotherProcess(t *testing.T) {
	google := newRotation(t)
	path := workforceFile(t, google.URL, nil)
	source, _, err := Config{User: &User{File: path}}.Open(t.Context(), Env{})
	if err != nil {
		t.Fatal(err)
	}
	google.last = 7
	google.hook = func() {
		data, _ := os.ReadFile(path)
		os.WriteFile(path, bytes.Replace(data, []byte(`"planted-1"`), []byte(`"planted-7"`), 1), 0o600)
	}
	if _, err := source.Mint(t.Context(), access); err != nil || refreshTokenIn(t, path) != "planted-8" {
		t.Errorf("Mint = %v and the file has %s, want planted-8", err, refreshTokenIn(t, path))
	}
}

// Where the file cannot be written, that is said at the start, and the token is
// kept in memory, over reloads too.
func TestRefreshTokenCannotBeKept(t *testing.T) {
	google := newRotation(t)
	// No file can be written beside one whose name is as long as names can be.
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 250))
	if err := os.Rename(workforceFile(t, google.URL, nil), path); err != nil {
		t.Fatal(err)
	}
	defer clear(unwritten.newer)
	for range 3 {
		var log bytes.Buffer
		source, _, err := Config{User: &User{File: path}}.Open(t.Context(), Env{Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), "the login cannot be kept") {
			t.Errorf("log at the start = %s, want a warning", &log)
		}
		if _, err := source.Mint(t.Context(), access); err != nil {
			t.Errorf("Mint = %v, want a token", err)
		}
		if !strings.Contains(log.String(), "could not be written") || strings.Contains(log.String(), "planted") {
			t.Errorf("log = %s, want a warning and no secret", &log)
		}
	}
	if got := refreshTokenIn(t, path); got != "planted-1" || google.last != 4 {
		t.Errorf("the file has %s after %d rotations, want the old one after 3", got, google.last-1)
	}
}

func FuzzParseUser(f *testing.F) {
	f.Add([]byte(`{"type":"authorized_user","client_id":"i","client_secret":"s","refresh_token":"r"}`))
	f.Add([]byte(`{"type":"external_account_authorized_user","audience":"a","client_id":"i","client_secret":"s","refresh_token":"r","token_url":"https://sts.googleapis.com/v1/oauthtoken"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseUser(data)
		if err != nil {
			return
		}
		changed, err := replaceRefreshToken(data, file.RefreshToken, "new")
		if err != nil || changed == nil {
			t.Fatalf("a login that was accepted cannot be changed: %v", err)
		}
		again, err := parseUser(changed)
		if err != nil || again.RefreshToken != "new" || again.ClientID != file.ClientID || again.Type != file.Type {
			t.Errorf("after the change it is %+v, %v", again, err)
		}
	})
}

// TestLoginInText: whoever prints a login shows whose it is, and no secret.
func TestLoginInText(t *testing.T) {
	f := userFile{Account: "ann@example.com", ClientSecret: "planted", RefreshToken: "planted"}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, what := range []any{f, &f} {
			if got := fmt.Sprintf(verb, what); strings.Contains(got, "planted") || !strings.Contains(got, "ann@example.com") {
				t.Errorf("%s shows %s", verb, got)
			}
		}
	}
}
