package server_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/gcemds/gcemds/internal/server"
	"github.com/gcemds/gcemds/internal/tree"
)

const (
	loginUsers = `[
	{"name": "ann@example.test",
	 "posixAccounts": [{"primary": true, "username": "ann", "uid": 1001, "gid": 1001, "homeDirectory": "/home/ann", "shell": "/bin/bash", "operatingSystemType": "LINUX", "accountId": "a1"}],
	 "sshPublicKeys": {"f1": {"key": "ssh-ed25519 AAAA ann", "expirationTimeUsec": "9007199254740993", "fingerprint": "f1"}},
	 "securityKeys": [{"publicKey": "sk-ssh-ed25519 BBBB"}],
	 "challenges": [{"challengeType": "TOTP", "credential": "123456"}, {"challengeType": "AUTHZEN"}]},
	{"name": "bob@example.test",
	 "posixAccounts": [{"primary": true, "username": "bob", "uid": 4294967294, "gid": 1002, "homeDirectory": "/home/bob", "shell": "/bin/sh", "gecos": "Bob", "operatingSystemType": "LINUX"}]},
	{"name": "eve@example.test",
	 "posixAccounts": [{"primary": true, "username": "eve", "uid": 1003, "gid": 1003, "homeDirectory": "/home/eve", "shell": "/bin/sh", "operatingSystemType": "LINUX"}]}]`
	loginGroups = `[
	{"name": "ops", "gid": 2001, "email": "ops@example.test", "usernames": ["ann", "bob"]},
	{"name": "dev", "gid": 2002, "usernames": ["ann"]},
	{"name": "empty", "gid": 2003}]`
	loginPolicy = `{"login": ["ann@example.test", "bob@example.test"], "adminLogin": ["ann@example.test"]}`

	ann = `{"name":"ann@example.test","posixAccounts":[{"primary":true,"username":"ann","uid":1001,"gid":1001,"homeDirectory":"/home/ann","shell":"/bin/bash","operatingSystemType":"LINUX","accountId":"a1"}],"sshPublicKeys":{"f1":{"key":"ssh-ed25519 AAAA ann","expirationTimeUsec":"9007199254740993","fingerprint":"f1"}}}`
	bob = `{"name":"bob@example.test","posixAccounts":[{"primary":true,"username":"bob","uid":4294967294,"gid":1002,"homeDirectory":"/home/bob","shell":"/bin/sh","gecos":"Bob","operatingSystemType":"LINUX"}]}`
	eve = `{"name":"eve@example.test","posixAccounts":[{"primary":true,"username":"eve","uid":1003,"gid":1003,"homeDirectory":"/home/eve","shell":"/bin/sh","operatingSystemType":"LINUX"}]}`
)

// loginServer has these users, groups and policies; "" for none.
func loginServer(t *testing.T, users, groups, policy string) *server.Server {
	t.Helper()
	var edits []tree.Edit
	for path, doc := range map[string]string{"users": users, "groups": groups, "authorize": policy} {
		if doc != "" {
			edits = append(edits, tree.Edit{Path: "oslogin/" + path, Value: json.RawMessage(doc)})
		}
	}
	return serverOf(plain(t, edits...), nil, server.Limits{})
}

