package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// checks are all that doctor looks at, in the order of its report. Each goes
// on when others have found something, and may be read alone.
var checks = []struct {
	name   string
	server bool // it asks the server, so there must be one
	run    func(context.Context, *place) []finding
}{
	{"credentials-variable", false, checkCredentialsVariable},
	{"credentials-file", false, checkCredentialsFile},
	{"gcloud-configuration", false, checkGcloud},
	{"host-form", false, checkHostForm},
	{"host-variables", false, checkHostVariables},
	{"detection-off", false, checkDetectionOff},
	{"proxy", false, checkProxy},
	{"dns", false, checkDNS},
	{"link-local", false, checkLinkLocal},
	{"link-local-captured", false, checkCaptured},
	{"server-answers", false, checkServerAnswers},
	{"server-wants-header", true, checkServerHeader},
	{"server-refuses-proxies", true, checkServerForwarded},
	{"server-redirects", true, checkServerRedirects},
	{"server-etag", true, checkServerETag},
	{"server-waits", true, checkServerWaits},
	{"clock", true, checkClock},
	{"access-token", true, checkAccessToken},
	{"identity-token", true, checkIdentityToken},
}

func ok(what string, args ...any) []finding {
	return []finding{{Severity: fine, What: fmt.Sprintf(what, args...)}}
}

func checkCredentialsVariable(_ context.Context, p *place) []finding {
	const variable = "GOOGLE_APPLICATION_CREDENTIALS"
	name := p.getenv(variable)
	if name == "" {
		return ok("%s is not set", variable)
	}
	f := p.credentials(name)
	if f.err != nil {
		return []finding{{Severity: problem, What: fmt.Sprintf("%s is %s, which cannot be used: %v", variable, name, f.err),
			Why: "libraries fail rather than look further", Fix: "unset " + variable}}
	}
	return []finding{{Severity: warning, What: fmt.Sprintf("%s is %s (%s)", variable, name, f.kind),
		Why: "libraries take the credentials in it and never ask a metadata server", Fix: "unset " + variable}}
}

func checkCredentialsFile(_ context.Context, p *place) (list []finding) {
	var seen []string
	for _, variable := range []bool{true, false} {
		name := path.Join(p.gcloudDir(variable), "application_default_credentials.json")
		if slices.Contains(seen, name) {
			continue
		}
		seen = append(seen, name)
		switch f := p.credentials(name); {
		case errors.Is(f.err, fs.ErrNotExist):
		case f.err != nil:
			list = append(list, finding{Severity: problem, What: fmt.Sprintf("%s cannot be used: %v", name, f.err),
				Why: "libraries that find it fail rather than look further", Fix: "mv " + name + " " + name + ".off"})
		default:
			fix, why := "gcloud auth application-default revoke, or give the program another HOME", "libraries take the credentials in it and never ask a metadata server"
			if !variable {
				why += "; Go and Node do not know CLOUDSDK_CONFIG"
			}
			list = append(list, finding{Severity: warning, What: fmt.Sprintf("there is %s (%s)", name, f.kind), Why: why, Fix: fix})
		}
	}
	if list == nil {
		return ok("there is no application_default_credentials.json")
	}
	return list
}

// gcloudAccount reports whether gcloud has an account, and where that is said.
func (p *place) gcloudAccount() (bool, string) {
	for _, v := range []string{"CLOUDSDK_AUTH_ACCESS_TOKEN", "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE", "CLOUDSDK_CORE_ACCOUNT"} {
		if p.getenv(v) != "" {
			return true, v + " is set"
		}
	}
	name := p.gcloudFile()
	data, err := p.read(name)
	if err != nil {
		return false, ""
	}
	section := ""
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[] ")
			continue
		}
		key, value, _ := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if value != "" && (section == "core" && key == "account" || section == "auth" && slices.Contains([]string{"access_token_file", "credential_file_override"}, key)) {
			return true, fmt.Sprintf("%s/%s is in %s", section, key, name)
		}
	}
	return false, ""
}

// gcloudFile is the file of gcloud's configuration that is active.
func (p *place) gcloudFile() string {
	dir, active := p.gcloudDir(true), p.getenv("CLOUDSDK_ACTIVE_CONFIG_NAME")
	if active == "" {
		if data, err := p.read(path.Join(dir, "active_config")); err == nil {
			active = strings.TrimSpace(string(data))
		}
	}
	if active == "" {
		active = "default"
	}
	return path.Join(dir, "configurations", "config_"+path.Base(active))
}

