package attest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gcemds/gcemds/internal/fleet"
)

func (a *Attestor) attest(remote, local netip.AddrPort) (fleet.Peer, error) {
	s, err := a.find(remote, local)
	if err != nil {
		if a.Callers != nil {
			if cgroup, pid, ok := a.Callers.Lookup(remote); ok {
				p := fleet.Peer{PID: int(pid)}
				p.Cgroup, err = a.path(cgroup)
				return finish(p, err)
			}
		}
		return fleet.Peer{}, err
	}
	p := fleet.Peer{UID: s.uid}
	var unnamed error // why the control group of version 2 says nothing
	if s.cgroup != 0 {
		p.Cgroup, unnamed = a.path(s.cgroup)
		if p, err := finish(p, unnamed); err != nil && unnamed == nil || p.PodUID != "" {
			return p, err
		}
	}
	if root, err := a.root(); err == nil && root != roots[1] && unnamed == nil {
		return p, nil // there are groups of version 2 only
	}
	// Where containers are in control groups of version 1 only, the process
	// has to be found.
	pid, groups, err := holder(s.inode)
	switch {
	case err != nil && unnamed != nil:
		return p, errors.Join(unnamed, err)
	case err != nil && p.Cgroup != "":
		return p, nil // in the groups of version 2 it is in no Pod
	case err != nil:
		return p, err
	}
	p.PID = pid
	for _, path := range groups {
		if uid, err := PodUID(path); uid != "" || err != nil {
			p.PodUID, p.Cgroup = uid, path
			return p, err
		}
	}
	return p, nil
}

// finish reads the Pod out of the control group.
func finish(p fleet.Peer, err error) (fleet.Peer, error) {
	if err == nil {
		p.PodUID, err = PodUID(p.Cgroup)
	}
	return p, err
}

// find asks for the caller's end of the connection, as its own kernel side
// has it: to where it dialled.
func (a *Attestor) find(remote, local netip.AddrPort) (socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return socket{}, fmt.Errorf("sock_diag: %w", err)
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval(int64(time.Second)) // the kernel answers before sendto returns
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return socket{}, fmt.Errorf("sock_diag: %w", err)
	}
	for _, to := range append([]netip.AddrPort{local}, a.Dialled...) {
		if to.Addr().Is4() != remote.Addr().Is4() {
			continue
		}
		families := []byte{familyIPv4, familyIPv6} // a socket of IPv6 may have dialled IPv4
		if remote.Addr().Is6() {
			families = families[1:]
		}
		for _, family := range families {
			s, err := ask(fd, question(family, remote, to))
			if err == nil && s.inode != 0 {
				return s, nil
			}
			if err != nil && !errors.Is(err, syscall.ENOENT) {
				return socket{}, err
			}
		}
	}
	return socket{}, ErrElsewhere
}

func ask(fd int, question []byte) (socket, error) {
	if err := unix.Sendto(fd, question, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return socket{}, fmt.Errorf("sock_diag: %w", err)
	}
	var buf [8 << 10]byte
	for {
		n, from, err := unix.Recvfrom(fd, buf[:], 0)
		if err != nil {
			return socket{}, fmt.Errorf("sock_diag: %w", err)
		}
		if kernel, ok := from.(*unix.SockaddrNetlink); ok && kernel.Pid == 0 {
			return answer(buf[:n])
		}
	}
}

// roots are where the control groups of version 2 are: of a unified system,
// and of one that has both versions.
var roots = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

// root returns the mount point.
func (a *Attestor) root() (string, error) {
	for _, dir := range roots {
		if a.Root != "" {
			dir = a.Root
		}
		var s unix.Statfs_t
		if unix.Statfs(dir, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", errors.New("there are no control groups of version 2 at /sys/fs/cgroup")
}

// path returns the path of a control group, from the root of the hierarchy.
// The id is its file handle, and the number of its inode (section 3.2).
func (a *Attestor) path(id uint64) (string, error) {
	root, err := a.root()
	if err != nil {
		return "", err
	}
	path, err := byHandle(root, id)
	if errors.Is(err, unix.EPERM) { // takes CAP_DAC_READ_SEARCH; looking does not
		path, err = byInode(root, id)
	}
	if err != nil {
		return "", fmt.Errorf("control group %d of the caller: %w", id, err)
	}
	return "/" + strings.Trim(strings.TrimPrefix(path, root), "/"), nil
}

const handleKernfs = 0xfe // FILEID_KERNFS of the kernel

func byHandle(root string, id uint64) (string, error) {
	dir, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	var handle [8]byte
	binary.NativeEndian.PutUint64(handle[:], id)
	fd, err := unix.OpenByHandleAt(dir, unix.NewFileHandle(handleKernfs, handle[:]), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}

// maxGroups bounds what byInode looks at.
const maxGroups = 100_000

func byInode(root string, id uint64) (found string, err error) {
	looked := 0
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // it went while we looked
		}
		if looked++; looked > maxGroups {
			return fmt.Errorf("not among the first %d", maxGroups)
		}
		if info, err := d.Info(); err == nil {
			if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Ino == id {
				found = path
				return fs.SkipAll
			}
		}
		return nil
	})
	if err == nil && found == "" {
		err = fs.ErrNotExist
	}
	return found, err
}

// holder returns a process that has the socket open, and its control groups.
func holder(inode uint32) (pid int, groups []string, err error) {
	want := "socket:[" + strconv.FormatUint(uint64(inode), 10) + "]"
	proc, err := os.Open("/proc")
	if err != nil {
		return 0, nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return 0, nil, err
	}
	for _, name := range names {
		if pid, err = strconv.Atoi(name); err != nil {
			continue
		}
		fd := holds(pid, want)
		if fd == "" {
			continue
		}
		data, err := os.ReadFile("/proc/" + name + "/cgroup")
		if now, _ := os.Readlink(fd); err != nil || now != want {
			continue // it went, and another may have its number
		}
		for line := range bytes.Lines(data) {
			if _, path, ok := strings.Cut(strings.TrimSpace(string(line)), ":"); ok {
				_, path, _ = strings.Cut(path, ":")
				groups = append(groups, path)
			}
		}
		return pid, groups, nil
	}
	return 0, nil, errors.New("no process that we may look at has the caller's socket")
}

// holds returns the link that shows that the process has a file open, or "".
func holds(pid int, want string) string {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	f, err := os.Open(dir)
	if err != nil {
		return ""
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	for _, name := range names {
		if link, err := os.Readlink(dir + "/" + name); err == nil && link == want {
			return dir + "/" + name
		}
	}
	return ""
}
