package e2e

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// archive is the container image that e2e/run makes of the binary.
const archive = "../dist/e2e/image.tar"

// podAddress is what a container has here; nothing outside its namespace does.
const podAddress = "198.51.100.7"

// An image is what the archive says of itself.
type image struct {
	Config struct {
		User            string
		Env             []string
		Entrypoint, Cmd []string
	} `json:"config"`
}

// unpackImage returns the configuration of the image in the archive, and its
// files in a directory.
func unpackImage(t *testing.T) (i image, root string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatalf("the image is not there; run e2e/run (%v)", err)
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && h.Typeflag == tar.TypeReg {
			files[h.Name], err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatalf("%s: %v", archive, err)
		}
	}
	var manifest []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("%s: %d images in manifest.json, want one: %v", archive, len(manifest), err)
	}
	if err := json.Unmarshal(files[manifest[0].Config], &i); err != nil {
		t.Fatalf("the configuration of the image: %v", err)
	}
	root = t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, layer := range manifest[0].Layers {
		cmd := exec.Command("tar", "-xz", "--same-owner", "--same-permissions", "-C", root)
		cmd.Stdin = strings.NewReader(string(files[layer]))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("layer %s: %v\n%s", layer, err, out)
		}
	}
	return i, root
}

// A container is a running one. As a place it is where its neighbours run, who
// have the files of this machine but its network.
type container struct{ pid int }

func (c container) command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", slices.Concat([]string{"--target", strconv.Itoa(c.pid), "--net", "--", name}, args)...)
	cmd.Env = append(slices.Clone(env), "PATH="+os.Getenv("PATH"))
	return cmd
}

// inside is the same container as "kubectl exec" sees it.
type inside struct {
	container
	uid string
}

func (i inside) command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", slices.Concat([]string{"--target", strconv.Itoa(i.pid),
		"--mount", "--net", "--uts", "--ipc", "--pid", "--root", "--wd=/", "--setuid", i.uid, "--setgid", i.uid, "--", name}, args)...)
	cmd.Env = env
	return cmd
}

