package kube

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A pod of the tests: one container with the program of the image, which ends
// at once when it is told to.
type pod struct {
	name    string
	account string // its ServiceAccount; "": app
	args    string // of the program, as items of a YAML list
	machine bool   // it has the programs of this machine too, read-only: curl, those of libraries

	volumes, mounts string // besides, as items of YAML lists

	// More fields of its spec and of its container, as those of a YAML mapping
	// in braces: nodeName: node-1, hostNetwork: true.
	spec, container string
}

func (p pod) manifest() string {
	if p.machine {
		volumes, mounts := machine()
		p.volumes, p.mounts = strings.Join(append(volumes, p.volumes), ", "), strings.Join(append(mounts, p.mounts), ", ")
	}
	if p.account == "" {
		p.account = "app"
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec: {
  serviceAccountName: %s,
  terminationGracePeriodSeconds: 1,
  dnsPolicy: Default, # there is no DNS server
  hostAliases: [{ip: 169.254.169.254, hostnames: [metadata.google.internal, metadata]}],
  containers: [{name: pod, image: %q, imagePullPolicy: Never, args: [%s], volumeMounts: [%s], %s}],
  volumes: [%s], %s}
`, p.name, p.account, podImageName, p.args, p.mounts, p.container, p.volumes, p.spec)
}

// machine are the directories of this machine that its programs need, as
// items of volumes and of their mounts.
func machine() (volumes, mounts []string) {
	e2e, dist := directories()
	java, err := filepath.Glob("/etc/java-*-openjdk")
	if err != nil {
		panic(err) // the pattern is right
	}
	for i, path := range slices.Concat([]string{"/usr", "/etc/ssl", "/etc/alternatives", e2e, dist}, java) {
		if _, err := os.Stat(path); err != nil {
			continue // libraries says what is missing
		}
		volumes = append(volumes, fmt.Sprintf("{name: machine-%d, hostPath: {path: %q}}", i, path))
		mounts = append(mounts, fmt.Sprintf("{name: machine-%d, mountPath: %q, readOnly: true}", i, path))
	}
	return volumes, mounts
}

// directories are this one's parent and where e2e/run puts what it installs.
func directories() (e2e, dist string) {
	e2e, err := filepath.Abs("..")
	if err != nil {
		panic(err) // there is a working directory
	}
	return e2e, filepath.Join(e2e, "../dist/e2e")
}

// run makes Pods and returns when all in the namespace are ready.
func (w *world) run(t *testing.T, namespace string, pods ...pod) {
	t.Helper()
	var manifests strings.Builder
	for _, p := range pods {
		manifests.WriteString(p.manifest())
	}
	w.apply(t, namespace, manifests.String())
	w.ready(t, namespace)
}
