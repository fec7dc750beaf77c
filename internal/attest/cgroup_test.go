package attest

import (
	"errors"
	"strings"
	"testing"
)

const uid = "0f2c8d31-9c1e-4b6a-8f57-3a2b1c0d9e8f"

var underscored = strings.ReplaceAll(uid, "-", "_")

func TestPodUID(t *testing.T) {
	for _, c := range []struct {
		path, want string
		err        error
	}{
		{"/kubepods/besteffort/pod" + uid + "/2a9b", uid, nil},
		{"/kubepods/pod" + uid, uid, nil},
		{"/world/node-1/kubepods/burstable/pod" + uid + "/2a9b", uid, nil},
		{"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + underscored + ".slice/cri-containerd-2a9b.scope", uid, nil},
		{"/kubepods.slice/kubepods-pod" + underscored + ".slice/crio-2a9b.scope", uid, nil},
		{"/docker/77/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + underscored + ".slice/x", uid, nil},

		{"/", "", nil},
		{"", "", nil},
		{"/system.slice/sshd.service", "", nil},
		{"/kubepods/besteffort", "", nil},
		{"/kubepods/besteffort/pod" + strings.ToUpper(uid), "", nil},
		{"/kubepods/besteffort/xpod" + uid, "", nil},
		{"/kubepods/besteffort/pod" + uid[1:], "", nil},
		{"/kubepods/pod0123456789abcdef0123456789abcdef/2a9b", "", errStatic},

		// Above the namespace of control groups that the reader is in.
		{"/../../pod" + uid + "/2a9b", "", errOutside},
		{"/../kubepods/pod" + uid, "", errOutside},

		// What is not of the kubelet's making.
		{"/pod" + uid, "", nil},
		{"/system.slice/pod" + uid, "", nil},
		{"/user.slice/user-1000.slice/user@1000.service/kubepods/pod" + uid, "", errDelegated},
		{"/kubepods/pod" + uid + "/2a9b/pod11111111-9c1e-4b6a-8f57-3a2b1c0d9e8f", uid, nil},
		{"/kubepods/pod" + uid + "/kubepods/pod11111111-9c1e-4b6a-8f57-3a2b1c0d9e8f", uid, nil},
	} {
		got, err := PodUID(c.path)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("PodUID(%q) = %q, %v; want %q, %v", c.path, got, err, c.want, c.err)
		}
	}
}

func FuzzPodUID(f *testing.F) {
	f.Add("/kubepods/besteffort/pod" + uid + "/2a9b")
	f.Add("/kubepods.slice/kubepods-pod" + underscored + ".slice/crio-2a9b.scope")
	f.Add("/user.slice/pod" + uid)
	f.Fuzz(func(t *testing.T, path string) {
		got, err := PodUID(path)
		switch {
		case got == "":
		case err != nil || !isUID(got):
			t.Errorf("PodUID(%q) = %q, %v: neither a uid nor a fault", path, got, err)
		case !strings.Contains(strings.ReplaceAll(path, "_", "-"), "pod"+got) || !strings.Contains(path, "kubepods"):
			t.Errorf("PodUID(%q) = %q, which is not in it below kubepods", path, got)
		}
		// What a container makes inside its own group changes nothing.
		inside, _ := PodUID(strings.TrimRight(path, "/") + "/kubepods/pod11111111-1111-1111-1111-111111111111")
		if got != "" && inside != got {
			t.Errorf("PodUID(%q) = %q, and %q from inside", path, got, inside)
		}
	})
}
