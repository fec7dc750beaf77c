package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// A place is where programs run: this machine, a world, a node.
type place func(ctx context.Context, name string, args ...string) *exec.Cmd

func here(ctx context.Context, name string, args ...string) *exec.Cmd {
	return grouped(exec.CommandContext(ctx, name, args...))
}

// grouped makes the end of a command that of all its processes: nsenter, which
// leads into a world, passes no signal on.
func grouped(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// A process runs until kill, and not longer than the test.
type process struct {
	name, log string
	cmd       *exec.Cmd
	exited    chan struct{}
}

// start starts a program whose words go to DIR/NAME.log.
func start(dir, name string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), cmd: cmd, exited: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() {
		// The kernel means the thread that started it when it speaks of the
		// parent. This one lives as long as the program.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	return p, nil
}

// kill kills it, if it has not ended, and returns when it is gone.
func (p *process) kill() {
	select {
	case <-p.exited: // its number may be that of another by now
		return
	default:
	}
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.exited
}

// until asks again and again until there is no error, the process ends or the
// time is over.
func (p *process) until(ctx context.Context, ask func(context.Context) error) error {
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended: %s\n%s", p.name, p.cmd.ProcessState, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; it said:\n%s", p.name, errors.Join(err, ctx.Err()), p.tail())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// tail is the end of what the process said.
func (p *process) tail() string {
	said, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	const enough = 4 << 10
	return string(said[max(0, len(said)-enough):])
}

// output runs a command and returns what it wrote. The error shows all of it.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w\n%s%s", err, &stdout, &stderr)
	}
	return stdout.String(), nil
}
