package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// seed writes objects straight into etcd, thousands in a second, where the API
// server finds them. Each is a write of its own: of objects that share a
// revision a watch may miss some. The cluster must be one of startCluster.
func (c *cluster) seed(t *testing.T, objects map[string]any) {
	t.Helper()
	type entry struct{ key, value []byte }
	entries := make(chan entry)
	errors := make(chan error, 1)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for e := range entries {
				if err := c.put(e.key, e.value); err != nil {
					select {
					case errors <- err:
					default:
					}
				}
			}
		})
	}
	for key, object := range objects {
		value, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		entries <- entry{[]byte("/registry/" + key), value}
	}
	close(entries)
	workers.Wait()
	select {
	case err := <-errors:
		t.Fatal(err)
	default:
	}
}

func (c *cluster) put(key, value []byte) error {
	body, err := json.Marshal(map[string][]byte{"key": key, "value": value}) // in base64, as etcd wants them
	if err != nil {
		return err
	}
	answer, err := http.Post(c.etcd+"/v3/kv/put", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("etcd says %s: %s", answer.Status, said)
	}
	return err
}

// crowd are running Pods of a node, each with an address of its own below
// 10.SECOND, that share some ServiceAccounts: for seed.
func crowd(namespace, node string, second, pods, accounts int) map[string]any {
	type object = map[string]any
	made := time.Now().UTC().Format(time.RFC3339)
	metadata := func(kind, name string, n int) object {
		return object{"name": name, "namespace": namespace, "uid": fmt.Sprintf("%08x-0000-4000-8000-%04x%08x", n, kind[0], second), "creationTimestamp": made}
	}
	all := map[string]any{}
	for n := range accounts {
		name := fmt.Sprintf("%s-%d", node, n)
		all["serviceaccounts/"+namespace+"/"+name] = object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata("s", name, n)}
	}
	for n := range pods {
		name := fmt.Sprintf("%s-%d", node, n)
		ip := podAddress(second, n)
		all["pods/"+namespace+"/"+name] = object{"apiVersion": "v1", "kind": "Pod", "metadata": metadata("p", name, n),
			"spec": object{"nodeName": node, "serviceAccountName": fmt.Sprintf("%s-%d", node, n%accounts), "containers": []object{{"name": "c", "image": "none"}}},
			"status": object{"phase": "Running", "podIP": ip, "podIPs": []object{{"ip": ip}}, "startTime": made,
				"conditions": []object{{"type": "Ready", "status": "True"}}}}
	}
	return all
}

// podAddress is that of the nth Pod of a crowd.
func podAddress(second, n int) string { return fmt.Sprintf("10.%d.%d.%d", second, n>>8, n&255) }

// TestSeed: what is seeded is there for the API server as if it had been made
// through it.
func TestSeed(t *testing.T) {
	c := sharedCluster(t)
	namespace := c.namespace(t)
	const pods, accounts = 500, 50
	c.seed(t, crowd(namespace, "node-8", 8, pods, accounts))
	c.seed(t, crowd(namespace, "node-9", 9, 1, 1))
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		list := func(what ...string) int {
			return len(strings.Fields(c.kubectl(t, append([]string{"--namespace=" + namespace, "get", "--output=name"}, what...)...)))
		}
		there, known := list("pods", "--field-selector=spec.nodeName=node-8,status.phase=Running"), list("serviceaccounts")
		if there == pods && known == accounts+2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d Pods on the node and %d ServiceAccounts, want %d and %d", there, known, pods, accounts+2)
		}
	}
	uid := c.field(t, namespace, "pod/node-8-257", ".metadata.uid")
	if got, want := c.field(t, namespace, "pod/node-8-257", ".status.podIP"), "10.8.1.1"; got != want {
		t.Errorf("the address of a Pod is %s, want %s", got, want)
	}
	c.kubectl(t, "--namespace="+namespace, "create", "token", "node-8-7", "--audience="+poolAudience,
		"--bound-object-kind=Pod", "--bound-object-name=node-8-257", "--bound-object-uid="+uid)
}
