package attest

import (
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
	root, rootErr := groups()
	s, err := a.find(remote, local)
	if err != nil {
		if a.Callers != nil {
			if cgroup, pid, ok := a.Callers.Lookup(remote); ok {
				return named(fleet.Peer{PID: int(pid)}, root, cgroup, rootErr)
			}
		}
		return fleet.Peer{}, err
	}
	p := fleet.Peer{UID: s.uid}
	if rootErr == nil && s.cgroup != 0 {
		p, err = named(p, root, s.cgroup, nil)
		if err != nil || p.PodUID != "" || root == unified {
			return p, err
		}
	}
	// Containers may be in control groups of version 1 alone, and kernels before
	// 5.8 do not say in which group a socket is. Then a process has to be found.
	h, err := holder(s.inode)
	if err != nil {
		return p, err
	}
	h.UID = s.uid
	return h, nil
}

// named adds the control group with that id to what is known of a caller, and
// the Pod that it is of.
func named(p fleet.Peer, root string, id uint64, err error) (fleet.Peer, error) {
	if err == nil {
		p.Cgroup, err = pathOf(root, id)
	}
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
	families := []byte{familyIPv4, familyIPv6} // a socket of IPv6 may have dialled IPv4
	if remote.Addr().Is6() {
		families = families[1:]
	}
	for i := range 1 + len(a.Dialled) {
		to := local
		if i > 0 {
			to = a.Dialled[i-1]
		}
		if to.Addr().Is4() != remote.Addr().Is4() {
			continue
		}
		for _, family := range families {
			s, err := ask(fd, question(family, remote, to))
			switch {
			case errors.Is(err, syscall.ENOENT):
			case err != nil:
				return socket{}, err
			case s.own != remote || s.peer != to:
				// Where there is no such connection the kernel tells of the socket that
				// listens at the port. Whoever that is, it is not the caller.
			case s.inode == 0:
				return socket{}, ErrClosed
			default:
				return s, nil
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

// Where control groups of version 2 are: where there are no others, and next
// to those of version 1.
const unified, hybrid = "/sys/fs/cgroup", "/sys/fs/cgroup/unified"

// groups returns where they are on this machine.
func groups() (string, error) {
	for _, dir := range []string{unified, hybrid} {
		var s unix.Statfs_t
		if unix.Statfs(dir, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", fmt.Errorf("there are no control groups of version 2 at %s", unified)
}

// pathOf returns the path of a control group, from the root of the hierarchy.
// The id is its file handle, and the number of its inode (section 3.2).
func pathOf(root string, id uint64) (string, error) {
	path, err := byHandle(root, id)
	if errors.Is(err, unix.EPERM) { // takes CAP_DAC_READ_SEARCH; looking does not
		path, err = byInode(root, id)
	}
	below, ok := strings.CutPrefix(path, root)
	switch {
	case errors.Is(err, unix.ESTALE) || errors.Is(err, fs.ErrNotExist):
		return "", errGone
	case err != nil:
		return "", fmt.Errorf("control group %d of the caller: %w", id, err)
	case !ok || below != "" && below[0] != '/': // the kernel finds what is not mounted, too
		return "", errOutside
	}
	return "/" + strings.Trim(below, "/"), nil
}

var (
	errGone   = errors.New("the control group of the caller is gone, or not among those at /sys/fs/cgroup; those of the host have to be there")
	errShared = errors.New("processes of several Pods have the caller's socket, so nobody knows whose it is")
)

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

// holder returns the process that has a socket open. It cannot tell which of
// several opened it: if they are not all of one Pod, it says so.
func holder(inode uint32) (fleet.Peer, error) {
	want := "socket:[" + strconv.FormatUint(uint64(inode), 10) + "]"
	proc, err := os.Open("/proc")
	if err != nil {
		return fleet.Peer{}, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return fleet.Peer{}, err
	}
	var found fleet.Peer
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
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
		p, err := member(data)
		p.PID = pid
		switch {
		case err != nil:
			return p, err
		case found.PID == 0:
			found = p
		case p.PodUID != found.PodUID:
			return fleet.Peer{}, errShared
		}
	}
	if found.PID == 0 {
		return found, errors.New("no process that may be looked at has the caller's socket")
	}
	return found, nil
}

// member reads a file /proc/PID/cgroup: a line for each hierarchy. One that is
// of a Pod counts, else the last, which is that of version 2.
func member(data []byte) (p fleet.Peer, err error) {
	for line := range strings.Lines(string(data)) {
		_, path, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if _, p.Cgroup, _ = strings.Cut(path, ":"); p.Cgroup == "" {
			continue
		}
		if p.PodUID, err = PodUID(p.Cgroup); p.PodUID != "" || err != nil {
			break
		}
	}
	return p, err
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
