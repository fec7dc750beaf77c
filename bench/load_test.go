package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReplySize(t *testing.T) {
	const reply = "HTTP/1.1 200 OK\r\nETag: 1\r\nContent-Length: 4\r\nDate: now\r\n\r\nbody"
	for end := range len(reply) + 1 {
		size, err := replySize([]byte(reply[:end]))
		if want := len(reply); err != nil || size != 0 && size != want || size == 0 && end >= want-4 {
			t.Errorf("after %d bytes of %d the size is %d (%v)", end, want, size, err)
		}
	}
	for _, bad := range []string{
		"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
	} {
		if size, err := replySize([]byte(bad)); err == nil {
			t.Errorf("the load takes %q for an answer of %d bytes, want an error", bad, size)
		}
	}
}

func TestReadReply(t *testing.T) {
	const reply = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
	got, err := readReply(iotest.OneByteReader(strings.NewReader(reply)), make([]byte, 100))
	if err != nil || string(got) != reply {
		t.Errorf("read byte by byte: %q, %v; want %q", got, err, reply)
	}
	if _, err := readReply(strings.NewReader(reply[:len(reply)-1]), make([]byte, 100)); err == nil {
		t.Error("an answer that ends early passes")
	}
	if _, err := readReply(strings.NewReader(reply), make([]byte, 20)); err == nil {
		t.Error("an answer that is too long passes")
	}
}

// TestFloor: the floor answers what it learned, in that spelling, and changes
// nothing but the date.
func TestFloor(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Type: application/text\r\nETag: 1\r\nX-XSS-Protection: 0\r\n"
	f, err := newFloor([]byte(head + "Date: Mon, 02 Jan 2006 15:04:05 GMT\r\n\r\nbody"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(f)
	defer server.Close()
	reply, err := (&process{addr: server.Listener.Addr().String()}).get("")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(reply), "\r\n")
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "Date: ") })
	slices.Sort(lines[1 : len(lines)-2]) // the order of headers means nothing
	if got, want := strings.Join(lines, ""), head+"\r\nbody"; got != want {
		t.Errorf("the floor answers %q, want %q", got, want)
	}
	if _, err := newFloor([]byte("not HTTP")); err == nil {
		t.Error("the floor takes anything for a reply")
	}
}

// TestHeldFloor: a held floor answers nobody before it is released, then all.
func TestHeldFloor(t *testing.T) {
	f, err := newFloor([]byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"))
	if err != nil {
		t.Fatal(err)
	}
	f.hold = true
	answered := make(chan string)
	ask := func(path string) {
		w := httptest.NewRecorder()
		f.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		answered <- w.Body.String()
	}
	go ask("/")
	select {
	case body := <-answered:
		t.Fatalf("a held request was answered %q", body)
	default:
	}
	go ask(releasePath)
	for range 2 {
		if body := <-answered; body != "body" {
			t.Errorf("after the release the answer is %q", body)
		}
	}
}
