package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gcemds/gcemds/client"
)

func newCapture() *cobra.Command {
	var s server
	var withSecrets bool
	c := &cobra.Command{
		Use:   "capture",
		Short: "Print a machine's metadata as a document that serve takes",
		Long: `Ask a metadata server for everything it has, also for what its recursive answer
leaves out, and print it as a document for gcemds serve --metadata. gcemds --help
says which server is asked; that of the machine itself must be named.

Tokens are never asked for. Attributes and certificates that look like secrets
are left out; they are listed on stderr, and so is what you should look through
because people put secrets there.`,
		Example: `  gcemds capture --host metadata.google.internal > vm-1.json
  gcemds capture --host 127.0.0.1:8080 --with-secrets`,
		RunE: func(c *cobra.Command, _ []string) error {
			asked, err := s.metadata(c.Context())
			if err != nil {
				return err
			}
			doc, err := captureDocument(c.Context(), asked)
			if err != nil {
				return err
			}
			hidden, doubtful := sift(doc, withSecrets)
			list(c.ErrOrStderr(), "left out, because it looks like a secret (--with-secrets keeps it):", hidden)
			list(c.ErrOrStderr(), "kept; look whether there is a secret in it:", doubtful)
			return printJSON(c.OutOrStdout(), doc)
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&withSecrets, "with-secrets", false, "keep what looks like a secret")
	return c
}

func list(w io.Writer, title string, paths []string) {
	if len(paths) > 0 {
		fmt.Fprintln(w, title)
	}
	for _, p := range paths {
		fmt.Fprintln(w, "  "+shownWord(p))
	}
}

// unrecursed are the paths that the recursive answer does not have, where
// there are any. They are spelt as a document may spell them.
var unrecursed = []struct {
	path      string
	recursive bool // a directory
}{
	{"universe/universe-domain", false},
	{"instance/upcoming-maintenance", false},
	{"instance/platform-security/auto-mtls-configuration", false},
	{"instance/guest-attributes", true},
	{"instance/shutdown-details", true},
	{"instance/credentials/mds-client-certificate", false},
	{"instance/gce-workload-certificates/config-status", false},
	{"instance/gce-workload-certificates/trust-anchors", false},
	{"instance/gce-workload-certificates/workload-identities", false},
	{"instance/workload-certificates-config-status", false},
	{"instance/workload-identities", false},
	{"instance/workload-trusted-root-certs", false},
}

// captureDocument asks for everything. What recursion leaves out is optional:
// a machine that does not have it answers with one of several errors.
func captureDocument(ctx context.Context, asked *client.Client) (map[string]any, error) {
	var doc map[string]any
	if err := asked.Tree(ctx, "", &doc); err != nil {
		return nil, err
	}
	once := &client.Client{Host: asked.Host, HTTP: asked.HTTP, Patience: -1}
	for _, u := range unrecursed {
		query := "?alt=json"
		if u.recursive {
			query = "/?recursive=true"
		}
		text, err := once.Get(ctx, u.path+query)
		if ctx.Err() != nil {
			return nil, err
		}
		var unanswered *client.Error
		if errors.As(err, &unanswered) && unanswered.Status == 0 {
			return nil, err
		}
		value, bad := decodeNumbers(text)
		if err != nil || bad != nil || empty(value) || value == "NONE" {
			continue // the machine has none, or what a new machine has anyway
		}
		put(doc, strings.Split(u.path, "/"), value)
	}
	return doc, nil
}

// decodeNumbers decodes JSON and keeps all digits of its numbers.
func decodeNumbers(text string) (v any, err error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	err = dec.Decode(&v)
	return v, err
}

func empty(v any) bool {
	m, is := v.(map[string]any)
	return v == nil || v == "" || is && len(m) == 0
}

// put sets a path of a document whose keys may be spelt as in JSON.
func put(doc map[string]any, path []string, value any) {
	key := spelt(doc, path[0])
	if len(path) == 1 {
		doc[key] = value
		return
	}
	below, is := doc[key].(map[string]any)
	if !is {
		below = map[string]any{}
		doc[key] = below
	}
	put(below, path[1:], value)
}

// spelt is the key of a document that stands for one of a path.
func spelt(doc map[string]any, key string) string {
	for have := range doc {
		if strings.EqualFold(have, strings.ReplaceAll(key, "-", "")) {
			return have
		}
	}
	return key
}

var (
	// secretName matches names of attributes that hold secrets: those that
	// GKE gives its nodes, and what people call theirs.
	secretName = regexp.MustCompile(`(?i)passw|passphrase|secret|token|credential|private|api[-_]?key|access[-_]?key|bearer|^kube-env$|^kubeconfig$|^kube-master-certs$|^kubelet|^master-`)
	// secretValue matches what is one whatever it is called: private keys,
	// Google's access tokens and API keys, signed JWTs, keys of AWS.
	secretValue = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY|\bya29\.|\bAIza[\w-]{35}|\beyJ[\w-]{5,}\.[\w-]+\.[\w-]+|\b(AKIA|ASIA)[A-Z0-9]{16}\b|"private_key"`)
	// doubtfulName matches attributes that programs and settings are put in.
	doubtfulName = regexp.MustCompile(`(?i)script|user-data|config|env|cloud-init|declaration`)
)

// sealed are the paths that always are secrets.
var sealed = [][]string{
	{"instance", "credentials"},
	{"instance", "gce-workload-certificates", "workload-identities"},
	{"instance", "workload-identities"},
}

// sift takes the secrets out of a document, unless they are wanted, and
// returns the paths of those and of what may have some in it.
func sift(doc map[string]any, keep bool) (hidden, doubtful []string) {
	for _, path := range sealed {
		last := len(path) - 1
		above := directory(doc, path[:last]...)
		key := spelt(above, path[last])
		if _, there := above[key]; !there {
			continue
		}
		if hidden = append(hidden, strings.Join(path, "/")); !keep {
			delete(above, key)
		}
	}
	for _, path := range []string{"instance/attributes", "instance/guest-attributes", "project/attributes"} {
		attributes := directory(doc, strings.Split(path, "/")...)
		for _, key := range slices.Sorted(maps.Keys(attributes)) {
			text, _ := json.Marshal(attributes[key])
			var value string
			if json.Unmarshal(text, &value) != nil {
				value = string(text) // a namespace of guest attributes
			}
			switch {
			case secretName.MatchString(key) || secretValue.MatchString(value):
				if hidden = append(hidden, path+"/"+key); !keep {
					delete(attributes, key)
				}
			case doubtfulName.MatchString(key):
				doubtful = append(doubtful, path+"/"+key)
			}
		}
	}
	accounts := directory(doc, "instance", "service-accounts")
	for name := range accounts { // some server may have them in its recursive answer
		delete(directory(accounts, name), "token")
		delete(directory(accounts, name), "identity")
	}
	if keep {
		return nil, append(hidden, doubtful...)
	}
	return hidden, doubtful
}

// directory is what lies below a path; nil, which can be read, if nothing does.
func directory(doc map[string]any, path ...string) map[string]any {
	for _, key := range path {
		doc, _ = doc[spelt(doc, key)].(map[string]any)
	}
	return doc
}
