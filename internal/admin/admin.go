// Package admin is the control API of a running daemon, on a Unix socket that
// only its owner may open, and the client of it. Everything the command line
// can do to a daemon goes through here.
//
// It is not for workloads: they see the metadata protocol and nothing else.
package admin

import (
	"encoding/json"
	"time"

	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/tree"
)

// Status is what a daemon says about itself.
type Status struct {
	Version     string     `json:"version"`
	PID         int        `json:"pid"`
	Unready     string     `json:"unready,omitempty"` // why /readyz is not 200
	Started     time.Time  `json:"started"`
	Config      string     `json:"config,omitempty"`       // file, "" where there is none
	ConfigError string     `json:"config_error,omitempty"` // why the file on disk is not the one in use
	Listeners   []Listener `json:"listeners"`
	Issuer      string     `json:"issuer,omitempty"` // base URL of the offline issuer
	Instances   []Instance `json:"instances"`
	Node        string     `json:"node,omitempty"` // where callers are Pods: whose
	Hanging     int        `json:"hanging_requests"`
}

// A Listener is where workloads connect.
type Listener struct {
	Name    string `json:"name"`
	Address string `json:"address"` // host:port, or the path of a socket
	TLS     bool   `json:"tls,omitempty"`
}

// An Instance is one machine that is served.
type Instance struct {
	Name     string    `json:"name"`
	Called   string    `json:"called,omitempty"`   // its instance/name, where that is another
	Upstream string    `json:"upstream,omitempty"` // the metadata server whose document it has
	Trouble  string    `json:"trouble,omitempty"`  // why that is not, or may not be, the one that the server has now
	Accounts []Account `json:"accounts"`
	Edits    []string  `json:"edits,omitempty"` // paths changed since the configuration was read
}

// An Account is a service account of an instance.
type Account struct {
	Email   string   `json:"email"`
	Aliases []string `json:"aliases,omitempty"`
	Scopes  []string `json:"scopes"`
}

// A Minted is one try to get a token, without the token: where it comes from,
// and what became of it.
type Minted struct {
	Source   string     `json:"source"` // its name in the configuration; "" is the offline issuer
	Instance string     `json:"instance,omitempty"`
	Account  string     `json:"account,omitempty"` // e-mail; "" if nobody knows
	Aliases  []string   `json:"aliases,omitempty"`
	Steps    []string   `json:"steps"`             // who signs, the exchange, each hop
	Token    string     `json:"token"`             // "access token" or "ID token"
	Scopes   []string   `json:"scopes,omitempty"`  // of an access token
	Expiry   *time.Time `json:"expiry,omitempty"`  // nil: there is none
	Failure  string     `json:"failure,omitempty"` // its class: unavailable, throttled, denied, configuration, clock …
	Error    string     `json:"error,omitempty"`   // the step that failed, and what to do
}

// An Event is an entry of the journal.
type Event struct {
	journal.Entry
	Error string `json:"error,omitempty"`
}

// An Edit sets a path to a JSON value, or deletes it.
type Edit struct {
	Path   string          `json:"path"`
	Value  json.RawMessage `json:"value,omitempty"`
	Delete bool            `json:"delete,omitempty"`
}

func (e Edit) tree() tree.Edit {
	if e.Delete {
		return tree.Edit{Path: e.Path}
	}
	return tree.Edit{Path: e.Path, Value: e.Value}
}

// An Error is what the daemon answers when it will not do what it was asked.
type Error struct {
	Status int    `json:"-"`
	Msg    string `json:"error"`
}

func (e *Error) Error() string { return e.Msg }

// maxBody bounds an edit: a whole document.
const maxBody = tree.MaxDocument + 1<<20
