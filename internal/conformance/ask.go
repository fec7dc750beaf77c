package conformance

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	askLimit = time.Minute // the longest case waits for ten seconds
	maxBody  = 16 << 20
	maxLines = 200 // of the head of an answer
)

// An Answer is what a server sent.
type Answer struct {
	Status  int
	Headers map[string]string // names as spelt on the wire
	Body    string
	Took    time.Duration
}

// Ask sends the request of a case. It speaks HTTP by hand: the spelling of
// headers counts, and paths must not be cleaned on the way. Redirects are not
// followed.
func Ask(ctx context.Context, addr string, c Case) (Answer, error) {
	a, err := ask(ctx, addr, c)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return a, fmt.Errorf("%s %s: %w", c.Method, c.Path, err)
	}
	return a, nil
}

func ask(ctx context.Context, addr string, c Case) (a Answer, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askLimit, fmt.Errorf("no answer in %v", askLimit))
	defer cancel()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return a, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	host := addr
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		if name == "Host" {
			host = c.Headers[name]
			continue
		}
		fmt.Fprintf(&b, "%s: %s\r\n", name, c.Headers[name])
	}
	if c.RequestBody != "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(c.RequestBody))
	}
	begin := time.Now()
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n%s", c.Method, c.Path, host, &b, c.RequestBody); err != nil {
		return a, err
	}

	r := bufio.NewReader(io.LimitReader(conn, maxBody))
	line := func() (string, error) {
		s, err := r.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("the answer ends in its head: %w", err)
		}
		return strings.TrimRight(s, "\r\n"), nil
	}
	first, err := line()
	if err != nil {
		return a, err
	}
	a.Headers = map[string]string{}
	if _, err := fmt.Sscanf(first, "HTTP/1.1 %d", &a.Status); err != nil {
		return a, fmt.Errorf("the answer begins with %.40q, not with HTTP/1.1 and a status", first)
	}
	for range maxLines {
		l, err := line()
		if err != nil {
			return a, err
		}
		if l == "" {
			break
		}
		name, value, _ := strings.Cut(l, ":")
		a.Headers[name] = strings.TrimSpace(value)
	}
	body := io.Reader(r)
	if strings.EqualFold(a.Headers["Transfer-Encoding"], "chunked") {
		body = httputil.NewChunkedReader(r)
	} else if n, err := strconv.ParseInt(a.Headers["Content-Length"], 10, 64); err == nil && !strings.EqualFold(a.Headers["Connection"], "close") && c.Method != "HEAD" {
		body = io.LimitReader(r, n) // the server keeps the connection although it was asked not to
	}
	data, err := io.ReadAll(body)
	a.Body, a.Took = string(data), time.Since(begin)
	return a, err
}
