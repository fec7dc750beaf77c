//go:build programs

// Package programs names the programs of Kubernetes that the tests of
// e2e/kube run. It is a module of its own, which nothing imports: what
// Kubernetes is made of stays out of every other go.mod.
package programs

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
