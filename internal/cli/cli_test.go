package cli

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/internal/admin"
	"github.com/gcemds/gcemds/internal/journal"
)

func TestMain(m *testing.M) {
	testscript.Main(waiting{m}, map[string]func(){
		"gcemds":       func() { os.Exit(Main(os.Args[1:], os.Stdout, os.Stderr)) },
		"test-signer":  testSigner,
		"test-subject": testSubject,
	})
}

// waiting runs more tests at a time than there are processors, unless -parallel
// says otherwise: they wait more than they compute.
type waiting struct{ *testing.M }

func (w waiting) Run() int {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		parallel.Value.Set("8")
	}
	return w.M.Run()
}

// TestScripts runs testdata/*.txtar, one gcemds per script. Beside the
// commands of testscript there are
//
//	ready           waits until the server answers, and sets MDS and ISSUER to where it listens
//	[!] curl PATH   asks the server for a path below /computeMetadata/v1/
//	[!] fetch URL   asks for anything else
//	eventually PATH VALUE   waits until the path has the value
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("GCEMDS_ADMIN", filepath.Join(e.WorkDir, "s"))
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each command takes a second longer under -race
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			case "netns":
				_, err := exec.LookPath("curl")
				return err == nil && exec.Command("unshare", "--user", "--map-root-user", "--net", "ip", "link", "set", "lo", "up").Run() == nil, nil
			}
			return false, fmt.Errorf("there is no condition %q", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"ready": func(ts *testscript.TestScript, _ bool, _ []string) {
				var s admin.Status
				if err := await(func() (err error) {
					s, err = (&admin.Client{Socket: ts.Getenv("GCEMDS_ADMIN")}).Status(context.Background())
					return err
				}); err != nil {
					ts.Fatalf("the server does not answer: %v", err)
				}
				ts.Setenv("MDS", s.Listeners[0].Address)
				ts.Setenv("ISSUER", s.Issuer)
			},
			"curl": func(ts *testscript.TestScript, neg bool, args []string) {
				curl(ts, neg, "http://"+ts.Getenv("MDS")+"/computeMetadata/v1/"+args[0])
			},
			"fetch": func(ts *testscript.TestScript, neg bool, args []string) { curl(ts, neg, args[0]) },
			"eventually": func(ts *testscript.TestScript, _ bool, args []string) {
				if err := await(func() error {
					_, body, err := ask("http://" + ts.Getenv("MDS") + "/computeMetadata/v1/" + args[0])
					if err == nil && body != args[1] {
						err = fmt.Errorf("%s is %q, want %q", args[0], body, args[1])
					}
					return err
				}); err != nil {
					ts.Fatalf("%v", err)
				}
			},
		},
	})
}

// curl prints what is at a URL.
func curl(ts *testscript.TestScript, neg bool, url string) {
	status, body, err := ask(url)
	ts.Check(err)
	io.WriteString(ts.Stdout(), body)
	if ok := status == http.StatusOK; ok == neg {
		ts.Fatalf("GET %s = %d %s", url, status, body)
	}
}

