package server

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gcemds/gcemds/internal/tree"
)

// A reply is an answer before it is written.
//
// It is small on purpose: replies travel in registers, and the stack of a
// hanging request stays that of a bare handler.
type reply struct {
	status int
	typ    *contentType
	class  class
	form   *tree.Form // body, with an ETag or without
	more   *more      // headers that few replies have
}

type more struct {
	location string
	allow    string
	retry    int // seconds
}

// A class is what was asked for, for the journal: one of a small set.
type class uint8

const (
	classError class = iota
	classRoot
	classRedirect
	classLeaf
	classDirectory
	classRecursive
	classWait
	classToken
	classIdentity
	classCertificate
	classLogin
	classWrite
	classLegacy
	classGone
)

var classes = [...]string{"error", "root", "redirect", "leaf", "directory", "recursive", "wait", "token", "identity", "certificate", "oslogin", "write", "legacy", "gone"}

func (c class) String() string { return classes[c] }

// A contentType is a header value.
type contentType [1]string

// Header values are shared by all answers: nobody may change them.
var (
	flavor     = []string{"Google"}
	serverName = []string{"Metadata Server for VM"}
	closing    = []string{"Close"}
	noXSS      = []string{"0"}
	sameOrigin = []string{"SAMEORIGIN"}

	typeText     = &contentType{"application/text"}
	typeJSON     = &contentType{"application/json"}
	typeHTML     = &contentType{"text/html; charset=UTF-8"}
	typeBareHTML = &contentType{"text/html"}
)

// A date is the Date header of one second.
type date struct {
	second int64
	header []string
}

// dated is the last one that was made: net/http would make one for each reply.
var dated atomic.Pointer[date]

func dateOf(now time.Time) []string {
	d, second := dated.Load(), now.Unix()
	if d == nil || d.second != second {
		d = &date{second, []string{now.UTC().Format(http.TimeFormat)}}
		dated.Store(d)
	}
	return d.header
}

// write puts the reply on the wire.
func (a reply) write(w http.ResponseWriter, now time.Time, head bool) {
	a.header(w.Header(), now)
	w.WriteHeader(a.status)
	if !head {
		w.Write(a.form.Body)
	}
}

// header says of the reply what comes before its body. Names are assigned, not
// Set, because the real server spells ETag and X-XSS-Protection so (section 1.4).
func (a reply) header(h http.Header, now time.Time) {
	h["Metadata-Flavor"] = flavor
	h["Date"] = dateOf(now)
	h["Server"] = serverName
	h["X-XSS-Protection"] = noXSS
	h["X-Frame-Options"] = sameOrigin
	h["Content-Type"] = a.typ[:]
	h["Content-Length"] = a.form.Length[:]
	if a.form.ETag[0] != "" {
		h["ETag"] = a.form.ETag[:]
	}
	if a.more != nil {
		a.more.add(h)
	}
}

func (m *more) add(h http.Header) {
	if m.location != "" {
		h["Location"] = []string{m.location}
	}
	if m.allow != "" {
		h["Allow"] = []string{m.allow}
	}
	if m.retry > 0 {
		h["Retry-After"] = []string{strconv.Itoa(m.retry)}
	}
}

// answer makes a reply that has no ETag.
func answer(status int, class class, typ *contentType, body []byte) reply {
	form := &tree.Form{Body: body}
	form.Length[0] = strconv.Itoa(len(body))
	return reply{status: status, typ: typ, class: class, form: form}
}

// nodeReply prints a node as the query wants it (the table of section 3.2).
func nodeReply(n *tree.Node, q query) reply {
	json := q.alt == "json"
	switch {
	case n.IsDir() && !q.recursive:
		return reply{status: http.StatusOK, typ: typeText, form: n.Text(false), class: classDirectory}
	case n.IsDir():
		json = q.alt != "text"
	case q.alt != "text":
		json = json || n.JSONFirst()
	}
	class := classLeaf
	if n.IsDir() {
		class = classRecursive
	}
	if json {
		return reply{status: http.StatusOK, typ: typeJSON, form: n.JSON(), class: class}
	}
	return reply{status: http.StatusOK, typ: typeText, form: n.Text(true), class: class}
}

// redirect adds the slash of a directory and keeps host and query (section 2.2).
func (r *request) redirect() reply {
	scheme := "http://"
	if r.http.TLS != nil {
		scheme = "https://"
	}
	host := r.http.Host
	if host == "" { // HTTP/1.0
		host = "metadata.google.internal"
		if r.peer.Local.IsValid() {
			host = r.peer.Local.String()
		}
	}
	path, query, hasQuery := strings.Cut(r.raw, "?")
	if strings.Contains(path, "//") {
		path = collapsed(path)
	}
	location := scheme + host + path + "/"
	if hasQuery {
		location += "?" + query
	}
	a := answer(http.StatusMovedPermanently, classRedirect, typeBareHTML, []byte(path+"/\n"))
	a.more = &more{location: location}
	return a
}
