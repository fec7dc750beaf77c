package main

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// WriteArchive writes the image in the form that "docker save" has had since version 25: an OCI layout with all
// platforms, and beside it Docker's older manifest.json for readers that know only that. The older form has no notion
// of platforms, so there the first platform has the tag, and each further one has the tag with "-ARCH" behind it.
func WriteArchive(file string, tag name.Tag, index v1.ImageIndex) error {
	dir, err := os.MkdirTemp("", "gcemds-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	top, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	err = top.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          fullName(tag),
		"org.opencontainers.image.ref.name": tag.TagStr(),
	}))
	if err != nil {
		return err
	}
	manifest, err := dockerManifest(tag, index)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), manifest, 0o644); err != nil {
		return err
	}
	if err := writeTar(file, os.DirFS(dir)); err != nil {
		return fmt.Errorf("cannot write the archive: %w", err)
	}
	return nil
}

// fullName spells a name the way containerd and the kubelet look it up.
func fullName(tag name.Tag) string {
	registry := tag.RegistryStr()
	if registry == name.DefaultRegistry { // Docker Hub, whose name in references differs from its address
		registry = "docker.io"
	}
	return registry + "/" + tag.RepositoryStr() + ":" + tag.TagStr()
}

func dockerManifest(tag name.Tag, index v1.ImageIndex) ([]byte, error) {
	platforms, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var list tarball.Manifest
	for i, p := range platforms.Manifests {
		image, err := index.Image(p.Digest)
		if err != nil {
			return nil, err
		}
		m, err := image.Manifest()
		if err != nil {
			return nil, err
		}
		repoTag := fullName(tag)
		if i > 0 {
			repoTag += "-" + p.Platform.Architecture
		}
		d := tarball.Descriptor{Config: blob(m.Config), RepoTags: []string{repoTag}}
		for _, l := range m.Layers {
			d.Layers = append(d.Layers, blob(l))
		}
		list = append(list, d)
	}
	return json.Marshal(list)
}

// blob is the path of a blob inside an OCI layout.
func blob(d v1.Descriptor) string { return path.Join("blobs", d.Digest.Algorithm, d.Digest.Hex) }

// writeTar writes the files of a tree, sorted by name, and puts the archive in place only when it is whole.
func writeTar(file string, tree fs.FS) (err error) {
	out, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer func() {
		out.Close()
		if err != nil {
			os.Remove(out.Name())
		}
	}()
	w := tar.NewWriter(out)
	err = fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		return writeEntry(w, entry{name: name, mode: 0o644, data: data})
	})
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := out.Chmod(0o644); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(out.Name(), file)
}
