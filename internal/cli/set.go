package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/gcemds/gcemds/internal/admin"
)

func newSet() *cobra.Command {
	var r remote
	var asJSON bool
	c := &cobra.Command{
		Use:   "set PATH VALUE",
		Short: "Change a value of a running server",
		Long: `Change a value of a server that runs on this machine. Whoever waits for a change
of it is answered. The change stays until the server ends, also over reloads.

VALUE - reads it from standard input. A VALUE that begins with - comes after --.`,
		Example: `  gcemds set instance/attributes/env dev
  gcemds set instance/maintenance-event MIGRATE_ON_HOST_MAINTENANCE
  gcemds set instance/tags --json '["web","test"]'
  gcemds set instance/attributes/startup-script - < startup.sh
  gcemds set instance/remaining-cpu-time -- -1`,
		ValidArgsFunction: r.completePath,
		RunE: func(c *cobra.Command, args []string) error {
			value := []byte(args[1])
			if args[1] == "-" {
				var err error
				if value, err = io.ReadAll(c.InOrStdin()); err != nil {
					return err
				}
			}
			if !asJSON {
				value, _ = json.Marshal(string(value)) // a string always marshals
			} else if !json.Valid(value) {
				return fmt.Errorf("%s: the value is not JSON; without --json it is taken as text", args[0])
			}
			return r.client().Edit(c.Context(), r.instance, admin.Edit{Path: args[0], Value: value})
		},
	}
	r.instanceFlags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "VALUE is JSON: a number, a list, an object")
	return c
}

func newDelete() *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:               "delete PATH",
		Short:             "Delete a value or a directory of a running server",
		Example:           "  gcemds delete instance/attributes/env",
		ValidArgsFunction: r.completePath,
		RunE: func(c *cobra.Command, args []string) error {
			return r.client().Edit(c.Context(), r.instance, admin.Edit{Path: args[0], Delete: true})
		},
	}
	r.instanceFlags(c)
	return c
}

// A batch is a file of changes that are made together.
type batch struct {
	Set    map[string]any `yaml:"set" json:"set"`
	Delete []string       `yaml:"delete" json:"delete"`
}

func newApply() *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:   "apply FILE",
		Short: "Make several changes at once, or none",
		Long: `Make the changes of a YAML or JSON file at once: all of them, or, when one is
wrong, none. Deletions come first. FILE - is standard input.

  delete: [instance/attributes/old]
  set:
    instance/attributes/env: dev
    instance/tags: [web, test]`,
		Example: "  gcemds apply changes.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			data, err := readInput(c, args[0])
			if err != nil {
				return err
			}
			edits, err := readBatch(data)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return r.client().Edit(c.Context(), r.instance, edits...)
		},
	}
	r.instanceFlags(c)
	return c
}

func readBatch(data []byte) ([]admin.Edit, error) {
	var b batch
	load := func() error { return yaml.Load(data, &b, yaml.WithKnownFields()) }
	if json.Valid(data) { // YAML lacks its pairs of \u escapes and its numbers of any length
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		d.DisallowUnknownFields()
		load = func() error { return d.Decode(&b) }
	}
	if err := load(); err != nil {
		return nil, fmt.Errorf("not a list of changes: %w", err)
	}
	var edits []admin.Edit
	for _, path := range b.Delete {
		edits = append(edits, admin.Edit{Path: path, Delete: true})
	}
	for _, path := range slices.Sorted(maps.Keys(b.Set)) { // a directory before what is in it
		data, err := json.Marshal(b.Set[path])
		if err != nil {
			return nil, fmt.Errorf("%s: the value is not one that JSON has: %w", path, err)
		}
		edits = append(edits, admin.Edit{Path: path, Value: data})
	}
	if len(edits) == 0 {
		return nil, errors.New(`there is neither "set" nor "delete"`)
	}
	return edits, nil
}

func readInput(c *cobra.Command, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(c.InOrStdin())
	}
	return os.ReadFile(name)
}
