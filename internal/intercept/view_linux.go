package intercept

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside is the first argument of this program when it has been started to
// become another one in a view.
const inside = "intercept: inside a view"

// The exit codes of a program that could not be started.
const (
	exitNoView   = 125
	exitNotRun   = 126
	exitNotFound = 127
)

// Start starts a program in the view: cmd.Start, with this program in between,
// whose main must begin with Enter. The function that it returns ends the
// interception; what is left of the program cannot connect to anything then.
func (v View) Start(cmd *exec.Cmd) (stop func(), err error) {
	if cmd.Err != nil {
		return nil, cmd.Err
	}
	if !v.Server.Addr().Is4() {
		return nil, fmt.Errorf("the server has the address %v, and only IPv4 can be put in the place of 169.254.169.254", v.Server)
	}
	if err := v.write(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "view"), os.NewFile(uintptr(pair[1]), "view")
	defer ours.Close()
	defer theirs.Close()

	cmd.Args = slices.Concat([]string{filepath.Base(os.Args[0]), inside, string(text), cmd.Path}, cmd.Args)
	cmd.Path = "/proc/self/exe"
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if uid := os.Geteuid(); uid != 0 { // a mount namespace takes a user namespace, in which everybody stays who they are
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // until the program begins
	}
	// Where only descendants may be looked at (Yama), orphans must stay ours.
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	if err := cmd.Start(); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) {
			return nil, missing(err)
		}
		return nil, err
	}
	theirs.Close()
	listener, err := receive(int(ours.Fd()))
	if err != nil { // it has said why, and ends with an exit code
		return func() {}, nil
	}
	return supervise(listener, v.Server)
}

func (v View) hosts() string { return filepath.Join(v.Dir, "hosts") }
func (v View) empty() string { return filepath.Join(v.Dir, "empty") }

// write makes the files of the view. They keep the modes of the originals.
func (v View) write() error {
	old, err := os.ReadFile("/etc/hosts")
	if err != nil {
		return fmt.Errorf("without a hosts file there is no place for the name metadata.google.internal: %w", err)
	}
	text := linkLocal.String() + " metadata.google.internal metadata\n" + string(old)
	if err := os.WriteFile(v.hosts(), []byte(text), 0o644); err != nil {
		return err
	}
	return os.Mkdir(v.empty(), 0o700)
}

// receive returns the file that the program sends.
func receive(socket int) (int, error) {
	data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	for {
		_, n, _, _, err := unix.Recvmsg(socket, data, control, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		messages, err := unix.ParseSocketControlMessage(control[:n])
		if err != nil {
			return 0, err
		}
		if len(messages) == 0 {
			return 0, errors.New("no file was sent")
		}
		files, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			return 0, err
		}
		return files[0], nil
	}
}

// Enter is the first thing that main does, with the arguments of the program.
// In a process that Start has made it does not return unless it fails: it
// becomes the other program. In any other process it returns 0 and nil.
func Enter(args []string) (code int, err error) {
	if len(args) < 4 || args[0] != inside {
		return 0, nil
	}
	runtime.LockOSThread() // a filter belongs to a thread, which is the one that becomes the program
	var v View
	if err := json.Unmarshal([]byte(args[1]), &v); err != nil {
		return exitNoView, err
	}
	if err := v.enter(); err != nil {
		return exitNoView, err
	}
	err = unix.Exec(args[2], args[3:], os.Environ())
	if err == unix.ENOENT {
		return exitNotFound, fmt.Errorf("there is no program %s", args[2])
	}
	return exitNotRun, fmt.Errorf("cannot run %s: %w", args[2], err)
}

func (v View) enter() error {
	const socket = 3
	unix.CloseOnExec(socket)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil { // else everybody would see ours
		return fmt.Errorf("cannot keep mounts from the rest of the machine: %w", mounting(err))
	}
	if err := unix.Mount(v.hosts(), "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot put the name metadata.google.internal into /etc/hosts: %w", mounting(err))
	}
	for _, dir := range v.Hide {
		if err := unix.Mount(v.empty(), dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cannot hide %s: %w", dir, mounting(err))
		}
	}
	listener, err := filter()
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(listener), nil, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil && os.Geteuid() != 0 {
		return err
	}
	return nil
}

// mounting explains why a mount failed.
func mounting(err error) error {
	if err == unix.EPERM || err == unix.EACCES {
		return missing(err)
	}
	return err
}

// missing says what has to change so that a program can have namespaces.
func missing(err error) error {
	if os.Geteuid() == 0 {
		return fmt.Errorf("a mount namespace is not to be had (%w): this needs the capability SYS_ADMIN, which root lacks in most containers (docker run --cap-add SYS_ADMIN --cap-add SYS_PTRACE --security-opt apparmor=unconfined)", err)
	}
	for _, s := range []struct{ file, value string }{
		{"kernel/apparmor_restrict_unprivileged_userns", "1"},
		{"kernel/unprivileged_userns_clone", "0"},
		{"user/max_user_namespaces", "0"},
	} {
		if data, e := os.ReadFile("/proc/sys/" + s.file); e == nil && strings.TrimSpace(string(data)) == s.value {
			return fmt.Errorf("a user namespace is not to be had (%w): the setting %s is %s; change it, or run this as root",
				err, strings.ReplaceAll(s.file, "/", "."), s.value)
		}
	}
	return fmt.Errorf("a user namespace is not to be had (%w): this kernel or container does not allow it; run this as root", err)
}
