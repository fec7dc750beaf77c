//go:build !linux

package main

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"
)

var errLinux = errors.New("CPU time and memory of a process are read from /proc, and cores are chosen with sched_setaffinity: both are Linux")

func (p *process) cpu() (time.Duration, error) { return 0, errLinux }
func (p *process) memory() (int64, error)      { return 0, errLinux }

func allowedCores() ([]int, error)           { return nil, errLinux }
func pinSelf(int) error                      { return errLinux }
func onCore(_ int, start func() error) error { return start() }

func readNow(net.Conn, []byte) (int, error) { return 0, errLinux }

func describeMachine() string {
	return fmt.Sprintf("%d cores, %s, %s, %s.", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}
