package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupRoot is where cgroup2 is mounted: that of the machine, if a container
// has been given it beside its own.
func cgroupRoot() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("cannot find cgroup2: %w", err)
	}
	if root := cgroupMount(string(mounts)); root != "" {
		return root, nil
	}
	return "", errors.New("cgroup2 is not mounted here (mount -t cgroup2 none /sys/fs/cgroup; a container must be given that of the machine)")
}

func cgroupMount(mounts string) (root string) {
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if !strings.HasPrefix(after, "cgroup2 ") || len(fields) < 5 {
			continue
		}
		if strings.HasPrefix(fields[3], "/..") { // what is above the namespace that we are in
			return fields[4]
		}
		if root == "" {
			root = fields[4]
		}
	}
	return root
}

var (
	errNoPods   = errors.New("there is no cgroup of Pods on this machine (kubepods or kubepods.slice)")
	errManyPods = errors.New("there are cgroups of several kubelets; say which one is meant (--cgroup)")
)

// ofPods reports whether a directory is that of all Pods, as both cgroup
// drivers of the kubelet call it, below whatever root the kubelet has been
// given.
func ofPods(name string) bool {
	name = strings.TrimSuffix(name, ".slice")
	return name == "kubepods" || strings.HasSuffix(name, "-kubepods")
}

// ofPod reports whether a directory is that of one Pod.
func ofPod(name string) bool {
	name = strings.TrimSuffix(name, ".slice")
	if i := strings.LastIndex(name, "-pod"); i >= 0 && strings.Contains(name, "kubepods") {
		name = name[i+1:]
	}
	uid, ok := strings.CutPrefix(name, "pod")
	return ok && (len(uid) == 36 || len(uid) == 32) && strings.Trim(uid, "0123456789abcdef-_") == ""
}

// podsCgroup is the directory of the Pods: that which we are in, or the only
// one there is.
func podsCgroup() (string, error) {
	root, err := cgroupRoot()
	if err != nil {
		return "", err
	}
	at := root
	for element := range strings.SplitSeq(selfCgroup(), "/") {
		at = filepath.Join(at, element)
		if ofPods(element) {
			return at, nil
		}
	}
	found := map[string]bool{}
	const depth = 4 // kind has it below kubelet.slice, and below directories of its containers
	filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // a cgroup may go while we look
		}
		if path != root && ofPods(d.Name()) {
			found[path] = true
			return fs.SkipDir
		}
		if rel, _ := filepath.Rel(root, path); strings.Count(rel, "/") >= depth-1 {
			return fs.SkipDir
		}
		return nil
	})
	switch len(found) {
	case 0:
		return "", errNoPods
	case 1:
		for path := range found {
			return path, nil
		}
	}
	return "", errManyPods
}

// selfCgroup is the path of this process below the root of cgroup2.
func selfCgroup() string {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSpace(path)
		}
	}
	return ""
}

// ownCgroup is the id of the cgroup that our server shares with this process:
// the Pod, or the service of systemd. It is 0 if it cannot be told from others,
// as in a terminal, and if it is not below the directory.
func ownCgroup(below string) uint64 {
	root, err := cgroupRoot()
	if err != nil {
		return 0
	}
	at := root
	own := ""
	for element := range strings.SplitSeq(strings.Trim(selfCgroup(), "/"), "/") {
		at = filepath.Join(at, element)
		if ofPod(element) || strings.HasPrefix(selfCgroup(), "/system.slice/") && strings.HasSuffix(element, ".service") {
			own = at // what is inside may have any name
			break
		}
	}
	if own == "" || !strings.HasPrefix(own, strings.TrimSuffix(below, "/")+"/") {
		return 0
	}
	id, err := cgroupID(own)
	if err != nil {
		return 0
	}
	return id
}

// cgroupID is what the kernel calls a cgroup.
func cgroupID(path string) (uint64, error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return 0, fmt.Errorf("there is no cgroup %s: %w", path, err)
	}
	return s.Ino, nil
}

// cgroupPath is the directory of a cgroup, "" if it is gone.
func cgroupPath(id uint64) string {
	root, err := cgroupRoot()
	if err != nil {
		return ""
	}
	dir, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(dir)
	const kernfs = 0xfe // FILEID_KERNFS: the handle is the id
	fd, err := unix.OpenByHandleAt(dir, unix.NewFileHandle(kernfs, binary.NativeEndian.AppendUint64(nil, id)), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return ""
	}
	return path
}
