package config

import (
	_ "embed"
	"io"
	"slices"

	"go.yaml.in/yaml/v4"
)

//go:embed starter.yaml
var starter []byte

// Init returns a file to begin with: the default, with comments and examples.
func Init() []byte { return slices.Clone(starter) }

// Show prints what holds, as a file that Load accepts; file names are relative
// to where gcemds runs. With origins, a comment at each value says where it
// came from: "flag --listen", "env GCEMDS_LISTEN", "mds.yaml:12", "default".
// There are no secrets in a configuration, only the names of their files.
func (c *Config) Show(w io.Writer, origins bool) error {
	d, err := yaml.NewDumper(w, yaml.WithIndent(2), yaml.WithLineWidth(-1))
	if err != nil {
		return err
	}
	if err := d.Dump(shown(c.root, origins)); err != nil {
		return err
	}
	return d.Close()
}

// shown copies a tree without comments, but those of origins where a value stands.
func shown(n *yaml.Node, origins bool) *yaml.Node {
	c := *n
	c.Content = make([]*yaml.Node, len(n.Content))
	for i, below := range n.Content {
		c.Content[i] = shown(below, origins && (n.Kind != yaml.MappingNode || i%2 == 1))
	}
	if !origins || len(n.Content) > 0 {
		c.LineComment = ""
	}
	return &c
}
