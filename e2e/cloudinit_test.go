package e2e

import (
	"encoding/base64"
	"path/filepath"
	"strings"
	"testing"
)

// TestCloudInit: the first boot of a machine, with cloud-init's own detection
// of the platform. What it knows and what it did are those of the metadata.
func TestCloudInit(t *testing.T) {
	needWorld(t)
	t.Run("user-data as text", func(t *testing.T) {
		testCloudInit(t, map[string]string{"user-data": userData})
	})
	t.Run("user-data in base64", func(t *testing.T) {
		testCloudInit(t, map[string]string{
			"user-data":          base64.StdEncoding.EncodeToString([]byte(userData)),
			"user-data-encoding": "base64",
		})
	})
	t.Log("cloud-init", packageVersion(t, "cloud-init"))
}

const userData = "#cloud-config\nwrite_files:\n- path: /etc/said\n  content: hello <you> & you\n"

func testCloudInit(t *testing.T, attributes map[string]string) {
	w := newWorld(t)
	s := w.serve(t)
	for key, value := range attributes {
		s.cli(t, "set", "instance/attributes/"+key, value)
	}
	s.cli(t, "set", "instance/attributes/ssh-keys", "debian:"+sshKey+" of-the-instance\nother:"+sshKey+" of-another-user")
	s.cli(t, "set", "project/attributes/ssh-keys", "debian:"+sshKey+" of-the-project")
	s.run(t, nil, "cp", filepath.Join(here, "cloud.cfg"), "/etc/cloud/cloud.cfg")
	s.run(t, nil, "cloud-init", "init")

	d := document
	_, zone, _ := strings.Cut(d.Instance.Zone, "/zones/")
	var format, want string
	for _, known := range []struct{ variable, want string }{
		{"v1.cloud_name", "gce"},
		{"v1.instance_id", d.Instance.ID.String()},
		{"v1.availability_zone", zone},
		{"v1.region", zone[:strings.LastIndex(zone, "-")]},
		{"v1.local_hostname", d.Instance.Name},
		{"ds.meta_data.instance_id", d.Instance.ID.String()},
		{"ds.meta_data.local_hostname", d.Instance.Hostname},
		{"ds.meta_data.public_keys_data[1]", "other:" + sshKey + " of-another-user"},
	} {
		format += known.variable + " {{" + known.variable + "}}\n"
		want += known.variable + " " + known.want + "\n"
	}
	if got := s.run(t, nil, "cloud-init", "query", "--format", format); strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("cloud-init knows\n%s\nwant\n%s", got, want)
	}
	if got, want := s.run(t, nil, "cat", "/etc/said"), "hello <you> & you"; got != want {
		t.Errorf("the user data wrote %q, want %q", got, want)
	}
	if got := strings.TrimSpace(s.run(t, nil, "hostname")); got != d.Instance.Name {
		t.Errorf("the name of the machine is %q, want %q", got, d.Instance.Name)
	}
	authorized := s.run(t, nil, "cat", "/home/debian/.ssh/authorized_keys")
	if !strings.Contains(authorized, "of-the-instance") || !strings.Contains(authorized, "of-the-project") || strings.Contains(authorized, "of-another-user") {
		t.Errorf("authorized_keys of the default user:\n%s\nwant the keys for it, of the instance and of the project", authorized)
	}
	for kind, file := range map[string]string{"ssh-ed25519": "ed25519", "ecdsa-sha2-nistp256": "ecdsa"} {
		public := strings.Fields(s.run(t, nil, "cat", "/etc/ssh/ssh_host_"+file+"_key.pub"))
		if got := strings.TrimSpace(s.cli(t, "get", "instance/guest-attributes/hostkeys/"+kind)); got != public[1] {
			t.Errorf("guest attribute hostkeys/%s = %q, want the key of the host, %q", kind, got, public[1])
		}
	}
}
