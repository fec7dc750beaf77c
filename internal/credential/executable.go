package credential

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/exchange"
	"github.com/gcemds/gcemds/internal/issuer"
	"github.com/gcemds/gcemds/internal/token"
)

// An executableSource names a program that prints the subject token (section
// 3.3).
type executableSource struct {
	Command    string  `json:"command"`
	Timeout    float64 `json:"timeout_millis"`
	OutputFile string  `json:"output_file"`
}

const (
	defaultExecutable = 30 * time.Second
	minExecutable     = 5 * time.Second
	maxExecutable     = 120 * time.Second

	allowExecutables = "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES"
)

// An executable is such a program, ready to run.
type executable struct {
	program
	told    []string // variables with values that say what is wanted
	timeout time.Duration
	output  string // a file where it leaves its answer for the next time; may be empty
}

// executable prepares the program of the file. Both we and Google's variable
// must allow it: a credential file comes from elsewhere.
func (c *External) executable(s *executableSource, f *externalFile, email string) (*executable, error) {
	e := &executable{program: program{c.Executable, c.Env}, timeout: defaultExecutable, output: s.OutputFile}
	if len(e.argv) == 0 {
		e.argv = strings.Fields(s.Command) // as Google does: no quotes, no shell
		switch {
		case len(e.argv) == 0:
			return nil, errors.New("field executable.command is missing")
		case !c.AllowExecutable:
			return nil, fmt.Errorf("the file wants to run %.100q; if that is meant, say allow_executable: true", s.Command)
		}
	}
	if os.Getenv(allowExecutables) != "1" {
		return nil, fmt.Errorf("a program is to be run for the subject token; if that is meant, set %s=1 in the environment of gcemds", allowExecutables)
	}
	if s.Timeout != 0 {
		e.timeout = time.Duration(s.Timeout * float64(time.Millisecond))
		if !(s.Timeout >= float64(minExecutable.Milliseconds()) && s.Timeout <= float64(maxExecutable.Milliseconds())) {
			return nil, fmt.Errorf("executable.timeout_millis is %v, not between 5000 and 120000", s.Timeout)
		}
	}
	e.told = append(e.told,
		allowExecutables+"=1",
		"GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE="+f.Audience,
		"GOOGLE_EXTERNAL_ACCOUNT_TOKEN_TYPE="+f.SubjectTokenType,
		"GOOGLE_EXTERNAL_ACCOUNT_INTERACTIVE=0")
	if email != "" {
		e.told = append(e.told, "GOOGLE_EXTERNAL_ACCOUNT_IMPERSONATED_EMAIL="+email)
	}
	if e.output != "" {
		e.told = append(e.told, "GOOGLE_EXTERNAL_ACCOUNT_OUTPUT_FILE="+e.output)
	}
	return e, nil
}

// subject returns the token: that of the output file while it is good, or what
// the program prints. No message repeats what it prints.
func (e *executable) subject(ctx context.Context) (string, error) {
	if e.output != "" {
		value, err := e.kept()
		if value != "" || err != nil {
			return value, err
		}
	}
	data, err := e.run(ctx)
	if err != nil {
		return "", err
	}
	a, err := parseExecutable(data, e.output != "")
	switch {
	case err != nil:
		return "", &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("what it printed is not an answer: %w", err)}
	case !a.Success:
		return "", &token.Error{Kind: token.Denied, Err: fmt.Errorf("it says: %s", exchange.Redact(a.Code+" "+a.Message))}
	case a.expired(time.Now()):
		return "", &token.Error{Kind: token.Unavailable, Err: errors.New("it printed a token that has already expired")}
	}
	return a.value(), nil
}

// kept returns the token in the output file, or "" if there is none that is
// good.
func (e *executable) kept() (string, error) {
	data, err := issuer.ReadSecretFile(e.output, true, exchange.MaxSubject)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(bytes.TrimSpace(data)) == 0:
		return "", nil
	case err != nil:
		return "", &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("its output file: %w", err)}
	}
	a, err := parseExecutable(data, true)
	if err != nil {
		return "", &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("its output file %s is not an answer: %w; remove it", e.output, err)}
	}
	if !a.Success || a.expired(time.Now()) {
		return "", nil
	}
	return a.value(), nil
}

// run returns what the program prints: on stdout, or else on stderr.
func (e *executable) run(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	cmd := e.command(ctx)
	cmd.Env = append(cmd.Env, e.told...)
	var stdout, stderr bounded
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, &token.Error{Kind: token.Unavailable, Err: fmt.Errorf("it did not finish in %v", time.Since(start).Round(time.Second))}
	case errors.As(err, &exit) && stdout.Len() == 0:
		return nil, &token.Error{Kind: token.Unavailable, Err: fmt.Errorf("it ended with %s", exit.ProcessState)}
	case errors.As(err, &exit): // it may have said why
	case err != nil:
		return nil, &token.Error{Kind: token.Misconfigured, Err: exchange.Redacted(err)}
	}
	out := &stdout
	if out.Len() == 0 {
		out = &stderr
	}
	if out.Len() > exchange.MaxSubject {
		return nil, &token.Error{Kind: token.Misconfigured, Err: fmt.Errorf("it printed more than %d bytes", exchange.MaxSubject)}
	}
	return out.Bytes(), nil
}

// bounded keeps a little more than a subject token can have, and drops the
// rest.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if room := exchange.MaxSubject + 1 - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// An executableAnswer is what such a program prints.
type executableAnswer struct {
	Version int    `json:"version"`
	Success bool   `json:"success"`
	Type    string `json:"token_type"`
	ID      string `json:"id_token"`
	SAML    string `json:"saml_response"`
	Expiry  int64  `json:"expiration_time"` // Unix seconds; 0: unknown
	Code    string `json:"code"`
	Message string `json:"message"`
}

// parseExecutable reads an answer. In an output file it must say when it
// expires.
func parseExecutable(data []byte, kept bool) (*executableAnswer, error) {
	a := &executableAnswer{}
	if json.Unmarshal(data, a) != nil {
		return nil, errors.New("it is not JSON of the form that Google documents")
	}
	switch {
	case a.Version != 1:
		return nil, fmt.Errorf("its version is %d, not 1", a.Version)
	case !a.Success && a.Code == "" && a.Message == "":
		return nil, errors.New("it has neither success nor a code and a message")
	case !a.Success:
		return a, nil
	case a.Type != exchange.TypeJWT && a.Type != exchange.TypeIDToken && a.Type != exchange.TypeSAML:
		return nil, fmt.Errorf("its token_type is %.60q, not that of a JWT, an ID token or SAML", exchange.Redact(a.Type))
	case a.Type == exchange.TypeSAML && (a.SAML == "" || a.ID != ""):
		return nil, errors.New("a SAML token belongs into saml_response alone")
	case a.Type != exchange.TypeSAML && (a.ID == "" || a.SAML != ""):
		return nil, errors.New("the token belongs into id_token alone")
	case kept && a.Expiry == 0:
		return nil, errors.New("expiration_time is missing, which an output file needs")
	}
	return a, nil
}

func (a *executableAnswer) expired(now time.Time) bool {
	return a.Expiry != 0 && a.Expiry <= now.Unix()
}

func (a *executableAnswer) value() string { return a.ID + a.SAML }
