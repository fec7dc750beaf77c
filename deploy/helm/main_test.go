package main

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"

	"github.com/gcemds/gcemds/internal/gke"
)

const provider = "projects/123456789012/locations/global/workloadIdentityPools/my-pool/providers/my-cluster"

// rendered is the chart with what must be set, and with more values.
func rendered(t *testing.T, values string) release {
	t.Helper()
	merged := parse(t, "gke: {project_id: my-project, provider: {workload_identity: "+provider+"}}")[0]
	if values != "" {
		merged = loader.MergeMaps(merged, parse(t, values)[0])
	}
	return release{chart: "gcemds", name: "gcemds", namespace: "gcemds-system", values: merged}
}

// An object is one of Kubernetes, or another thing in YAML.
type object map[string]any

func parse(t *testing.T, text string) (all []object) {
	t.Helper()
	var list []map[string]any
	if err := yaml.Load([]byte(text), &list, yaml.WithAllDocuments()); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for _, o := range list {
		all = append(all, o)
	}
	return all
}

// at returns the value at a path that is written with dots; an element that is
// a number is an index.
func (o object) at(path string) any {
	var v any = map[string]any(o)
	for _, k := range strings.Split(path, ".") {
		if i, err := strconv.Atoi(k); err == nil {
			l, _ := v.([]any)
			if i >= len(l) {
				return nil
			}
			v = l[i]
		} else {
			m, _ := v.(map[string]any)
			v = m[k]
		}
	}
	return v
}

func (o object) want(t *testing.T, path string, want any) {
	t.Helper()
	if got := o.at(path); !reflect.DeepEqual(got, want) {
		t.Errorf("%v %v: %s is %v, want %v", o["kind"], o.at("metadata.name"), path, got, want)
	}
}

// one returns the only object of a kind.
func one(t *testing.T, all []object, kind string) object {
	t.Helper()
	var found []object
	for _, o := range all {
		if o["kind"] == kind {
			found = append(found, o)
		}
	}
	if len(found) != 1 {
		t.Fatalf("there are %d objects of the kind %s, want 1", len(found), kind)
	}
	return found[0]
}

