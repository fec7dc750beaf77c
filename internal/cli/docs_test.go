package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcemds/gcemds/internal/admin"
)

// TestDocs does what the documents tell their readers to do. In README.md and
// below docs,
//
//   - a block fenced as console is a dialogue with a shell: a line after "$ "
//     is pasted, those after "> " continue it, and the others are what it
//     prints, where … stands for anything, and a port above 32767 for any. A
//     command may fail only if what it prints begins with "gcemds: ".
//   - a block with a file name after its language (yaml gcemds.yaml) is put in
//     that file before its document begins. The paragraph before says its name.
//
// Each document has a shell and a folder of its own. A server, of gcemds serve
// or gcemds google, runs until the next one of its kind starts or the document
// ends; ports are replaced by free ones.
func TestDocs(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("the documents are tried with a shell that can interrupt a server")
	}
	for _, tool := range []string{"sh", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the documents are tried with a shell: there is no %s on this machine", tool)
		}
	}
	names := []string{"../../README.md"}
	if err := filepath.WalkDir("../../docs", func(name string, d fs.DirEntry, err error) error {
		if filepath.Ext(name) == ".md" {
			names = append(names, name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range namedFence.FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(m[1], "`"+m[2]+"`") {
				t.Errorf("%s: the block that is %s is not said to be: most readers do not see what is in its fence", name, m[2])
			}
		}
		steps, files := readDocument(string(text))
		if len(steps) == 0 {
			continue
		}
		t.Run(strings.TrimPrefix(filepath.ToSlash(name), "../../"), func(t *testing.T) {
			t.Parallel()
			r := newReader(t, string(text))
			for file, content := range files {
				if err := os.WriteFile(filepath.Join(r.dir, file), []byte(r.ports.Replace(content)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, s := range steps {
				got, code := r.do(s.command)
				if !matches(s.output, got) || code != 0 && !strings.HasPrefix(s.output, "gcemds: ") {
					t.Fatalf("line %d: %s\nends with %d and prints\n%s\nthe document says\n%s", s.line, s.command, code, got, s.output)
				}
			}
		})
	}
}

// namedFence matches the beginning of a block that is a file, and the paragraph
// before it.
var namedFence = regexp.MustCompile("(?m)^(.+\n(?:.+\n)*)\n```\\w+ (\\S+)$")

// A step is a command and what it prints.
type step struct {
	line            int
	command, output string
}

// readDocument finds the dialogues and the files of a document.
func readDocument(text string) (steps []step, files map[string]string) {
	files = map[string]string{}
	fence, file := "", ""
	for i, line := range strings.Split(text, "\n") {
		if info, is := strings.CutPrefix(line, "```"); is {
			if fence != "" {
				fence = ""
				continue
			}
			fence, file, _ = strings.Cut(info+" ", " ")
			file = strings.TrimSpace(file)
			continue
		}
		command, isCommand := strings.CutPrefix(line, "$ ")
		more, isMore := strings.CutPrefix(line, "> ")
		switch {
		case fence != "" && file != "":
			files[file] += line + "\n"
		case fence != "console":
		case isCommand:
			steps = append(steps, step{line: i + 1, command: command})
		case len(steps) > 0:
			if last := &steps[len(steps)-1]; isMore && last.output == "" {
				last.command += "\n" + more
			} else {
				last.output += line + "\n"
			}
		}
	}
	return steps, files
}

// matches reports whether a command has printed what the document says.
func matches(want, got string) bool {
	pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(want)), "…", "(?s:.*?)")
	pattern = freePort.ReplaceAllString(pattern, `:\d+`)
	return regexp.MustCompile(`^` + pattern + `$`).MatchString(strings.TrimSpace(got))
}

// TestReadDocument: what a document says is found, and what is not so is seen.
func TestReadDocument(t *testing.T) {
	steps, files := readDocument("text\n```yaml a.yaml\nx: 1\n```\n```console\n$ one \\\n> two\nout\n> not more\n$ three\n```\n```sh\n$ four\n```\n")
	want := []step{{6, "one \\\ntwo", "out\n> not more\n"}, {10, "three", ""}}
	if !slices.Equal(steps, want) || len(files) != 1 || files["a.yaml"] != "x: 1\n" {
		t.Errorf("steps %+v and files %q, want %+v and a.yaml", steps, files, want)
	}
	for _, c := range []struct {
		want, got string
		ok        bool
	}{
		{"a\n", "a\n\n", true},
		{"a", "ab", false},
		{"", "a", false},
		{"{…}", "{\n1\n}", true},
		{"a…", "b", false},
		{"http://127.0.0.1:40681/x", "http://127.0.0.1:35000/x", true},
		{"http://127.0.0.1:8080/x", "http://127.0.0.1:35000/x", false},
	} {
		if matches(c.want, c.got) != c.ok {
			t.Errorf("a document that says %q matches %q: %v, want %v", c.want, c.got, !c.ok, c.ok)
		}
	}
}

// A reader has a shell and does what a document says.
type reader struct {
	t            *testing.T
	dir          string
	env          []string
	in           io.Writer
	out          *bufio.Reader
	ports, shown *strings.Replacer // from the document's to those here, and back
	server, fake *exec.Cmd         // gcemds serve and gcemds google
}

var (
	addresses = regexp.MustCompile(`\b(?:127\.0\.0\.1|localhost):([1-9]\d{3})\b`)
	freePort  = regexp.MustCompile(`:(3[3-9]|[456]\d)\d{3}\b`)
)

func newReader(t *testing.T, text string) *reader {
	dir, err := os.MkdirTemp("", "mds") // the name of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &reader{t: t, dir: dir}
	var ports, shown []string
	for _, m := range append(addresses.FindAllStringSubmatch(text, -1), []string{"", "8080"}, []string{"", "8085"}) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // all are open until the last is chosen
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, ":"+m[1], ":"+port)
		shown = append(shown, ":"+port, ":"+m[1])
	}
	r.ports, r.shown = strings.NewReplacer(ports...), strings.NewReplacer(shown...)
	r.env = append(os.Environ(), "GCEMDS_ADMIN="+filepath.Join(dir, "s"), "GORACE=atexit_sleep_ms=0", "no_proxy=*")

	shell := exec.Command("sh")
	shell.Dir, shell.Env = dir, r.env
	in, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	shell.Stderr = shell.Stdout
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	r.in, r.out = in, bufio.NewReader(out)
	t.Cleanup(func() {
		r.stop()
		shell.Process.Kill() // what it left in the background ends with the server
		shell.Wait()
	})
	return r
}