func ask(url string) (status int, body string, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// await tries until it works, for as long as a slow machine needs.
func await(try func() error) (err error) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err = try(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// commands yields every command of ours, also those that only group others.
func commands(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		commands(sub, f)
	}
}

// TestHelp: every command says in a line what it does, shows an example that
// works, and explains every flag.
func TestHelp(t *testing.T) {
	commands(newRoot(), func(c *cobra.Command) {
		name := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || strings.Contains(c.Short, "\n") || len(c.Short) > 76 {
			t.Errorf("%s: the line that says what it does is %q; want one without a full stop", name, c.Short)
		}
		if c.Long != "" && (strings.TrimSpace(c.Long) != c.Long || c.Long == c.Short) {
			t.Errorf("%s: the long text repeats the short one or has space around it: %q", name, c.Long)
		}
		for line := range strings.SplitSeq(c.Long+"\n"+c.Example, "\n") {
			if len(line) > 100 || strings.Contains(line, "\t") {
				t.Errorf("%s: a line of the help is too long or has a tab: %q", name, line)
			}
		}
		if c.Args == nil || c.RunE == nil {
			t.Errorf("%s does nothing, or accepts any arguments", name)
		}
		var out bytes.Buffer
		if code := run(t.Context(), append(strings.Fields(name)[1:], "--help"), &out, &out); code != exitOK || !strings.Contains(out.String(), "Usage:") {
			t.Errorf("%s --help ends with %d and prints:\n%s", name, code, &out)
		}
		examples := 0
		for line := range strings.Lines(c.Example) {
			if !strings.HasPrefix(line, "  "+name) && !(c.HasSubCommands() && strings.HasPrefix(line, "  gcemds ")) {
				t.Errorf("%s: the example %q is not one of it", name, line)
			}
			examples++
			checkExample(t, name, line)
		}
		if examples == 0 {
			t.Errorf("%s: the help has no example", name)
		}
	})
}

// checkExample parses what a person would paste.
func checkExample(t *testing.T, name, line string) {
	t.Helper()
	line = strings.TrimSpace(line)
	for _, end := range []string{" # ", " > ", " < "} { // explanation, redirection
		line, _, _ = strings.Cut(line, end)
	}
	args := strings.Fields(strings.ReplaceAll(line, "'", ""))[1:]
	c, rest, err := newRoot().Find(args)
	if err == nil {
		err = c.ParseFlags(rest)
	}
	if err == nil {
		err = c.ValidateArgs(c.Flags().Args())
	}
	if err != nil || !c.Runnable() {
		t.Errorf("%s: the example %q does not work: %v", name, line, err)
	}
}

// TestExitCodes: 0 is done, 1 did not work, 2 is a wrong command line. Results
// go to stdout, talk to stderr.
func TestExitCodes(t *testing.T) {
	for _, name := range []string{"GCEMDS_CONFIG", "GCEMDS_LISTEN", "GCEMDS_KEY"} {
		t.Setenv(name, "")
	}
	t.Setenv("GCEMDS_ADMIN", filepath.Join(t.TempDir(), "s"))
	missing := filepath.Join(t.TempDir(), "none.yaml")
	for _, c := range []struct {
		args   string
		code   int
		stdout string // how it begins; "": nothing there
		stderr string // part of it; "": nothing there
	}{
		{"", exitOK, "gcemds gives any program", ""},
		{"--help", exitOK, "gcemds gives any program", ""},
		{"--version", exitOK, "gcemds ", ""},
		{"version", exitOK, "gcemds ", ""},
		{"config", exitOK, "Check, show or begin a configuration", ""},
		{"completion bash", exitOK, "# bash completion", ""},
		{"config init", exitOK, "# The configuration of gcemds", ""},
		{"config check", exitOK, "ok\n", ""},
		{"status", exitNoServer, "", "gcemds: no gcemds answers on "},
		{"get instance/name", exitNoServer, "", "start one with: gcemds serve"},
		{"get instance/name --watch", exitNoServer, "", "gcemds: no gcemds answers on "},
		{"set instance/name x", exitNoServer, "", "gcemds: no gcemds answers on "},
		{"delete instance/name", exitNoServer, "", "gcemds: no gcemds answers on "},
		{"apply " + missing, exitError, "", "gcemds: open " + missing},
		{"reload", exitNoServer, "", "gcemds: no gcemds answers on "},
		{"config check " + missing, exitError, "", "gcemds: cannot read the configuration: open " + missing},
		{"serve --config " + missing, exitError, "", "print a file to begin with: gcemds config init"},
		{"serve --listen 8080", exitError, "", "gcemds: the configuration is wrong; nothing was started:\n--listen: "},
		{"serve --listen 0.0.0.0:0", exitError, "", "(--allow-remote)"},
		{"bogus", exitUsage, "", "gcemds: there is no command \"bogus\"\nsee: gcemds --help\n"},
		{"config bogus", exitUsage, "", "gcemds: there is no command \"bogus\"\nsee: gcemds config --help\n"},
		{"--bogus", exitUsage, "", "gcemds: unknown flag: --bogus\nsee: gcemds --help\n"},
		{"get", exitUsage, "", "see: gcemds get --help\n"},
		{"get a b", exitUsage, "", "see: gcemds get --help\n"},
		{"set instance/name", exitUsage, "", "see: gcemds set --help\n"},
		{"serve now", exitUsage, "", "see: gcemds serve --help\n"},
		{"serve --allow-remote=maybe", exitUsage, "", "see: gcemds serve --help\n"},
		{"config check a b", exitUsage, "", "see: gcemds config check --help\n"},
		{"status --json=x", exitUsage, "", "see: gcemds status --help\n"},
		{"version 1", exitUsage, "", "see: gcemds version --help\n"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(c.args), &stdout, &stderr)
		if code != c.code || !strings.HasPrefix(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) ||
			c.stdout == "" && stdout.Len() > 0 || c.stderr == "" && stderr.Len() > 0 {
			t.Errorf("gcemds %s ends with %d, want %d with %q on stdout and %q on stderr\nstdout: %s\nstderr: %s",
				c.args, code, c.code, c.stdout, c.stderr, &stdout, &stderr)
		}
	}
}

// serving runs a server in this process until the test ends.
func serving(t *testing.T, args ...string) (client *admin.Client, stop func() int) {
	t.Helper()
	dir, err := os.MkdirTemp("", "mds") // the name of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	client = &admin.Client{Socket: filepath.Join(dir, "s")}
	t.Setenv("GCEMDS_ADMIN", client.Socket)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...), io.Discard, os.Stderr)
	}()
	ended := false
	stop = func() int {
		cancel()
		if ended {
			return exitOK
		}
		ended = true
		return <-done
	}
	t.Cleanup(func() { stop() })
	if err := await(func() error { _, err := client.Status(t.Context()); return err }); err != nil {
		t.Fatal(err)
	}
	return client, stop
}

