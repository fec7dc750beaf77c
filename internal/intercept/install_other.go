//go:build !linux

package intercept

import (
	"context"
	"errors"
	"net/netip"
)

var errNotLinux = errors.New("only Linux can lead connections to 169.254.169.254 elsewhere; with --mode environment variables do that")

func (m Mode) probe() error { return errNotLinux }

func choose(Plan) (Mode, string, error) { return "", "", errNotLinux }

func install(context.Context, Plan) (Status, error) { return Status{}, errNotLinux }

// Read finds nothing here.
func Read() (Status, error) { return Status{}, nil }

// Remove has nothing to do here.
func Remove() (Status, error) { return Status{}, nil }

// Callers are not noted here.
type Callers struct{}

// OpenCallers fails here.
func OpenCallers() (*Callers, error) { return nil, errNotLinux }

// Lookup finds nobody here.
func (*Callers) Lookup(netip.AddrPort) (cgroup uint64, pid uint32, ok bool) { return 0, 0, false }

// Close has nothing to do here.
func (*Callers) Close() error { return nil }
