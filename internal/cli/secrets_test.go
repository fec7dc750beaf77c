package cli

import (
	"bufio"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gcemds/gcemds/internal/admin"
)

// testSigner is a program that holds a key, as the signer protocol has it:
// test-signer FILE, or as gcemds-pkcs11 is called, with the file as the module.
func testSigner() {
	name, in := os.Args[len(os.Args)-1], bufio.NewScanner(os.Stdin)
	if len(os.Args) > 3 {
		name = os.Args[2]
		in.Scan() // the PIN
	}
	data, err := os.ReadFile(name)
	if err != nil {
		log.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		log.Fatal(err)
	}
	for in.Scan() {
		var q struct {
			Op     string
			Digest []byte
		}
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			log.Fatal(err)
		}
		answer := map[string][]byte{}
		if q.Op == "public" {
			answer["public"], err = x509.MarshalPKIXPublicKey(key.(crypto.Signer).Public())
		} else {
			answer["signature"], err = key.(crypto.Signer).Sign(rand.Reader, q.Digest, crypto.SHA256)
		}
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(answer)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
}

// testSubject is a program that prints the subject token in a file, as
// executables of federation do.
func testSubject() {
	data, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"version": 1, "success": true, "token_type": "urn:ietf:params:oauth:token-type:jwt", "id_token": string(data),
	})
}

// TestSecrets runs a server with a source of every kind, that of a software TPM
// where there is one, at debug level, while Google answers and while it fails in every
// way and repeats what it was sent; and looks for all secrets in all that the
// server and the commands say, answer, count, are called with and write.
func TestSecrets(t *testing.T) {
	g := newGarden(t)
	work := filepath.Join(t.TempDir(), "work")
	for _, dir := range []string{"tmp", "home", "run"} {
		if err := os.MkdirAll(filepath.Join(work, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	short, err := os.MkdirTemp("", "mds") // the names of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(short)
	sources := g.configure(short)
	before := g.content(g.dir)

	env := append(os.Environ(), "GORACE=atexit_sleep_ms=0", "TMPDIR="+filepath.Join(work, "tmp"), "HOME="+filepath.Join(work, "home"),
		"XDG_RUNTIME_DIR="+filepath.Join(work, "run"), "GCEMDS_ADMIN="+filepath.Join(short, "s"), "SSL_CERT_FILE="+filepath.Join(g.dir, "google.pem"),
		"GODEBUG="+os.Getenv("GODEBUG")+",http2debug=2",
		"GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1", "AWS_REGION=us-east-2", "AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY="+g.aws)
	said := map[string]string{} // by who says it
	command := func(args ...string) *exec.Cmd {
		c := exec.Command("gcemds", args...)
		c.Dir, c.Env = work, env
		return c
	}
	say := func(args ...string) {
		out, _ := command(args...).CombinedOutput() // some are to fail
		said[fmt.Sprint(g.fault.Load(), " gcemds ", args)] = string(out)
	}

	config := filepath.Join(g.dir, "mds.yaml")
	daemon, output := command("serve", "--config", config), &text{}
	daemon.Stdout, daemon.Stderr = output, output
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() { daemon.Process.Signal(os.Interrupt); daemon.Wait() })
	defer stop()
	var status admin.Status
	client := &admin.Client{Socket: filepath.Join(short, "s")}
	if err := await(func() (err error) { status, err = client.Status(t.Context()); return err }); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if data, err := os.ReadFile(filepath.Join(g.dir, "issuer.pem")); err != nil {
		t.Error(err)
	} else {
		g.plant("private key", string(data))
	}
	arguments, watched := g.watchArguments(t)

	// Each request is for something that is not in the cache yet.
	faults := []string{"", "oauth", "api", "code", "page", "busy", "redirect", "list", "space", "cut", ""}
	minted := map[string][]int{} // by source: the status of each access token
	for n, fault := range faults {
		g.fault.Store(fault)
		var mu sync.Mutex
		var asking sync.WaitGroup
		for _, name := range sources {
			asking.Go(func() {
				for _, path := range []string{fmt.Sprintf("token?scopes=https://www.googleapis.com/auth/scope%d", n), fmt.Sprintf("identity?audience=https://a%d.example&format=full", n)} {
					status, header, body := g.workload(status.Listeners[0].Address, name+".test", path)
					mu.Lock()
					if strings.HasPrefix(path, "token") {
						minted[name] = append(minted[name], status)
					}
					if status == http.StatusOK {
						g.plantJSON(body)
						if !strings.HasPrefix(body, "{") {
							g.plant("ID token", body)
						}
						body = ""
					}
					said[fmt.Sprint(fault, " ", name, " ", path)] = header + body
					mu.Unlock()
				}
			})
		}
		asking.Wait()
		if n == 0 || fault == "oauth" {
			say("config", "check", "--mint", config)
			say("whoami", "--json", "--instance", sources[n%len(sources)])
		}
	}
	say("status", "--json")
	say("config", "show", "--origin", "--config", config)
	say("get", "--recursive", "/")
	say("config", "check", "--mint", filepath.Join(g.dir, "tpm.yaml"))
	say("config", "check", filepath.Join(g.dir, "wrong.yaml"))
	g.fault.Store("")
	for _, path := range []string{"/metrics", "/readyz"} {
		_, body, err := ask("http://" + g.health + path)
		if err != nil || body == "" {
			t.Errorf("GET %s: %v", path, err)
		}
		said[path] = body
	}
	close(watched)
	said["arguments of processes"] = <-arguments
	stop()
	said["log"] = output.String()
	for _, dir := range []string{work, g.dir} {
		for name, content := range g.content(dir) {
			if _, given := before[name]; !given && filepath.Base(name) != "issuer.pem" {
				said["file "+name] = content
			}
		}
	}

	// The test is worth something only if all of it has happened.
	for _, name := range sources {
		offline := slices.Contains([]string{"self", "given", "fake"}, name)
		for n, status := range minted[name] {
			if want := faults[n] == "" || offline; want != (status == http.StatusOK) {
				t.Errorf("source %s, while Google does %q: a token is answered %d", name, faults[n], status)
			}
		}
	}
	known := g.index()
	for _, kind := range []string{
		"private key", "assertion", "subject token", "refresh token", "client secret", "access token", "ID token", "header Bearer", "header Basic",
		"AWS secret", "PIN", "password", "mistake",
	} {
		secrets := g.all()[kind]
		if len(secrets) == 0 {
			t.Errorf("there was no secret of the kind %s", kind)
		}
		for _, s := range secrets {
			if !slices.Contains(known.find("level=DEBUG msg=x "+s), kind) {
				t.Errorf("a secret of the kind %s would not be found in the log", kind)
			}
		}
	}
	if n := strings.Count(said["log"], "\n"); n < len(sources)*len(faults) || !strings.Contains(said["log"], "upstream call failed, trying again") {
		t.Errorf("the log has %d lines, fewer than requests, or none of level debug", n)
	}
	if wrong := said[" gcemds [config check "+filepath.Join(g.dir, "wrong.yaml")+"]"]; strings.Count(wrong, "wrong.yaml:") < 9 {
		t.Errorf("the wrong file has too few faults: %s", wrong)
	}
	if runtime.GOOS == "linux" && !strings.Contains(said["arguments of processes"], "test-signer") {
		t.Error("the arguments of our processes were not seen")
	}

	for who, text := range said {
		for _, kind := range known.find(text) {
			t.Errorf("%s has a secret: %s", who, kind)
		}
	}
}