// runContainer starts the image and returns when it serves. It must end well
// when it is told to.
func runContainer(t *testing.T, root, uid string, env, mounts, command []string) container {
	t.Helper()
	cmd := exec.Command("unshare", slices.Concat([]string{"--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child",
		filepath.Join(here, "container"), root, uid, podAddress}, mounts, []string{"--"}, command)...)
	cmd.Env = env
	says := &buffer{}
	cmd.Stdout, cmd.Stderr = says, says
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		fmt.Fprintf(says, "ended: %v\n", err)
		exited <- err
	}()
	c := container{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s said:\n%s", strings.Join(command, " "), says)
		}
	})
	t.Cleanup(func() {
		if c.pid == 0 {
			cmd.Process.Kill()
			<-exited
			return
		}
		syscall.Kill(c.pid, syscall.SIGTERM)
		select {
		case err := <-exited:
			if err != nil {
				t.Errorf("the container, told to end: %v; want exit status 0", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the container does not end within 20 s")
			cmd.Process.Kill()
			<-exited
		}
	})
	says.wait(t, "GCE_METADATA_HOST=|ended: ")
	if strings.Contains(says.String(), "ended: ") {
		t.Fatal("the container ended before it served")
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
	if err == nil {
		c.pid, err = strconv.Atoi(strings.TrimSpace(string(children)))
	}
	if err != nil {
		t.Fatalf("the first process of the container: %v", err)
	}
	return c
}

// curl returns the body and then the status of a request in the network of the
// container, and "000" if nobody answers.
func curl(t *testing.T, p place, args ...string) string {
	t.Helper()
	s := &server{place: p}
	return s.run(t, nil, "sh", slices.Concat([]string{"-c", `curl -s -m 20 -w ' %{http_code}' "$@" || true`, "sh"}, args)...)
}

const flavor = "Metadata-Flavor: Google"

// TestContainer: the image, as somebody runs it who gives it nothing but what
// its documentation says.
func TestContainer(t *testing.T) {
	needWorld(t)
	i, root := unpackImage(t)
	uid, _, _ := strings.Cut(i.Config.User, ":")
	if n, err := strconv.Atoi(uid); err != nil || n == 0 {
		t.Fatalf("the image runs as user %q, want a number that is not 0", i.Config.User)
	}
	for name, c := range map[string]struct {
		env    []string
		args   []string
		remote string // what its neighbours get
	}{
		"as it is":             {i.Config.Env, i.Config.Cmd, "demo-instance 200"},
		"no variables":         {[]string{"GCEMDS_ADMIN=/run/gcemds/admin.sock"}, []string{"serve"}, " 000"},
		"what the flags allow": {[]string{"GCEMDS_ADMIN=/run/gcemds/admin.sock"}, []string{"serve", "--listen", "0.0.0.0:8080", "--allow-remote"}, "demo-instance 200"},
	} {
		t.Run(name, func(t *testing.T) {
			p := runContainer(t, root, uid, c.env, []string{"=/run/gcemds"}, slices.Concat(i.Config.Entrypoint, c.args))
			const path = ":8080/computeMetadata/v1/instance/name"
			if got := curl(t, p, "-H", flavor, "http://127.0.0.1"+path); got != "demo-instance 200" {
				t.Errorf("in the container: %q, want the name of the instance", got)
			}
			if got := curl(t, p, "-H", flavor, "http://"+podAddress+path); got != c.remote {
				t.Errorf("from outside: %q, want %q", got, c.remote)
			}
		})
	}
}

// TestKubernetes: the manifests, without a cluster. The container has the
// arguments, the user and the volumes that the Deployment gives it; the probes
// ask as the kubelet does, and the client pod as its manifest says.
func TestKubernetes(t *testing.T) {
	needWorld(t)
	i, root := unpackImage(t)
	var config struct{ Data map[string]string }
	var deployment struct{ Spec struct{ Template pod } }
	var client pod
	var service struct {
		Spec struct {
			Ports []struct {
				Port       int
				TargetPort string `yaml:"targetPort"`
			}
		}
	}
	manifest(t, "gcemds.yaml", map[string]any{"ConfigMap": &config, "Deployment": &deployment, "Service": &service})
	manifest(t, "client.yaml", map[string]any{"Pod": &client})

	spec := deployment.Spec.Template.Spec
	gcemds := spec.Containers[0]
	var mounts []string
	for _, m := range gcemds.VolumeMounts {
		switch v := spec.volume(m.Name); {
		case v.EmptyDir != nil:
			mounts = append(mounts, "="+m.MountPath)
		case v.ConfigMap != nil:
			dir := t.TempDir()
			for name, data := range config.Data {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			mounts = append(mounts, dir+"="+m.MountPath)
		default:
			t.Fatalf("the volume %s is of no kind that this test knows", m.Name)
		}
	}
	c := runContainer(t, root, strconv.Itoa(spec.SecurityContext.RunAsUser), i.Config.Env, mounts,
		slices.Concat(i.Config.Entrypoint, gcemds.Args))

	for name, p := range map[string]probe{"liveness": gcemds.LivenessProbe, "readiness": gcemds.ReadinessProbe} {
		url := fmt.Sprintf("http://%s:%d%s", podAddress, gcemds.port(p.HTTPGet.Port), p.HTTPGet.Path)
		if got := curl(t, c, "-o", "/dev/null", url); got != " 200" {
			t.Errorf("the %s probe %s gets%s, want 200", name, url, got)
		}
	}

	// The client asks for the name of the Service, which leads to the pod.
	host := client.Spec.Containers[0].Env[0].Value
	port := service.Spec.Ports[0]
	lead := fmt.Sprintf("%%s:%d:%s:%d", port.Port, podAddress, gcemds.port(port.TargetPort))
	args := []string{"--connect-to", fmt.Sprintf(lead, host)}
	for _, arg := range client.Spec.Containers[0].Args {
		args = append(args, strings.ReplaceAll(arg, "$(GCE_METADATA_HOST)", host))
	}
	if got := curl(t, c, args...); !strings.HasSuffix(got, " 200") || !strings.Contains(got, `"cluster-name":"my-cluster"`) {
		t.Errorf("the client gets %s, want the instance with the attribute of the ConfigMap", got)
	}
	token := "http://" + host + "/computeMetadata/v1/instance/service-accounts/default/token"
	if got := curl(t, c, "--connect-to", fmt.Sprintf(lead, host), "-H", flavor, token); !strings.Contains(got, `"token_type":"Bearer"`) {
		t.Errorf("a token through the Service: %s", got)
	}
	if got := curl(t, c, "-o", "/dev/null", "--connect-to", fmt.Sprintf(lead, "rebound.example.com"), "-H", flavor,
		"http://rebound.example.com/computeMetadata/v1/"); got == " 200" {
		t.Errorf("a request for another name gets%s, want a refusal", got)
	}

	// kubectl exec deploy/gcemds -- /gcemds set …
	s := &server{place: inside{c, strconv.Itoa(spec.SecurityContext.RunAsUser)}}
	s.run(t, i.Config.Env, i.Config.Entrypoint[0], "set", "instance/attributes/cluster-name", "other")
	if got := curl(t, c, "-H", flavor, "http://127.0.0.1:8080/computeMetadata/v1/instance/attributes/cluster-name"); got != "other 200" {
		t.Errorf("after a set in the container: %q, want the new value", got)
	}
}

type pod struct {
	Spec podSpec
}

type podSpec struct {
	SecurityContext struct {
		RunAsUser int `yaml:"runAsUser"`
	} `yaml:"securityContext"`
	Containers []podContainer
	Volumes    []volume
}

type podContainer struct {
	Args  []string
	Env   []struct{ Name, Value string }
	Ports []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
	LivenessProbe  probe `yaml:"livenessProbe"`
	ReadinessProbe probe `yaml:"readinessProbe"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

type volume struct {
	Name      string
	ConfigMap map[string]any `yaml:"configMap"`
	EmptyDir  map[string]any `yaml:"emptyDir"`
}

func (s podSpec) volume(name string) volume {
	i := slices.IndexFunc(s.Volumes, func(v volume) bool { return v.Name == name })
	if i < 0 {
		return volume{}
	}
	return s.Volumes[i]
}

func (c podContainer) port(name string) int {
	for _, p := range c.Ports {
		if p.Name == name {
			return p.ContainerPort
		}
	}
	return 0
}

// manifest reads the objects of these kinds.
func manifest(t *testing.T, name string, kinds map[string]any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../deploy/kubernetes", name))
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range strings.Split(string(data), "\n---\n") {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
			t.Fatal(err)
		}
		if into := kinds[kind.Kind]; into != nil {
			if err := yaml.Unmarshal([]byte(document), into); err != nil {
				t.Fatalf("%s in %s: %v", kind.Kind, name, err)
			}
		}
	}
}
