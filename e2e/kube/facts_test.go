package kube

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// What gcemds relies on in Kubernetes. These tests know nothing of gcemds: if
// one fails with a new version of Kubernetes, the world has changed.

const poolAudience = "my-project.svc.id.goog"

// boundPod makes a Pod on node-1 that no kubelet will run, and returns its uid.
func boundPod(t *testing.T, c *cluster, namespace string) string {
	t.Helper()
	c.apply(t, namespace, `{apiVersion: v1, kind: Pod, metadata: {name: app}, spec: {nodeName: node-1, serviceAccountName: app, containers: [{name: c, image: none}]}}`)
	ctx := context.WithoutCancel(t.Context())
	t.Cleanup(func() {
		if _, err := c.try(ctx, "", "--namespace="+namespace, "delete", "pod/app", "--grace-period=0", "--force"); err != nil {
			t.Error(err)
		}
	})
	return c.field(t, namespace, "pod/app", ".metadata.uid")
}

func tokenFor(uid string) []string {
	return []string{"create", "token", "app", "--audience=" + poolAudience, "--bound-object-kind=Pod", "--bound-object-name=app", "--bound-object-uid=" + uid}
}

func TestTokenIsBoundToThePod(t *testing.T) {
	c := sharedCluster(t)
	namespace := c.namespace(t)
	uid := boundPod(t, c, namespace)
	in := "--namespace=" + namespace

	claims := struct {
		Issuer     string   `json:"iss"`
		Subject    string   `json:"sub"`
		Audience   []string `json:"aud"`
		Issued     int64    `json:"iat"`
		Expiry     int64    `json:"exp"`
		Kubernetes struct {
			Namespace      string
			Pod            struct{ Name, UID string }
			ServiceAccount struct{ Name, UID string }
		} `json:"kubernetes.io"`
	}{}
	token := c.kubectl(t, append([]string{in}, tokenFor(uid)...)...)
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 {
		t.Fatal("TokenRequest gives no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(payload, &claims)
	}
	if err != nil {
		t.Fatal("the claims of the token: ", err)
	}
	if got, want := fmt.Sprint(claims.Issuer, claims.Subject, claims.Audience, claims.Expiry-claims.Issued), fmt.Sprint(issuerURL, "system:serviceaccount:"+namespace+":app", []string{poolAudience}, 3600); got != want {
		t.Errorf("issuer, subject, audience and life are %s, want %s", got, want)
	}
	if k := claims.Kubernetes; k.Namespace != namespace || k.Pod.Name != "app" || k.Pod.UID != uid || k.ServiceAccount.Name != "app" ||
		k.ServiceAccount.UID != c.field(t, namespace, "serviceaccount/app", ".metadata.uid") {
		t.Errorf("the token names %+v, want the Pod %s and its ServiceAccount", k, uid)
	}

	if got, want := c.refused(t, append([]string{in}, tokenFor("00000000-0000-0000-0000-000000000000")...)...), "does not match the UID"; !strings.Contains(got, want) {
		t.Errorf("a token for another uid: %s\nwant an error with %q", got, want)
	}
	if got, want := c.refused(t, append([]string{in, "--duration=599s"}, tokenFor(uid)...)...), "less than 10 minutes"; !strings.Contains(got, want) {
		t.Errorf("a token of 599 s: %s\nwant an error with %q", got, want)
	}
}

// TestAPIServerComesBack: with all that was made, as the tests of an API server
// that is away rely on.
func TestAPIServerComesBack(t *testing.T) {
	c := sharedCluster(t)
	namespace := c.namespace(t)
	c.kill(t, "kube-apiserver")
	if got := c.refused(t, "--request-timeout=2s", "get", "--raw=/readyz"); !strings.Contains(got, "refused") {
		t.Errorf("without an API server: %s\nwant that the connection is refused", got)
	}
	if err := c.startAPI(); err != nil {
		t.Fatal(err)
	}
	c.field(t, namespace, "serviceaccount/app", ".metadata.uid")
}

// A node's own credentials are of no use to an agent: it needs a ServiceAccount
// that may make tokens.
func TestNodeMayNotAskForOurAudience(t *testing.T) {
	c := sharedCluster(t)
	namespace := c.namespace(t)
	uid := boundPod(t, c, namespace)
	for node, want := range map[string]string{
		"node-1": `audience "` + poolAudience + `" not found in pod spec volume`,
		"node-2": "no relationship found between node",
	} {
		as := []string{"--namespace=" + namespace, "--as=system:node:" + node, "--as-group=system:nodes"}
		if got := c.refused(t, append(as, tokenFor(uid)...)...); !strings.Contains(got, want) {
			t.Errorf("%s asks for a token of a Pod on node-1: %s\nwant an error with %q", node, got, want)
		}
	}
}

// Google needs the issuer and the keys of the cluster; any ServiceAccount can
// read them, nobody else can.
func TestDiscovery(t *testing.T) {
	c := sharedCluster(t)
	namespace := c.namespace(t)
	var discovery struct{ Issuer, JWKSURI string }
	account := []string{"--as=system:serviceaccount:" + namespace + ":app", "--as-group=system:serviceaccounts"}
	document := c.kubectl(t, append(account, "get", "--raw=/.well-known/openid-configuration")...)
	if err := json.Unmarshal([]byte(document), &discovery); err != nil {
		t.Fatal(err)
	}
	if discovery.Issuer != issuerURL {
		t.Errorf("the issuer is %s, want %s", discovery.Issuer, issuerURL)
	}
	var keys struct {
		Keys []struct{ Kty, Alg, Use, Kid string }
	}
	if err := json.Unmarshal([]byte(c.kubectl(t, append(account, "get", "--raw=/openid/v1/jwks")...)), &keys); err != nil {
		t.Fatal(err)
	}
	if len(keys.Keys) != 1 || keys.Keys[0].Alg != "RS256" || keys.Keys[0].Kid == "" {
		t.Errorf("the keys are %+v, want one for RS256 with a name", keys.Keys)
	}
	for _, path := range []string{"/.well-known/openid-configuration", "/openid/v1/jwks"} {
		if got := c.refused(t, "--as=system:anonymous", "--as-group=system:unauthenticated", "get", "--raw="+path); !strings.Contains(got, "Forbidden") {
			t.Errorf("anybody asks for %s: %s\nwant Forbidden", path, got)
		}
	}
}
