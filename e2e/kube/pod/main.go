// Command pod is the program in the image of the tests' Pods.
//
//	pod                 wait to be told to end
//	pod get URL         ask a metadata server; print the status and the body
//	pod serve ADDRESS   tell callers their address
//	pod api PATH        ask the API server of the cluster with the Pod's own token
//	pod google [AUD]    say who Google's Go libraries find that they are; with an
//	                    audience, get an ID token too
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"cloud.google.com/go/auth/credentials/idtoken"
	"cloud.google.com/go/compute/metadata"
	"golang.org/x/oauth2/google"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	args := append(os.Args[1:], "", "")
	commands := map[string]func(context.Context, string) error{"": wait, "get": get, "serve": serve, "api": api, "google": whoami}
	command, ok := commands[args[0]]
	if !ok {
		command = func(context.Context, string) error { return errors.New("no such command") }
	}
	if err := command(ctx, args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "pod %s: %v\n", args[0], err)
		os.Exit(1)
	}
}

// wait is also the first process of each sandbox, which inherits orphans.
func wait(ctx context.Context, _ string) error {
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, syscall.SIGCHLD)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-orphans:
			for {
				if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}

func get(ctx context.Context, url string) error {
	return ask(ctx, &http.Client{Timeout: 10 * time.Second}, url, "Metadata-Flavor", "Google")
}

func ask(ctx context.Context, client *http.Client, url, header, value string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r.Header.Set(header, value)
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	fmt.Printf("%d %s\n", answer.StatusCode, strings.TrimSpace(string(body)))
	return err
}

func serve(ctx context.Context, address string) error {
	server := &http.Server{Addr: address, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, host)
	})}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func api(ctx context.Context, path string) error {
	const account = "/var/run/secrets/kubernetes.io/serviceaccount/"
	ca, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return err
	}
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	url := "https://" + net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")) + path
	return ask(ctx, client, url, "Authorization", "Bearer "+string(token))
}

// whoami prints the same line of JSON as the programs of that name for Python,
// Node and Java.
func whoami(ctx context.Context, audience string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if !metadata.OnGCEWithContext(ctx) {
		return errors.New("there is no metadata server")
	}
	var me struct {
		Project string `json:"project"`
		Email   string `json:"email"`
		Token   string `json:"token"`
		IDToken string `json:"idToken,omitempty"`
	}
	credentials, err := google.FindDefaultCredentials(ctx, "https://www.googleapis.com/auth/cloud-platform")
	if err != nil {
		return err
	}
	me.Project = credentials.ProjectID
	if me.Email, err = metadata.EmailWithContext(ctx, "default"); err != nil {
		return err
	}
	token, err := credentials.TokenSource.Token()
	if err != nil {
		return err
	}
	me.Token = token.AccessToken
	if audience != "" {
		identity, err := idtoken.NewCredentials(&idtoken.Options{Audience: audience})
		if err != nil {
			return err
		}
		token, err := identity.Token(ctx)
		if err != nil {
			return err
		}
		me.IDToken = token.Value
	}
	return json.NewEncoder(os.Stdout).Encode(me)
}
