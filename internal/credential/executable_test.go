package credential

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/token"
)

// helperDir has gcemds-pkcs11 once a test has built it.
var helperDir string

// TestMain makes the test itself the program that prints subject tokens.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "print-subject-token" {
		printSubjectToken(os.Args[2:])
		return
	}
	code := m.Run()
	os.RemoveAll(helperDir)
	os.Exit(code)
}

// printSubjectToken prints its environment to one file, and to stdout or
// stderr what is in another.
func printSubjectToken(args []string) {
	switch args[0] {
	case "hang":
		time.Sleep(time.Minute)
	case "fail":
		io.WriteString(os.Stderr, "planted")
		os.Exit(3)
	}
	os.WriteFile(args[0]+".env", []byte(strings.Join(os.Environ(), "\n")), 0o600)
	data, _ := os.ReadFile(args[0])
	if len(args) > 1 {
		os.Stderr.Write(data)
		return
	}
	os.Stdout.Write(data)
}

// quickExit is a variable without which a program with the race detector takes
// a second to end.
func quickExit(t *testing.T) string {
	t.Helper()
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	return "GORACE"
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(path, " \t") {
		t.Skip("the folder of the test has a space in its name, which a command in a credential file cannot have")
	}
	return path
}

func TestExternalExecutable(t *testing.T) {
	t.Setenv(allowExecutables, "1")
	t.Setenv("GCEMDS_TEST_SECRET", "planted")
	t.Setenv("GCEMDS_TEST_WANTED", "wanted")
	t.Setenv("GCE_METADATA_HOST", "127.0.0.1:1")
	google := newCloud(t).start()
	subject := jwtUntil(time.Now().Add(time.Minute))
	good := fmt.Sprintf(`{"version":1,"success":true,"token_type":%q,"id_token":%q,"expiration_time":%d}`, exchange.TypeIDToken, subject, time.Now().Add(time.Minute).Unix())
	for name, tc := range map[string]struct {
		prints string
		args   string
		kind   token.Kind
		want   string // "": a token
	}{
		"an ID token":         {good, "", 0, ""},
		"to stderr":           {good, " stderr", 0, ""},
		"SAML":                {`{"version":1,"success":true,"token_type":"` + exchange.TypeSAML + `","saml_response":"PHNhbWw+"}`, "", 0, ""},
		"a refusal":           {`{"version":1,"success":false,"code":"401","message":"not you, eyJhbGciOi.eyJpc3Mi.c2ln"}`, "", token.Denied, "it says: 401 not you, [redacted]"},
		"an expired token":    {`{"version":1,"success":true,"token_type":"` + exchange.TypeJWT + `","id_token":"planted","expiration_time":1}`, "", token.Unavailable, "already expired"},
		"an expired JWT":      {fmt.Sprintf(`{"version":1,"success":true,"token_type":%q,"id_token":%q}`, exchange.TypeJWT, jwtUntil(time.Unix(1, 0))), "", token.Unavailable, "has expired"},
		"no JSON":             {"planted", "", token.Misconfigured, "it is not JSON"},
		"another version":     {`{"version":2,"success":true,"id_token":"planted"}`, "", token.Misconfigured, "version is 2"},
		"neither":             {`{"version":1}`, "", token.Misconfigured, "neither success nor"},
		"an unknown type":     {`{"version":1,"success":true,"token_type":"eyJplanted.x.y","id_token":"planted"}`, "", token.Misconfigured, "token_type"},
		"SAML in a wrong way": {`{"version":1,"success":true,"token_type":"` + exchange.TypeSAML + `","id_token":"planted"}`, "", token.Misconfigured, "saml_response"},
		"both":                {`{"version":1,"success":true,"token_type":"` + exchange.TypeJWT + `","id_token":"planted","saml_response":"planted"}`, "", token.Misconfigured, "id_token alone"},
		"too much":            {strings.Repeat("p", exchange.MaxSubject+1), "", token.Misconfigured, "more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			path := textFile(t, tc.prints)
			command := self(t) + "  print-subject-token " + path + tc.args
			typ := exchange.TypeIDToken
			if strings.Contains(tc.prints, exchange.TypeSAML) {
				typ = exchange.TypeSAML
			}
			config := External{AllowExecutable: true, Env: []string{"GCEMDS_TEST_WANTED", quickExit(t)}, File: google.file(t, map[string]any{
				"subject_token_type": typ, "service_account_impersonation_url": google.robotURL(),
				"credential_source": map[string]any{"executable": map[string]any{"command": command, "timeout_millis": 20000}},
			})}
			_, _, err := mint(t, Config{External: &config}, Env{}, access)
			if tc.want != "" {
				if err == nil || kindOf(t, err) != tc.kind || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "subject token of "+self(t)) {
					t.Errorf("Mint = %v, want %v and %q", err, tc.kind, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := google.form.Get("subject_token"); got != subject && got != "PHNhbWw+" {
				t.Errorf("the exchange got %q, want what the program printed", got)
			}
			data, _ := os.ReadFile(path + ".env")
			env := strings.Split(string(data), "\n")
			for _, want := range []string{"GCEMDS_TEST_WANTED=wanted", allowExecutables + "=1", "GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE=" + provider,
				"GOOGLE_EXTERNAL_ACCOUNT_TOKEN_TYPE=" + typ, "GOOGLE_EXTERNAL_ACCOUNT_INTERACTIVE=0", "GOOGLE_EXTERNAL_ACCOUNT_IMPERSONATED_EMAIL=" + robot} {
				if !slices.Contains(env, want) {
					t.Errorf("the program has not %s in its environment", want)
				}
			}
			if strings.Contains(string(data), "planted") || strings.Contains(string(data), "GCE_METADATA_HOST") {
				t.Errorf("the program got variables that are not for it: %s", data)
			}
		})
	}

	run := func(config External, executable map[string]any) error {
		t.Helper()
		config.Env = []string{quickExit(t)}
		config.File = google.file(t, map[string]any{"credential_source": map[string]any{"executable": executable}})
		_, _, err := mint(t, Config{External: &config}, Env{}, access)
		return err
	}
	if err := run(External{Executable: []string{self(t), "print-subject-token", textFile(t, good)}}, map[string]any{"command": "/bin/false"}); err != nil {
		t.Errorf("with our own argv: %v", err)
	}
	if err := run(External{Executable: []string{self(t), "print-subject-token", "fail"}}, map[string]any{}); err == nil || !strings.Contains(err.Error(), "it ended with exit status 3") {
		t.Errorf("a program that fails = %v, want its status", err)
	}
	if err := run(External{Executable: []string{filepath.Join(t.TempDir(), "none")}}, map[string]any{}); err == nil || kindOf(t, err) != token.Misconfigured {
		t.Errorf("a program that is not there = %v, want Misconfigured", err)
	}
	for _, millis := range []float64{1, 4999, 120001, 1e300, -5} {
		if err := run(External{Executable: []string{"x"}}, map[string]any{"timeout_millis": millis}); err == nil || !strings.Contains(err.Error(), "not between 5000 and 120000") {
			t.Errorf("timeout_millis %v = %v, want a refusal", millis, err)
		}
	}
	hang := &executable{program: program{argv: []string{self(t), "print-subject-token", "hang"}}, timeout: 50 * time.Millisecond}
	if _, err := hang.subject(t.Context()); kindOf(t, err) != token.Unavailable || !strings.Contains(err.Error(), "did not finish") {
		t.Errorf("a program that hangs = %v, want Unavailable", err)
	}
}

// The output file saves a run while what is in it is good.
func TestOutputFile(t *testing.T) {
	quickExit(t)
	subject := "planted-subject"
	answer := func(success bool, expiry int64) string {
		data, _ := json.Marshal(map[string]any{"version": 1, "success": success, "code": "1", "token_type": exchange.TypeSAML, "saml_response": subject, "expiration_time": expiry})
		return string(data)
	}
	future := time.Now().Add(time.Minute).Unix()
	fresh := textFile(t, strings.Replace(answer(true, future), subject, "fresh", 1))
	for name, tc := range map[string]struct {
		kept string
		want string // the token, or part of the error
	}{
		"good":         {answer(true, future), subject},
		"expired":      {answer(true, 1), "fresh"},
		"a refusal":    {answer(false, future), "fresh"},
		"empty":        {" ", "fresh"},
		"damaged":      {"{", "is not an answer"},
		"no expiry":    {answer(true, 0), "expiration_time is missing"},
		"without file": {"-", "fresh"},
	} {
		e := &executable{program: program{argv: []string{self(t), "print-subject-token", fresh}}, timeout: time.Minute, output: textFile(t, tc.kept)}
		if tc.kept == "-" {
			os.Remove(e.output)
		}
		got, err := e.subject(t.Context())
		if err != nil {
			got = err.Error()
			if strings.Contains(got, "planted") {
				t.Errorf("a secret got out: %s", got)
			}
		}
		if !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	e := &executable{program: program{argv: []string{self(t), "print-subject-token", textFile(t, answer(true, 0))}}, timeout: time.Minute, output: filepath.Join(t.TempDir(), "none")}
	if _, err := e.subject(t.Context()); err == nil || !strings.Contains(err.Error(), "expiration_time is missing") {
		t.Errorf("an answer without expiry beside an output file = %v, want a refusal", err)
	}
}

func FuzzParseExecutable(f *testing.F) {
	f.Add([]byte(`{"version":1,"success":true,"token_type":"`+exchange.TypeJWT+`","id_token":"a.b.c","expiration_time":1}`), true)
	f.Add([]byte(`{"version":1,"success":true,"token_type":"`+exchange.TypeSAML+`","saml_response":"a"}`), false)
	f.Add([]byte(`{"version":1,"success":false,"code":"401","message":"no"}`), false)
	f.Fuzz(func(t *testing.T, data []byte, kept bool) {
		a, err := parseExecutable(data, kept)
		if err == nil && a.Success && (a.value() == "" || kept && a.Expiry == 0) {
			t.Errorf("an answer without a token or its end was accepted: %s", data)
		}
	})
}
