package server

import (
	"bytes"
	"net/http"
	"runtime"
	"time"
)

// deliver answers a request that has waited. Thousands may have waited for the
// same change, and each wants its answer before any of them is tidied up.
//
// The way through net/http costs each a larger stack and a page of buffer first,
// more than the write itself. So the answer goes straight to the connection,
// others go next, and what net/http then writes of the same answer is dropped.
func (r *request) deliver(w http.ResponseWriter, a reply, now time.Time) {
	ahead := r.isPlain(a)
	if ahead {
		if _, err := r.peer.conn.Write(r.server.packet(a, now)); err != nil {
			r.peer.conn.Close() // as net/http does, which does not hear of it
		}
		runtime.Gosched()
		r.peer.conn.drop = true
	}
	a.write(w, now, r.http.Method == http.MethodHead)
	err := http.NewResponseController(w).Flush()
	if ahead {
		r.peer.conn.drop = false
		if err != nil { // what is not written yet would be sent once more
			r.peer.conn.Close()
		}
	} else {
		runtime.Gosched()
	}
}

// isPlain says whether net/http would write the answer as a packet is: it knows
// nothing of the request that changes the form of the answer or ends the
// connection. TLS and foreign servers have no connection of ours.
func (r *request) isPlain(a reply) bool {
	h := r.http
	return r.peer.conn != nil && a.status == http.StatusOK && a.more == nil &&
		h.Method == http.MethodGet && h.ProtoMajor == 1 && h.ProtoMinor == 1 && !h.Close && h.ContentLength == 0
}

// A packet is a plain answer as it goes over the wire. Those who waited for the
// same change share it.
type packet struct {
	reply
	second int64 // of its Date header
	bytes  []byte
}

func (s *Server) packet(a reply, now time.Time) []byte {
	p, second := s.sent.Load(), now.Unix()
	if p == nil || p.reply != a || p.second != second {
		h := http.Header{}
		a.header(h, now)
		var b bytes.Buffer
		b.WriteString("HTTP/1.1 200 OK\r\n")
		h.Write(&b)
		b.WriteString("\r\n")
		b.Write(a.form.Body)
		p = &packet{a, second, b.Bytes()}
		s.sent.Store(p)
	}
	return p.bytes
}
