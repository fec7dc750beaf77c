package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

const (
	floorCommand = "floor"
	releasePath  = dataPath + "release"
)

// A floor is the least that an HTTP server in Go can do for a request: nothing
// but write a reply that it has.
type floor struct {
	header []field
	body   []byte

	hold     bool // blocks everyone until somebody asks for releasePath
	released chan struct{}
	release  sync.Once
}

type field struct {
	name  string
	value []string
}

// serveFloor is the hidden command that serves the reply on stdin.
func serveFloor(args []string, stdin io.Reader) error {
	if len(args) == 0 {
		return errors.New("floor: no address")
	}
	reply, err := io.ReadAll(io.LimitReader(stdin, maxReply))
	if err != nil {
		return err
	}
	f, err := newFloor(reply)
	if err != nil {
		return err
	}
	f.hold = len(args) > 1
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	return (&http.Server{Handler: f}).Serve(l)
}

// newFloor returns the floor for a reply as it was on the wire. Names keep
// their spelling; Date is left to net/http.
func newFloor(reply []byte) (*floor, error) {
	head, body, ok := bytes.Cut(reply, []byte("\r\n\r\n"))
	if !ok {
		return nil, fmt.Errorf("floor: not a reply: %.100q", reply)
	}
	f := &floor{body: body, released: make(chan struct{})}
	for _, line := range strings.Split(string(head), "\r\n")[1:] {
		name, value, _ := strings.Cut(line, ": ")
		if name != "Date" {
			f.header = append(f.header, field{name, []string{value}})
		}
	}
	return f, nil
}

func (f *floor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.hold {
		if r.URL.Path == releasePath {
			f.release.Do(func() { close(f.released) })
		}
		select {
		case <-f.released:
		case <-r.Context().Done():
		}
	}
	h := w.Header()
	for _, field := range f.header {
		h[field.name] = field.value
	}
	w.Write(f.body)
}
