//go:build !linux

package attest

import (
	"net/netip"

	"github.com/gcemds/gcemds/internal/fleet"
)

func (a *Attestor) attest(_, _ netip.AddrPort) (fleet.Peer, error) {
	return fleet.Peer{}, ErrUnsupported
}
