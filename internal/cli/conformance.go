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
	var r remote
	var record string
	var asJSON bool
	c := &cobra.Command{
		Use:   "conformance [ADDR]",
		Short: "Compare a metadata server with what Google's is known to answer",
		Long: `Send the requests of the corpus to a metadata server, compare the answers, and
print by topic how many are right, and what is wrong. The server may be of any
kind: gcemds, a real machine's, another emulator. ADDR is its host and port;
default GCE_METADATA_HOST, else 169.254.169.254.

Cases that need a change of the document are run if the server is a gcemds that
was started for this, and --admin is its control socket; all of its changes are
dropped on the way. Otherwise they are counted, and nothing is changed. Of a
machine that is not that of the corpus, values are compared by their shape.

The exit code is 1 if a case fails.`,
		Example: `  gcemds conformance
  gcemds conformance 127.0.0.1:8080 --admin /run/gcemds/admin.sock
  gcemds conformance 169.254.169.254 --record differs.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			if c.Flags().Changed("admin") && r.socket == "" {
				return &usageError{errors.New("--admin is empty; it is the control socket of the server, which gcemds serve --admin PATH makes"), c.CommandPath()}
			}
			s, err := conformance.Open(ctx, serverAddress(args))
			if err != nil {
				return err
			}
			if r.socket != "" {
				if err := r.prepare(ctx, &s); err != nil {
					return err
				}
			}
			cases, err := conformance.Cases()
			if err != nil {
				return err
			}
			report := conformance.NewReport(s)
			if err := s.Run(ctx, cases, report.Add); err != nil {
				return err
			}
			if record != "" {
				source := fmt.Sprintf("%s, recorded %s", s.Addr, time.Now().UTC().Format(time.DateOnly))
				if err := writeJSON(record, report.Recorded(source)); err != nil {
					return err
				}
			}
			if asJSON {
				enc := json.NewEncoder(c.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(report)
			} else {
				_, err = fmt.Fprint(c.OutOrStdout(), report)
			}
			if err == nil && report.Total.Failed > 0 {
				err = fmt.Errorf("%d of %d cases fail", report.Total.Failed, report.Total.Passed+report.Total.Failed)
			}
			return err
		},
	}
	c.Flags().StringVar(&r.socket, "admin", "", "`PATH` of the control socket of the server, to run the cases that change it")
	c.Flags().StringVarP(&r.instance, "instance", "i", "", "`NAME` of the instance that answers; default the first")
	c.Flags().StringVar(&record, "record", "", "write what differs to `FILE`, in the form of the corpus and without tokens")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// serverAddress is the metadata server of a command that takes one: host and port.
func serverAddress(args []string) string {
	addr := os.Getenv("GCE_METADATA_HOST")
	if len(args) > 0 {
		addr = args[0]
	}
	if addr == "" {
		addr = "169.254.169.254"
	}
	addr = strings.TrimSuffix(strings.TrimPrefix(addr, "http://"), "/")
	if _, _, err := net.SplitHostPort(addr); err != nil {
		addr = net.JoinHostPort(strings.Trim(addr, "[]"), "80")
	}
	return addr
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
