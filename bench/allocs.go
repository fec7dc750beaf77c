package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

const maxLeafAllocs = 2

// allocs runs the Go benchmarks of the handler itself.
func (b *bench) allocs(ctx context.Context) ([]row, error) {
	test := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkHandler$", "-benchmem", "github.com/gcemds/gcemds/internal/server")
	out, err := test.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test: %w\n%s", err, out)
	}
	var rows []row
	leaf := false
	for _, r := range parseBenchmarks(string(out)) {
		line := row{
			what:   "handler alone, " + r.name,
			gcemds: fmt.Sprintf("%d allocations, %s ns", r.allocs, r.ns),
			pass:   true,
		}
		if r.name == "leaf" {
			leaf = true
			line.bound = fmt.Sprintf("at most %d", maxLeafAllocs)
			line.pass = r.allocs <= maxLeafAllocs
		}
		rows = append(rows, line)
	}
	if !leaf {
		err = errors.New("internal/server has no benchmark named BenchmarkHandler/leaf")
	}
	return rows, err
}

type benchmark struct {
	name   string
	ns     string
	allocs int
}

// parseBenchmarks reads the parts of BenchmarkHandler in the output of
// go test -benchmem, and sorts them.
func parseBenchmarks(output string) []benchmark {
	var list []benchmark
	for line := range strings.Lines(output) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		name, ok := strings.CutPrefix(fields[0], "BenchmarkHandler/")
		if !ok {
			continue
		}
		if i := strings.LastIndexByte(name, '-'); i > 0 { // the number of processors
			name = name[:i]
		}
		b := benchmark{name: name, allocs: -1}
		for i := 2; i+1 < len(fields); i += 2 {
			switch fields[i+1] {
			case "ns/op":
				b.ns = fields[i]
			case "allocs/op":
				if n, err := strconv.Atoi(fields[i]); err == nil {
					b.allocs = n
				}
			}
		}
		if b.allocs >= 0 {
			list = append(list, b)
		}
	}
	slices.SortFunc(list, func(a, b benchmark) int { return strings.Compare(a.name, b.name) })
	return list
}
