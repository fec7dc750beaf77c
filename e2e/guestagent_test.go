package e2e

import (
	"strings"
	"testing"
)

const sshKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGyoJ8nK2nS2bBCJ0V0v3W1pQxJ3Zt0D0l2m8Q4b9xTq"

// TestGuestAgent: the agent reads the whole document, publishes the keys of
// the host, and from then on waits for changes, each time with the ETag of the
// document that it knows. What it does about a change shows that it saw it.
func TestGuestAgent(t *testing.T) {
	w := newWorld(t)
	s := w.serve(t)
	t.Log("google-guest-agent", packageVersion(t, "google-guest-agent"))

	const keys = "instance/attributes/ssh-keys"
	s.cli(t, "set", keys, "ann:"+sshKey+" ann")
	agent := w.background(t, "google_guest_agent")
	agent.wait(t, "Creating user ann")

	for _, kind := range []string{"ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"} {
		file := map[string]string{"ssh-ed25519": "ed25519", "ecdsa-sha2-nistp256": "ecdsa", "ssh-rsa": "rsa"}[kind]
		public := strings.Fields(s.run(t, nil, "cat", "/etc/ssh/ssh_host_"+file+"_key.pub"))
		if got := strings.TrimSpace(s.cli(t, "get", "instance/guest-attributes/hostkeys/"+kind)); got != public[1] {
			t.Errorf("guest attribute hostkeys/%s = %q, want the key of the host, %q", kind, got, public[1])
		}
	}

	// A change, and one more: the loop goes on.
	s.cli(t, "set", keys, "ann:"+sshKey+" ann\nbob:"+sshKey+" bob")
	agent.wait(t, "Creating user bob")
	s.cli(t, "set", keys, "bob:"+sshKey+" bob")
	agent.wait(t, "Removing user ann")
	if got := s.run(t, nil, "cat", "/home/bob/.ssh/authorized_keys"); !strings.Contains(got, sshKey+" bob") {
		t.Errorf("authorized_keys of bob:\n%s\nwant the key of the metadata", got)
	}

	// A change for the project reaches it too, and leaves what is of the instance.
	s.cli(t, "set", "project/attributes/ssh-keys", "eve:"+sshKey+" eve")
	agent.wait(t, "Creating user eve")

	// Every answer to a wait has an ETag that the agent can wait with: it does not come back at once. Five
	// changes were made while it ran (four here, one of its own), and it asks once more than that.
	const whole = "path=/computeMetadata/v1/ "
	if n := strings.Count(s.log.String(), whole); n < 3 || n > 12 {
		t.Errorf("the agent asked %d times for the whole document, want once for each change (3 to 12)", n)
	}
}

// TestScriptRunner: the agent's companion runs the startup script.
func TestScriptRunner(t *testing.T) {
	w := newWorld(t)
	s := w.serve(t)
	t.Log("google_metadata_script_runner", packageVersion(t, "google-guest-agent"))
	s.run(t, nil, "google_metadata_script_runner", "startup")
	if got, want := s.run(t, nil, "cat", "/var/log/startup-demo.log"), "hello from <demo-instance> & friends\n"; got != want {
		t.Errorf("the startup script wrote %q, want %q", got, want)
	}

	// It takes the script of the project when the instance has none.
	s.cli(t, "delete", "instance/attributes/startup-script")
	s.cli(t, "set", "project/attributes/startup-script", "#! /bin/sh\necho of the project > /tmp/said")
	s.run(t, nil, "google_metadata_script_runner", "startup")
	if got, want := s.run(t, nil, "cat", "/tmp/said"), "of the project\n"; got != want {
		t.Errorf("the startup script of the project wrote %q, want %q", got, want)
	}
}
