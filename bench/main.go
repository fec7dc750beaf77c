// Package main is the benchmark of gcemds: it measures the server that people
// run beside a bare net/http server which answers the same bytes, and says
// whether the promises of docs/performance.md hold on this machine. It is not
// a load generator for other servers, and it sends nothing beyond loopback.
//
//	go run ./bench                             measure everything
//	go run ./bench -only leaf,token            some cases
//	go run ./bench -write docs/performance.md  put the table into the document
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A bench is one run.
type bench struct {
	dir     string // scratch, removed at the end
	gcemds  string // the program under test
	self    string // this program: it is the floor as well
	serving int    // core of the servers, or notPinned
	sockets int    // admin sockets made so far, so that each has its own name

	rounds  int
	length  time.Duration // of a round
	conns   int
	waiters int
}

// A benchCase measures one thing, or several that need the same work.
type benchCase struct {
	name    string
	measure func(*bench, context.Context) ([]row, error)
}

// cases are in the order of the report. Those before "leaf" use all cores;
// from there on servers and load have a core each.
var cases = []benchCase{
	{"edit", (*bench).edit},
	{"allocs", (*bench).allocs},
	{"leaf", rate("leaf GET", "instance/name", false, 0.95)},
	{"token", rate("cached token GET", "instance/service-accounts/default/token", false, 0.95)},
	{"recursive", rate("recursive GET of the default document", "?recursive=true&alt=json", false, 0.95)},
	{"connect", rate("leaf GET on a new connection", "instance/name", true, 0.97)},
	{"hang", (*bench).hang},
	{"start", (*bench).startup},
	{"mint", (*bench).mints},
	{"size", (*bench).size},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case floorCommand:
			return serveFloor(args[1:], os.Stdin)
		case reportCommand:
			return report(args[1:], os.Stdin, os.Stdout)
		}
	}
	var names []string
	for _, c := range cases {
		names = append(names, c.name)
	}
	b := &bench{serving: notPinned}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&b.rounds, "rounds", 7, "measure each server this many `times` (at least 1)")
	seconds := flags.Float64("seconds", 2, "length of a round, above 0")
	flags.IntVar(&b.conns, "conns", 32, "keep-alive connections, each with one request at a time")
	flags.IntVar(&b.waiters, "waiters", 10000, "hanging GETs")
	only := flags.String("only", "", "measure these `cases` only, of "+strings.Join(names, ","))
	binary := flags.String("server", "", "measure this gcemds `program` instead of building ./cmd/gcemds")
	write := flags.String("write", "", "put the table between the marks of this Markdown `file`")
	strict := flags.Bool("strict", true, "exit with 1 if a bound is missed or cannot be measured")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b.length = time.Duration(*seconds * float64(time.Second))
	if b.rounds < 1 || b.length <= 0 || b.conns < 1 || b.waiters < 1 || flags.NArg() > 0 {
		return errors.New("the numbers must be above 0, and there are no arguments but flags (see -help)")
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}

	if b.dir, err = os.MkdirTemp("", "gcemds-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.gcemds, err = b.program(ctx, *binary); err != nil {
		return err
	}
	machine := describeMachine()
	fmt.Println(machine)

	var rows []row
	pinned := false
	for _, c := range chosen {
		if !pinned && c.name != "edit" && c.name != "allocs" {
			pinned = true
			fmt.Println(b.pin())
		}
		fmt.Fprintf(os.Stderr, "%s ...\n", c.name)
		more, err := c.measure(b, ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			more = append(more, row{what: c.name, note: err.Error()})
		}
		rows = append(rows, more...)
	}
	fmt.Println()
	printTable(os.Stdout, rows)
	if *write != "" {
		if err := writeTable(*write, benchTable, machine, rows); err != nil {
			return err
		}
	}
	if *strict {
		return verdict(rows)
	}
	return nil
}

// choose returns the cases of a list of names, in the order of the report;
// all of them for the empty list.
func choose(list string) ([]benchCase, error) {
	if list == "" {
		return cases, nil
	}
	names := strings.Split(list, ",")
	var chosen []benchCase
	for _, c := range cases {
		if slices.Contains(names, c.name) {
			chosen = append(chosen, c)
			names = slices.DeleteFunc(names, func(n string) bool { return n == c.name })
		}
	}
	if len(names) > 0 {
		return nil, fmt.Errorf("-only: there is no case %q (see -help)", names[0])
	}
	return chosen, nil
}

// program returns the path of the gcemds to measure, built here unless given.
func (b *bench) program(ctx context.Context, given string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	name := filepath.Join(b.dir, "gcemds")
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", name, "github.com/gcemds/gcemds/cmd/gcemds")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build gcemds (run this inside the repository): %w\n%s", err, out)
	}
	return name, nil
}

// pin gives the servers the first core and this process the last one, and
// says so.
func (b *bench) pin() string {
	cores, err := allowedCores()
	if err != nil {
		return "Servers and load are not pinned: " + err.Error() + "."
	}
	if len(cores) < 2 {
		return "Servers and load share the only core: expect noise."
	}
	if err := pinSelf(cores[len(cores)-1]); err != nil {
		return "Servers and load are not pinned: " + err.Error() + "."
	}
	b.serving = cores[0]
	return fmt.Sprintf("Servers on core %d, load on core %d.", cores[0], cores[len(cores)-1])
}
