// Package intercept makes a program find our metadata server where Google has
// its own: at 169.254.169.254, and by the name metadata.google.internal.
//
// It changes what that program and its children see, and nothing else on the
// machine: no address is added, no route, no rule, so there is nothing to take
// back. On Linux every connect(2) of theirs is held by a seccomp filter until
// we have looked at where it goes; one to the metadata server is made to ours,
// and the kernel goes on with the others as if nothing had been. The name is
// in a hosts file that only they see, in a mount namespace.
//
// It is no sandbox. What is not a connect(2) gets past it: io_uring, and
// datagrams.
package intercept

import "net/netip"

// A View is what a program sees.
type View struct {
	// Server is where connections to 169.254.169.254:80 lead: an IPv4 address.
	Server netip.AddrPort

	// Dir is an empty directory for files of the view. It must last as long
	// as the program.
	Dir string

	// Hide are directories that are empty in the view.
	Hide []string
}

var linkLocal = netip.MustParseAddr("169.254.169.254")

// linkLocal6 is the address of Google's server for machines without IPv4.
var linkLocal6 = netip.MustParseAddr("fd20:ce::254")