// The requests of the NSS and PAM modules (section 4.4).
func TestOSLogin(t *testing.T) {
	t.Parallel()
	s := loginServer(t, loginUsers, loginGroups, loginPolicy)
	users := func(next string, list ...string) string {
		return `{"loginProfiles":[` + strings.Join(list, ",") + `],"nextPageToken":"` + next + `"}`
	}
	withKey := strings.TrimSuffix(ann, "}") + `,"securityKeys":[{"publicKey":"sk-ssh-ed25519 BBBB"}]}`
	ops, dev, empty := `{"name":"ops","gid":2001}`, `{"name":"dev","gid":2002}`, `{"name":"empty","gid":2003}`
	groups := func(next string, list ...string) string {
		return `{"posixGroups":[` + strings.Join(list, ",") + `],"nextPageToken":"` + next + `"}`
	}
	for query, body := range map[string]string{
		// A page of users with the token "0" has none, as the modules take it; one of groups may have some.
		"users":                                                users("3", ann, bob, eve),
		"users?username=ann":                                   users("0", ann),
		"users?username=ann&view=securityKey":                  users("0", withKey),
		"users?username=ann&view=other":                        users("0", ann),
		"users?uid=1003":                                       users("0", eve),
		"users?uid=4294967294":                                 users("0", bob),
		"users?username=ann&uid=1001":                          users("0", ann),
		"users?username=ann&uid=1003":                          "",
		"users?username=":                                      users("3", ann, bob, eve),
		"users?username=nobody":                                "",
		"users?username=Ann":                                   "",
		"users?uid=1":                                          "",
		"users?uid=01001":                                      "",
		"users?uid=x":                                          "",
		"users?pagesize=2":                                     users("2", ann, bob),
		"users?pagesize=2&pagetoken=2":                         users("3", eve),
		"users?pagesize=1&pagetoken=1":                         users("2", bob),
		"users?pagesize=3":                                     users("3", ann, bob, eve),
		"users?pagesize=0":                                     users("3", ann, bob, eve),
		"users?pagesize=9223372036854775807":                   users("3", ann, bob, eve),
		"users?pagesize=2&pagetoken=3":                         users("0"),
		"users?pagesize=2&pagetoken=999999999999":              users("0"),
		"users?pagesize=2048&pagetoken=0":                      users("3", ann, bob, eve),
		"users?groupname=ops":                                  `{"usernames":["ann","bob"],"nextPageToken":"0"}`,
		"users?groupname=ops&pagesize=1":                       `{"usernames":["ann"],"nextPageToken":"1"}`,
		"users?groupname=ops&pagesize=1&pagetoken=1":           `{"usernames":["bob"],"nextPageToken":"0"}`,
		"users?groupname=empty":                                `{"usernames":[],"nextPageToken":"0"}`,
		"users?groupname=nobody":                               "",
		"groups":                                               groups("0", ops, dev, empty),
		"groups?pagesize=1":                                    groups("1", ops),
		"groups?pagesize=2&pagetoken=1":                        groups("0", dev, empty),
		"groups?groupname=dev":                                 groups("0", dev),
		"groups?gid=2001":                                      groups("0", ops),
		"groups?gid=7":                                         "",
		"groups?groupname=dev&gid=2001":                        "",
		"groups?groupname=x":                                   "",
		"groups?email=ann@example.test":                        groups("0", ops, dev),
		"groups?email=bob%40example.test":                      groups("0", ops),
		"groups?email=eve@example.test":                        "",
		"groups?email=ops@example.test":                        groups("0", ops),
		"authorize?email=ann@example.test&policy=login":        `{"success":true}`,
		"authorize?policy=adminLogin&email=ann%40example.test": `{"success":true}`,
		"authorize?email=bob@example.test&policy=login&fingerprint=f": `{"success":true}`,
		"authorize?email=bob@example.test&policy=adminLogin":          `{"success":false}`,
		"authorize?email=eve@example.test&policy=login":               `{"success":false}`,
		"authorize?email=nobody@example.test&policy=login":            "",
	} {
		w := get(s, "oslogin/"+query)
		if body == "" {
			want(t, query, w, 404, "was not found")
			continue
		}
		want(t, query, w, 200, "")
		if !sameJSON(t, w.Body.String(), body) {
			t.Errorf("%s = %s, want %s", query, w.Body, body)
		}
		if got := w.Header().Get("Content-Type"); got != "application/json" {
			t.Errorf("%s: Content-Type %q", query, got)
		}
		if strings.Contains(w.Body.String(), "123456") || strings.Contains(w.Body.String(), "challenge") {
			t.Errorf("%s tells the answers to challenges: %s", query, w.Body)
		}
	}
	for _, query := range []string{
		"users?pagesize=x", "users?pagesize=-1", "users?pagetoken=-1", "users?pagetoken=x", "users?pagesize=%zz", "users?username=%zz",
		"groups?pagesize=1.5", "authorize", "authorize?email=ann@example.test", "authorize?policy=login",
		"authorize?email=ann@example.test&policy=root", "users?wait_for_change=true",
	} {
		want(t, query, get(s, "oslogin/"+query), 400, "")
	}
	want(t, "users with a slash", get(s, "oslogin/users/"), 404, "")
	want(t, "the listing", get(s, "oslogin/"), 200, "authenticate/\n")
	if w := get(s, "oslogin/?recursive=true"); w.Body.String() != `{"authenticate":{"sessions":{}}}` {
		t.Errorf("recursive = %s; login data is not part of it", w.Body)
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	decode := func(s string) (v any) {
		dec := json.NewDecoder(strings.NewReader(s))
		dec.UseNumber()
		if err := dec.Decode(&v); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		return v
	}
	return reflect.DeepEqual(decode(a), decode(b))
}

// Every page once, whatever its size.
func TestOSLoginPages(t *testing.T) {
	t.Parallel()
	var all []string
	for i := range 2100 {
		all = append(all, fmt.Sprintf(`{"name":"u%d@example.test","posixAccounts":[{"username":"u%d","uid":%d,"gid":1,"homeDirectory":"/","shell":"/"}]}`, i, i, i+1000))
	}
	s := loginServer(t, "["+strings.Join(all, ",")+"]", "", "")
	for _, size := range []string{"", "&pagesize=100000", "&pagesize=1999", "&pagesize=700"} {
		seen, pages := 0, 0
		for at := "0"; pages == 0 || at != "0"; pages++ {
			var page struct {
				Profiles []struct{ Name string } `json:"loginProfiles"`
				Next     string                  `json:"nextPageToken"`
			}
			if err := json.Unmarshal(get(s, "oslogin/users?pagetoken="+at+size).Body.Bytes(), &page); err != nil {
				t.Fatal(err)
			}
			if (page.Next == "0") != (len(page.Profiles) == 0) {
				t.Errorf("%s: token %q on a page of %d users, want \"0\" on the empty one", size, page.Next, len(page.Profiles))
			}
			for _, p := range page.Profiles {
				if want := fmt.Sprintf("u%d@example.test", seen); p.Name != want {
					t.Fatalf("%s: profile %q, want %q", size, p.Name, want)
				}
				seen++
			}
			at = page.Next
		}
		if seen != 2100 || pages > 4 {
			t.Errorf("%q: %d users on %d pages, want 2100 on at most 3 and an empty one", size, seen, pages)
		}
	}
}

// The two steps of a second factor.
func TestOSLoginSessions(t *testing.T) {
	t.Parallel()
	s := loginServer(t, loginUsers, loginGroups, "")
	const sessions = "oslogin/authenticate/sessions/"
	type answer struct {
		Status     string
		SessionID  string
		Challenges []struct {
			ChallengeID           int
			ChallengeType, Status string
		}
	}
	post := func(path, body string, status int) (a answer) {
		t.Helper()
		w := do(s, request("POST", sessions+path, body))
		want(t, "POST "+path+" "+body, w, status, "")
		if status == 200 {
			if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
				t.Errorf("POST %s %s: %q, %v", path, body, w.Body, err)
			}
		}
		if strings.Contains(w.Body.String(), "123456") {
			t.Errorf("POST %s tells the credential: %s", path, w.Body)
		}
		return a
	}

	begun := post("start", `{"email":"ann@example.test","supportedChallengeTypes":["AUTHZEN","TOTP","INTERNAL_TWO_FACTOR"]}`, 200)
	if begun.Status != "CHALLENGE_REQUIRED" || begun.SessionID == "" || len(begun.Challenges) != 2 ||
		begun.Challenges[0].ChallengeType != "TOTP" || begun.Challenges[0].Status != "READY" || begun.Challenges[1].Status != "PROPOSED" {
		t.Fatalf("start = %+v, want both challenges, the first one ready", begun)
	}
	if again := post("start", `{"email":"ann@example.test","supportedChallengeTypes":["TOTP"]}`, 200); again.SessionID == begun.SessionID || len(again.Challenges) != 1 {
		t.Errorf("another start = %+v, want an id of its own and the type that is supported", again)
	}
	totp, authzen := begun.Challenges[0].ChallengeID, begun.Challenges[1].ChallengeID
	next := begun.SessionID + "/continue"
	respond := func(id int, credential string) string {
		return fmt.Sprintf(`{"email":"ann@example.test","challengeId":%d,"action":"RESPOND","proposalResponse":{"credential":%q}}`, id, credential)
	}
	if a := post(next, respond(totp, "123456"), 200); a.Status != "AUTHENTICATED" || a.SessionID != begun.SessionID {
		t.Errorf("the right code: %+v", a)
	}
	for _, wrong := range []string{"", "000000", "1234567"} {
		if a := post(next, respond(totp, wrong), 200); a.Status == "AUTHENTICATED" {
			t.Errorf("the code %q: %+v", wrong, a)
		}
	}
	if a := post(next, fmt.Sprintf(`{"email":"ann@example.test","challengeId":%d,"action":"START_ALTERNATE"}`, authzen), 200); a.Status != "CHALLENGE_REQUIRED" || len(a.Challenges) != 1 || a.Challenges[0].ChallengeID != authzen || a.Challenges[0].Status != "READY" {
		t.Errorf("the alternate: %+v", a)
	}
	if a := post("start", `{"email":"bob@example.test","supportedChallengeTypes":["TOTP"]}`, 200); a.Status == "AUTHENTICATED" || len(a.Challenges) != 0 {
		t.Errorf("somebody without challenges: %+v", a)
	}

	for _, body := range []string{"", "{", "[]", "null", "{}", `{"email":""}`, `{"email":5}`, `{"email":"ann@example.test","pad":"` + strings.Repeat("x", 17<<10) + `"}`} {
		post("start", body, 400)
		post(next, body, 400)
	}
	for _, body := range []string{
		`{"email":"ann@example.test","challengeId":0,"action":"RESPOND"}`,
		`{"email":"ann@example.test","challengeId":3,"action":"RESPOND"}`,
		`{"email":"ann@example.test","challengeId":-1,"action":"RESPOND"}`,
		`{"email":"bob@example.test","challengeId":1,"action":"RESPOND"}`,
		`{"email":"ann@example.test","challengeId":1,"action":"GUESS"}`,
		`{"email":"ann@example.test","challengeId":1}`,
	} {
		post(next, body, 400)
	}
	post("start", `{"email":"nobody@example.test"}`, 404)
	for _, path := range []string{"x", "x/y", "x/continue/y", "/continue", "a/b/continue"} {
		post(path, respond(totp, "123456"), 404)
	}
	w := get(s, sessions+"start")
	want(t, "GET of a session", w, 404, "")
	w = do(s, request("PUT", sessions+"start", ""))
	want(t, "PUT of a session", w, 405, "POST")
	if got := w.Header().Get("Allow"); got != "POST" {
		t.Errorf("Allow %q", got)
	}
}

