// Command go-unix-socket asks a metadata server on the Unix socket that its
// argument names.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/gcemds/gcemds/client"
)

func main() {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", os.Args[1])
	}
	c := &client.Client{Host: "metadata", HTTP: &http.Client{Transport: &http.Transport{DialContext: dial}}}
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
