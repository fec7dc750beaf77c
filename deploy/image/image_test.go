package main

import (
	"archive/tar"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"debug/elf"
	"encoding/binary"
	"encoding/pem"
	"io"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// standIn is a program small enough to be built in a test; what it does is of no interest.
const standIn = "package main\n\nfunc main() {}\n"

// compile builds the stand-in for a platform and returns the path of the binary.
func compile(t *testing.T, system, arch string) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte(standIn), 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "gcemds")
	build := exec.Command("go", "build", "-trimpath", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+arch)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the stand-in for %s/%s: %v\n%s", system, arch, err, out)
	}
	return program
}

// bundle writes a certificate bundle with one authority.
func bundle(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// pack runs the command and returns the digest that it printed.
func pack(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if err := run(args, &stdout, &stderr); err != nil {
		t.Fatalf("image %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return stdout.String()
}

func TestImage(t *testing.T) {
	amd64, arm64, ca := compile(t, "linux", "amd64"), compile(t, "linux", "arm64"), bundle(t)
	archive := filepath.Join(t.TempDir(), "gcemds.tar")
	args := []string{"-tag", "gcemds:test", "-ca", ca, "-version", "v1.2.3", "linux/amd64=" + amd64, "linux/arm64=" + arm64}
	digest := pack(t, append([]string{"-o", archive}, args...)...)

	t.Run("reproducible", func(t *testing.T) {
		again := filepath.Join(t.TempDir(), "again.tar")
		if got := pack(t, append([]string{"-o", again}, args...)...); got != digest {
			t.Errorf("same inputs, another digest: %s then %s", digest, got)
		}
		if !bytes.Equal(read(t, archive), read(t, again)) {
			t.Error("same inputs, but the archives differ")
		}
	})

	t.Run("oci layout", func(t *testing.T) {
		index := unpack(t, archive)
		if err := validate.Index(index); err != nil {
			t.Errorf("the OCI layout is not valid: %v", err)
		}
		got, err := index.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if got.String()+"\n" != digest {
			t.Errorf("the archive holds %s, but the command printed %s", got, digest)
		}
		manifest, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		programs := map[string]string{"linux/amd64": amd64, "linux/arm64": arm64}
		for _, d := range manifest.Manifests {
			image, err := index.Image(d.Digest)
			if err != nil {
				t.Fatal(err)
			}
			platform := d.Platform.String()
			program, ok := programs[platform]
			if !ok {
				t.Errorf("the index names the platform %q twice or without being asked", platform)
				continue
			}
			delete(programs, platform)
			checkImage(t, platform, image, read(t, program))
		}
		for platform := range programs {
			t.Errorf("the index has no image for %s", platform)
		}
	})

	t.Run("docker archive", func(t *testing.T) {
		for want, names := range map[string][]string{
			"amd64": {"gcemds:test", "docker.io/library/gcemds:test"},
			"arm64": {"gcemds:test-arm64"},
		} {
			for _, n := range names {
				tag, err := name.NewTag(n)
				if err != nil {
					t.Fatal(err)
				}
				image, err := tarball.ImageFromPath(archive, &tag)
				if err != nil {
					t.Fatalf("docker load would not find %s: %v", n, err)
				}
				if err := validate.Image(image); err != nil {
					t.Errorf("%s is not valid: %v", n, err)
				}
				config, err := image.ConfigFile()
				if err != nil {
					t.Fatal(err)
				}
				if config.Architecture != want {
					t.Errorf("%s is for %s, want %s", n, config.Architecture, want)
				}
			}
		}
	})
}

func checkImage(t *testing.T, platform string, image v1.Image, program []byte) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := config.OS + "/" + config.Architecture; got != platform {
		t.Errorf("%s: the configuration says %s", platform, got)
	}
	if got := config.Config.User; got != "65532:65532" {
		t.Errorf("%s: runs as %q, want an unprivileged number", platform, got)
	}
	if got := config.Config.Entrypoint; !slices.Equal(got, []string{"/gcemds"}) {
		t.Errorf("%s: entrypoint %q, want /gcemds", platform, got)
	}
	if got := config.Config.Cmd; !slices.Equal(got, []string{"serve"}) {
		t.Errorf("%s: command %q, want serve", platform, got)
	}
	for _, want := range []string{"GCEMDS_LISTEN=0.0.0.0:8080", "GCEMDS_ALLOW_REMOTE=true", "GCEMDS_ADMIN=/run/gcemds/admin.sock"} {
		if !slices.Contains(config.Config.Env, want) {
			t.Errorf("%s: environment %q lacks %s, so nobody outside the container could ask", platform, config.Config.Env, want)
		}
	}
	if got := config.Config.Labels["org.opencontainers.image.version"]; got != "v1.2.3" {
		t.Errorf("%s: version label %q, want the one given", platform, got)
	}
	if !config.Created.Equal(epoch) {
		t.Errorf("%s: created %v, want a fixed time", platform, config.Created)
	}
	if len(config.History) != 2 || !strings.HasPrefix(config.History[0].Comment, "certificates sha256:") {
		t.Errorf("%s: history %+v does not name the certificate bundle", platform, config.History)
	}

	files := extract(t, image)
	want := []string{
		"drwx------ 65532 run/gcemds/",
		"drwxr-xr-x 0 etc/",
		"drwxr-xr-x 0 etc/ssl/",
		"drwxr-xr-x 0 etc/ssl/certs/",
		"drwxr-xr-x 0 run/",
		"-rw-r--r-- 0 etc/ssl/certs/ca-certificates.crt",
		"-rwxr-xr-x 0 gcemds",
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, want) {
		t.Errorf("%s: the image holds\n%s\nwant exactly\n%s", platform, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !bytes.Equal(files["-rwxr-xr-x 0 gcemds"], program) {
		t.Errorf("%s: /gcemds is not the binary that was given", platform)
	}
}

// extract returns the contents of an image, each under its mode, owner and name.
func extract(t *testing.T, image v1.Image) map[string][]byte {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, l := range layers {
		content, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for h, data := range entries(t, content) {
			if !h.ModTime.Equal(epoch) {
				t.Errorf("%s has the time %v, want a fixed one", h.Name, h.ModTime)
			}
			owner := "0"
			if h.Uid == user && h.Gid == user {
				owner = "65532"
			}
			files[h.FileInfo().Mode().String()+" "+owner+" "+h.Name] = data
		}
		content.Close()
	}
	return files
}

// entries reads a tar archive whole.
func entries(t *testing.T, r io.Reader) map[*tar.Header][]byte {
	t.Helper()
	all := map[*tar.Header][]byte{}
	for a := tar.NewReader(r); ; {
		h, err := a.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(a)
		if err != nil {
			t.Fatal(err)
		}
		all[h] = data
	}
}

// unpack opens the OCI layout inside an archive and returns the index that it names.
func unpack(t *testing.T, archive string) v1.ImageIndex {
	t.Helper()
	dir := t.TempDir()
	for h, data := range entries(t, bytes.NewReader(read(t, archive))) {
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := top.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("the archive names %d images, want one for all platforms", len(manifest.Manifests))
	}
	d := manifest.Manifests[0]
	if got, want := d.Annotations["io.containerd.image.name"], "docker.io/library/gcemds:test"; got != want {
		t.Errorf("containerd would import the image as %q, want %q", got, want)
	}
	index, err := top.ImageIndex(d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestRefusals: what cannot make a working image is refused with the reason, and leaves no archive behind.
func TestRefusals(t *testing.T) {
	amd64, windows := compile(t, "linux", "amd64"), compile(t, "windows", "amd64")
	empty := filepath.Join(t.TempDir(), "empty.crt")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"nothing":         {nil, "no binary given"},
		"no platform":     {[]string{amd64}, "want OS/ARCH=FILE"},
		"other system":    {[]string{"windows/amd64=" + windows}, "want linux/amd64 or linux/arm64"},
		"not a program":   {[]string{"linux/amd64=" + windows}, "not a Linux program"},
		"wrong processor": {[]string{"linux/arm64=" + amd64}, "not for linux/arm64"},
		"twice":           {[]string{"linux/amd64=" + amd64, "linux/amd64=" + amd64}, "given twice"},
		"missing":         {[]string{"linux/amd64=" + amd64 + ".missing"}, "cannot read the binary"},
		"no bundle":       {[]string{"-ca", empty + ".missing", "linux/amd64=" + amd64}, "cannot read the certificate bundle"},
		"empty bundle":    {[]string{"-ca", empty, "linux/amd64=" + amd64}, "holds no certificate"},
		"bad name":        {[]string{"-tag", "No Such Name", "linux/amd64=" + amd64}, "cannot use the name"},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "gcemds.tar")
			args := append([]string{"-o", out}, c.args...)
			if !slices.Contains(args, "-ca") {
				args = append([]string{"-ca", ""}, args...)
			}
			err := run(args, io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one that says %q", err, c.want)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("an archive was written all the same")
			}
		})
	}
}

// TestDynamicBinary: a program that needs a loader would die at once in an empty image, with a message that names
// neither.
func TestDynamicBinary(t *testing.T) {
	path := compile(t, "linux", "amd64")
	program := read(t, path)
	segments := binary.LittleEndian.Uint64(program[32:]) // e_phoff: where the table of segments begins
	binary.LittleEndian.PutUint32(program[segments:], uint32(elf.PT_INTERP))
	if err := os.WriteFile(path, program, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readBinary("linux/amd64=" + path); err == nil || !strings.Contains(err.Error(), "dynamically linked") {
		t.Errorf("got error %v, want one that says the program is dynamically linked", err)
	}
}