// cases are values, and what follows from them.
var cases = []struct {
	name, values string
	setup        string   // arguments of the set-up; "": there is none
	capabilities []string // of the server; who has any is root
	listen       string   // of the file; "": each node says it itself
	has, lacks   []string // words of the manifest
}{
	{"default", "", "intercept install --mode=auto --to=169.254.169.252:16988", nil, "169.254.169.252:16988",
		[]string{"privileged: true", "path: /sys/fs/bpf", "serviceaccounts/token", "kind: ValidatingAdmissionPolicy", "maxSurge: 1", "image: ghcr.io/gcemds/gcemds:dev"},
		[]string{"nodes.gcemds", "events", "NetworkPolicy", "PodMonitor", "coredns", "hostPID", "patch", "gke-metadata-server-enabled"}},
	{"nftables", "intercept: {mode: nftables, hostNetwork: true, ipv6: true}", "intercept install --mode=nftables --to=169.254.169.252:16988 --host-network --ipv6", nil, "169.254.169.252:16988 [fd20:ce::252]:16988",
		[]string{"add: [NET_ADMIN]"}, []string{"privileged", "hostPath"}},
	{"the port of GKE", "intercept: {mode: nftables, port: 988}", "intercept install --mode=nftables --to=169.254.169.252:988", []string{"NET_BIND_SERVICE"}, "169.254.169.252:988", nil, []string{"privileged"}},
	{"ebpf", "intercept: {mode: ebpf}", "intercept install --mode=ebpf --to=169.254.169.252:16988", nil, "169.254.169.252:16988", []string{"path: /sys/fs/bpf", "path: /sys/fs/cgroup"}, nil},
	{"ebpf for all", "{gke: {attest: all}, intercept: {mode: ebpf}}", "intercept install --mode=ebpf --to=169.254.169.252:16988", []string{"DAC_READ_SEARCH", "BPF"}, "169.254.169.252:16988",
		[]string{"{name: bpf, mountPath: /sys/fs/bpf, readOnly: true}"}, []string{"hostPID"}},
	{"at the address of the node", "{intercept: {mode: ebpf, nodeAddress: true}, networkPolicy: {namespaces: [team-a]}}", "intercept install --mode=ebpf --to=$(NODE_IP):16988", nil, "",
		[]string{"{name: GCEMDS_LISTEN, value: \"$(NODE_IP):16988\"}", "GCEMDS_ALLOW_REMOTE, value: \"true\"", "GCEMDS_REUSE_PORT, value: \"true\"", "fieldPath: status.hostIP", "- ports: [{protocol: TCP, port: 16988}]"}, []string{"169.254.169.252", "listen:"}},
	{"at the address of the node with GKE's port", "intercept: {mode: nftables, nodeAddress: true, port: 988}", "intercept install --mode=nftables --to=$(NODE_IP):988", []string{"NET_BIND_SERVICE"}, "", nil, nil},
	{"loopback and IPv6", "intercept: {mode: loopback, ipv6: true}", "intercept install --mode=loopback --ipv6", []string{"NET_BIND_SERVICE"}, "169.254.169.254:80 [fd20:ce::254]:80", nil, nil},
	{"ebpf leads IPv6 to IPv4", "intercept: {mode: ebpf, ipv6: true}", "intercept install --mode=ebpf --to=169.254.169.252:16988 --ipv6", nil, "169.254.169.252:16988", nil, nil},
	{"loopback has one address", "intercept: {mode: loopback, nodeAddress: true}", "intercept install --mode=loopback", []string{"NET_BIND_SERVICE"}, "169.254.169.254:80", nil, []string{"NODE_IP"}},
	{"cgroups of version 1", "{gke: {attest: host}, hostPID: true, intercept: {mode: nftables}}", "intercept install --mode=nftables --to=169.254.169.252:16988", []string{"DAC_READ_SEARCH", "SYS_PTRACE"}, "169.254.169.252:16988",
		[]string{"hostPID: true"}, nil},
	{"nobody attests", "{hostPID: true, intercept: {mode: nftables}}", "intercept install --mode=nftables --to=169.254.169.252:16988", nil, "169.254.169.252:16988", nil, []string{"hostPID"}},
	{"loopback", "intercept: {mode: loopback}", "intercept install --mode=loopback", []string{"NET_BIND_SERVICE"}, "169.254.169.254:80", []string{"add: [NET_ADMIN]"}, []string{"privileged"}},
	{"environment", "intercept: {mode: environment}", "", nil, ":16988", nil, []string{"initContainers", "NET_ADMIN", "hostPath"}},
	{"on the way out", "intercept: {mode: nftables, remove: true}", "intercept remove", nil, "127.0.0.1:0", []string{"add: [NET_ADMIN]"}, []string{"--mode"}},
	{"on the way out of ebpf", "intercept: {mode: ebpf, remove: true}", "intercept remove", nil, "127.0.0.1:0", []string{"privileged: true", "path: /sys/fs/bpf"}, nil},
	{"on the way out of none", "intercept: {mode: environment, remove: true}", "intercept remove", nil, "127.0.0.1:0", nil, nil},
	{"the host's network", "{gke: {attest: host}, intercept: {mode: nftables, hostNetwork: true}}", "intercept install --mode=nftables --to=169.254.169.252:16988 --host-network", []string{"DAC_READ_SEARCH"}, "169.254.169.252:16988",
		[]string{"path: /sys/fs/cgroup", "attest: host"}, []string{"hostPID"}},
	{"all rights", "{gke: {attest: all, projected: {dir: /data/kubelet/pods}}, hostPID: true, intercept: {mode: ebpf, port: 988}}", "intercept install --mode=ebpf --to=169.254.169.252:988", []string{"NET_BIND_SERVICE", "DAC_READ_SEARCH", "BPF", "SYS_PTRACE"}, "169.254.169.252:988",
		[]string{"path: /data/kubelet/pods", "mountPath: /data/kubelet/pods", "mountPropagation: HostToContainer"}, nil},
	{"hardened", "{gke: {projected: {}}, tokens: {namespaces: [a]}, intercept: {mode: nftables}}", "intercept install --mode=nftables --to=169.254.169.252:16988", []string{"DAC_READ_SEARCH"}, "169.254.169.252:16988",
		[]string{"path: /var/lib/kubelet/pods"}, []string{"serviceaccounts/token", "ValidatingAdmissionPolicy", "RoleBinding\nmetadata:\n  name: gcemds.gcemds-system.tokens"}},
	{"some namespaces", "{tokens: {namespaces: [team-a, team-b]}, intercept: {mode: nftables}}", "intercept install --mode=nftables --to=169.254.169.252:16988", nil, "169.254.169.252:16988",
		[]string{"name: gcemds.gcemds-system.tokens\n  namespace: team-a", "name: gcemds.gcemds-system.tokens\n  namespace: team-b", "serviceaccounts/token"}, nil},
	{"start taint", "{gke: {start_taint: gcemds.dev/not-ready, events: true}, intercept: {mode: nftables}}", "intercept install --mode=nftables --to=169.254.169.252:16988", nil, "169.254.169.252:16988",
		[]string{"verbs: [get, list, watch, patch]", "resources: [events], verbs: [create]", "nodes.gcemds.gcemds-system", `b.key == "gcemds.dev/not-ready"`}, nil},
	{"no policy", "{admissionPolicy: {enabled: false}, gke: {start_taint: x}, intercept: {mode: nftables}}", "intercept install --mode=nftables --to=169.254.169.252:16988", nil, "169.254.169.252:16988", nil, []string{"ValidatingAdmissionPolicy"}},
	{"providers", `{gke: {provider: {workload_identity: "https://iam.googleapis.com/` + provider + `"}, providers: {
		fleet: {membership: "https://gkehub.googleapis.com/projects/my-project/locations/global/memberships/m"},
		other: {membership: "https://gkehub.googleapis.com/projects/my-project/locations/global/memberships/m", pool: other.svc.id.goog},
		test: {audience: "https://cluster.example", sts_audience: x, sts_url: "http://127.0.0.1:1/v1/token"}}}, intercept: {mode: nftables}}`,
		"intercept install --mode=nftables --to=169.254.169.252:16988", nil, "169.254.169.252:16988",
		[]string{`in ["//iam.googleapis.com/` + provider + `","https://cluster.example","my-project.svc.id.goog","other.svc.id.goog"]`}, nil},
	{"everything else", `{
		image: {repository: r.example/gcemds, tag: v9, digest: "sha256:` + strings.Repeat("0", 64) + `", pullPolicy: Always}, imagePullSecrets: [{name: s}],
		config: {log: {level: debug}, limits: {connections: 100}, hosts: [x.example]}, intercept: {mode: nftables},
		dns: {provider: CoreDNSCustom}, networkPolicy: {namespaces: [team-a, team-b]},
		serviceAccount: {name: other, annotations: {a: b}}, metrics: {listen: "0.0.0.0:9999"}, podMonitor: {enabled: true, labels: {release: prometheus}},
		requireNodeLabel: true, nodeSelector: {pool: a}, affinity: {nodeAffinity: null}, tolerations: [], rollout: {maxSurge: 0, maxUnavailable: 10%},
		podAnnotations: {x: "y"}, podLabels: {team: infra}, env: [{name: HTTPS_PROXY, value: "http://proxy:3128"}], seLinuxOptions: {type: spc_t}}`,
		"intercept install --mode=nftables --to=169.254.169.252:16988", nil, "169.254.169.252:16988",
		[]string{"image: r.example/gcemds@sha256:0", "imagePullPolicy: Always", "iam.gke.io/gke-metadata-server-enabled: \"true\"", "pool: a", "serviceAccountName: other", "system:serviceaccount:gcemds-system:other",
			"replacement: \"$1:9999\"", "name: coredns-custom", "gcemds.server: |", "maxUnavailable: 10%", "type: spc_t", "HTTPS_PROXY", "team: infra", "cidr: 169.254.169.252/32"},
		[]string{"tolerations", "affinity", "v9"}},
	{"no metrics", "{metrics: {listen: ''}, intercept: {mode: nftables}}", "intercept install --mode=nftables --to=169.254.169.252:16988", nil, "169.254.169.252:16988", nil, []string{"http:"}},
}

