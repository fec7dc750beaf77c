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
// names counts; unknown names are ignored.
func parseQuery(raw string) (query, error) {
	q := query{raw: raw}
	if raw == "" {
		return q, nil
	}
	flag := func(name string) (bool, error) {
		value, err := q.param(name)
		return isTrue(value), err
	}
	var err error
	if q.recursive, err = flag("recursive"); err != nil {
		return q, err
	}
	if q.alt, err = q.param("alt"); err != nil {
		return q, err
	}
	if q.wait, err = flag("wait_for_change"); err != nil || !q.wait {
		return q, err // without waiting the others mean nothing
	}
	if q.lastETag, q.hasLast, err = q.lookup("last_etag"); err != nil {
		return q, err
	}
	seconds, err := q.param("timeout_sec")
	if err != nil {
		return q, err
	}
	// What is not an integer is ignored (section 11, item 5), and so is what
	// no clock can count.
	if n, err := strconv.ParseInt(seconds, 10, 64); err == nil && n < int64(maxTimeout/time.Second) {
		q.timed, q.timeout = true, time.Duration(max(0, n))*time.Second
	}
	return q, nil
}

const maxTimeout = 100 * 365 * 24 * time.Hour

// param returns the value of a parameter, "" where it is absent.
func (q query) param(name string) (string, error) {
	value, _, err := q.lookup(name)
	return value, err
}

// lookup finds a parameter without decoding the others.
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
			if value, err = url.QueryUnescape(value); err != nil {
				return "", true, badRequest(fmt.Sprintf("the value of %s is not URL-encoded properly", name))
			}
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