func checkGcloud(_ context.Context, p *place) []finding {
	if account, where := p.gcloudAccount(); account {
		return []finding{{Severity: note, What: "gcloud has an account of its own: " + where,
			Why: "gcloud uses that, not the metadata server's; other programs do not care", Fix: "CLOUDSDK_CONFIG=$(mktemp -d) gcloud …"}}
	}
	return ok("gcloud has no account of its own")
}

// hostVariables are those that name a server, for whichever library.
var hostVariables = []string{"GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT", "METADATA_EMULATOR_HOST"}

func checkHostForm(_ context.Context, p *place) (list []finding) {
	for _, v := range hostVariables {
		value := p.getenv(v)
		if value == "" {
			continue
		}
		if host := hostPart(value); host != value {
			list = append(list, finding{Severity: problem, What: fmt.Sprintf("%s is %s: it must be a host and a port, no more", v, shown(value)),
				Why: "most libraries put http:// before it and a path after it", Fix: fmt.Sprintf("export %s=%s", v, host)})
		}
	}
	if list == nil {
		return ok("the variables that name a server have the right form, or are not set")
	}
	return list
}

// hostPart is the host and the port of what may be a URL.
func hostPart(value string) string {
	if _, after, is := strings.Cut(value, "://"); is {
		value = after
	}
	value, _, _ = strings.Cut(value, "/")
	return strings.Trim(value[strings.LastIndexByte(value, '@')+1:], " \t\"'")
}

func checkHostVariables(_ context.Context, p *place) (list []finding) {
	host := p.getenv("GCE_METADATA_HOST")
	for _, v := range []struct{ name, who string }{
		{"GCE_METADATA_IP", "Python looks there for a server before it asks the one of GCE_METADATA_HOST, and Node asks only there"},
		{"GCE_METADATA_ROOT", "gcloud and old releases of Python read only that one"},
	} {
		value := p.getenv(v.name)
		switch {
		case value == host:
		case host == "":
			list = append(list, finding{Severity: warning, What: v.name + " is set, GCE_METADATA_HOST is not",
				Why: "Go, Java, .NET, Ruby, Rust and C++ read only GCE_METADATA_HOST", Fix: fmt.Sprintf("export GCE_METADATA_HOST=$%s", v.name)})
		case value == "":
			list = append(list, finding{Severity: warning, What: "GCE_METADATA_HOST is set, " + v.name + " is not", Why: v.who,
				Fix: fmt.Sprintf("export %s=$GCE_METADATA_HOST", v.name)})
		default:
			list = append(list, finding{Severity: warning, What: fmt.Sprintf("GCE_METADATA_HOST and %s name different servers", v.name), Why: v.who,
				Fix: fmt.Sprintf("export %s=$GCE_METADATA_HOST", v.name)})
		}
	}
	if list == nil && host == "" {
		return ok("no variable names a server, so that is %s", linkLocal)
	} else if list == nil {
		return ok("all variables name the same server")
	}
	return list
}

func checkDetectionOff(_ context.Context, p *place) (list []finding) {
	for _, l := range libraries {
		if len(l.off) != 2 || p.getenv(l.off[0]) != l.off[1] {
			continue
		}
		f := finding{Severity: problem, What: fmt.Sprintf("%s is %s", l.off[0], l.off[1]),
			Why: "a library does not ask the metadata server then, which is right only for programs that want none", Fix: "unset " + l.off[0]}
		if !slices.Contains(list, f) {
			list = append(list, f)
		}
	}
	if list == nil {
		return ok("no variable switches the search off")
	}
	return list
}

func checkProxy(_ context.Context, p *place) []finding {
	variable := ""
	for _, v := range []string{"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"} {
		if variable == "" && p.getenv(v) != "" {
			variable = v
		}
	}
	if variable == "" {
		return ok("there is no proxy for http")
	}
	host := bare(hostPart(p.address))
	except := p.getenv("no_proxy") + "," + p.getenv("NO_PROXY")
	for entry := range strings.SplitSeq(except, ",") {
		if entry = strings.TrimSpace(entry); entry == "*" || entry != "" && (bare(entry) == host || strings.HasSuffix(host, "."+strings.TrimPrefix(entry, "."))) {
			return ok("%s is set, and no_proxy takes %s out", variable, host)
		}
	}
	return []finding{{Severity: warning, What: fmt.Sprintf("%s is set, and no_proxy does not take %s out", variable, host),
		Why: "a library may ask the proxy for the metadata; that cannot know it, and the server refuses what a proxy has forwarded",
		Fix: fmt.Sprintf("export no_proxy=%s NO_PROXY=%s # and what is in there already", host, host)}}
}