func TestValues(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			text, err := rendered(t, c.values).render()
			if err != nil {
				t.Fatal(err)
			}
			for _, word := range c.has {
				if !strings.Contains(text, word) {
					t.Errorf("%q is missing in\n%s", word, text)
				}
			}
			for _, word := range c.lacks {
				if strings.Contains(text, word) {
					t.Errorf("%q is in\n%s", word, text)
				}
			}
			all := parse(t, text)
			d := one(t, all, "DaemonSet")
			const pod = "spec.template.spec."
			d.want(t, pod+"hostNetwork", true)
			d.want(t, pod+"automountServiceAccountToken", false)
			d.want(t, pod+"enableServiceLinks", false)
			d.want(t, pod+"securityContext.seccompProfile.type", "RuntimeDefault")
			for label, value := range d.at("spec.selector.matchLabels").(map[string]any) {
				if got := d.at("spec.template.metadata.labels").(map[string]any)[label]; got != value {
					t.Errorf("the Pods have the label %s %v, and are selected by %v", label, got, value)
				}
			}

			const server = pod + "containers.0."
			user, add := 65532, any(nil)
			if c.capabilities != nil {
				user = 0
				list := []any{}
				for _, capability := range c.capabilities {
					list = append(list, capability)
				}
				add = list
			}
			d.want(t, pod+"containers.1", nil)
			d.want(t, server+"args", []any{"serve", "--config", "/etc/gcemds/config.yaml"})
			d.want(t, server+"ports", nil) // a port of the node is one server's, and the rollout would leave a gap
			d.want(t, server+"securityContext.runAsUser", user)
			d.want(t, server+"securityContext.runAsGroup", user)
			d.want(t, server+"securityContext.runAsNonRoot", user != 0)
			d.want(t, server+"securityContext.readOnlyRootFilesystem", true)
			d.want(t, server+"securityContext.allowPrivilegeEscalation", false)
			d.want(t, server+"securityContext.privileged", nil)
			d.want(t, server+"securityContext.capabilities.drop", []any{"ALL"})
			d.want(t, server+"securityContext.capabilities.add", add)
			d.want(t, server+"livenessProbe.exec.command", []any{"/gcemds", "status"})
			d.want(t, server+"readinessProbe.exec.command", []any{"/gcemds", "status", "--ready"})

			if c.setup == "" {
				d.want(t, pod+"initContainers", nil)
			} else {
				args := []any{}
				for _, word := range strings.Fields(c.setup) {
					args = append(args, word)
				}
				d.want(t, pod+"initContainers.0.args", args)
				d.want(t, pod+"initContainers.1", nil)
			}
			mounts(t, d)

			for _, o := range all {
				if o["kind"] == "ConfigMap" && o.at("metadata.name") == "gcemds" {
					configured(t, o.at("data").(map[string]any)["config.yaml"].(string), c.listen)
				}
			}
		})
	}
}

