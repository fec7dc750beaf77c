package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestOSLogin: the NSS module and the program that sshd asks for keys find the
// users, groups and permissions of the metadata server.
func TestOSLogin(t *testing.T) {
	w := newWorld(t)
	s := w.serve(t)
	t.Log("google-compute-engine-oslogin", packageVersion(t, "google-compute-engine-oslogin"))
	const users = `[
		{"name": "ann@example.com",
		 "posixAccounts": [{"primary": true, "username": "ann_example_com", "uid": 123450, "gid": 123450,
		                    "homeDirectory": "/home/ann_example_com", "shell": "/bin/bash",
		                    "operatingSystemType": "LINUX", "accountId": "demo-project"}],
		 "sshPublicKeys": {"f1": {"key": "` + sshKey + ` ann", "fingerprint": "f1"},
		                   "f2": {"key": "` + sshKey + ` old", "fingerprint": "f2", "expirationTimeUsec": "1000000"}}},
		{"name": "bob@example.com",
		 "posixAccounts": [{"primary": true, "username": "bob_example_com", "uid": 123451, "gid": 123451,
		                    "homeDirectory": "/home/bob_example_com", "shell": "/bin/sh", "operatingSystemType": "LINUX"}]}]`
	s.cli(t, "set", "oslogin/users", "--json", users)
	s.cli(t, "set", "oslogin/groups", "--json", `[{"name": "testers", "gid": 123499, "usernames": ["ann_example_com", "bob_example_com"]}]`)
	s.cli(t, "set", "oslogin/authorize", "--json", `{"login": ["ann@example.com"], "adminLogin": []}`)
	s.run(t, nil, "sed", "-i", "-E", `s/^(passwd|group):.*/\1: files cache_oslogin oslogin/`, "/etc/nsswitch.conf")

	t.Run("group of a user", func(t *testing.T) {
		// Before there is a cache, with which this release of the module forgets the name of such a group. The
		// password is whatever was in its memory.
		for _, key := range []string{"ann_example_com", "123450"} {
			got := strings.Split(strings.TrimSpace(s.run(t, nil, "getent", "group", key)), ":")
			if len(got) != 4 || got[0] != "ann_example_com" || got[2] != "123450" || got[3] != "ann_example_com" {
				t.Errorf("getent group %s = %q, want the name, 123450 and one member", key, got)
			}
		}
	})

	t.Run("cache", func(t *testing.T) {
		// The program asks for pages until it gets the token "0", which comes with an empty page of users but may come
		// with groups. Without its cache the module takes it that there are no groups.
		s.run(t, nil, "google_oslogin_nss_cache")
		for file, want := range map[string]string{
			"/etc/oslogin_passwd.cache": "ann_example_com:*:123450:123450::/home/ann_example_com:/bin/bash\nbob_example_com:*:123451:123451::/home/bob_example_com:/bin/sh\n",
			"/etc/oslogin_group.cache":  "testers::123499:ann_example_com,bob_example_com\n",
		} {
			if got := s.run(t, nil, "cat", file); got != want {
				t.Errorf("google_oslogin_nss_cache wrote to %s %q, want %q", file, got, want)
			}
		}
	})

	t.Run("NSS", func(t *testing.T) {
		for _, c := range []struct{ database, key, want string }{
			{"passwd", "ann_example_com", "ann_example_com:*:123450:123450::/home/ann_example_com:/bin/bash"},
			{"passwd", "123451", "bob_example_com:*:123451:123451::/home/bob_example_com:/bin/sh"},
			{"group", "testers", "testers::123499:ann_example_com,bob_example_com"},
			{"group", "123499", "testers::123499:ann_example_com,bob_example_com"},
		} {
			for _, module := range []string{"oslogin", "cache_oslogin"} { // the first asks the server each time
				if got := strings.TrimSpace(s.run(t, nil, "getent", "-s", module, c.database, c.key)); got != c.want {
					t.Errorf("getent -s %s %s %s = %q, want %q", module, c.database, c.key, got, c.want)
				}
			}
		}
		if got, want := strings.TrimSpace(s.run(t, nil, "id", "-G", "bob_example_com")), "123451 123499"; got != want {
			t.Errorf("id -G bob_example_com = %q, want %q", got, want)
		}
		missing := s.run(t, nil, "sh", "-c", "getent passwd nobody_example_com; echo $?")
		if strings.TrimSpace(missing) != "2" {
			t.Errorf("getent passwd of an unknown user: %q, want nothing and status 2", missing)
		}
	})

	t.Run("keys", func(t *testing.T) {
		keys := func(user string) string {
			return s.run(t, nil, "sh", "-c", fmt.Sprintf("google_authorized_keys %s; echo status $?", user))
		}
		if got, want := keys("ann_example_com"), sshKey+" ann\n"; !strings.HasPrefix(got, want) || strings.Contains(got, "old") {
			t.Errorf("google_authorized_keys of a user who may log in = %q, want the key that has not expired", got)
		}
		if got := keys("bob_example_com"); strings.Contains(got, "ssh-") {
			t.Errorf("google_authorized_keys of a user who may not log in = %q, want no key", got)
		}
	})

	t.Run("PAM", func(t *testing.T) {
		s.run(t, nil, "sh", "-c", "echo 'account required pam_oslogin_login.so' >/etc/pam.d/e2e")
		s.run(t, nil, "pamtester", "e2e", "ann_example_com", "acct_mgmt")
		refused := s.run(t, nil, "sh", "-c", "pamtester e2e bob_example_com acct_mgmt 2>&1; echo status $?")
		if !strings.Contains(refused, "Permission denied") || !strings.HasSuffix(refused, "status 1\n") {
			t.Errorf("pamtester for a user who may not log in: %q, want that permission is denied", refused)
		}
	})
}
