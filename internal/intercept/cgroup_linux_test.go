package intercept

import "testing"

// TestCgroupNames: the directories of Pods are known in both drivers, and
// below a root of the kubelet's own.
func TestCgroupNames(t *testing.T) {
	const uid, slice = "88258953-baa7-42d0-9f5a-f97fde44fc4c", "88258953_baa7_42d0_9f5a_f97fde44fc4c"
	for name, want := range map[string]struct{ pods, pod bool }{
		"kubepods":               {pods: true},
		"kubepods.slice":         {pods: true},
		"kubelet-kubepods.slice": {pods: true}, // kind
		"pod" + uid:              {pod: true},
		"kubepods-burstable-pod" + slice + ".slice":          {pod: true},
		"kubepods-pod" + slice + ".slice":                    {pod: true}, // guaranteed
		"kubelet-kubepods-besteffort-pod" + slice + ".slice": {pod: true},
		"pod0123456789abcdef0123456789abcdef":                {pod: true}, // a static one
		"kubepods-burstable.slice":                           {},
		"podman-1234.scope":                                  {},
		"pod-of-somebody":                                    {},
		"":                                                   {},
	} {
		if pods, pod := ofPods(name), ofPod(name); pods != want.pods || pod != want.pod {
			t.Errorf("%q: of all Pods %v, of one %v; want %v, %v", name, pods, pod, want.pods, want.pod)
		}
	}
}

// TestCgroupMount: cgroup2 is found where it is mounted, and that of the
// machine goes before that of a container.
func TestCgroupMount(t *testing.T) {
	const (
		v1     = "25 23 0:22 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
		v2     = "26 23 0:23 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
		own    = "36 35 0:23 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n"
		theirs = "37 35 0:23 /../../.. /host/cgroup rw - cgroup2 cgroup rw,nsdelegate\n"
	)
	for mounts, want := range map[string]string{
		v1: "", v1 + v2: "/sys/fs/cgroup/unified", own + theirs: "/host/cgroup", theirs + own: "/host/cgroup", "": "", " - cgroup2 \n": "",
	} {
		if got := cgroupMount(mounts); got != want {
			t.Errorf("cgroup2 of\n%s\nis at %q, want %q", mounts, got, want)
		}
	}
}