// mounts checks that each volume is mounted, and each mount has a volume.
func mounts(t *testing.T, d object) {
	t.Helper()
	has := map[any]bool{}
	for _, v := range d.at("spec.template.spec.volumes").([]any) {
		has[object(v.(map[string]any)).at("name")] = false
	}
	for _, kind := range []string{"initContainers", "containers"} {
		containers, _ := d.at("spec.template.spec." + kind).([]any)
		for _, c := range containers {
			list, _ := object(c.(map[string]any)).at("volumeMounts").([]any)
			for _, m := range list {
				name := object(m.(map[string]any)).at("name")
				if _, ok := has[name]; !ok {
					t.Errorf("a container mounts %v, which is no volume", name)
				}
				has[name] = true
			}
		}
	}
	for name, mounted := range has {
		if !mounted {
			t.Errorf("nobody mounts the volume %v", name)
		}
	}
}

// configured checks that the file is of the form that gcemds reads.
func configured(t *testing.T, text, listen string) {
	t.Helper()
	var c struct {
		Log    struct{ Level, Format string }
		Limits struct{ Connections int }
		Hosts  []string
		Admin  struct {
			Socket, HTTP string
			ReusePort    bool `yaml:"reuse_port"`
		}
		GKE    gke.Config `yaml:"gke"`
		Listen map[string]struct {
			TCP         string
			AllowRemote bool `yaml:"allow_remote"`
			ReusePort   bool `yaml:"reuse_port"`
			Optional    bool
		}
	}
	if err := yaml.Load([]byte(text), &c, yaml.WithKnownFields()); err != nil {
		t.Fatalf("the configuration cannot be read: %v\n%s", err, text)
	}
	var at []string
	for _, name := range slices.Sorted(maps.Keys(c.Listen)) {
		l := c.Listen[name]
		at = append([]string{l.TCP}, at...) // main first
		if !l.ReusePort || !l.AllowRemote || l.Optional != (name == "ipv6") {
			t.Errorf("the listener %s is %+v, want that others may reach and share it, and that a node can do without if it is of IPv6", name, l)
		}
	}
	if got := strings.Join(at, " "); c.GKE.ProjectID != "my-project" || got != listen || c.Log.Format != "json" {
		t.Errorf("the configuration is\n%swant project my-project, listeners at %s, and a log in JSON", text, listen)
	}
	if c.Admin.Socket != "/run/gcemds/admin.sock" || c.Admin.ReusePort != (c.Admin.HTTP != "") {
		t.Errorf("admin is %+v, want a socket where the probes ask, and a port that others may share", c.Admin)
	}
}

