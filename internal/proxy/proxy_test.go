package proxy

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// start runs a proxy for GoogleHosts until the test ends. The handler says who
// was asked for what, over what, and by whom.
func start(t *testing.T) (address string, roots *x509.CertPool, stop func() error) {
	t.Helper()
	authority, err := NewAuthority(GoogleHosts...)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := New(authority, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			client = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		fmt.Fprintf(w, "%s %s%s for %s", r.Proto, r.Host, r.URL.Path, client)
	}), nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, l) }()
	ended := false
	stop = func() error {
		cancel()
		if ended {
			return nil
		}
		ended = true
		return <-done
	}
	t.Cleanup(func() { stop() })
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.PEM())
	return l.Addr().String(), roots, stop
}

func client(address string, config *tls.Config) *http.Client {
	proxy := &url.URL{Scheme: "http", Host: address}
	return &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: config, ForceAttemptHTTP2: true}}
}

func fetch(c *http.Client, target string) (string, error) {
	defer c.CloseIdleConnections()
	resp, err := c.Get(target)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

// TestProxy: a program that trusts the authority finds the handler behind each
// of its hosts, by HTTP/2 as well, and with its certificate.
func TestProxy(t *testing.T) {
	address, roots, _ := start(t)
	for target, want := range map[string]string{
		"https://oauth2.googleapis.com/token":      "HTTP/2.0 oauth2.googleapis.com/token for nobody",
		"https://accounts.google.com/x":            "HTTP/2.0 accounts.google.com/x for nobody",
		"https://sts.mtls.googleapis.com/v1/token": "HTTP/2.0 sts.mtls.googleapis.com/v1/token for nobody",
	} {
		if got, err := fetch(client(address, &tls.Config{RootCAs: roots}), target); err != nil || got != want {
			t.Errorf("GET %s = %q, %v; want %q", target, got, err, want)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "workload"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, self, self, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	if got, err := fetch(client(address, config), "https://sts.mtls.googleapis.com/"); err != nil || !strings.HasSuffix(got, "for workload") {
		t.Errorf("with a client certificate = %q, %v; want the handler to see it", got, err)
	}
}

// TestProxyRefuses: nothing is forwarded, and no other host is stood for.
func TestProxyRefuses(t *testing.T) {
	address, roots, _ := start(t)
	for target, want := range map[string]string{
		"https://example.com/":               "Forbidden",
		"https://googleapis.com/":            "Forbidden",
		"https://a.b.googleapis.com/":        "Forbidden",
		"https://oauth2.googleapis.com:444/": "Forbidden",
		"https://127.0.0.1/":                 "Forbidden",
		"http://oauth2.googleapis.com/":      "forwards nothing",
		"http://example.com/":                "forwards nothing",
		"http://169.254.169.254/":            "forwards nothing",
	} {
		if got, err := fetch(client(address, &tls.Config{RootCAs: roots}), target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("GET %s = %q, %v; want a refusal with %q", target, got, err, want)
		}
	}
	if _, err := fetch(client(address, &tls.Config{RootCAs: roots, ServerName: "example.com"}), "https://oauth2.googleapis.com/"); err == nil {
		t.Error("TLS for example.com inside of a tunnel to Google works")
	}
	if _, err := fetch(client(address, nil), "https://oauth2.googleapis.com/"); err == nil {
		t.Error("a program that does not trust the authority accepts its certificate")
	}
	if got, err := fetch(&http.Client{}, "http://"+address+"/"); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("GET of the proxy itself = %q, %v; want 403", got, err)
	}
}

// TestAuthority: whoever trusts the authority trusts it for its hosts only.
func TestAuthority(t *testing.T) {
	a, err := NewAuthority(GoogleHosts...)
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewAuthority(append(GoogleHosts, "example.com")...)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.PEM())
	if _, err := a.cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "iamcredentials.googleapis.com"}); err != nil {
		t.Errorf("the certificate does not verify: %v", err)
	}
	if _, err := other.cert.Leaf.Verify(x509.VerifyOptions{Roots: roots}); err == nil {
		t.Error("the certificate of another authority verifies")
	}
	if strings.Contains(string(a.PEM()), "PRIVATE") {
		t.Error("PEM has the key of the authority")
	}
	if got := rootOf(t, a); len(got.PermittedDNSDomains) != 3 || !got.PermittedDNSDomainsCritical {
		t.Errorf("the authority is good for %v (critical: %v), want its three hosts only", got.PermittedDNSDomains, got.PermittedDNSDomainsCritical)
	}
}

func rootOf(t *testing.T, a *Authority) *x509.Certificate {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.PEM())
	chains, err := a.cert.Leaf.Verify(x509.VerifyOptions{Roots: pool})
	if err != nil {
		t.Fatal(err)
	}
	return chains[0][1]
}

// TestServeEnds: with its context, an idle tunnel or not.
func TestServeEnds(t *testing.T) {
	address, _, stop := start(t)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "CONNECT oauth2.googleapis.com:443 HTTP/1.1\r\nHost: oauth2.googleapis.com:443\r\n\r\n")
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 200") {
		t.Fatalf("CONNECT = %q, %v; want 200", line, err)
	}
	if err := stop(); err != nil {
		t.Errorf("Serve = %v when its context ends, want nil", err)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the tunnel is still open: %v", err)
	}
}
