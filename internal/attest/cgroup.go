package attest

import (
	"errors"
	"strings"
)

var (
	errStatic    = errors.New("the caller is a static Pod, which has no service account")
	errOutside   = errors.New("the control group of the caller is outside of those at /sys/fs/cgroup; those of the host have to be there")
	errDelegated = errors.New("the control group of the caller is one that a user may name as he likes")
)

// PodUID returns the uid of the Pod that a control group is of, as the kubelet
// names those (section 3.2); "" if it is of none. The path is from the root of
// the hierarchy.
//
// The outermost name counts: a container may make groups of any name inside
// its own. So may a user inside what systemd has delegated to him, and nothing
// there is believed.
func PodUID(path string) (string, error) {
	pods := false
	for name := range strings.SplitSeq(path, "/") {
		if name == ".." { // so /proc writes what is above the namespace of the reader
			return "", errOutside
		}
		if strings.HasPrefix(name, "user@") || name == "user.slice" {
			if strings.Contains(path, "pod") {
				return "", errDelegated
			}
			return "", nil
		}
		name, systemd := strings.CutSuffix(name, ".slice")
		before, uid, ok := cutLast(name, "pod")
		switch {
		case !pods:
			// kubepods, or kubelet-kubepods.slice where the kubelet has a slice of its own.
			pods = name == "kubepods" || systemd && strings.HasSuffix(name, "-kubepods")
			if !pods || !ok {
				continue
			}
		case !ok:
			continue
		}
		if systemd && strings.HasSuffix(before, "-") {
			uid = strings.ReplaceAll(uid, "_", "-")
		} else if systemd || before != "" {
			continue
		}
		switch {
		case isUID(uid):
			return uid, nil
		case len(uid) == 32 && isHex(uid):
			return "", errStatic
		}
	}
	return "", nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// isUID reports whether s has the form of a UUID, in lower case.
func isUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, part := range [...][2]int{{0, 8}, {9, 13}, {14, 18}, {19, 23}, {24, 36}} {
		if i > 0 && s[part[0]-1] != '-' || !isHex(s[part[0]:part[1]]) {
			return false
		}
	}
	return true
}

func isHex(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
}
