package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// goCaches are where the go command has the modules, before TestMain makes
// another home.
var goCaches = func() (env []string) {
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOFLAGS"} {
		if out, err := exec.Command("go", "env", name).Output(); err == nil {
			env = append(env, name+"="+strings.TrimSpace(string(out)))
		}
	}
	return env
}()

// example is the file of an example.
func example(name ...string) string {
	return filepath.Join(append([]string{filepath.Dir(here), "examples"}, name...)...)
}

// hasToken is what all examples print in the end.
var hasToken = regexp.MustCompile(`(?m)^((demo-project|123456789012-compute@developer\.gserviceaccount\.com): )?a token\b`)

func runExample(t *testing.T, s *server, env []string, name string, args ...string) {
	t.Helper()
	if got := s.client(t, env, name, args...); !hasToken.MatchString(got) {
		t.Errorf("%s %s prints\n%s\nand no line that says it has a token", name, strings.Join(args, " "), got)
	}
}

// program is where a program of this machine is.
func program(t *testing.T, name, install string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is missing; install it with: %s", name, install)
	}
	return path
}

// TestExamples runs those of the directory examples whose tools are to be had
// on Debian. examples/README.md says which are not run.
func TestExamples(t *testing.T) {
	s := serve(t)

	t.Run("curl", func(t *testing.T) { runExample(t, s, nil, example("curl", "main.sh")) })
	t.Run("node", func(t *testing.T) {
		runExample(t, s, []string{"NODE_PATH=" + filepath.Join(here, "node/node_modules")}, program(t, "node", "sudo apt-get install nodejs"), example("node", "main.cjs"))
	})
	t.Run("python", func(t *testing.T) {
		runExample(t, s, []string{"PYTHONDONTWRITEBYTECODE=1", "PYTHONPATH=" + filepath.Join(layer(t), "usr/lib/python3/dist-packages")},
			python, "-W", "ignore", example("python", "main.py"))
	})
	t.Run("java", func(t *testing.T) {
		java := program(t, "java", "sudo apt-get install default-jdk-headless")
		var jars []string
		for _, dir := range []string{layer(t), "/"} {
			found, err := filepath.Glob(filepath.Join(dir, "usr/share/java/*.jar"))
			if err != nil {
				t.Fatal(err)
			}
			jars = append(jars, found...)
		}
		class := strings.Join(jars, ":")
		if !strings.Contains(class, "google-auth-library-oauth2-http") {
			t.Skip("Google's library for Java is missing; install it with: sudo apt-get install libgoogle-auth-java")
		}
		runExample(t, s, nil, java, "-cp", class, example("java", "Main.java"))
	})
	t.Run("gcloud", func(t *testing.T) {
		program(t, "gcloud", "see https://cloud.google.com/sdk/docs/install")
		runExample(t, s, nil, example("gcloud", "main.sh"))
	})
}

// TestGoExamples: those in Go, over TCP, a Unix socket and mutual TLS.
func TestGoExamples(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./...")
	build.Dir = example()
	build.Env = append(os.Environ(), append(goCaches, "CGO_ENABLED=0")...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the examples in Go: %v\n%s", err, out)
	}

	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	config := filepath.Join(dir, "gcemds.yaml")
	if err := os.WriteFile(config, []byte(`listen:
  main: {tcp: "127.0.0.1:0"}
  local: {unix: s}
  secure: {tcp: "127.0.0.1:0", tls: {dir: tls, client_dir: client}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	s, cmd, exited := start(t, machine{}, filepath.Join(dir, "a"), "--config", config)
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		<-exited
	})
	s.log.wait(t, `https://127\.0\.0\.1:\d+`)
	secure := strings.TrimPrefix(regexp.MustCompile(`https://127\.0\.0\.1:\d+`).FindString(s.log.String()), "https://")
	t.Run("go", func(t *testing.T) { runExample(t, s, nil, filepath.Join(bin, "go")) })
	t.Run("go-unix-socket", func(t *testing.T) { runExample(t, s, nil, filepath.Join(bin, "go-unix-socket"), socket) })
	t.Run("go-mutual-tls", func(t *testing.T) {
		runExample(t, s, nil, filepath.Join(bin, "go-mutual-tls"), secure, filepath.Join(dir, "client"))
	})
}

// TestRubyExample: the release of Debian knows no variable, only the address.
func TestRubyExample(t *testing.T) {
	needWorld(t)
	ruby := ""
	for _, dir := range []string{layer(t), "/"} {
		if found, err := filepath.Glob(filepath.Join(dir, "usr/share/doc/ruby-googleauth")); err == nil && len(found) > 0 {
			ruby = "/usr/bin/ruby" // in the world
		}
	}
	if ruby == "" {
		t.Skip("googleauth is missing; install it with: sudo apt-get install ruby ruby-googleauth")
	}
	runExample(t, newWorld(t).serve(t), nil, ruby, example("ruby", "main.rb"))
}
