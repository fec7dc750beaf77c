package tpm

import (
	"strings"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/windowstpm"
)

// DefaultDevice is the TPM Base Services of Windows.
const DefaultDevice = "tbs"

func otherDevice(string) bool { return false }

func openDevice(string) (transport.TPMCloser, error) { return windowstpm.Open() }

// openFix says what may help when a device cannot be opened.
func openFix(address string) string {
	if strings.Contains(address, ":") {
		return "is swtpm running there, and serving nobody else?"
	}
	return "is there a TPM 2.0, and switched on? Get-Tpm in PowerShell says"
}
