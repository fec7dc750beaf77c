package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cpu returns the user and system time of the process so far. It reads the
// clock that clock_getcpuclockid(3) names: the sum of utime and stime in
// /proc/PID/stat, in nanoseconds instead of hundredths of a second.
func (p *process) cpu() (time.Duration, error) {
	const scheduler = 2 // CPUCLOCK_SCHED of the kernel
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|scheduler), &t); err != nil {
		return 0, fmt.Errorf("CPU time of a process: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// memory returns the resident set of the process in bytes.
func (p *process) memory() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return parseStatus(status)
}

// parseStatus returns VmRSS of a /proc/PID/status in bytes.
func parseStatus(status []byte) (int64, error) {
	for line := range strings.Lines(string(status)) {
		if size, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(size), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/PID/status: no VmRSS")
}

// allowedCores returns the cores that we may run on, in order.
func allowedCores() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("sched_getaffinity: %w", err)
	}
	var cores []int
	for core := 0; len(cores) < set.Count(); core++ {
		if set.IsSet(core) {
			cores = append(cores, core)
		}
	}
	return cores, nil
}

// pinSelf moves all threads of this process to a core. Threads to come inherit
// it from those that start them.
func pinSelf(core int) error {
	var set unix.CPUSet
	set.Set(core)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads {
		if tid, err := strconv.Atoi(thread.Name()); err == nil {
			if err := unix.SchedSetaffinity(tid, &set); err != nil && err != unix.ESRCH {
				return fmt.Errorf("sched_setaffinity: %w", err)
			}
		}
	}
	runtime.GOMAXPROCS(1)
	return nil
}

// onCore calls start while its thread is on a core: the process that it starts
// inherits that.
func onCore(core int, start func() error) error {
	if core == notPinned {
		return start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	set.Set(core)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return err
	}
	defer unix.SchedSetaffinity(0, &before)
	return start()
}

// readNow reads what has arrived on a connection: 0 bytes if nothing has.
func readNow(c net.Conn, buf []byte) (n int, err error) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0, err
	}
	if closed := raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), buf)
		return true
	}); closed != nil {
		return 0, closed
	}
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return 0, nil
	case n == 0 && err == nil:
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// describeMachine says what is measured on: nothing that names it.
func describeMachine() string {
	model, cores := "unknown CPU", runtime.NumCPU()
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%s, %d cores, Linux %s, %s, %s.",
		model, cores, strings.TrimSpace(string(release)), runtime.GOARCH, runtime.Version())
}
