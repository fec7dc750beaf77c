package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	linkLocal    = "169.254.169.254"
	metadataName = "metadata.google.internal"

	dialLimit   = 3 * time.Second // for a connection: who is there answers at once
	answerLimit = 15 * time.Second
	lookupLimit = 5 * time.Second
)

// A place is all that doctor looks at: this machine, or one of a test.
type place struct {
	getenv func(string) string
	files  fs.FS  // from the root of the file system, or of the drive that has the home
	home   string // in files
	system string // as in runtime.GOOS
	lookup func(ctx context.Context, host string) ([]string, error)
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	gcemds func(ctx context.Context) string // where the one of this user listens; "" if none runs

	// What look has found.
	named     bool     // GCE_METADATA_HOST says where the server is
	address   string   // of the server that most libraries ask
	server    greeting // its answer
	linkLocal greeting // what answers at the link-local address
	addresses []string // of the official name
	unnamed   error    // why it has none
}

// here is this machine.
func here() *place {
	home, _ := os.UserHomeDir() // without one there are no files in it
	root := "/"
	if v := filepath.VolumeName(home); v != "" {
		root = v + `\`
	}
	return &place{
		getenv: os.Getenv,
		files:  os.DirFS(root),
		home:   strings.Trim(strings.TrimPrefix(filepath.ToSlash(home), filepath.ToSlash(strings.TrimSuffix(root, `\`))), "/"),
		system: runtime.GOOS,
		lookup: net.DefaultResolver.LookupHost,
		dial:   (&net.Dialer{}).DialContext,
		gcemds: func(ctx context.Context) string {
			ctx, cancel := context.WithTimeout(ctx, dialLimit)
			defer cancel()
			host, _ := (&remote{}).ours(ctx)
			return host
		},
	}
}

// A greeting is what is at an address.
type greeting struct {
	reply
	err error
}

// genuine reports whether it is a metadata server's.
func (g greeting) genuine() bool { return g.err == nil && g.header.Get("Metadata-Flavor") == "Google" }

// silent reports whether nobody has said no: a library waits for its timeout.
func (g greeting) silent() bool {
	var timeout net.Error
	return errors.As(g.err, &timeout) && timeout.Timeout()
}

// look asks the two addresses that libraries may ask, and the DNS, at the same
// time.
func (p *place) look(ctx context.Context) {
	p.address = linkLocal
	if host := p.getenv("GCE_METADATA_HOST"); host != "" {
		p.named, p.address = true, host
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.linkLocal = p.greet(ctx, linkLocal) })
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, lookupLimit)
		defer cancel()
		p.addresses, p.unnamed = p.lookup(ctx, metadataName+".")
	})
	if p.named && p.address != linkLocal {
		p.server = p.greet(ctx, p.address)
	}
	wg.Wait()
	if p.address == linkLocal {
		p.server = p.linkLocal
	}
}

func (p *place) greet(ctx context.Context, host string) greeting {
	r, err := p.ask(ctx, host, "/", true)
	return greeting{r, err}
}

// A reply is an answer of a metadata server.
type reply struct {
	status int
	header http.Header
	body   string
	took   time.Duration
	came   time.Time // when its head was there
}

// ask gets a path of a server, and follows no redirect.
func (p *place) ask(ctx context.Context, host, target string, flavor bool, headers ...string) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+target, nil)
	if err != nil {
		return reply{}, errors.New("it is not a host and a port") // the error would have the value
	}
	if flavor {
		req.Header.Set("Metadata-Flavor", "Google")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialLimit)
		defer cancel()
		return p.dial(ctx, network, addr)
	}}
	begin := time.Now()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	r := reply{status: resp.StatusCode, header: resp.Header, came: time.Now()}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	r.body, r.took = string(body), time.Since(begin)
	return r, err
}

// v1 asks the server for a path below /computeMetadata/v1/.
func (p *place) v1(ctx context.Context, target string) (reply, error) {
	return p.ask(ctx, p.address, "/computeMetadata/v1/"+target, true)
}

// shown is the value of a variable that names a server, as it may be printed:
// some people put a password there.
func shown(host string) string {
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		return "…" + host[i:]
	}
	return host
}

// A credentialFile is a file in which libraries look for an identity.
type credentialFile struct {
	name string // as people write it
	kind string // its type: service_account, authorized_user, external_account …
	err  error  // fs.ErrNotExist if there is none
}

func (p *place) credentials(name string) (f credentialFile) {
	f.name = name
	data, err := p.read(name)
	if err != nil {
		f.err = err
		return f
	}
	var content struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(data, &content) != nil || content.Type == "" {
		f.err = errors.New("it is not a JSON file of credentials")
	}
	f.kind = content.Type
	return f
}

// read reads a file by its absolute name.
func (p *place) read(name string) ([]byte, error) {
	name = filepath.ToSlash(name)
	if _, after, drive := strings.Cut(name, ":"); drive && p.system == "windows" {
		name = after
	}
	if !path.IsAbs(name) {
		return nil, errors.New("the name is relative: what it means depends on where a program starts")
	}
	data, err := fs.ReadFile(p.files, strings.TrimPrefix(path.Clean(name), "/"))
	var cause *fs.PathError
	if errors.As(err, &cause) {
		err = cause.Err
	}
	return data, err
}

// gcloudDir is where gcloud keeps its configuration, and where the libraries
// that do not know CLOUDSDK_CONFIG believe that it does.
func (p *place) gcloudDir(variable bool) string {
	if dir := p.getenv("CLOUDSDK_CONFIG"); variable && dir != "" {
		return dir
	}
	if appdata := p.getenv("APPDATA"); p.system == "windows" && appdata != "" {
		return path.Join(filepath.ToSlash(appdata), "gcloud")
	}
	return path.Join("/", p.home, ".config/gcloud")
}

// explained is an error of a connection in words.
func explained(err error) string {
	var timeout net.Error
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "the name is not known"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "nothing answers"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection is refused"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "there is no way to it"
	}
	return err.Error()
}
