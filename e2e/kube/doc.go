// Package kube is a test bed of real Kubernetes, and the tests of gcemds that
// need one. A cluster is etcd and kube-apiserver on the loopback device: tokens,
// permissions, watches, and manifests checked by the real API. A world is a
// cluster of two nodes besides, each with a kubelet, containerd, runc and a
// network of its own, and real Pods on them. Google in it is gcemds google,
// which believes the keys of the cluster.
//
// The programs are built from the Go module proxy (see the directory programs),
// and come up in seconds. A world takes root. Nothing of this machine is
// touched, and nothing is left when the tests end, whatever ends them.
package kube
