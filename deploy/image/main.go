// Command image packs gcemds binaries into a container image without a daemon.
//
// It is not a build tool: it takes static binaries that exist already, one per platform, and writes one archive that
// "docker load", "podman load" and "ctr image import" read. The image starts from scratch: the binary, the
// certificates it needs to speak TLS, and a directory for the admin socket; no shell, no package manager, no root.
//
// The same inputs give the same digest on any machine, because times are fixed, entries are sorted and nothing else is
// read. The inputs are the binaries, the certificate bundle, the flags, and the Go release this program is built with
// (its gzip decides the compressed bytes). The bundle's checksum stands in the history of the image, so a digest that
// changed tells why.
//
// It is a module of its own, so that go-containerregistry stays out of the go.mod of those who import gcemds.
//
//	go run . -o gcemds.tar linux/amd64=gcemds-linux-amd64 linux/arm64=gcemds-linux-arm64
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
)

// systemBundle is where Debian, Ubuntu, Alpine and Arch keep the certificates of the public authorities.
const systemBundle = "/etc/ssl/certs/ca-certificates.crt"

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "image:", err)
		}
		os.Exit(1)
	}
}

// run writes the archive and prints the digest of the image index on stdout, alone on its line; talk goes to stderr.
func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: image [flags] OS/ARCH=BINARY...")
		flags.PrintDefaults()
	}
	out := flags.String("o", "gcemds.tar", "write the archive to `file`")
	tag := flags.String("tag", "gcemds:dev", "`name` of the image inside the archive")
	ca := flags.String("ca", systemBundle, "PEM `file` with the certificate authorities to trust; empty for none")
	version := flags.String("version", "dev", "version `label` of the image")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ref, err := name.NewTag(*tag)
	if err != nil {
		return fmt.Errorf("cannot use the name %q: %w", *tag, err)
	}
	c := Contents{Version: *version}
	for _, arg := range flags.Args() {
		b, err := readBinary(arg)
		if err != nil {
			return err
		}
		c.Binaries = append(c.Binaries, b)
	}
	if len(c.Binaries) == 0 {
		flags.Usage()
		return errors.New("no binary given: name at least one, as in linux/amd64=dist/gcemds-linux-amd64")
	}
	c.Certificates, err = readBundle(*ca, stderr)
	if err != nil {
		return err
	}
	index, err := c.Index()
	if err != nil {
		return err
	}
	if err := WriteArchive(*out, ref, index); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "wrote %s: %s for %d platforms\n", *out, *tag, len(c.Binaries))
	fmt.Fprintln(stdout, digest)
	return nil
}

// readBundle reads the certificate bundle. A machine without the default bundle still gets an image, and is told what
// that image cannot do; a bundle asked for by name must be there.
func readBundle(path string, stderr io.Writer) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if path == systemBundle && errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(stderr, "image: no %s on this machine: the image will trust no authority, so key files and other "+
			"sources that speak to Google will fail; install ca-certificates or give -ca\n", systemBundle)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate bundle: %w", err)
	}
	return pem, nil
}
