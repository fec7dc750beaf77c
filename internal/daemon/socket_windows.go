package daemon

import "errors"

// restrict does nothing: sockets have the permissions of their folder.
func restrict(uintptr) {}

// reusePort fails: what Windows has of that name lets anybody take the port.
func reusePort(uintptr) error { return errors.New("reuse_port is not for Windows") }
