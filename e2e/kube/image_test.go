package kube

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// podImageName is the image of Pods, and of what keeps their namespaces: the
// program in the directory pod and nothing else. Its /bin and /lib lead to
// /usr, so a Pod that mounts /usr of this machine has all its programs.
const podImageName = "gcemds.example/pod:e2e"

// buildPodImage returns the archive of a new image.
func buildPodImage(dir string) (string, error) {
	program := filepath.Join(dir, "pod")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./pod")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if _, err := output(build); err != nil {
		return "", fmt.Errorf("cannot build the program of Pods: %w", err)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	archive := filepath.Join(dir, "pod.tar")
	data, err := imageArchive(podImageName, content)
	if err != nil {
		return "", err
	}
	return archive, os.WriteFile(archive, data, 0o600)
}

// imageArchive is an image in the form of "docker save", made without a daemon:
// one static program, /pod. Equal input gives equal archives.
func imageArchive(name string, program []byte) ([]byte, error) {
	headers := []tar.Header{{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}}
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} {
		headers = append(headers, tar.Header{Name: link, Typeflag: tar.TypeSymlink, Linkname: "usr/" + link, Mode: 0o777})
	}
	layer, err := archive(program, append(headers, tar.Header{Name: "pod", Mode: 0o755, Size: int64(len(program))})...)
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/pod"}, "WorkingDir": "/", "Env": []string{path}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return nil, err
	}
	configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest, err := json.Marshal([]any{map[string]any{"Config": configName, "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	return archive(bytes.Join([][]byte{layer, config, manifest}, nil), tar.Header{Name: "layer.tar", Mode: 0o644, Size: int64(len(layer))},
		tar.Header{Name: configName, Mode: 0o644, Size: int64(len(config))}, tar.Header{Name: "manifest.json", Mode: 0o644, Size: int64(len(manifest))})
}

// archive writes the headers; each file takes what is its size of the data.
func archive(data []byte, headers ...tar.Header) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := w.Write(data[:h.Size]); err != nil {
			return nil, err
		}
		data = data[h.Size:]
	}
	err := w.Close()
	return b.Bytes(), err
}
