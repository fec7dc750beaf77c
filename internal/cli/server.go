package cli

import (
	"context"
	"fmt"
	"iter"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/client"
	"github.com/gcemds/gcemds/internal/admin"
)

// A server is the one that a command asks: any metadata server, by its
// address, or a gcemds, by its control API. The help of gcemds says which.
type server struct {
	remote
	host string
}

func (s *server) flags(c *cobra.Command) {
	c.Flags().StringVar(&s.host, "host", "", "`HOST[:PORT]` of a metadata server [GCE_METADATA_HOST]")
	s.remote.flags(c)
}

func (s *server) instanceFlags(c *cobra.Command) {
	s.flags(c)
	c.Flags().StringVarP(&s.instance, "instance", "i", "", "`NAME` of the instance of a gcemds; default the first")
}

// address is that of a metadata server; "" means the control API. What is
// said on the command line wins, and of the variables the one that is for
// gcemds alone.
func (s *server) address() string {
	if s.host != "" {
		return s.host
	}
	if s.socket != "" || s.instance != "" || os.Getenv("GCEMDS_ADMIN") != "" {
		return ""
	}
	return os.Getenv("GCE_METADATA_HOST")
}

// patience is how long a command tries again while a person waits for it.
const patience = 5 * time.Second

// metadata returns a client of the metadata server: of a gcemds, the first
// listener that can be asked.
func (s *server) metadata(ctx context.Context) (*client.Client, error) {
	if host := s.address(); host != "" {
		return &client.Client{Host: host, Patience: patience}, nil
	}
	status, err := s.remote.client().Status(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range status.Listeners {
		if host, ok := reachable(l); ok {
			return &client.Client{Host: host, Patience: patience}, nil
		}
		if !l.TLS {
			dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", l.Address)
			}
			return &client.Client{Host: "metadata", Patience: patience, HTTP: &http.Client{Transport: &http.Transport{DialContext: dial}}}, nil
		}
	}
	return nil, fmt.Errorf("the gcemds on %s has listeners for mutual TLS only, and this command has no certificate", s.remote.client().Socket)
}

// get reads a path. What is read recursively is JSON, too.
func (s *server) get(ctx context.Context, path string, recursive bool) (admin.Value, error) {
	if s.address() == "" {
		return s.remote.client().Get(ctx, s.instance, path, recursive)
	}
	c, err := s.metadata(ctx)
	if err != nil {
		return admin.Value{}, err
	}
	path = below(path)
	v := admin.Value{Dir: path == "" || strings.HasSuffix(path, "/")}
	if !recursive {
		v.Text, err = c.Get(ctx, path)
		return v, err
	}
	if v.Text, err = c.Get(ctx, path+"?recursive=true&alt=text"); err == nil {
		v.JSON, err = c.Get(ctx, path+"?recursive=true&alt=json")
	}
	return v, err
}

// watch yields a value and its changes, as text or as JSON.
func (s *server) watch(ctx context.Context, path string, asJSON bool) iter.Seq2[admin.Value, error] {
	if s.address() == "" {
		return s.remote.client().Watch(ctx, s.instance, path)
	}
	return func(yield func(admin.Value, error) bool) {
		c, err := s.metadata(ctx)
		if err != nil {
			yield(admin.Value{}, err)
			return
		}
		form := "?alt=text"
		if asJSON {
			form = "?alt=json"
		}
		for text, err := range c.Watch(ctx, below(path)+form) {
			if !yield(admin.Value{Text: text, JSON: text, Dir: strings.HasSuffix(path, "/")}, err) {
				return
			}
		}
	}
}

// below accepts a path as people copy it: from a URL.
func below(path string) string {
	if _, after, ok := strings.Cut(path, "/computeMetadata/v1/"); ok {
		path = after
	}
	return strings.TrimPrefix(path, "/")
}

// completePath completes metadata paths from the server.
func (s *server) completePath(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if s.address() == "" {
		return s.remote.completePath(c, args, typed)
	}
	const none = cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 {
		return nil, none
	}
	ctx, cancel := context.WithTimeout(c.Context(), 2*time.Second)
	defer cancel()
	dir := typed[:strings.LastIndexByte(typed, '/')+1]
	list, err := (&client.Client{Host: s.address(), Patience: -1}).Get(ctx, dir)
	if err != nil {
		return nil, none
	}
	var paths []string
	for name := range strings.FieldsSeq(list) {
		if strings.HasPrefix(dir+name, typed) {
			paths = append(paths, dir+name)
		}
	}
	return paths, none
}
