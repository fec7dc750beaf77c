package server

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gcemds/gcemds/internal/tree"
)

// OS Login (section 4.4) answers from data in the document:
//
//	oslogin/users      [login profiles as the API prints them]; a profile may also
//	                   have "challenges": [{"challengeType", "credential"}]
//	oslogin/groups     [{"name", "gid", "email", "usernames": […]}]
//	oslogin/authorize  {"login": [e-mails], "adminLogin": [e-mails]}; without
//	                   "login" every user may log in
//
// Without oslogin/users OS Login is off: every request gets 404.

type loginProfile struct {
	Name         string                     `json:"name"`
	Accounts     []posixAccount             `json:"posixAccounts"`
	SSHKeys      map[string]json.RawMessage `json:"sshPublicKeys,omitempty"`
	SecurityKeys []json.RawMessage          `json:"securityKeys,omitempty"`
	Challenges   []loginChallenge           `json:"challenges,omitempty"`
}

type posixAccount struct {
	Primary       bool        `json:"primary"`
	Username      string      `json:"username"`
	UID           json.Number `json:"uid,omitempty"` // an empty number would be written as 0, and 0 is root
	GID           json.Number `json:"gid,omitempty"`
	HomeDirectory string      `json:"homeDirectory"`
	Shell         string      `json:"shell"`
	GECOS         string      `json:"gecos,omitempty"`
	SystemType    string      `json:"operatingSystemType"`
	AccountID     string      `json:"accountId,omitempty"`
}

type loginChallenge struct {
	Type       string `json:"challengeType"`
	Credential string `json:"credential"`
}

type posixGroup struct {
	Name      string      `json:"name"`
	GID       json.Number `json:"gid,omitempty"`
	Email     string      `json:"email,omitempty"`
	Usernames []string    `json:"usernames,omitempty"`
}

// LoginData reads a side file with OS Login data: an object with users, groups
// and authorize as above. The result are the edits that put it into a
// document. Errors name the part that is wrong.
func LoginData(file []byte) ([]tree.Edit, error) {
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(file, &parts); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	var edits []tree.Edit
	for name, data := range parts {
		var form any
		switch name {
		case "users":
			form = new([]loginProfile)
		case "groups":
			form = new([]posixGroup)
		case "authorize":
			form = new(map[string][]string)
		default:
			return nil, fmt.Errorf("%q is none of users, groups, authorize", name)
		}
		if err := json.Unmarshal(data, form); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		edits = append(edits, tree.Edit{Path: "oslogin/" + name, Value: data})
	}
	return edits, nil
}

// maxPage is the page size where none is asked for, and the largest.
const maxPage = 2048

func (r *request) loginUsers(n *tree.Node) (reply, error) {
	users, err := loginData[[]loginProfile](n)
	if err != nil {
		return reply{}, err
	}
	q, err := r.params("username", "uid", "groupname", "view")
	if err != nil {
		return reply{}, err
	}
	if group := q["groupname"]; group != "" {
		return r.loginMembers(group)
	}
	one := q["username"] != "" || q["uid"] != ""
	if one {
		users = slices.DeleteFunc(users, func(u loginProfile) bool {
			return !slices.ContainsFunc(u.Accounts, func(a posixAccount) bool {
				return (q["username"] == "" || a.Username == q["username"]) && (q["uid"] == "" || a.UID.String() == q["uid"])
			})
		})
		if len(users) == 0 {
			return reply{}, errNotFound
		}
	}
	users, end, next, err := pageOf(r, users)
	if err != nil {
		return reply{}, err
	}
	if !one && len(users) > 0 {
		// "0" comes with an empty page after the last user: a module that lists all
		// takes no user from the page that has it (it does take groups).
		next = strconv.Itoa(end)
	}
	for i := range users {
		users[i].Challenges = nil // the answers to them are nobody's business
		if q["view"] != "securityKey" {
			users[i].SecurityKeys = nil
		}
	}
	return jsonReply(classLogin, struct {
		Profiles []loginProfile `json:"loginProfiles"`
		Next     string         `json:"nextPageToken"`
	}{users, next})
}

