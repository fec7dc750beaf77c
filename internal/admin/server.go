package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/tree"
)

// A Server answers the control API for a daemon.
type Server struct {
	Status   func() Status
	Instance func(name string) *fleet.Instance // "" is the first one; nil if there is none
	Reload   func(context.Context) error
	WhoAmI   func(context.Context, *fleet.Instance) []Minted
	Journal  *journal.Journal
}

// Handler returns the API. Access is what the socket's permissions say.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, handle := range map[string]func(*http.Request) (any, error){
		"GET /v1/status":  func(*http.Request) (any, error) { return s.Status(), nil },
		"GET /v1/get":     s.get,
		"GET /v1/log":     s.log,
		"POST /v1/edit":   s.edit,
		"POST /v1/revert": s.revert,
		"POST /v1/whoami": s.whoami,
		"POST /v1/reload": func(r *http.Request) (any, error) { return struct{}{}, s.Reload(r.Context()) },
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			value, err := handle(r)
			w.Header().Set("Content-Type", "application/json")
			if err != nil {
				var e *Error
				if !errors.As(err, &e) {
					e = &Error{Status: http.StatusUnprocessableEntity, Msg: err.Error()}
				}
				w.WriteHeader(e.Status)
				value = e
			}
			json.NewEncoder(w).Encode(value)
		})
	}
	return mux
}

// A Value is a node of the document as get prints it.
type Value struct {
	Text string `json:"text"`           // a directory: its listing, or recursively a line a key
	JSON string `json:"json,omitempty"` // of leaves and, recursively, of directories
	ETag string `json:"etag"`
	Dir  bool   `json:"dir,omitempty"`
}

// get answers for one path; with etag, when the node no longer has it or
// after timeout.
func (s *Server) get(r *http.Request) (any, error) {
	instance, err := s.instance(r)
	if err != nil {
		return nil, err
	}
	path, recursive := clean(r.FormValue("path")), r.FormValue("recursive") == "true"
	n, err := instance.Metadata.Tree().Lookup(path)
	if err == nil && r.Form.Has("etag") {
		ctx, cancel := context.WithTimeout(r.Context(), watchTimeout)
		defer cancel()
		if n, err = instance.Metadata.Wait(ctx, path, recursive || !n.IsDir(), r.FormValue("etag")); errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
	}
	switch {
	case errors.Is(err, tree.ErrNotFound), errors.Is(err, tree.ErrUnset):
		return nil, &Error{Status: http.StatusNotFound, Msg: fmt.Sprintf("%s: no such key", path)}
	case errors.Is(err, tree.ErrClosed):
		return nil, &Error{Status: http.StatusForbidden, Msg: path + ": guest attributes are off; switch them on with: gcemds set instance/attributes/enable-guest-attributes TRUE"}
	case err != nil:
		return nil, err
	case n.Live() != "":
		return nil, &Error{Status: http.StatusBadRequest, Msg: path + ": this value is made at each request; ask the metadata server itself for it: curl -H 'Metadata-Flavor: Google' http://$GCE_METADATA_HOST/computeMetadata/v1/" + path}
	}
	v := Value{Text: string(n.Text(recursive).Body), ETag: n.ETag(recursive || !n.IsDir()), Dir: n.IsDir()}
	if recursive || !n.IsDir() {
		v.JSON = string(n.JSON().Body)
	}
	return v, nil
}

// log answers with the entries that the journal still has. With after, it waits
// until there are some after that one, or for timeout.
func (s *Server) log(r *http.Request) (any, error) {
	after := uint64(0)
	if r.FormValue("after") != "" {
		var err error
		if after, err = strconv.ParseUint(r.FormValue("after"), 10, 64); err != nil {
			return nil, &Error{Status: http.StatusBadRequest, Msg: "after is not the number of an entry"}
		}
		ctx, cancel := context.WithTimeout(r.Context(), watchTimeout)
		defer cancel()
		for range s.Journal.Follow(ctx, after) {
			break
		}
	}
	events := []Event{}
	for _, e := range s.Journal.Entries(after) {
		event := Event{Entry: e}
		if e.Err != nil {
			event.Error = e.Err.Error()
		}
		events = append(events, event)
	}
	return events, nil
}

// whoami mints for each account of an instance, as for a workload.
func (s *Server) whoami(r *http.Request) (any, error) {
	instance, err := s.instance(r)
	if err != nil {
		return nil, err
	}
	return s.WhoAmI(r.Context(), instance), nil
}

// watchTimeout is how long one request of a watch hangs; the client asks again.
const watchTimeout = time.Minute

// edit makes all the edits or none.
func (s *Server) edit(r *http.Request) (any, error) {
	instance, err := s.instance(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return nil, &Error{Status: http.StatusRequestEntityTooLarge, Msg: "the edits are larger than a document may be"}
	}
	var edits []Edit
	if err := json.Unmarshal(body, &edits); err != nil {
		return nil, &Error{Status: http.StatusBadRequest, Msg: "the body is not a list of edits: " + err.Error()}
	}
	if len(edits) == 0 {
		return nil, &Error{Status: http.StatusBadRequest, Msg: "there is nothing to change"}
	}
	err = instance.Metadata.Update(func(t *tree.Tree) ([]tree.Edit, error) {
		made := make([]tree.Edit, len(edits))
		for i, e := range edits {
			made[i] = e.tree()
			made[i].Path = clean(e.Path)
			if len(e.Value) == 0 && !e.Delete {
				return nil, &Error{Status: http.StatusBadRequest, Msg: e.Path + ": there is no value"}
			}
		}
		return made, absent(t, made)
	})
	paths := make([]string, len(edits))
	for i, e := range edits {
		paths[i] = e.Path
	}
	s.Journal.Add(journal.Entry{Kind: journal.Edit, Instance: instance.Name, Detail: strings.Join(paths, " "), Err: err})
	return struct{}{}, err
}

// revert drops all edits, those that guests made included.
func (s *Server) revert(r *http.Request) (any, error) {
	instance, err := s.instance(r)
	if err != nil {
		return nil, err
	}
	instance.Metadata.Revert()
	s.Journal.Add(journal.Entry{Kind: journal.Edit, Instance: instance.Name, Detail: "all changes dropped"})
	return struct{}{}, nil
}

// absent refuses to delete what is not there: it is a misspelt path.
func absent(t *tree.Tree, edits []tree.Edit) error {
	for _, e := range edits {
		if e.Value == nil {
			if _, err := t.Lookup(e.Path); errors.Is(err, tree.ErrNotFound) {
				return &Error{Status: http.StatusNotFound, Msg: e.Path + ": no such key; nothing was changed"}
			}
		}
		next, err := t.With(e)
		if err != nil {
			return nil // Update reports it
		}
		t = next
	}
	return nil
}

func (s *Server) instance(r *http.Request) (*fleet.Instance, error) {
	name := r.URL.Query().Get("instance")
	if i := s.Instance(name); i != nil {
		return i, nil
	}
	if s.Status().Node != "" {
		return nil, &Error{Status: http.StatusNotFound, Msg: "callers are Pods here, and there are no instances to look at or edit; gcemds gke explain NAMESPACE/POD says what a Pod gets"}
	}
	return nil, &Error{Status: http.StatusNotFound, Msg: fmt.Sprintf("there is no instance %q; gcemds status lists them", name)}
}

// clean accepts a path as people copy it: from a URL, with slashes around it.
func clean(path string) string {
	if _, below, ok := strings.Cut(path, "/computeMetadata/v1/"); ok {
		path = below
	}
	return strings.Trim(path, "/")
}
