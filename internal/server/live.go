package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/token"
	"github.com/gcemds/gcemds/internal/tree"
)

// live computes the leaves whose answer is made at each request. The node is
// the leaf; its value, where it has one, is the data to answer from.
var live = map[tree.Live]func(*request, *tree.Node) (reply, error){
	"token":              (*request).token,
	"identity":           (*request).identity,
	"client-certificate": (*request).clientCertificate,
	"oslogin-users":      (*request).loginUsers,
	"oslogin-groups":     (*request).loginGroups,
	"oslogin-authorize":  (*request).loginAuthorize,
}

var errExpired = errors.New("the source minted a token that has expired")

const accountsPath = "instance/service-accounts/"

// isTokenLeaf reports whether path is where some account's tokens would be.
func isTokenLeaf(path string) bool {
	_, leaf, ok := strings.Cut(strings.TrimPrefix(path, accountsPath), "/")
	return ok && strings.HasPrefix(path, accountsPath) && (leaf == "token" || leaf == "identity")
}

// An account is a row of the directory of accounts: the document says who it is
// and what its scopes are, the instance has its source.
type account struct {
	*fleet.Account
	scopes []string // in the document
}

// account returns the account whose directory the path goes through.
func (r *request) account() (*account, error) {
	a := &r.found.account
	if a.Account != nil {
		return a, nil
	}
	dir, err := r.found.tree.Lookup(r.key[:strings.LastIndexByte(r.key, '/')])
	if err != nil {
		return nil, err
	}
	*a = account{r.instance.Account(dir.Child("email").Value()), dir.Child("scopes").Items()}
	if a.Account == nil || a.Source == nil {
		a.Account = nil
		return nil, errNotFound
	}
	return a, nil
}

// token answers with an access token (sections 5.2 to 5.4).
func (r *request) token(*tree.Node) (reply, error) {
	if r.found.minted.holds(r.start) {
		return r.found.minted.reply, nil
	}
	a, err := r.account()
	if err != nil {
		return reply{}, err
	}
	scopes, err := r.scopes(a)
	if err != nil {
		return reply{}, err
	}
	tok, err := a.Source.Mint(r.http.Context(), token.Request{Scopes: scopes})
	if err != nil {
		return reply{}, err
	}
	now := time.Now()
	left := tok.Expiry.Sub(now)
	seconds := int64(left / time.Second)
	if seconds < 1 {
		return reply{}, &token.Error{Kind: token.Unavailable, Err: errExpired}
	}
	typ := typeJSON
	if r.query.alt == "text" {
		typ = typeText
	}
	// A token is printable ASCII without quotes: the cache sees to it.
	b := make([]byte, 0, len(tok.Value)+80)
	if typ == typeText {
		b = append(append(b, "access_token "...), tok.Value...)
		b = strconv.AppendInt(append(b, "\nexpires_in "...), seconds, 10)
		b = append(b, "\ntoken_type Bearer\n"...)
	} else {
		b = append(append(b, `{"access_token":"`...), tok.Value...)
		b = strconv.AppendInt(append(b, `","expires_in":`...), seconds, 10)
		b = append(b, `,"token_type":"Bearer"}`...)
	}
	done := answer(http.StatusOK, classToken, typ, b)
	r.found.minted = minted{done, now, left % time.Second}
	return done, nil
}

// minted is an answer with a token. It is good until there is a second less to
// tell of, by either clock: one stands still while a machine sleeps, the other
// can be set back.
type minted struct {
	reply
	at   time.Time
	rest time.Duration
}

func (m *minted) holds(now time.Time) bool {
	mono, wall := now.Sub(m.at), time.Duration(now.UnixNano()-m.at.UnixNano())
	return m.status != 0 && max(mono, wall) < m.rest && min(mono, wall) >= 0
}

// scopes returns the scopes of the token: the account's, unless the request
// or the instance asks for exactly those of the request (section 5.4).
func (r *request) scopes(a *account) ([]string, error) {
	held := a.scopes
	if r.query.raw == "" {
		return held, nil
	}
	list, err := r.query.param("scopes")
	if err != nil {
		return nil, err
	}
	enforce, given, err := r.query.lookup("enforce_scopes")
	if err != nil {
		return nil, err
	}
	if given {
		switch strings.ToLower(enforce) {
		case "false", "0", "no", "n":
			return nil, badRequest("enforce_scopes cannot be switched off; leave it out")
		}
	}
	if list == "" {
		return held, nil
	}
	asked := token.Scopes(strings.Split(list, ",")...)
	if a.AnyScopes && len(asked) > 0 {
		return asked, nil
	}
	if len(asked) == 0 || !tree.True(enforce) && !r.instance.EnforceScopes &&
		!r.found.tree.Enabled("enable-access-token-enforce-scopes") {
		return held, nil
	}
	if missing := token.Uncovered(held, asked); len(missing) > 0 {
		return nil, &token.Error{Kind: token.InvalidRequest, Err: &scopeError{missing}}
	}
	return asked, nil
}

