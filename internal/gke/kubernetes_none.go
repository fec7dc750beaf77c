//go:build nogke

package gke

import (
	"context"
	"errors"
)

// Kubernetes is not part of this build.
type Kubernetes struct{ API }

// OpenKubernetes says so.
func OpenKubernetes(string, string) (*Kubernetes, error) {
	return nil, errors.New("this gcemds was built without Kubernetes (build tag nogke); take a build with it")
}

// Get is never called.
func (*Kubernetes) Get(context.Context, string) ([]byte, error) { panic("there is no Kubernetes") }
