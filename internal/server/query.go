package server

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A query is the parameters that every path understands; param has the rest.
type query struct {
	raw       string
	recursive bool
	alt       string
	wait      bool
	lastETag  string
	hasLast   bool
	timeout   time.Duration
	timed     bool
}

// parseQuery reads the parameters of section 3.1. The first of several equal
// names counts; unknown names are ignored. A value that is not URL-encoded
// properly is one of the other values that section 3.1 has no error for.
func parseQuery(raw string) query {
	q := query{raw: raw}
	if raw == "" {
		return q
	}
	value := func(name string) string {
		value, _, _ := q.lookup(name)
		return value
	}
	q.recursive, q.alt = isTrue(value("recursive")), value("alt")
	if q.wait = isTrue(value("wait_for_change")); !q.wait {
		return q // without waiting the others mean nothing
	}
	q.lastETag, q.hasLast, _ = q.lookup("last_etag")
	// What is not an integer is ignored (section 11, item 5), and so is what
	// no clock can count.
	if n, err := strconv.ParseInt(value("timeout_sec"), 10, 64); err == nil && n < int64(maxTimeout/time.Second) {
		q.timed, q.timeout = true, time.Duration(max(0, n))*time.Second
	}
	return q
}

const maxTimeout = 100 * 365 * 24 * time.Hour

// param returns the value of a parameter that must be encoded properly, ""
// where it is absent.
func (q query) param(name string) (string, error) {
	value, _, err := q.lookup(name)
	return value, err
}

// lookup finds a parameter without decoding the others. With an error, the
// value is as it was sent.
func (q query) lookup(name string) (value string, ok bool, err error) {
	for rest := q.raw; rest != ""; {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		key, value, _ := strings.Cut(pair, "=")
		if key != name {
			if !strings.ContainsAny(key, "%+") {
				continue
			}
			if plain, err := url.QueryUnescape(key); err != nil || plain != name {
				continue
			}
		}
		if strings.ContainsAny(value, "%+") {
			plain, err := url.QueryUnescape(value)
			if err != nil {
				return value, true, badRequest(fmt.Sprintf("the value of %s is not URL-encoded properly", name))
			}
			value = plain
		}
		return value, true, nil
	}
	return "", false, nil
}

// isTrue reads a boolean parameter (section 3.1): every other value is false.
func isTrue(value string) bool {
	switch strings.ToLower(value) {
	case "true", "on", "yes", "1":
		return true
	}
	return false
}
