package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	detectLimit = 5 * time.Second
	lookupLimit = 2 * time.Second
)

// A Detection says whether a program runs on Google Cloud, as far as it can
// tell: a metadata server elsewhere, such as gcemds, makes it look so.
type Detection struct {
	OnGoogleCloud bool       // something speaks for it
	Answers       bool       // a metadata server answers at the client's address
	Evidence      []Evidence // all that was looked at
}

// Evidence is one thing that speaks for or against Google Cloud.
type Evidence struct {
	Source   string // "environment", "firmware", "DNS" or "server"
	Supports bool   // it speaks for Google Cloud; else it says nothing, or speaks against it
	Detail   string // what was found
}

// String returns the source and the detail.
func (e Evidence) String() string { return e.Source + ": " + e.Detail }

// Detect looks at the environment, the firmware (on Linux), the DNS (unless the
// server is named, see Client.Host) and what answers at the client's address. It
// takes 5 seconds at most, less if ctx ends before, and remembers nothing.
//
// The answer can be wrong where a metadata server starts late. A program that
// wants a value had better ask for it.
func (c *Client) Detect(ctx context.Context) Detection {
	c.init()
	ctx, cancel := context.WithTimeoutCause(ctx, detectLimit, fmt.Errorf("no answer in %v", detectLimit))
	defer cancel()
	answer := make(chan Evidence, 1)
	go func() { answer <- c.greet(ctx) }()

	_, named := c.address()
	d := Detection{Evidence: c.look(ctx, !named)}
	server := <-answer
	d.Answers = server.Supports
	d.Evidence = append(d.Evidence, server)
	d.OnGoogleCloud = positive(d.Evidence)
	return d
}

// greet says what is at the client's address.
func (c *Client) greet(ctx context.Context) Evidence {
	host, _ := c.address()
	a, f := c.attempt(ctx, request{})
	switch {
	case a.genuine:
		return Evidence{"server", true, host + " answers as a metadata server"}
	case f.Status != 0:
		return Evidence{"server", false, fmt.Sprintf("%s answers %d, but not as a metadata server", host, f.Status)}
	}
	return Evidence{"server", false, fmt.Sprintf("%s does not answer: %v", host, f.Err)}
}

func positive(list []Evidence) bool {
	return slices.ContainsFunc(list, func(e Evidence) bool { return e.Supports })
}

// signs are what a machine shows without a request to a metadata server.
type signs struct {
	getenv   func(string) string
	readFile func(string) ([]byte, error)
	lookup   func(ctx context.Context, host string) ([]string, error)
}

// system looks at the machine that the program runs on.
func system(ctx context.Context, dns bool) []Evidence {
	return signs{os.Getenv, os.ReadFile, net.DefaultResolver.LookupHost}.evidence(ctx, dns)
}

func (s signs) evidence(ctx context.Context, dns bool) []Evidence {
	list := []Evidence{s.environment(), s.firmware()}
	if dns {
		list = append(list, s.dns(ctx))
	}
	return list
}

// products are the variables that a product of Google Cloud sets.
var products = []struct{ variable, name string }{
	{"K_SERVICE", "Cloud Run"},
	{"CLOUD_RUN_JOB", "Cloud Run"},
	{"FUNCTION_TARGET", "Cloud Run functions"},
	{"GAE_ENV", "App Engine"},
	{"GAE_SERVICE", "App Engine"},
}

func (s signs) environment() Evidence {
	if host := s.getenv(hostEnv); host != "" {
		return Evidence{"environment", true, fmt.Sprintf("%s is %q", hostEnv, host)}
	}
	for _, p := range products {
		if s.getenv(p.variable) != "" {
			return Evidence{"environment", true, p.variable + " is set, as on " + p.name}
		}
	}
	return Evidence{"environment", false, "no variable of Google Cloud is set"}
}

// productName is where Linux shows what the firmware calls the machine. In a
// container it is that of the host.
const productName = "/sys/class/dmi/id/product_name"

func (s signs) firmware() Evidence {
	data, err := s.readFile(productName)
	name := strings.TrimSpace(string(data))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Evidence{"firmware", false, "this system does not show a product name"}
	case err != nil:
		return Evidence{"firmware", false, err.Error()}
	}
	// Chromebooks have names that only begin like these.
	return Evidence{"firmware", name == "Google Compute Engine" || name == "Google", fmt.Sprintf("the product name is %q", name)}
}

func (s signs) dns(ctx context.Context) Evidence {
	const name = "metadata.google.internal"
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	addresses, err := s.lookup(ctx, name+".")
	var unknown *net.DNSError
	switch {
	case errors.As(err, &unknown) && unknown.IsNotFound:
		return Evidence{"DNS", false, name + " is not known"}
	case err != nil:
		return Evidence{"DNS", false, err.Error()}
	}
	return Evidence{"DNS", slices.Contains(addresses, linkLocal) || slices.Contains(addresses, linkLocal6), fmt.Sprintf("%s is %s", name, strings.Join(addresses, " "))}
}