// do runs a command and returns what it prints.
func (r *reader) do(command string) (output string, code int) {
	command = r.ports.Replace(command)
	switch {
	case strings.HasPrefix(command, "gcemds serve"):
		return r.serve(command), 0
	case strings.HasPrefix(command, "gcemds google"):
		return r.google(command), 0
	}
	const end = "--- the end of the answer, code "
	fmt.Fprintf(r.in, "%s\nprintf '\\n%s%%d\\n' $?\n", command, end)
	hang := time.AfterFunc(time.Minute, func() { r.t.Errorf("%s: does not end", command); r.stop() })
	defer hang.Stop()
	var b strings.Builder
	for {
		line, err := r.out.ReadString('\n')
		if err != nil {
			r.t.Fatalf("%s: the shell has ended: %v\n%s", command, err, &b)
		}
		if n, err := fmt.Sscanf(line, end+"%d", &code); n == 1 && err == nil {
			return r.shown.Replace(strings.ReplaceAll(b.String(), "\r\n", "\n")), code
		}
		b.WriteString(line)
	}
}

// serve starts a server in the place of the one before.
func (r *reader) serve(command string) string {
	env := r.env
	if !strings.Contains(command, "--listen") && !strings.Contains(command, "--config") {
		env = append(env[:len(env):len(env)], r.ports.Replace("GCEMDS_LISTEN=127.0.0.1:8080"))
	}
	client := &admin.Client{Socket: filepath.Join(r.dir, "s")}
	return r.start(&r.server, env, command, func(string) error { _, err := client.Status(context.Background()); return err })
}

// google starts a fake Google in the place of the one before.
func (r *reader) google(command string) string {
	if !strings.Contains(command, "--listen") {
		command += r.ports.Replace(" --listen 127.0.0.1:8085")
	}
	return r.start(&r.fake, r.env, command, func(said string) error {
		if !strings.HasSuffix(said, "/oauth2/v3/certs\n") {
			return errors.New("it has not said where its certificates are")
		}
		return nil
	})
}

// start starts a command that runs until it is interrupted, in the place of the
// one before, and returns what it says until it is ready.
func (r *reader) start(place **exec.Cmd, env []string, command string, ready func(said string) error) string {
	interrupt(place)
	var said [2]*os.File // stdout, stderr
	for i := range said {
		f, err := os.CreateTemp(r.dir, ".said")
		if err != nil {
			r.t.Fatal(err)
		}
		defer f.Close()
		said[i] = f
	}
	cmd := exec.Command("sh", "-c", "exec "+command)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = r.dir, env, said[0], said[1]
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	*place = cmd
	var text []byte
	if err := await(func() (err error) {
		if text, err = os.ReadFile(said[0].Name()); err == nil {
			err = ready(string(text))
		}
		return err
	}); err != nil {
		why, _ := os.ReadFile(said[1].Name())
		r.t.Fatalf("%s: %v\n%s", command, err, why)
	}
	text, err := os.ReadFile(said[0].Name()) // before it answers it has said where
	if err != nil {
		r.t.Fatal(err)
	}
	return r.shown.Replace(string(text))
}

func (r *reader) stop() {
	interrupt(&r.server)
	interrupt(&r.fake)
}

func interrupt(place **exec.Cmd) {
	if cmd := *place; cmd != nil {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		*place = nil
	}
}
