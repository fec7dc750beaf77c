// Package e2e lets programs that were written for Google's metadata server
// talk to gcemds: Google's libraries for Go, Node, Python, Java and Ruby, curl,
// the guest agent, cloud-init, OS Login. It holds tests only and is a module of
// its own, so that those libraries stay out of the go.mod of gcemds.
//
// A program that can be told where the metadata server is (GCE_METADATA_HOST)
// runs on this machine, against a server on a free port of 127.0.0.1. One that
// insists on 169.254.169.254 runs in a world: network, mount and process
// namespaces of its own, in which gcemds has that address. Nothing here ever
// dials the link-local address of the machine itself.
package e2e