// loginMembers lists the user names of a group.
func (r *request) loginMembers(group string) (reply, error) {
	n, err := r.instance.Metadata.Tree().Lookup("oslogin/groups")
	if err != nil {
		return reply{}, err
	}
	groups, err := loginData[[]posixGroup](n)
	if err != nil {
		return reply{}, err
	}
	i := slices.IndexFunc(groups, func(g posixGroup) bool { return g.Name == group })
	if i < 0 {
		return reply{}, errNotFound
	}
	names, _, next, err := pageOf(r, groups[i].Usernames)
	if err != nil {
		return reply{}, err
	}
	return jsonReply(classLogin, struct {
		Usernames []string `json:"usernames"`
		Next      string   `json:"nextPageToken"`
	}{append([]string{}, names...), next})
}

func (r *request) loginGroups(n *tree.Node) (reply, error) {
	groups, err := loginData[[]posixGroup](n)
	if err != nil {
		return reply{}, err
	}
	q, err := r.params("groupname", "gid", "email")
	if err != nil {
		return reply{}, err
	}
	asked := q["groupname"] + q["gid"] + q["email"]
	groups = slices.DeleteFunc(groups, func(g posixGroup) bool {
		return q["groupname"] != "" && g.Name != q["groupname"] || q["gid"] != "" && g.GID.String() != q["gid"] ||
			q["email"] != "" && !r.isMember(g, q["email"])
	})
	if asked != "" && len(groups) == 0 {
		return reply{}, errNotFound
	}
	groups, _, next, err := pageOf(r, groups)
	if err != nil {
		return reply{}, err
	}
	for i := range groups {
		groups[i].Email, groups[i].Usernames = "", nil
	}
	return jsonReply(classLogin, struct {
		Groups []posixGroup `json:"posixGroups"`
		Next   string       `json:"nextPageToken"`
	}{append([]posixGroup{}, groups...), next})
}

// isMember reports whether the group is, or has, the e-mail.
func (r *request) isMember(g posixGroup, email string) bool {
	if g.Email == email {
		return true
	}
	user, err := r.loginUser(email)
	return err == nil && slices.ContainsFunc(user.Accounts, func(a posixAccount) bool { return slices.Contains(g.Usernames, a.Username) })
}

// loginAuthorize answers whether an e-mail may log in.
func (r *request) loginAuthorize(n *tree.Node) (reply, error) {
	if _, err := r.instance.Metadata.Tree().Lookup("oslogin/users"); err != nil {
		return reply{}, err
	}
	q, err := r.params("email", "policy")
	if err != nil {
		return reply{}, err
	}
	if q["email"] == "" {
		return reply{}, badRequest("email is missing")
	}
	if q["policy"] != "login" && q["policy"] != "adminLogin" {
		return reply{}, badRequest("policy is login or adminLogin")
	}
	if _, err := r.loginUser(q["email"]); err != nil {
		return reply{}, err
	}
	policies, err := loginData[map[string][]string](n)
	if err != nil {
		return reply{}, err
	}
	emails, limited := policies[q["policy"]]
	success := slices.Contains(emails, q["email"]) || !limited && q["policy"] == "login"
	return jsonReply(classLogin, map[string]bool{"success": success})
}

// loginUser returns the profile of an e-mail.
func (r *request) loginUser(email string) (loginProfile, error) {
	n, err := r.instance.Metadata.Tree().Lookup("oslogin/users")
	if err != nil {
		return loginProfile{}, err
	}
	users, err := loginData[[]loginProfile](n)
	if err != nil {
		return loginProfile{}, err
	}
	i := slices.IndexFunc(users, func(u loginProfile) bool { return u.Name == email })
	if i < 0 {
		return loginProfile{}, errNotFound
	}
	return users[i], nil
}

// loginSession returns start or ID/continue of a path that a POST may have.
func loginSession(path string) (string, bool) {
	return strings.CutPrefix(path, "oslogin/authenticate/sessions/")
}

