//go:build !windows

package tpm

import (
	"path/filepath"
	"strings"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// DefaultDevice is the TPM behind the resource manager of Linux.
const DefaultDevice = "/dev/tpmrm0"

func otherDevice(address string) bool { return filepath.IsAbs(address) }

func openDevice(address string) (transport.TPMCloser, error) { return linuxtpm.Open(address) }

// openFix says what may help when a device cannot be opened.
func openFix(address string) string {
	if strings.Contains(address, ":") {
		return "is swtpm running there, and serving nobody else?"
	}
	return "is there a TPM 2.0, switched on in the firmware, and may this user use it (group tss)?"
}