// bare is a host without its port.
func bare(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return host
}

func checkDNS(_ context.Context, p *place) []finding {
	addresses, err := p.addresses, p.unnamed
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return ok("%s is not known, as it should be outside Google Cloud", metadataName)
	case errors.As(err, &dns) && dns.IsTimeout, errors.Is(err, context.DeadlineExceeded):
		return []finding{{Severity: warning, What: "the DNS does not answer", Why: "libraries wait for it while they look for a metadata server, Rust until it gives up",
			Fix: "set the variables that name a server, or mend /etc/resolv.conf"}}
	case err != nil:
		return []finding{{Severity: note, What: fmt.Sprintf("%s cannot be looked up: %s", metadataName, explained(err))}}
	case slices.Contains(addresses, linkLocal):
		return ok("%s is %s, as on Google Cloud", metadataName, linkLocal)
	}
	return []finding{{Severity: warning, What: fmt.Sprintf("%s is %s", metadataName, strings.Join(addresses, " ")),
		Why: "libraries that go by name ask there, Go does not take it for Google Cloud, and whoever it is may hand out identities",
		Fix: "if you do not know that address, find out who answers for this name: getent hosts " + metadataName}}
}

// strangers are other clouds' servers at the same address.
var strangers = []struct {
	name string
	is   func(reply) bool
}{
	{"Amazon EC2", func(r reply) bool { return strings.HasPrefix(r.header.Get("Server"), "EC2") }},
	{"Azure", func(r reply) bool { return strings.Contains(r.header.Get("Server"), "IIS") }},
	{"OpenStack or EC2", func(r reply) bool { return strings.Contains(r.body, "latest") && strings.Contains(r.body, "1.0") }},
}

func checkLinkLocal(_ context.Context, p *place) []finding {
	g := p.linkLocal
	switch {
	case g.silent():
		severity, fix := warning, "export GCE_METADATA_HOST=HOST:PORT, or for programs that want none of it NO_GCE_CHECK=true METADATA_SERVER_DETECTION=none"
		if p.named {
			severity, fix = note, ""
		}
		return []finding{{Severity: severity, What: fmt.Sprintf("%s neither answers nor refuses", linkLocal),
			Why: "programs that look there stall until they give up, as is said above", Fix: fix}}
	case g.err != nil:
		return ok("%s: %s, so whoever looks there knows at once", linkLocal, explained(g.err))
	case g.genuine():
		return ok("%s is a metadata server and calls itself %q", linkLocal, g.header.Get("Server"))
	}
	who := "something"
	for _, s := range strangers {
		if s.is(g.reply) {
			who = "the metadata server of " + s.name
			break
		}
	}
	return []finding{{Severity: warning, What: fmt.Sprintf("%s is %s: it answers %d without Metadata-Flavor: Google", linkLocal, who, g.status),
		Why: "programs that are not told of another server ask this one, in vain",
		Fix: "export GCE_METADATA_HOST=HOST:PORT"}}
}

// checkCaptured looks whether the address is one of this machine's.
func checkCaptured(_ context.Context, p *place) []finding {
	if p.system != "linux" {
		return nil
	}
	data, err := p.read("/proc/net/fib_trie")
	if err != nil {
		return nil // then the kernel does not say
	}
	lines := strings.Split(string(data), "\n")
	for i, line := range lines[:len(lines)-1] {
		if strings.HasSuffix(line, "-- "+linkLocal) && strings.Contains(lines[i+1], "/32 host LOCAL") {
			return []finding{{Severity: note, What: linkLocal + " is an address of this machine",
				Why: "a program here answers in place of a cloud's server: gcemds itself, or an agent of a cluster", Fix: "ip address show to " + linkLocal + "; ss -ltnp"}}
		}
	}
	return ok("%s is not an address of this machine", linkLocal)
}

