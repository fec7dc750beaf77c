//go:build !linux

package daemon

import "net"

// steer leaves it to the kernel who of those that share a port gets a connection.
func steer(*net.TCPListener, uint32) {}
