package gke

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gcemds/gcemds/internal/token"
)

// projected is an API whose tokens the kubelet has made: they lie in a volume
// of each Pod, and this server needs no right to make any (section 5.1). The
// volume is a projected one, or one of a CSI driver that is given tokens and
// keeps them as files.
type projected struct {
	API
	Projected
}

// maxProjected is what a token can have, in bytes.
const maxProjected = 64 << 10

// volumes are where the kubelet mounts those that can hold a token, below the
// folder of a Pod. Other kinds, such as an emptyDir, are written by the Pod
// itself and prove nothing.
var volumes = []string{"volumes/kubernetes.io~projected/%s", "volumes/kubernetes.io~csi/%s/mount"}

// errProjected is why the token of one Pod cannot be used.
var errProjected = errors.New("the projected token cannot be used")

// CreateToken implements API. The life is what the volume says.
func (p projected) CreateToken(_ context.Context, sa ServiceAccount, pod Pod, audience string, _ time.Duration) (string, error) {
	if !slices.Contains(pod.Volumes, p.Volume) {
		return "", &token.Error{Kind: token.Denied, Err: fmt.Errorf("%w: the Pod %s has no volume %s", errProjected, pod, p.Volume), Text: fmt.Sprintf(
			"The Pod %s has no volume %q with a token for Google. Add a projected volume of that name with a serviceAccountToken of the audience %s and the path %s, and mount it in a container.", pod, p.Volume, audience, p.Path)}
	}
	jwt, err := p.read(pod.UID)
	if err == nil {
		err = checkProjected(jwt, sa, pod, audience, time.Now())
	}
	if err != nil {
		return "", &token.Error{Kind: token.Denied, Err: fmt.Errorf("%w: Pod %s: %w", errProjected, pod, err), Text: fmt.Sprintf(
			"The token in the volume %q of the Pod %s cannot be used: %v.", p.Volume, pod, err)}
	}
	return jwt, nil
}

// A vouched is the source of a Pod of which the kubelet's token is asked for
// first. Pods of an account share what is kept, but what one has shown is not
// for another that has nothing, and what is wrong with its volume is not told to
// others.
type vouched struct {
	token.Source
	ask func(context.Context) error
	ok  atomic.Bool // volumes of a Pod do not change
}

// vouched makes the source one, if tokens are of the kubelet.
func (c *Cluster) vouched(t *tenant, id *identity, source token.Source) token.Source {
	if c.config.Projected == nil {
		return source
	}
	return &vouched{Source: source, ask: func(ctx context.Context) error {
		_, err := c.api.CreateToken(ctx, id.account, *t.pod(), id.provider.ClusterAudience(c.config.ProjectID), id.clusterLife())
		return err
	}}
}

// Mint implements token.Source.
func (s *vouched) Mint(ctx context.Context, req token.Request) (token.Token, error) {
	if !s.ok.Load() {
		if err := s.ask(ctx); err != nil {
			return token.Token{}, err
		}
		s.ok.Store(true)
	}
	return s.Source.Mint(ctx, req)
}

// read returns the token of a Pod. No symbolic link leads out of the volume.
func (p projected) read(uid string) (string, error) {
	if uid == "" || strings.ContainsAny(uid, "/.") {
		return "", errors.New("the Pod has no uid that a folder could have")
	}
	for _, volume := range volumes {
		root, err := os.OpenRoot(filepath.Join(p.Dir, uid, fmt.Sprintf(volume, p.Volume)))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return "", errors.New("the volume cannot be opened") // the path is nothing for a Pod
		}
		defer root.Close()
		f, err := root.OpenFile(p.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe that nobody writes to must not keep us
		if err != nil {
			return "", fmt.Errorf("there is no file %s that can be read", p.Path)
		}
		defer f.Close()
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			return "", fmt.Errorf("%s is not a file", p.Path)
		}
		data, err := io.ReadAll(io.LimitReader(f, maxProjected+1))
		if err != nil || len(data) > maxProjected {
			return "", fmt.Errorf("%s cannot be read, or is too long", p.Path)
		}
		return strings.TrimSpace(string(data)), nil
	}
	return "", errors.New("the kubelet has not mounted it, as it does if a container of the Pod has it among its volumeMounts")
}

// checkProjected reports why a token is not the one that is wanted. Nobody
// verifies its signature here: Google does.
func checkProjected(jwt string, sa ServiceAccount, pod Pod, audience string, now time.Time) error {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return errors.New("it is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return errors.New("it is no JWT")
	}
	var claims struct {
		Subject  string          `json:"sub"`
		Audience json.RawMessage `json:"aud"`
		Expiry   int64           `json:"exp"`
		Cluster  struct {
			Pod     struct{ UID string }
			Account struct{ UID string } `json:"serviceaccount"`
		} `json:"kubernetes.io"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return errors.New("it is no JWT")
	}
	var audiences []string
	if json.Unmarshal(claims.Audience, &audiences) != nil {
		var one string
		json.Unmarshal(claims.Audience, &one)
		audiences = []string{one}
	}
	switch {
	case claims.Subject != subject(sa.Namespace, sa.Name):
		return errors.New("it is of another service account")
	case claims.Cluster.Account.UID != sa.UID:
		return errors.New("it is of a service account of the same name that was deleted")
	case claims.Cluster.Pod.UID != pod.UID:
		return errors.New("it is of another Pod")
	case !slices.Contains(audiences, audience):
		return fmt.Errorf("its audience is not %s", audience)
	case !now.Before(time.Unix(claims.Expiry, 0)):
		return errors.New("it has expired")
	}
	return nil
}
