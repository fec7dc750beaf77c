// Command go-mutual-tls asks a metadata server that wants a certificate. Its
// arguments are host:port and the folder with client.key and root.crt.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/gcemds/gcemds/client"
)

func main() {
	addr, dir := os.Args[1], os.Args[2]
	pair := filepath.Join(dir, "client.key") // certificate and key in one file
	cert, err := tls.LoadX509KeyPair(pair, pair)
	if err != nil {
		log.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(dir, "root.crt"))
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	dialer := tls.Dialer{Config: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, ServerName: "metadata.google.internal"}}

	// Clients of metadata ask for http:// URLs; the connection below them is encrypted.
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", addr) }
	c := &client.Client{Host: "metadata.google.internal", HTTP: &http.Client{Transport: &http.Transport{DialContext: dial}}}
	project, err := c.ProjectID(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	token, err := (&client.Tokens{Client: c}).Token(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: a token, good for %v\n", project, time.Until(token.Expiry).Round(time.Minute))
}
