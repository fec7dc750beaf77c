//go:build unix

package credential

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// taken is a file whose descriptor a secret has read and closed. It must not
// be collected: that would close the descriptor again, which by then is
// another's.
var taken *os.File

// A descriptor that was handed over is read once, and known at each reload. One
// of our own is neither read nor closed.
func TestSecretDescriptor(t *testing.T) {
	pipe := func() (*os.File, Secret) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.WriteString("from a pipe\n")
		w.Close()
		return r, Secret("fd:" + strconv.Itoa(int(r.Fd())))
	}
	ours, reference := pipe()
	defer ours.Close()
	if got, err := reference.read(); err == nil || !strings.Contains(err.Error(), "it was not open when gcemds was started") {
		t.Errorf("a descriptor of ours = %q, %v, want a refusal", got, err)
	}
	if _, err := ours.Stat(); err != nil {
		t.Errorf("a descriptor of ours is of no more use: %v", err)
	}
	taken, reference = pipe()
	if _, err := unix.FcntlInt(taken.Fd(), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := reference.read(); err != nil || string(got) != "from a pipe" {
			t.Errorf("a descriptor that was handed over = %q, %v, want what is in it", got, err)
		}
	}
}
