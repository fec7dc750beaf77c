package daemon_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const secure = `listen:
  main: {tcp: '127.0.0.1:0'}
  secure: {tcp: '127.0.0.1:0', tls: {dir: DIR/tls, client_dir: DIR/client, hosts: [mds.example.test]}}
`

// startSecure runs a daemon with a listener for clients with a certificate.
func startSecure(t *testing.T) *world {
	t.Helper()
	w := prepare(t, secure)
	w.write("# listen: {\n" + secure)
	w.run()
	return w
}

func (w *world) read(name string) []byte {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return data
}

// tlsClient is a client with that certificate ("" is none) that trusts root.
func tlsClient(t *testing.T, root, pair, serverName string) *http.Client {
	t.Helper()
	c := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: serverName}
	if !c.RootCAs.AppendCertsFromPEM([]byte(root)) {
		t.Fatalf("the root is no certificate: %s", root)
	}
	if pair != "" {
		cert, err := tls.X509KeyPair([]byte(pair), []byte(pair))
		if err != nil {
			t.Fatalf("the client certificate and its key: %v", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	transport := &http.Transport{TLSClientConfig: c}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// refused reports how the TLS listener turns a client away.
func (w *world) refused(client *http.Client) error {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "https://"+w.Addr("secure").String()+"/computeMetadata/v1/instance/name", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := client.Do(req)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

// TestMutualTLS: who has a certificate of ours is answered, nobody else.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	w, stranger := startSecure(t), startSecure(t)

	var made struct{ ClientCredentials, RootCertificate string }
	if err := json.Unmarshal([]byte(w.value("instance/credentials/mds-client-certificate")), &made); err != nil {
		t.Fatal(err)
	}
	root, client := string(w.read("client/root.crt")), string(w.read("client/client.key"))
	if made.RootCertificate != root || root != string(w.read("tls/root.crt")) {
		t.Error("the root certificates of the endpoint, of client_dir and of the authority differ")
	}
	for from, pair := range map[string]string{"the endpoint": made.ClientCredentials, "client_dir": client} {
		for _, name := range []string{"", "metadata.google.internal", "metadata", "localhost", "169.254.169.254", "::1", "mds.example.test"} {
			status, body := fetch(t, tlsClient(t, root, pair, name), "https://"+w.Addr("secure").String()+"/computeMetadata/v1/instance/name")
			if status != http.StatusOK || body != "demo-instance" {
				t.Errorf("with the certificate of %s, by the name %q: %d %s", from, name, status, body)
			}
		}
	}
	status, location := func() (int, string) {
		c := tlsClient(t, root, client, "")
		c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+w.Addr("secure").String()+"/computeMetadata/v1/instance", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Metadata-Flavor", "Google")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("Location")
	}()
	if status != http.StatusMovedPermanently || !strings.HasPrefix(location, "https://") {
		t.Errorf("the redirect of a directory is %d to %s, want https", status, location)
	}

	for who, c := range map[string]*http.Client{
		"a client without a certificate":   tlsClient(t, root, "", ""),
		"a client of another authority":    tlsClient(t, root, string(stranger.read("client/client.key")), ""),
		"a client that trusts another one": tlsClient(t, string(stranger.read("client/root.crt")), client, ""),
		"a client that wants another name": tlsClient(t, root, client, "other.example.test"),
	} {
		if err := w.refused(c); err == nil {
			t.Errorf("%s is answered", who)
		}
	}
	if conn, err := net.Dial("tcp", w.Addr("secure").String()); err != nil {
		t.Error(err)
	} else {
		defer conn.Close()
		conn.Write([]byte("GET /computeMetadata/v1/instance/name HTTP/1.1\r\nHost: metadata\r\nMetadata-Flavor: Google\r\n\r\n"))
		answer := make([]byte, 200)
		n, _ := conn.Read(answer)
		if !bytes.HasPrefix(answer[:n], []byte("HTTP/1.0 400 ")) {
			t.Errorf("plain HTTP on the TLS listener gets %q, want 400", answer[:n])
		}
	}
	if l := w.Status().Listeners; len(l) != 2 || l[0].TLS || !l[1].TLS {
		t.Errorf("status shows the listeners %+v, want TLS for the second", l)
	}
}

// TestAuthority: it is made at the first use, its key is for its owner alone,
// and the next start finds it.
func TestAuthority(t *testing.T) {
	t.Parallel()
	w := startSecure(t)
	root, pair := string(w.read("tls/root.crt")), string(w.read("client/client.key"))
	if runtime.GOOS != "windows" {
		for name, want := range map[string]os.FileMode{"tls": os.ModeDir | 0o700, "tls/root.key": 0o600, "tls/root.crt": 0o644, "client": os.ModeDir | 0o755, "client/client.key": 0o600} {
			info, err := os.Stat(filepath.Join(w.dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != want {
				t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
			}
		}
	}
	cert, err := tls.X509KeyPair([]byte(pair), []byte(pair))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cert.Leaf.DNSNames, []string{"demo-instance.c.demo-project.internal"}; !slices.Equal(got, want) || cert.Leaf.Subject.CommonName != "demo-instance" {
		t.Errorf("the client certificate is of %s and the names %q, want demo-instance and %q", cert.Leaf.Subject.CommonName, got, want)
	}

	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	again := prepare(t, "")
	again.write(strings.ReplaceAll("# listen: {\n"+secure, "DIR", w.dir))
	again.run()
	if string(w.read("tls/root.crt")) != root {
		t.Error("the authority is another one after a restart")
	}
	if status, _ := fetch(t, tlsClient(t, root, pair, ""), "https://"+again.Addr("secure").String()+"/computeMetadata/v1/instance/name"); status != http.StatusOK {
		t.Errorf("the certificate of before the restart gets %d", status)
	}
	if err := again.stop(); err != nil {
		t.Fatal(err)
	}

	if err := os.Remove(filepath.Join(w.dir, "tls", "root.key")); err != nil {
		t.Fatal(err)
	}
	half := prepare(t, "")
	half.write(strings.ReplaceAll("# listen: {\n"+secure, "DIR", w.dir))
	if err := half.open(); err == nil || !strings.Contains(err.Error(), "listen.secure: cannot read the certificate authority: open ") {
		t.Errorf("half an authority: %v, want it to be refused and not replaced", err)
	}
}

// TestNoAuthority: without a TLS listener there is no certificate to ask for.
func TestNoAuthority(t *testing.T) {
	t.Parallel()
	w := start(t, "")
	if status, body := w.get("instance/credentials/mds-client-certificate"); status != http.StatusNotFound {
		t.Errorf("a certificate without an authority: %d %s, want 404", status, body)
	}
}
