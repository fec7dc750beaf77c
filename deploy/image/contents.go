package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// user is the number of the unprivileged user of the image, the one that distroless images use too. A number, not a
// name, so that Kubernetes can check runAsNonRoot without an /etc/passwd.
const user = 65532

// epoch is the time of everything in the image. A real time would change the digest with every build.
var epoch = time.Unix(0, 0).UTC()

// Contents is all that goes into an image.
type Contents struct {
	Binaries     []Binary
	Certificates []byte // PEM; nil for none
	Version      string // a label
}

// Binary is gcemds for one platform.
type Binary struct {
	Platform v1.Platform
	Program  []byte
}

// machines says which processor an ELF file must name to run on an architecture.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// readBinary reads an argument of the form OS/ARCH=FILE and checks that the file can run in an empty image.
func readBinary(arg string) (Binary, error) {
	platform, path, ok := strings.Cut(arg, "=")
	if !ok {
		return Binary{}, fmt.Errorf("cannot use %q: want OS/ARCH=FILE, as in linux/amd64=dist/gcemds-linux-amd64", arg)
	}
	system, arch, _ := strings.Cut(platform, "/")
	machine, ok := machines[arch]
	if system != "linux" || !ok {
		return Binary{}, fmt.Errorf("cannot make an image for %q: want linux/amd64 or linux/arm64", platform)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return Binary{}, fmt.Errorf("cannot read the binary for %s: %w", platform, err)
	}
	file, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return Binary{}, fmt.Errorf("%s is not a Linux program: %w", path, err)
	}
	if file.Machine != machine {
		return Binary{}, fmt.Errorf("%s is for %v, not for %s", path, file.Machine, platform)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return Binary{}, fmt.Errorf("%s is dynamically linked and the image has no loader: build it with CGO_ENABLED=0", path)
		}
	}
	return Binary{Platform: v1.Platform{OS: system, Architecture: arch}, Program: program}, nil
}

// Index is the image: one manifest per platform. The layer below the binary is the same for all of them.
func (c Contents) Index() (v1.ImageIndex, error) {
	base, err := c.base()
	if err != nil {
		return nil, err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	seen := map[string]bool{}
	for _, b := range c.Binaries {
		platform := b.Platform
		if seen[platform.String()] {
			return nil, fmt.Errorf("%s is given twice", platform)
		}
		seen[platform.String()] = true
		image, err := c.image(base, b)
		if err != nil {
			return nil, fmt.Errorf("cannot build the image for %s: %w", platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &platform},
		})
	}
	return index, nil
}

// base is the layer that does not depend on the platform: the directory of the admin socket, which the unprivileged
// user must own, and the certificates.
func (c Contents) base() (mutate.Addendum, error) {
	entries := []entry{
		{name: "run/", mode: 0o755},
		{name: "run/gcemds/", mode: 0o700, owner: user},
	}
	comment := "no certificates"
	if c.Certificates != nil {
		if !x509.NewCertPool().AppendCertsFromPEM(c.Certificates) {
			return mutate.Addendum{}, errors.New("the certificate bundle holds no certificate in PEM form")
		}
		comment = fmt.Sprintf("certificates sha256:%x", sha256.Sum256(c.Certificates))
		entries = append([]entry{
			{name: "etc/", mode: 0o755},
			{name: "etc/ssl/", mode: 0o755},
			{name: "etc/ssl/certs/", mode: 0o755},
			{name: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, data: c.Certificates},
		}, entries...)
	}
	return layer(comment, entries...)
}

func (c Contents) image(base mutate.Addendum, b Binary) (v1.Image, error) {
	program, err := layer("gcemds "+c.Version, entry{name: "gcemds", mode: 0o755, data: b.Program})
	if err != nil {
		return nil, err
	}
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	image, err = mutate.Append(image, base, program)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = b.Platform.OS, b.Platform.Architecture
	config.Created = v1.Time{Time: epoch}
	config.Config = v1.Config{
		User:       fmt.Sprintf("%d:%d", user, user),
		Entrypoint: []string{"/gcemds"},
		Cmd:        []string{"serve"},
		WorkingDir: "/",
		// A container's loopback is reachable from nowhere, so here the person who publishes the port decides who may
		// ask, and saying it is remote is part of the image.
		// The admin socket needs a folder that exists and that the user owns: there is no /tmp here.
		Env:          []string{"GCEMDS_LISTEN=0.0.0.0:8080", "GCEMDS_ALLOW_REMOTE=true", "GCEMDS_ADMIN=/run/gcemds/admin.sock"},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "gcemds",
			"org.opencontainers.image.description": "A GCE metadata server for anywhere",
			"org.opencontainers.image.source":      "https://github.com/gcemds/gcemds",
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.version":     c.Version,
		},
	}
	return mutate.ConfigFile(image, config)
}

// entry is a file of a layer, or a directory if the name ends in a slash.
type entry struct {
	name  string
	mode  int64
	owner int // user and group
	data  []byte
}

func layer(comment string, entries ...entry) (mutate.Addendum, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if err := writeEntry(w, e); err != nil {
			return mutate.Addendum{}, err
		}
	}
	if err := w.Close(); err != nil {
		return mutate.Addendum{}, err
	}
	l, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer),
	)
	if err != nil {
		return mutate.Addendum{}, err
	}
	return mutate.Addendum{
		Layer:   l,
		History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "gcemds/deploy/image", Comment: comment},
	}, nil
}

// writeEntry adds an entry whose header depends on nothing but the entry.
func writeEntry(w *tar.Writer, e entry) error {
	h := &tar.Header{
		Typeflag: tar.TypeReg,
		Name:     e.name,
		Mode:     e.mode,
		Uid:      e.owner,
		Gid:      e.owner,
		Size:     int64(len(e.data)),
		ModTime:  epoch,
		Format:   tar.FormatUSTAR,
	}
	if strings.HasSuffix(e.name, "/") {
		h.Typeflag = tar.TypeDir
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(e.data)
	return err
}