// Without users OS Login is off.
func TestOSLoginOff(t *testing.T) {
	t.Parallel()
	s := loginServer(t, "", loginGroups, loginPolicy)
	for _, query := range []string{"users", "users?username=ann", "users?groupname=ops", "authorize?email=ann@example.test&policy=login", "authorize"} {
		want(t, query, get(s, "oslogin/"+query), 404, "was not found")
	}
	want(t, "a session", do(s, request("POST", "oslogin/authenticate/sessions/start", `{"email":"ann@example.test"}`)), 404, "")
	want(t, "a session without a body", do(s, request("POST", "oslogin/authenticate/sessions/start", "")), 404, "")
	want(t, "a session that goes on", do(s, request("POST", "oslogin/authenticate/sessions/x/continue", "no JSON")), 404, "")
	want(t, "groups by e-mail", get(s, "oslogin/groups?email=ann@example.test"), 404, "")
}

// Without a policy everybody may log in, and nobody may be root.
func TestOSLoginPolicies(t *testing.T) {
	t.Parallel()
	for policy, answers := range map[string][2]bool{
		"":                                    {true, false},
		"{}":                                  {true, false},
		`{"login":[]}`:                        {false, false},
		`{"adminLogin":[]}`:                   {true, false},
		`{"login":["eve@example.test"]}`:      {true, false},
		`{"adminLogin":["eve@example.test"]}`: {true, true},
		`{"login":["x"],"adminLogin":["x"]}`:  {false, false},
	} {
		s := loginServer(t, loginUsers, "", policy)
		for k, name := range []string{"login", "adminLogin"} {
			w := get(s, "oslogin/authorize?email=eve@example.test&policy="+name)
			want(t, policy+" "+name, w, 200, fmt.Sprintf(`{"success":%v}`, answers[k]))
		}
	}
	want(t, "no groups", get(loginServer(t, loginUsers, "", ""), "oslogin/users?groupname=ops"), 404, "")
}

