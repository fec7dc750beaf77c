package main

import (
	"cmp"
	"context"
	"debug/elf"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// parts of the program are told by the beginning of the path of a package; the
// first that fits counts.
var parts = []struct{ what, prefix string }{
	{"gcemds", "github.com/gcemds/"},
	{"TPM", "github.com/google/go-tpm"},
	{"ssh-agent", "golang.org/x/crypto/"},
	{"metrics", "github.com/prometheus/"},
	{"metrics", "google.golang.org/protobuf/"},
	{"YAML", "go.yaml.in/"},
	{"commands", "github.com/spf13/"},
	{"eBPF, netlink", "github.com/cilium/"},
	{"eBPF, netlink", "github.com/vishvananda/"},
	{"cryptography", "crypto/"},
	{"net and HTTP", "net/"},
	{"net and HTTP", "net."},
	{"types and tables", "type:"},
	{"types and tables", "go:"},
}

// size tells how large the program is, and what makes it so: the sizes of its
// symbols, of a build that has them.
func (b *bench) size(ctx context.Context) ([]row, error) {
	build := func(name string, flags ...string) (string, error) {
		path := filepath.Join(b.dir, name)
		c := exec.CommandContext(ctx, "go", append(append([]string{"build", "-trimpath", "-o", path}, flags...), "github.com/gcemds/gcemds/cmd/gcemds")...)
		c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
		if out, err := c.CombinedOutput(); err != nil {
			return "", fmt.Errorf("cannot build gcemds (run this inside the repository): %w\n%s", err, out)
		}
		return path, nil
	}
	stripped, err := build("gcemds-stripped", "-ldflags=-s -w")
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(stripped)
	if err != nil {
		return nil, err
	}
	whole, err := build("gcemds-whole")
	if err != nil {
		return nil, err
	}
	sums, err := partsOf(whole)
	if err != nil {
		return nil, err
	}
	rows := []row{{what: "size of the program, stripped", gcemds: megabytes(info.Size()), pass: true}}
	const nameless = "types, strings and tables without a name"
	sums[nameless] = info.Size()
	for what, size := range sums {
		if what != nameless {
			sums[nameless] -= size
		}
	}
	for _, what := range slices.SortedFunc(maps.Keys(sums), func(a, b string) int { return cmp.Compare(sums[b], sums[a]) }) {
		rows = append(rows, row{what: "of it: " + what, gcemds: megabytes(sums[what]), pass: true})
	}
	return rows, nil
}

// lines is the section that tells the file and the line of each instruction.
// It belongs to nobody in particular.
const lines = ".gopclntab"

// partsOf adds up the sizes of the symbols in a program for Linux. What is zero
// at the start is not in the file.
func partsOf(program string) (map[string]int64, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		return nil, err
	}
	sums := map[string]int64{}
	for _, s := range f.Sections {
		if s.Name == lines {
			sums["lines of instructions"] = int64(s.Size)
		}
	}
	for _, s := range symbols {
		if int(s.Section) >= len(f.Sections) || f.Sections[s.Section].Type != elf.SHT_PROGBITS || f.Sections[s.Section].Name == lines {
			continue
		}
		what := "the rest of the standard library"
		if first, _, _ := strings.Cut(s.Name, "/"); strings.Contains(first, ".") && strings.Contains(s.Name, "/") {
			what = "other libraries"
		}
		for _, p := range parts {
			if strings.HasPrefix(s.Name, p.prefix) {
				what = p.what
				break
			}
		}
		sums[what] += int64(s.Size)
	}
	return sums, nil
}

func megabytes(n int64) string { return fmt.Sprintf("%.2f MB", float64(n)/1e6) }
