// This program writes what the chart gcemds installs, for who has no Helm: the
// plain manifests of deploy/kubernetes, and what the tests apply. It speaks to
// no cluster.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/client-go/rest"
)

//go:generate go run . -values testdata/plain.yaml -header testdata/plain.header -o ../kubernetes/pod-identity.yaml
//go:generate go run . -values testdata/coredns.yaml -only coredns.yaml -header testdata/coredns.header -o ../kubernetes/coredns-custom.yaml

func main() {
	var (
		r      release
		values = flag.String("values", "", "YAML `FILE` of values")
		header = flag.String("header", "", "`FILE` that the output begins with")
		out    = flag.String("o", "", "`FILE` to write; default is to print")
	)
	flag.StringVar(&r.chart, "chart", "gcemds", "`DIRECTORY` of the chart")
	flag.StringVar(&r.name, "name", "gcemds", "`NAME` of the release")
	flag.StringVar(&r.namespace, "namespace", "gcemds-system", "`NAMESPACE` of the release")
	flag.StringVar(&r.only, "only", "", "print one `TEMPLATE` of the chart")
	flag.Parse()
	if err := run(r, *values, *header, *out); err != nil {
		fmt.Fprintln(os.Stderr, "deploy/helm:", err)
		os.Exit(1)
	}
}

func run(r release, values, header, out string) error {
	var b bytes.Buffer
	for _, file := range []struct {
		name string
		use  func([]byte) error
	}{
		{header, func(data []byte) error { b.Write(data); return nil }},
		{values, func(data []byte) (err error) { r.values, err = loader.LoadValues(bytes.NewReader(data)); return err }},
	} {
		if file.name == "" {
			continue
		}
		data, err := os.ReadFile(file.name)
		if err == nil {
			err = file.use(data)
		}
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", file.name, err)
		}
	}
	manifest, err := r.render()
	if err != nil {
		return err
	}
	b.WriteString(manifest)
	if out == "" {
		_, err = os.Stdout.Write(b.Bytes())
		return err
	}
	return os.WriteFile(out, b.Bytes(), 0o644)
}

// A release is the chart under a name, with values.
type release struct {
	chart, name, namespace string
	values                 map[string]any
	only                   string       // name of a template; "": all
	cluster                *rest.Config // where templates look things up; nil: there is nothing
}

// order is that of installation: who needs something comes after it.
var order = []string{"serviceaccount.yaml", "rbac.yaml", "admission.yaml", "configmap.yaml", "coredns.yaml", "networkpolicy.yaml", "daemonset.yaml", "podmonitor.yaml"}

// helmLabels say that Helm looks after an object, which here it does not.
var helmLabels = regexp.MustCompile(`(?m)^ *(app\.kubernetes\.io/managed-by|helm\.sh/chart): .*\n`)

// render checks the values by the schema and returns the objects, in YAML.
func (r release) render() (string, error) {
	files, err := r.files()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, name := range order {
		text := strings.TrimSpace(files[name])
		delete(files, name)
		if text == "" || r.only != "" && name != r.only {
			continue
		}
		fmt.Fprintf(&b, "---\n%s\n", helmLabels.ReplaceAllString(strings.TrimPrefix(text, "---\n"), ""))
	}
	for name := range files {
		if name != "NOTES.txt" && !strings.HasPrefix(name, "_") {
			return "", fmt.Errorf("the template %s has no place in the order of installation", name)
		}
	}
	return b.String(), nil
}

// files returns each template's text under its name.
func (r release) files() (map[string]string, error) {
	chart, err := loader.Load(r.chart)
	if err != nil {
		return nil, fmt.Errorf("cannot load the chart: %w", err)
	}
	if r.values == nil {
		r.values = map[string]any{}
	}
	values, err := util.ToRenderValues(chart, r.values, common.ReleaseOptions{Name: r.name, Namespace: r.namespace, Revision: 1, IsInstall: true}, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	var with engine.Engine
	if r.cluster != nil {
		with = engine.New(r.cluster)
	}
	rendered, err := with.Render(chart, values)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for path, text := range rendered {
		files[path[strings.LastIndexByte(path, '/')+1:]] = text
	}
	return files, nil
}
