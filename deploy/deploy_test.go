// Package deploy tests the systemd units and the Kubernetes manifests: that they are locked down, that their parts fit
// together, and that their configurations are of the form that gcemds reads. It has no code of its own, and it starts
// neither systemd nor a cluster; the end-to-end lanes do that.
package deploy

import (
	"net"
	"os"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// A configuration is what the files here use of the configuration of gcemds. Unknown fields are faults.
type configuration struct {
	Log       struct{ Level, Format string }
	Admin     struct{ Socket, HTTP string }
	Hosts     []string
	Sources   map[string]map[string]any
	Instances map[string]struct {
		Metadata string
		Set      map[string]any
		Accounts map[string]struct {
			Source string
			Scopes []string
		}
	}
	Listen map[string]struct {
		TCP, FD     string
		AllowRemote bool `yaml:"allow_remote"`
	}
}

func parseConfiguration(t *testing.T, text string) configuration {
	t.Helper()
	var c configuration
	if err := yaml.Load([]byte(text), &c, yaml.WithKnownFields()); err != nil {
		t.Fatalf("the configuration cannot be read: %v", err)
	}
	if len(c.Instances) == 0 {
		t.Error("the configuration serves no instance")
	}
	for name, i := range c.Instances {
		for _, a := range i.Accounts {
			if _, ok := c.Sources[a.Source]; !ok {
				t.Errorf("instance %s uses the source %q, which the configuration does not have", name, a.Source)
			}
		}
	}
	return c
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// An object is a Kubernetes object.
type object map[string]any

// objects reads the manifests and returns each object under its kind.
func objects(t *testing.T, name string) map[string]object {
	t.Helper()
	var list []map[string]any
	if err := yaml.Load([]byte(read(t, name)), &list, yaml.WithAllDocuments()); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	kinds := map[string]object{}
	for _, o := range list {
		kind, _ := o["kind"].(string)
		if _, ok := kinds[kind]; ok || kind == "" {
			t.Fatalf("%s: two objects of kind %q, or one without a kind; this test tells them apart by kind", name, kind)
		}
		kinds[kind] = object(o)
	}
	return kinds
}

// at returns the value at a path of keys and indices, nil if there is none.
func (o object) at(keys ...any) any {
	var v any = map[string]any(o)
	for _, k := range keys {
		switch k := k.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[k]
		case int:
			l, _ := v.([]any)
			if k >= len(l) {
				return nil
			}
			v = l[k]
		}
	}
	return v
}

// want checks the value at a path that is written with dots; an element that is a number is an index.
func (o object) want(t *testing.T, path string, want any) {
	t.Helper()
	var keys []any
	for _, k := range strings.Split(path, ".") {
		if i, err := strconv.Atoi(k); err == nil {
			keys = append(keys, i)
		} else {
			keys = append(keys, k)
		}
	}
	if got := o.at(keys...); !reflect.DeepEqual(got, want) {
		t.Errorf("%v %v: %s is %v, want %v", o.at("kind"), o.at("metadata", "name"), path, got, want)
	}
}

// nonRoot checks that a pod has no more rights than any program needs.
func nonRoot(t *testing.T, o object, spec string) {
	t.Helper()
	o.want(t, spec+"automountServiceAccountToken", false)
	o.want(t, spec+"securityContext.runAsNonRoot", true)
	o.want(t, spec+"securityContext.runAsUser", 65532)
	o.want(t, spec+"securityContext.seccompProfile.type", "RuntimeDefault")
	o.want(t, spec+"hostNetwork", nil)
	o.want(t, spec+"containers.1", nil)
	o.want(t, spec+"containers.0.securityContext.allowPrivilegeEscalation", false)
	o.want(t, spec+"containers.0.securityContext.readOnlyRootFilesystem", true)
	o.want(t, spec+"containers.0.securityContext.capabilities.drop", []any{"ALL"})
	o.want(t, spec+"containers.0.securityContext.capabilities.add", nil)
	o.want(t, spec+"containers.0.securityContext.privileged", nil)
}

func TestKubernetes(t *testing.T) {
	all := objects(t, "kubernetes/gcemds.yaml")
	deployment, service, policy := all["Deployment"], all["Service"], all["NetworkPolicy"]
	client := objects(t, "kubernetes/client.yaml")["Pod"]

	t.Run("rights", func(t *testing.T) {
		nonRoot(t, deployment, "spec.template.spec.")
		nonRoot(t, client, "spec.")
	})

	t.Run("names", func(t *testing.T) {
		app := map[string]any{"app.kubernetes.io/name": "gcemds"}
		deployment.want(t, "spec.selector.matchLabels", app)
		deployment.want(t, "spec.template.metadata.labels", app)
		service.want(t, "spec.selector", app)
		policy.want(t, "spec.podSelector.matchLabels", app)
		for _, o := range all {
			o.want(t, "metadata.name", "gcemds")
			o.want(t, "metadata.namespace", "default")
		}
		// Kubernetes would describe the Service in variables that begin with our own prefix.
		deployment.want(t, "spec.template.spec.enableServiceLinks", false)
	})

	t.Run("ports", func(t *testing.T) {
		const ports = "spec.template.spec.containers.0.ports"
		deployment.want(t, ports, []any{
			map[string]any{"name": "metadata", "containerPort": 8080},
			map[string]any{"name": "admin", "containerPort": 8081},
		})
		// Port 80, so that GCE_METADATA_HOST needs none; the admin port is not part of the Service.
		service.want(t, "spec.ports", []any{map[string]any{"name": "metadata", "port": 80, "targetPort": "metadata"}})
	})

	t.Run("probes", func(t *testing.T) {
		const container = "spec.template.spec.containers.0."
		deployment.want(t, container+"livenessProbe.httpGet", map[string]any{"path": "/healthz", "port": "admin"})
		deployment.want(t, container+"readinessProbe.httpGet", map[string]any{"path": "/readyz", "port": "admin"})
	})

	t.Run("policy", func(t *testing.T) {
		policy.want(t, "spec.policyTypes", []any{"Ingress"})
		policy.want(t, "spec.ingress", []any{map[string]any{
			"from":  []any{map[string]any{"podSelector": map[string]any{"matchLabels": client.at("metadata", "labels")}}},
			"ports": []any{map[string]any{"protocol": "TCP", "port": "metadata"}},
		}})
	})

	t.Run("configuration", func(t *testing.T) {
		const file = "gcemds.yaml"
		text, _ := all["ConfigMap"].at("data", file).(string)
		c := parseConfiguration(t, text)
		if got := c.Listen["main"]; got.TCP != "0.0.0.0:8080" || !got.AllowRemote {
			t.Errorf("gcemds listens at %+v, but the Service leads to port 8080 of the pod", got)
		}
		if got := c.Admin.HTTP; got != "0.0.0.0:8081" {
			t.Errorf("the admin API listens at %q, but the probes ask port 8081 of the pod", got)
		}
		host, _ := client.at("spec", "containers", 0, "env", 0, "value").(string)
		if !slices.Contains(c.Hosts, host) {
			t.Errorf("the client asks for %q, which hosts %q would refuse", host, c.Hosts)
		}
		if !slices.Contains(c.Hosts, "gcemds.default.svc.cluster.local") {
			t.Errorf("hosts %q lacks the full name of the Service", c.Hosts)
		}

		args := deployment.at("spec", "template", "spec", "containers", 0, "args")
		if want := []any{"serve", "--config", "/etc/gcemds/" + file}; !reflect.DeepEqual(args, want) {
			t.Errorf("the container runs %v, want %v", args, want)
		}
		mounts := map[string]string{} // path to volume
		list, _ := deployment.at("spec", "template", "spec", "containers", 0, "volumeMounts").([]any)
		for _, m := range list {
			mount := object(m.(map[string]any))
			mounts[mount.at("mountPath").(string)] = mount.at("name").(string)
		}
		want := map[string]string{"/etc/gcemds": "config", path.Dir(c.Admin.Socket): "run"}
		if !reflect.DeepEqual(mounts, want) {
			t.Errorf("the container mounts %v, want the configuration and a place to make the admin socket, %v", mounts, want)
		}
		deployment.want(t, "spec.template.spec.volumes.0", map[string]any{"name": "config", "configMap": map[string]any{"name": "gcemds"}})
	})
}

// unit reads a systemd unit: the values of each directive, in order, under its section and name ("Service.Type").
func unit(t *testing.T, name string) map[string][]string {
	t.Helper()
	directives := map[string][]string{}
	section := ""
	for i, line := range strings.Split(read(t, name), "\n") {
		switch line = strings.TrimSpace(line); {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok {
				t.Fatalf("%s:%d: %q is not a directive", name, i+1, line)
			}
			key = section + "." + key
			directives[key] = append(directives[key], value)
		}
	}
	return directives
}

func TestSystemd(t *testing.T) {
	c := parseConfiguration(t, read(t, "systemd/gcemds.yaml"))
	socket, service := unit(t, "systemd/gcemds.socket"), unit(t, "systemd/gcemds.service")

	t.Run("socket activation", func(t *testing.T) {
		if len(socket["Socket.FileDescriptorName"]) != 1 || len(socket["Socket.ListenStream"]) != 1 {
			t.Fatalf("the socket unit has the names %q and addresses %q, want one each",
				socket["Socket.FileDescriptorName"], socket["Socket.ListenStream"])
		}
		name, address := socket["Socket.FileDescriptorName"][0], socket["Socket.ListenStream"][0]
		l, ok := c.Listen[name]
		if !ok || l.FD != name || l.TCP != "" {
			t.Errorf("the socket unit passes on %s as %q, but the configuration has the listeners %+v", address, name, c.Listen)
		}
		host, _, err := net.SplitHostPort(address)
		if err != nil || !net.ParseIP(host).IsLoopback() {
			t.Errorf("the socket unit listens at %q, want a loopback address: who reaches it gets tokens", address)
		}
	})

	t.Run("admin socket", func(t *testing.T) {
		if got := path.Dir(c.Admin.Socket); !slices.Equal(service["Service.RuntimeDirectory"], []string{strings.TrimPrefix(got, "/run/")}) {
			t.Errorf("the admin socket is in %s, but the service may write in /run/%q", got, service["Service.RuntimeDirectory"])
		}
	})

	t.Run("hardening", func(t *testing.T) {
		for key, want := range map[string][]string{
			"Type":                    {"notify"},
			"ExecReload":              {"/bin/kill -HUP $MAINPID"},
			"AmbientCapabilities":     {""},
			"CapabilityBoundingSet":   {""},
			"DynamicUser":             {"yes"},
			"LimitCORE":               {"0"},
			"MemoryDenyWriteExecute":  {"yes"},
			"NoNewPrivileges":         {"yes"},
			"PrivateDevices":          {"yes"},
			"PrivateTmp":              {"yes"},
			"ProtectHome":             {"yes"},
			"ProtectSystem":           {"strict"},
			"RestrictAddressFamilies": {"AF_INET AF_INET6 AF_UNIX"},
			"RestrictNamespaces":      {"yes"},
			"RuntimeDirectoryMode":    {"0700"},
			"SystemCallArchitectures": {"native"},
			"SystemCallFilter":        {"@system-service", "~@privileged @resources"},
			"UMask":                   {"0077"},
		} {
			if got := service["Service."+key]; !slices.Equal(got, want) {
				t.Errorf("%s is %q, want %q", key, got, want)
			}
		}
	})
}