func checkServerAnswers(ctx context.Context, p *place) []finding {
	g := p.server
	ours := ""
	if !g.genuine() {
		ours = p.gcemds(ctx)
	}
	switch {
	case ours != "" && ours != p.address:
		what := "a gcemds runs at " + ours + ", and no variable says so"
		if p.named {
			what = "GCE_METADATA_HOST does not name the gcemds that runs at " + ours
		}
		return []finding{{Severity: problem, What: what, Why: "programs look for it elsewhere",
			Fix: "export GCE_METADATA_HOST=" + ours + ", and the other variables that it has printed"}}
	case g.err != nil && !p.named:
		return []finding{{Severity: problem, What: "there is no metadata server: " + linkLocal + ": " + explained(g.err),
			Why: "programs have no identity", Fix: "gcemds serve, and set the variables that it prints"}}
	case g.err != nil:
		return []finding{{Severity: problem, What: fmt.Sprintf("the server of GCE_METADATA_HOST does not answer: %s", explained(g.err)),
			Why: "Go, Rust and others believe the variable, and try for long", Fix: "start it (gcemds serve), or unset GCE_METADATA_HOST"}}
	case !g.genuine():
		return []finding{{Severity: problem, What: fmt.Sprintf("%s answers %d without Metadata-Flavor: Google, so it is not a metadata server", shown(p.address), g.status),
			Why: "libraries throw its answers away", Fix: "export GCE_METADATA_HOST=HOST:PORT of one"}}
	case g.took > 500*time.Millisecond:
		return []finding{{Severity: warning, What: shown(p.address) + " answers, but takes more than half a second",
			Why: "Java, .NET, Ruby and PHP give up after that, and think that there is none"}}
	}
	return ok("%s is a metadata server and calls itself %q", shown(p.address), g.header.Get("Server"))
}

// unanswered is what to say of a request that got no answer.
func unanswered(err error) []finding {
	return []finding{{Severity: problem, What: "the server does not answer: " + explained(err), Why: "clients that get no answer try again and again"}}
}

func checkServerHeader(ctx context.Context, p *place) []finding {
	r, err := p.ask(ctx, p.address, "/computeMetadata/v1/instance/", false)
	switch {
	case err != nil:
		return unanswered(err)
	case r.status == http.StatusForbidden:
		return ok("requests without Metadata-Flavor: Google are refused")
	}
	return []finding{{Severity: problem, What: fmt.Sprintf("a request without Metadata-Flavor: Google gets %d, not 403", r.status),
		Why: "a web page or a tricked program could read metadata and tokens", Fix: "use another server"}}
}

func checkServerForwarded(ctx context.Context, p *place) []finding {
	r, err := p.ask(ctx, p.address, "/computeMetadata/v1/instance/", true, "X-Forwarded-For", "192.0.2.1")
	switch {
	case err != nil:
		return unanswered(err)
	case r.status >= 400:
		return ok("requests that a proxy has forwarded are refused")
	}
	return []finding{{Severity: warning, What: fmt.Sprintf("a request with X-Forwarded-For gets %d, not 403", r.status),
		Why: "whoever reaches an open proxy on this machine reaches its tokens", Fix: "use another server, or no proxy"}}
}

func checkServerRedirects(ctx context.Context, p *place) []finding {
	r, err := p.v1(ctx, "instance")
	if err != nil {
		return unanswered(err)
	}
	to, err := url.Parse(r.header.Get("Location"))
	if r.status == http.StatusMovedPermanently && err == nil && strings.HasSuffix(to.Path, "/instance/") && (to.Host == "" || bare(to.Host) == bare(p.address)) {
		return ok("a directory without its slash is redirected")
	}
	return []finding{{Severity: warning, What: fmt.Sprintf("a directory without its slash gets %d, not a redirect to the same host", r.status),
		Why: "Node looks for a server by that request", Fix: "export METADATA_SERVER_DETECTION=assume-present"}}
}

func checkServerETag(ctx context.Context, p *place) []finding {
	var tags []string
	for range 2 {
		r, err := p.v1(ctx, "project/project-id")
		if err != nil {
			return unanswered(err)
		}
		tags = append(tags, r.header.Get("ETag"))
	}
	if tags[0] != "" && tags[0] == tags[1] {
		return ok("values have ETags that stay the same")
	}
	return []finding{{Severity: warning, What: "values have no ETag, or a new one each time",
		Why: "programs that wait for a change ask in a busy loop", Fix: "use another server"}}
}

func checkServerWaits(ctx context.Context, p *place) []finding {
	r, err := p.v1(ctx, "instance/?recursive=true&wait_for_change=true&timeout_sec=1")
	switch {
	case err != nil:
		return unanswered(err)
	case r.status == http.StatusOK && r.took < 900*time.Millisecond:
		return []finding{{Severity: note, What: "a request that waits for a change is answered at once",
			Why: "programs that wait ask in a busy loop, unless something has changed just now", Fix: "gcemds doctor # again"}}
	case r.status != http.StatusOK:
		return []finding{{Severity: warning, What: fmt.Sprintf("a request that waits for a change gets %d", r.status),
			Why: "programs that watch maintenance or attributes learn nothing"}}
	}
	return ok("requests wait for a change")
}