// TestRefused: wrong values are refused with words that lead to them.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct{ values, want string }{
		"nothing set":        {"gke: null", "missing property 'gke'"},
		"no provider":        {"gke: {provider: null}", "at '/gke/provider': got null, want object"},
		"the project's id":   {"gke: {provider: {workload_identity: projects/my-project/locations/global/workloadIdentityPools/my-pool/providers/p123}}", "at '/gke/provider/workload_identity': 'projects/my-project/"},
		"two kinds":          {"gke: {provider: {membership: 'https://gkehub.googleapis.com/x'}}", "at '/gke/provider': 'oneOf' failed, subschemas 0, 1 matched"},
		"a bad project":      {"gke: {project_id: My_Project}", "at '/gke/project_id'"},
		"a number":           {"gke: {project_number: 123}", "at '/gke/project_number': got number, want string"},
		"attest":             {"gke: {attest: some}", "at '/gke/attest': value must be one of 'host', 'all', 'none'"},
		"what is the node's": {"gke: {node: n}", "at '/gke': additional properties 'node' not allowed"},
		"a misspelling":      {"intercpet: {}", "additional properties 'intercpet' not allowed"},
		"the peer's values":  {"config: {projectID: p}", "at '/config': additional properties 'projectID' not allowed"},
		"the chart's own":    {"config: {listen: {}}", "at '/config': additional properties 'listen' not allowed"},
		"a mode":             {"intercept: {mode: iptables}", "at '/intercept/mode': value must be one of 'auto', 'nftables', 'ebpf', 'loopback', 'environment'"},
		"a port":             {"intercept: {port: 70000}", "at '/intercept/port': maximum"},
		"a digest":           {"image: {digest: latest}", "at '/image/digest'"},
		"a namespace":        {"tokens: {namespaces: [Team_A]}", "at '/tokens/namespaces/0'"},
		"attest by nobody":   {"gke: {attest: all}", "gke.attest: all takes intercept.mode: ebpf"},
		"a circle":           {"config: {passthrough: {cloud: aws}}\nintercept: {hostNetwork: true}", "would be led back to it"},
		"another circle":     {"config: {passthrough: {cloud: aws}}\nintercept: {mode: loopback}", "would be led back to it"},
		"unreachable":        {"podMonitor: {enabled: true}", "Prometheus cannot reach metrics.listen"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := rendered(t, c.values).render(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the chart says %v, want …%s…", err, c.want)
			}
		})
	}
}

