package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestParseStatus(t *testing.T) {
	const status = "Name:\tgcemds\nVmPeak:\t 1234568 kB\nVmHWM:\t   20000 kB\nVmRSS:\t   14321 kB\nRssAnon:\t    5000 kB\n"
	if got, err := parseStatus([]byte(status)); err != nil || got != 14321*1024 {
		t.Errorf("resident memory = %d, %v; want 14321 KiB", got, err)
	}
	for _, bad := range []string{"", "Name:\tgcemds\n", "VmRSS:\tmuch\n"} {
		if got, err := parseStatus([]byte(bad)); err == nil {
			t.Errorf("%q has %d bytes of resident memory, want an error", bad, got)
		}
	}
}

// TestProcessNumbers: the numbers of a live process are those of that process.
func TestProcessNumbers(t *testing.T) {
	p := &process{cmd: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}}
	before, err := p.cpu()
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 20*time.Millisecond; {
	}
	after, err := p.cpu()
	if err != nil || after <= before {
		t.Errorf("CPU time went from %v to %v (%v) while the process worked", before, after, err)
	}
	if resident, err := p.memory(); err != nil || resident < 1<<20 {
		t.Errorf("this test has %d bytes resident (%v), want more than 1 MiB", resident, err)
	}
}

// TestOnCore: a process that is started on a core stays there, and its parent
// does not.
func TestOnCore(t *testing.T) {
	cores, err := allowedCores()
	if err != nil || len(cores) == 0 {
		t.Fatalf("allowed cores: %v, %v", cores, err)
	}
	var out strings.Builder
	child := exec.Command("cat", "/proc/self/status")
	child.Stdout = &out
	if err := onCore(cores[0], child.Start); err != nil {
		t.Skipf("cannot choose a core or run cat: %v", err)
	}
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if list, ok := strings.CutPrefix(line, "Cpus_allowed_list:\t"); ok && strings.ContainsAny(list, ",-") {
			t.Errorf("the child may run on cores %s, want one", strings.TrimSpace(list))
		}
	}
	if now, err := allowedCores(); err != nil || len(now) != len(cores) {
		t.Errorf("the parent may run on %v (%v), before on %v", now, err, cores)
	}
}