// clockTolerance is how wrong a clock may be: tokens are good for an hour, and
// verifiers forgive some minutes.
const clockTolerance = 30 * time.Second

func checkClock(_ context.Context, p *place) []finding {
	date, err := http.ParseTime(p.server.header.Get("Date"))
	if err != nil {
		return []finding{{Severity: note, What: "the server does not say what time it is"}}
	}
	skew := p.server.came.Sub(date)
	if skew.Abs() <= clockTolerance {
		return ok("the clocks of this machine and of the server agree")
	}
	which := "ahead of"
	if skew < 0 {
		which = "behind"
	}
	return []finding{{Severity: problem, What: fmt.Sprintf("the clock of this machine is %v %s the server's", skew.Abs().Round(time.Minute), which),
		Why: "tokens are taken for expired, or used when they are", Fix: "timedatectl set-ntp true"}}
}

func checkAccessToken(ctx context.Context, p *place) []finding {
	r, err := p.v1(ctx, "instance/service-accounts/default/token")
	if err != nil {
		return unanswered(err)
	}
	if f := refused(r, "access token"); f != nil {
		return f
	}
	var t struct {
		Token   string      `json:"access_token"`
		Expires json.Number `json:"expires_in"`
		Type    string      `json:"token_type"`
	}
	decoded := json.Unmarshal([]byte(r.body), &t)
	seconds, number := t.Expires.Int64()
	switch {
	case decoded != nil || t.Token == "" || t.Type == "" || number != nil || strings.Contains(strings.ReplaceAll(r.body, " ", ""), `"expires_in":"`):
		return []finding{{Severity: problem, What: "the answer for an access token is not of the form that libraries read",
			Why: `it must have access_token, token_type and, as a number, expires_in`, Fix: "use another server"}}
	case r.header.Get("Metadata-Flavor") != "Google" || r.header.Get("Content-Type") != "application/json":
		return []finding{{Severity: problem, What: "the answer for an access token lacks Metadata-Flavor: Google or Content-Type: application/json",
			Why: "Node and Python throw it away", Fix: "use another server"}}
	case seconds < 240:
		return []finding{{Severity: warning, What: fmt.Sprintf("the access token is good for %d more seconds only", seconds),
			Why: "libraries think it expired nearly four minutes before, and ask for each request", Fix: "gcemds whoami # shows how long the source's tokens are good"}}
	}
	return ok("there is an access token, good for %s", life(seconds))
}

// life is how long a token is good in words that stay the same for a while.
func life(seconds int64) string {
	if seconds > 3000 && seconds <= 3600 {
		return "about an hour"
	}
	return (time.Duration(seconds) * time.Second).Round(time.Minute).String()
}

func checkIdentityToken(ctx context.Context, p *place) []finding {
	r, err := p.v1(ctx, "instance/service-accounts/default/identity?audience=https%3A%2F%2Fexample.com")
	if err != nil {
		return unanswered(err)
	}
	if f := refused(r, "identity token"); f != nil {
		return f
	}
	if strings.Count(r.body, ".") != 2 || !strings.HasPrefix(r.body, "ey") {
		return []finding{{Severity: problem, What: "the answer for an identity token is not a JWT", Why: "Cloud Run, IAP and Vault refuse it", Fix: "use another server"}}
	}
	return ok("there are identity tokens")
}

// refused is what to say where there is no token; nil if there is one. The
// body is not shown: it may be anything.
func refused(r reply, what string) []finding {
	switch r.status {
	case http.StatusOK:
		return nil
	case http.StatusNotFound:
		return []finding{{Severity: problem, What: fmt.Sprintf("there is no %s: the machine has no service account \"default\"", what),
			Why: "programs have no identity", Fix: "give the instance an account: gcemds serve --key FILE, or accounts in the configuration"}}
	case http.StatusForbidden:
		return []finding{{Severity: problem, What: fmt.Sprintf("there is no %s: the server says 403", what),
			Why: "whoever makes the tokens does not accept the credential, or does not allow it this account", Fix: "gcemds whoami # shows the step that failed"}}
	case http.StatusServiceUnavailable, http.StatusInternalServerError, http.StatusTooManyRequests:
		return []finding{{Severity: problem, What: fmt.Sprintf("there is no %s now: the server says %d", what, r.status),
			Why: "whoever makes the tokens does not answer; libraries try again a few times", Fix: "gcemds whoami # shows the step that failed"}}
	}
	return []finding{{Severity: problem, What: fmt.Sprintf("there is no %s: the server says %d", what, r.status),
		Why: "programs have no identity", Fix: "gcemds whoami # shows the step that failed"}}
}