// Data that is not what it should be is an error of the machine, and stays inside.
func TestOSLoginMalformed(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]*server.Server{
		"not a list":       loginServer(t, `{"s3cret":1}`, `{"s3cret":1}`, `["s3cret"]`),
		"wrong types":      loginServer(t, `[{"name":5,"s3cret":1}]`, `[{"gid":"s3cret"}]`, `{"login":"s3cret"}`),
		"a number as text": loginServer(t, `[{"name":"ann@example.test","posixAccounts":[{"username":"ann","uid":"s3cret"}]}]`, `[{"name":"x","gid":[]}]`, `{"login":5}`),
	} {
		for _, query := range []string{"users", "users?username=ann", "groups", "users?groupname=x", "authorize?email=ann@example.test&policy=login"} {
			w := get(s, "oslogin/"+query)
			want(t, name+", "+query, w, 500, "Internal error")
			if strings.Contains(w.Body.String(), "s3cret") {
				t.Errorf("%s, %s: the data is in the answer: %s", name, query, w.Body)
			}
		}
	}
}

// A user whose number is missing is not user 0.
func TestOSLoginWithoutUID(t *testing.T) {
	t.Parallel()
	s := loginServer(t, `[{"name":"ann@example.test","posixAccounts":[{"username":"ann","homeDirectory":"/home/ann","shell":"/bin/sh"}]}]`, `[{"name":"ops"}]`, "")
	for _, query := range []string{"users", "users?username=ann", "groups", "groups?groupname=ops"} {
		w := get(s, "oslogin/"+query)
		if body := w.Body.String(); strings.Contains(body, `"uid":0`) || strings.Contains(body, `"gid":0`) {
			t.Errorf("%s = %d %s: whoever has no number in the document becomes root", query, w.Code, body)
		}
	}
}