// TestGetWatch: every value is a line, until the value is deleted or somebody
// interrupts.
func TestGetWatch(t *testing.T) {
	serving(t)
	const path = "instance/attributes/env"
	do := func(args ...string) {
		t.Helper()
		if code := run(t.Context(), args, io.Discard, os.Stderr); code != exitOK {
			t.Fatalf("gcemds %q ends with %d", args, code)
		}
	}
	do("set", path, "0")

	watch := func(ctx context.Context, flags ...string) (next func() string, end func() (int, string)) {
		r, w := io.Pipe()
		var stderr bytes.Buffer
		done := make(chan int, 1)
		go func() {
			done <- run(ctx, append([]string{"get", path, "--watch"}, flags...), w, &stderr)
			w.Close()
		}()
		lines := bufio.NewScanner(r)
		next = func() string { lines.Scan(); return lines.Text() }
		return next, func() (int, string) { return <-done, stderr.String() }
	}

	next, end := watch(t.Context())
	if got := next(); got != "0" {
		t.Errorf("a watch begins with %q, want the value as it is", got)
	}
	do("set", path, "1")
	if got := next(); got != "1" {
		t.Errorf("a watch prints %q after a change to 1", got)
	}
	do("delete", path)
	if got := next(); got != "" {
		t.Errorf("a watch prints %q after the value was deleted", got)
	}
	if _, stderr := end(); stderr != "" && !strings.Contains(stderr, path+": no such key") {
		t.Errorf("a watch of what was deleted says %s", stderr)
	}

	do("set", path, "2")
	ctx, interrupt := context.WithCancel(t.Context())
	next, end = watch(ctx, "--json")
	if got := next(); got != `"2"` {
		t.Errorf("a watch with --json prints %s", got)
	}
	interrupt()
	if code, stderr := end(); code != exitOK || stderr != "" {
		t.Errorf("a watch that is interrupted ends with %d and says %q, want 0 and nothing", code, stderr)
	}
}

// TestWatchHost: of a server that is known by its address, every value is a
// line, too, until the value is deleted.
func TestWatchHost(t *testing.T) {
	admin, _ := serving(t)
	status, err := admin.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const path = "instance/attributes/env"
	do := func(args ...string) {
		t.Helper()
		if code := run(t.Context(), args, io.Discard, os.Stderr); code != exitOK {
			t.Fatalf("gcemds %q ends with %d", args, code)
		}
	}
	do("set", path, "0")
	r, w := io.Pipe()
	var stderr bytes.Buffer
	done := make(chan int, 1)
	go func() {
		done <- run(t.Context(), []string{"watch", "--json", "--host", status.Listeners[0].Address, path}, w, &stderr)
		w.Close()
	}()
	lines := bufio.NewScanner(r)
	for _, value := range []string{"0", "1"} {
		do("set", path, value)
		if lines.Scan(); lines.Text() != `"`+value+`"` {
			t.Errorf("a watch prints %q when the value is %q", lines.Text(), value)
		}
	}
	do("delete", path)
	if lines.Scan() {
		t.Errorf("a watch prints %q after the value was deleted", lines.Text())
	}
	if code := <-done; code != exitNotThere || !strings.Contains(stderr.String(), "not found") {
		t.Errorf("a watch of what was deleted ends with %d and says %s, want %d", code, &stderr, exitNotThere)
	}
}