type scopeError struct{ missing []string }

func (e *scopeError) Error() string {
	return "the account of this instance does not have the scopes " + strings.Join(e.missing, " ")
}

// identity answers with an ID token (section 5.5).
func (r *request) identity(*tree.Node) (reply, error) {
	a, err := r.account()
	if err != nil {
		return reply{}, err
	}
	audience, err := r.query.param("audience")
	if err != nil {
		return reply{}, err
	}
	if audience == "" {
		return reply{}, &refusal{status: 400, text: "non-empty audience parameter required", class: classIdentity}
	}
	claims, err := r.claims(a)
	if err != nil {
		return reply{}, err
	}
	tok, err := a.Source.Mint(r.http.Context(), token.Request{Audience: audience, Claims: claims})
	if err != nil {
		return reply{}, err
	}
	return answer(http.StatusOK, classIdentity, typeBareHTML, []byte(tok.Value)), nil
}

const emailScope = "https://www.googleapis.com/auth/userinfo.email"

// claims is the JSON object of the claims that are not registered ones: the
// e-mail where the format or the scopes ask for it, and the machine.
func (r *request) claims(a *account) (string, error) {
	format, err := r.query.param("format")
	if err != nil {
		return "", err
	}
	full := strings.EqualFold(format, "full")
	if !full && format != "" && !strings.EqualFold(format, "standard") {
		return "", badRequest("format is standard or full")
	}
	if !full && !slices.Contains(a.scopes, emailScope) {
		return "", nil
	}
	var c struct {
		Email    string   `json:"email"`
		Verified bool     `json:"email_verified"`
		Google   *machine `json:"google,omitempty"`
	}
	c.Email, c.Verified = a.Email, true
	if full {
		licenses, err := r.query.param("licenses")
		if err != nil {
			return "", err
		}
		c.Google = r.machine(isTrue(licenses))
	}
	b, err := json.Marshal(c)
	return string(b), err
}

// A machine is the google claim of format=full.
type machine struct {
	Compute struct {
		Created  int64       `json:"instance_creation_timestamp"`
		ID       string      `json:"instance_id"`
		Name     string      `json:"instance_name"`
		Licenses []string    `json:"license_id,omitempty"`
		Project  string      `json:"project_id"`
		Number   json.Number `json:"project_number"`
		Zone     string      `json:"zone"`
	} `json:"compute_engine"`
}

func (r *request) machine(licenses bool) *machine {
	t := r.found.tree
	value := func(path string) string {
		n, _ := t.Lookup(path)
		return n.Value()
	}
	m := &machine{}
	c := &m.Compute
	c.Created = r.instance.Created.Unix()
	c.ID, c.Name = value("instance/id"), value("instance/name")
	c.Project, c.Number = value("project/project-id"), json.Number(value("project/numeric-project-id"))
	zone := value("instance/zone")
	c.Zone = zone[strings.LastIndexByte(zone, '/')+1:]
	if licenses {
		dir, _ := t.Lookup("instance/licenses")
		for _, license := range dir.Children {
			c.Licenses = append(c.Licenses, license.Child("id").Value())
		}
	}
	return m
}

// clientCertificate answers with what a machine needs to use the HTTPS
// listener (section 8). The real answer is sealed for the virtual TPM of the
// machine; there is none here, so this one is plain, and whoever may have the
// machine's tokens may have it.
func (r *request) clientCertificate(*tree.Node) (reply, error) {
	if r.server.ClientCertificate == nil {
		return reply{}, errNotFound
	}
	client, root, err := r.server.ClientCertificate(r.instance)
	if err != nil {
		return reply{}, err
	}
	return jsonReply(classCertificate, struct {
		Client string `json:"clientCredentials"` // certificate and key
		Root   string `json:"rootCertificate"`
	}{string(client), string(root)})
}