// loginSession answers the two steps of a second factor. The body says whose
// session it is, so the server keeps none.
func (r *request) loginSession(name string) (reply, error) {
	if _, err := r.instance.Metadata.Tree().Lookup("oslogin/users"); err != nil {
		return reply{}, err // OS Login is off, whatever is asked
	}
	body, err := io.ReadAll(io.LimitReader(r.http.Body, 16<<10))
	var asked struct {
		Email       string   `json:"email"`
		Types       []string `json:"supportedChallengeTypes"`
		ChallengeID int      `json:"challengeId"`
		Action      string   `json:"action"`
		Response    struct {
			Credential string `json:"credential"`
		} `json:"proposalResponse"`
	}
	if err != nil || json.Unmarshal(body, &asked) != nil || asked.Email == "" {
		return reply{}, badRequest("the body is not a JSON object with an email")
	}
	user, err := r.loginUser(asked.Email)
	if err != nil {
		return reply{}, err
	}
	type challenge struct {
		ID     int    `json:"challengeId"`
		Type   string `json:"challengeType"`
		Status string `json:"status"`
	}
	answer := struct {
		Status     string      `json:"status"`
		Session    string      `json:"sessionId,omitempty"`
		Challenges []challenge `json:"challenges,omitempty"`
	}{Status: "NO_AVAILABLE_CHALLENGES"}

	if name == "start" {
		for i, c := range user.Challenges {
			if slices.Contains(asked.Types, c.Type) {
				answer.Status = "CHALLENGE_REQUIRED"
				status := "PROPOSED"
				if len(answer.Challenges) == 0 {
					status = "READY"
				}
				answer.Challenges = append(answer.Challenges, challenge{i + 1, c.Type, status})
			}
		}
		answer.Session = rand.Text()
		return jsonReply(classLogin, answer)
	}
	session, ok := strings.CutSuffix(name, "/continue")
	if !ok || session == "" || strings.Contains(session, "/") {
		return reply{}, errNotFound
	}
	if asked.ChallengeID < 1 || asked.ChallengeID > len(user.Challenges) {
		return reply{}, badRequest("there is no such challenge")
	}
	proposed := user.Challenges[asked.ChallengeID-1]
	answer.Session = session
	switch asked.Action {
	case "RESPOND":
		answer.Status = "AUTHENTICATED"
		if proposed.Credential != "" && proposed.Credential != asked.Response.Credential {
			answer.Status = "CHALLENGE_REQUIRED"
			answer.Challenges = []challenge{{asked.ChallengeID, proposed.Type, "READY"}}
		}
	case "START_ALTERNATE":
		answer.Status = "CHALLENGE_REQUIRED"
		answer.Challenges = []challenge{{asked.ChallengeID, proposed.Type, "READY"}}
	default:
		return reply{}, badRequest("action is RESPOND or START_ALTERNATE")
	}
	return jsonReply(classLogin, answer)
}

// params returns the values of those parameters that are there.
func (r *request) params(names ...string) (map[string]string, error) {
	values := map[string]string{}
	for _, name := range names {
		value, ok, err := r.query.lookup(name)
		if err != nil {
			return nil, err
		}
		if ok {
			values[name] = value
		}
	}
	return values, nil
}

// pageOf cuts the page that pagesize and pagetoken ask for. The token of the
// next page is end, the index of its first element, and "0" after the last one.
func pageOf[T any](r *request, all []T) (page []T, end int, next string, err error) {
	q, err := r.params("pagesize", "pagetoken")
	if err != nil {
		return nil, 0, "", err
	}
	size, start := maxPage, 0
	for name, field := range map[string]*int{"pagesize": &size, "pagetoken": &start} {
		if q[name] == "" {
			continue
		}
		if *field, err = strconv.Atoi(q[name]); err != nil || *field < 0 {
			return nil, 0, "", badRequest(name + " is not a number")
		}
	}
	if size == 0 || size > maxPage {
		size = maxPage
	}
	start = min(start, len(all))
	end = min(start+size, len(all))
	if next = "0"; end < len(all) {
		next = strconv.Itoa(end)
	}
	return all[start:end], end, next, nil
}

var errLoginData = errors.New("oslogin data in the document is not of the documented form")

func loginData[T any](n *tree.Node) (data T, err error) {
	if err := json.Unmarshal([]byte(n.Value()), &data); err != nil {
		return data, errors.Join(errLoginData, err)
	}
	return data, nil
}

func jsonReply(class class, value any) (reply, error) {
	b, err := json.Marshal(value)
	return answer(http.StatusOK, class, typeJSON, b), err
}