// TestApplyOrder: changes are made in the order of their paths, so that a file
// always means the same.
func TestApplyOrder(t *testing.T) {
	for range 20 {
		edits, err := readBatch([]byte("set: {b: 1, a/x: 2, a: {}, c: 3}\ndelete: [z, y]"))
		if err != nil {
			t.Fatal(err)
		}
		var paths []string
		for _, e := range edits {
			paths = append(paths, e.Path)
		}
		if want := []string{"z", "y", "a", "a/x", "b", "c"}; !slices.Equal(paths, want) {
			t.Fatalf("the changes are made in the order %q, want %q", paths, want)
		}
	}
}

// TestBatchValues: a value in a file has the type that it has in YAML.
func TestBatchValues(t *testing.T) {
	edits, err := readBatch([]byte("set:\n  a: text\n  b: [x, 1]\n  c: {k: true}\n  d: 5193847261058203746\n"))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{`"text"`, `["x",1]`, `{"k":true}`, `5193847261058203746`} {
		if got := string(edits[i].Value); got != want {
			t.Errorf("%s is %s, want %s", edits[i].Path, got, want)
		}
	}
	for data, want := range map[string]string{
		"":                     "not a list of changes: ",
		"set: {}":              `there is neither "set" nor "delete"`,
		"sett: {a: b}":         "not a list of changes: ",
		"- a":                  "not a list of changes: ",
		"set: {a: .nan}":       "a: the value is not one that JSON has: ",
		"delete: [a]\n\tset: ": "not a list of changes: ",
	} {
		if _, err := readBatch([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("changes of %q: %v, want %s", data, err, want)
		}
	}
}

// TestBanner: it says who is served, and what to paste.
func TestBanner(t *testing.T) {
	var out bytes.Buffer
	banner(&out, admin.Status{
		Issuer: "http://127.0.0.1:9",
		Instances: []admin.Instance{
			{Name: "vm-1", Accounts: []admin.Account{{Email: "a@p", Aliases: []string{"default"}}, {Email: "b@p"}}},
			{Name: "vm-2", Accounts: []admin.Account{{Email: "c@p"}}},
			{Name: "vm-3"},
		},
		Listeners: []admin.Listener{
			{Name: "main", Address: "[::]:80"}, {Name: "two", Address: "[::1]:81"},
			{Name: "local", Address: "/run/mds.sock"}, {Name: "secure", Address: "127.0.0.1:443", TLS: true},
		},
	})
	want := `serving vm-1 as a@p
serving vm-2 as c@p
serving vm-3 as no service account
  export GCE_METADATA_HOST=127.0.0.1:80
  export GCE_METADATA_IP=$GCE_METADATA_HOST GCE_METADATA_MTLS_MODE=none GCE_METADATA_ROOT=$GCE_METADATA_HOST METADATA_EMULATOR_HOST=$GCE_METADATA_HOST METADATA_SERVER_DETECTION=assume-present
  also http://[::1]:81
  curl --unix-socket /run/mds.sock -H 'Metadata-Flavor: Google' http://metadata/computeMetadata/v1/
  https://127.0.0.1:443 (clients need a certificate)
  issuer http://127.0.0.1:9/oauth2/v3/certs
`
	if got := out.String(); got != want {
		t.Errorf("the banner is\n%s\nwant\n%s", got, want)
	}
}

// TestLogLine: what a program has sent cannot confuse a terminal.
func TestLogLine(t *testing.T) {
	got := logLine(admin.Event{Entry: journal.Entry{Kind: journal.Request, Instance: "vm-1", Method: "GET", Path: "/\x1b[2J", Status: 404, Took: 1500 * time.Nanosecond}, Error: `say "no"`})
	if _, got, _ = strings.Cut(got, " "); got != `vm-1 GET "/\x1b[2J" 404 2µs say "no"` {
		t.Errorf("the line is %s", got)
	}
}
