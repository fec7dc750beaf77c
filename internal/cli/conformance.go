package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/internal/admin"
	"github.com/gcemds/gcemds/internal/conformance"
)

func newConformance() *cobra.Command {
	var s server
	var record string
	var asJSON bool
	c := &cobra.Command{
		Use:   "conformance",
		Short: "Compare a metadata server with what Google's is known to answer",
		Long: `Send the requests of the corpus to a metadata server, compare the answers, and
print by topic how many are right, and what is wrong. The server may be of any
kind: gcemds, a real machine's, another emulator; gcemds --help says which is
asked.

Cases that need a change of the document are run if --admin is the control socket
of a gcemds that was started for this; all of its changes are dropped on the way.
Otherwise they are counted, and nothing is changed. Of a machine that is not that
of the corpus, values are compared by their shape.

The exit code is 1 if a case fails.`,
		Example: `  gcemds conformance
  gcemds conformance --admin /run/gcemds/admin.sock
  gcemds conformance --host 169.254.169.254 --record differs.json`,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			if c.Flags().Changed("admin") && s.socket == "" {
				return &usageError{errors.New("--admin is empty; it is the control socket of the server, which gcemds serve --admin PATH makes"), c.CommandPath()}
			}
			addr, err := s.tcp(ctx)
			if err != nil {
				return err
			}
			asked, err := conformance.Open(ctx, addr)
			if err != nil {
				return &ended{exitNoServer, err}
			}
			if s.socket != "" {
				if err := s.prepare(ctx, &asked); err != nil {
					return err
				}
			}
			cases, err := conformance.Cases()
			if err != nil {
				return err
			}
			report := conformance.NewReport(asked)
			if err := asked.Run(ctx, cases, report.Add); err != nil {
				return err
			}
			if record != "" {
				source := fmt.Sprintf("%s, recorded %s", addr, time.Now().UTC().Format(time.DateOnly))
				if err := writeJSON(record, report.Recorded(source)); err != nil {
					return err
				}
			}
			if asJSON {
				err = printJSON(c.OutOrStdout(), report)
			} else {
				_, err = fmt.Fprint(c.OutOrStdout(), report)
			}
			if err == nil && report.Total.Failed > 0 {
				err = fmt.Errorf("%d of %d cases fail", report.Total.Failed, report.Total.Passed+report.Total.Failed)
			}
			return err
		},
	}
	s.flags(c)
	c.Flags().StringVarP(&s.instance, "instance", "i", "", "`NAME` of the instance that answers, to change it; default the first")
	c.Flags().StringVar(&record, "record", "", "write what differs to `FILE`, in the form of the corpus and without tokens")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// tcp is the host and port of the server.
func (s *server) tcp(ctx context.Context) (string, error) {
	host := s.address()
	if host == "" {
		return s.ours(ctx)
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(strings.Trim(host, "[]"), "80")
	}
	return host, nil
}

// ours is where a gcemds listens for plain TCP.
func (r *remote) ours(ctx context.Context) (string, error) {
	status, err := r.client().Status(ctx)
	if err != nil {
		return "", err
	}
	for _, l := range status.Listeners {
		if host, ok := reachable(l); ok {
			return host, nil
		}
	}
	return "", fmt.Errorf("the gcemds on %s has no listener for plain TCP, which this takes", r.client().Socket)
}

// prepare lets cases change the document of the server that has the socket.
func (r *remote) prepare(ctx context.Context, s *conformance.Server) error {
	client := r.client()
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	for _, i := range status.Instances {
		if (i.Name == r.instance || r.instance == "") && len(i.Edits) > 0 {
			return fmt.Errorf("instance %s was changed since it started, and that would be lost; start a gcemds for this: gcemds serve --admin PATH", i.Name)
		}
	}
	if s.Other {
		return fmt.Errorf("%s does not serve the machine of the corpus; start a gcemds for this, without --metadata: gcemds serve --admin PATH", s.Addr)
	}
	s.Edit = func(ctx context.Context, set map[string]any, deleted []string) error {
		var edits []admin.Edit
		for path, v := range set {
			value, err := json.Marshal(v)
			if err != nil {
				return err
			}
			edits = append(edits, admin.Edit{Path: path, Value: value})
		}
		for _, path := range deleted {
			edits = append(edits, admin.Edit{Path: path, Delete: true})
		}
		return client.Edit(ctx, r.instance, edits...)
	}
	s.Revert = func(ctx context.Context) error { return client.Revert(ctx, r.instance) }
	s.Waiting = func(ctx context.Context) (int, error) {
		status, err := client.Status(ctx)
		return status.Hanging, err
	}
	return nil
}

// writeJSON writes a file that people may edit and share.
func writeJSON(name string, v any) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(f)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