// TestSchema: the values of the section gke are the fields of the
// configuration, but for those that the chart sets itself.
func TestSchema(t *testing.T) {
	data, err := os.ReadFile("gcemds/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	schema := parse(t, string(data))[0]
	for path, c := range map[string]struct {
		of  any
		own []string
	}{
		"properties.gke.properties":                      {gke.Config{}, []string{"kubeconfig", "node"}},
		"properties.gke.properties.cluster.properties":   {gke.Config{}.Cluster, nil},
		"properties.gke.properties.projected.properties": {gke.Projected{}, nil},
		"$defs.provider.properties":                      {gke.Provider{}, nil},
	} {
		values := slices.Sorted(maps.Keys(schema.at(path).(map[string]any)))
		fields := slices.Clone(c.own)
		kind := reflect.TypeOf(c.of)
		for i := range kind.NumField() {
			fields = append(fields, kind.Field(i).Tag.Get("yaml"))
		}
		slices.Sort(fields)
		for _, own := range c.own {
			fields = slices.DeleteFunc(fields, func(f string) bool { return f == own })
		}
		if !slices.Equal(values, fields) {
			t.Errorf("%s of the schema are %v, the fields of %v are %v", path, values, kind, fields)
		}
	}
}

func TestLint(t *testing.T) {
	for _, m := range lint.RunAll("gcemds", rendered(t, "").values, "gcemds-system").Messages {
		if m.Severity >= support.WarningSev {
			t.Error(m)
		}
	}
}

// TestSideBySide: several releases share nothing, in one namespace or two, so
// that each pool of nodes can have a provider of its own.
func TestSideBySide(t *testing.T) {
	taken := map[string]string{}
	for _, at := range []struct{ name, namespace string }{{"gcemds", "gcemds-system"}, {"gcemds-b", "gcemds-system"}, {"gcemds", "team"}, {"pool", "team"}} {
		r := rendered(t, "{gke: {start_taint: x}, tokens: {namespaces: [apps]}, networkPolicy: {namespaces: [apps]}}")
		r.name, r.namespace = at.name, at.namespace
		text, err := r.render()
		if err != nil {
			t.Fatal(err)
		}
		release := at.namespace + "/" + at.name
		for _, o := range parse(t, text) {
			if o["kind"] == "NetworkPolicy" {
				continue // one of a name says the same as the other
			}
			namespace, _ := o.at("metadata.namespace").(string)
			id := o["kind"].(string) + " " + namespace + "/" + o.at("metadata.name").(string)
			if other, ok := taken[id]; ok {
				t.Errorf("%s is of the release %s and of %s", id, other, release)
			}
			taken[id] = release
		}
	}
}

// TestNotes: what Helm prints leads on.
func TestNotes(t *testing.T) {
	for values, want := range map[string]string{
		"":                               "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/my-pool/subject/system:serviceaccount:NAMESPACE:NAME'",
		"intercept: {mode: environment}": "{name: GCE_METADATA_HOST, value: \"$(HOST_IP):16988\"}",
		"intercept: {remove: true}":      "helm uninstall gcemds leaves nothing behind",
		"requireNodeLabel: true":         "with the label iam.gke.io/gke-metadata-server-enabled=true",
	} {
		files, err := rendered(t, values).files()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(files["NOTES.txt"], want) {
			t.Errorf("with %s the notes lack %q:\n%s", values, want, files["NOTES.txt"])
		}
	}
}

// TestReasons: each right that the chart can ask for has its reason in the
// documents, and no right is told of that it never asks for.
func TestReasons(t *testing.T) {
	page, err := os.ReadFile("../../docs/how-to/kubernetes-pods.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{} // "resource verb"
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z/]+)` \\| ((?:`[a-z]+`(?:, )?)+) \\| .+ \\|$").FindAllStringSubmatch(string(page), -1) {
		for _, verb := range strings.Split(row[2], ", ") {
			told[row[1]+" "+strings.Trim(verb, "`")] = false
		}
	}
	for _, c := range cases {
		text, err := rendered(t, c.values).render()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range parse(t, text) {
			rules, _ := o.at("rules").([]any)
			for _, r := range rules {
				rule := object(r.(map[string]any))
				for _, verb := range rule.at("verbs").([]any) {
					right := rule.at("resources.0").(string) + " " + verb.(string)
					if _, ok := told[right]; !ok || rule.at("resources.1") != nil {
						t.Errorf("%s: the chart asks for the right %q, and docs/how-to/kubernetes-pods.md does not say why", c.name, right)
					}
					told[right] = true
				}
			}
		}
	}
	for right, asked := range told {
		if !asked {
			t.Errorf("docs/how-to/kubernetes-pods.md says why the chart asks for the right %q, and it never does", right)
		}
	}
}

// TestWritten: the plain manifests are what the chart is today.
func TestWritten(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^//go:generate go run \. -values (\S+)(?: -only (\S+))? -header (\S+) -o (\S+)$`).FindAllStringSubmatch(string(source), -1)
	if len(lines) != 2 {
		t.Fatalf("main.go has %d lines for make generate that this test can read, want 2", len(lines))
	}
	for _, l := range lines {
		out := filepath.Join(t.TempDir(), "out.yaml")
		if err := run(release{chart: "gcemds", name: "gcemds", namespace: "gcemds-system", only: l[2]}, l[1], l[3], out); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(l[4])
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s is not what the chart is today; run make generate", l[4])
		}
	}
}
