package gke

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/tree"
)

// A node is what is the same for all Pods.
type node struct {
	Node                  // without a uid until it is known
	clusterUID string     // "" until it is known
	document   *tree.Tree // without accounts
	shown      *tree.Tree // with the empty folder of accounts
	instance   *fleet.Instance
}

// makeNode returns the node with its document: a closed tree (section 2.1)
// with the values of section 2.2. What is not known is not in it.
func (c *Cluster) makeNode(n Node, clusterUID string) (*node, error) {
	location := cmp.Or(c.config.Cluster.Location, n.Labels[labelRegion], n.Labels[labelZone])
	zone := cmp.Or(n.Labels[labelZone], location)
	host := cmp.Or(n.Labels[labelHostname], c.config.Node)
	instance := map[string]any{"hostname": host, "name": c.config.Node}
	attributes := map[string]any{}
	for name, value := range map[string]string{"cluster-name": c.config.Cluster.Name, "cluster-location": location, "cluster-uid": clusterUID} {
		if value != "" {
			attributes[name] = value
		}
	}
	instance["attributes"] = attributes
	if n.UID != "" {
		instance["id"] = json.Number(strconv.FormatUint(numericID(n.UID), 10))
		if zone != "" {
			instance["zone"] = "projects/" + c.config.ProjectNumber + "/zones/" + zone
		}
	}
	data, err := json.Marshal(map[string]any{
		"instance": instance,
		"project":  map[string]any{"projectId": c.config.ProjectID, "numericProjectId": json.Number(c.config.ProjectNumber)},
	})
	if err != nil {
		return nil, err
	}
	doc, err := tree.Parse(data)
	if err != nil {
		return nil, err
	}
	shown, err := fleet.Document(doc)
	if err != nil {
		return nil, err
	}
	return &node{Node: n, clusterUID: clusterUID, document: doc, shown: shown}, nil
}

// numericID is a number that is as good as the id of a machine: the same for
// the same node, and positive in 64 bits with a sign.
func numericID(uid string) uint64 {
	sum := sha256.Sum256([]byte(uid))
	return binary.BigEndian.Uint64(sum[:8])>>1 | 1
}

// setNode replaces the node by what change makes of what is known of it, and
// wakes those who wait for a change of it.
func (c *Cluster) setNode(change func(n *Node, clusterUID *string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.node.Load()
	n, uid := old.Node, old.clusterUID
	change(&n, &uid)
	next, err := c.makeNode(n, uid)
	if err != nil {
		c.log.Error("the document of the node cannot be made", "error", err)
		return
	}
	next.instance = old.instance
	c.node.Store(next)
	next.instance.Metadata.SetBase(next.shown)
	for _, t := range c.pods.Load().tenants {
		c.renew(t)
	}
	c.tell()
}

func (c *Cluster) applyNode(change Change[Node]) {
	for _, n := range change.Items {
		if n.Name == c.config.Node && !change.Gone && !sameNode(c.node.Load().Node, n) {
			c.setNode(func(known *Node, _ *string) { *known = n })
		}
	}
}

func sameNode(a, b Node) bool {
	return a.UID == b.UID && a.Labels[labelHostname] == b.Labels[labelHostname] && a.Labels[labelRegion] == b.Labels[labelRegion] && a.Labels[labelZone] == b.Labels[labelZone]
}

// learnUID asks for the uid of the cluster until it is told.
func (c *Cluster) learnUID(ctx context.Context) {
	if c.config.Cluster.UID != "" {
		return
	}
	for pause := time.Second; ; pause = min(2*pause, 5*time.Minute) {
		uid, err := c.api.ClusterUID(ctx)
		if err == nil && uid != "" {
			c.setNode(func(_ *Node, known *string) { *known = uid })
			return
		}
		c.log.Debug("the uid of the cluster is not known; cluster-uid is not served", "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

const accountsDir = "instance/service-accounts"

// shared reports whether a request gets the same answer for every caller
// (section 2.7): those are answered at once, whoever asks.
func shared(a fleet.Ask) bool {
	if a.Recursive && (a.Key == "" || a.Key == "instance") {
		return false
	}
	rest, below := strings.CutPrefix(a.Key, accountsDir)
	return !below || rest != "" && rest[0] != '/'
}

// served are the places of the tree (section 2.1). There is no other, and what
// the server has for machines, such as guest attributes, is not for Pods.
var served = []string{"", "instance", "instance/attributes", "instance/hostname", "instance/id", "instance/name", "instance/zone",
	"project", "project/numeric-project-id", "project/project-id", "universe", "universe/universe-domain"}

// late are those that come with the node.
var late = []string{"instance/id", "instance/zone", "instance/attributes/cluster-location"}

// answer returns the instance that has what is the same for everybody.
func (n *node) answer(a fleet.Ask) (*fleet.Instance, error) {
	if n.UID == "" && slices.Contains(late, a.Key) {
		if _, err := n.document.Lookup(a.Key); err != nil {
			return nil, refusal(reasonNodePending, "")
		}
	}
	if !slices.Contains(served, a.Key) && !strings.HasPrefix(a.Key, "instance/attributes/") {
		return nil, tree.ErrNotFound
	}
	return n.instance, nil
}
