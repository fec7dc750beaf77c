package server

import (
	"context"
	"errors"
)

var errTimeout = errors.New("timeout_sec is over")

// wait answers when the awaited node's ETag is not the one the client has, or
// when its time is over (section 6.1).
func (r *request) wait() (reply, error) {
	s, n := r.server, r.awaited
	if s.waiting.Add(1) > int64(s.limits.HangingGets) {
		s.waiting.Add(-1)
		return reply{}, errWaiters
	}
	defer s.waiting.Add(-1)

	ctx := r.http.Context()
	if r.query.timed {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, r.query.timeout, errTimeout)
		defer cancel()
	}
	last := r.query.lastETag
	if !r.query.hasLast {
		last = n.ETag(r.query.recursive)
	}
	now, err := r.instance.Metadata.Wait(ctx, r.key, r.query.recursive, last)
	switch {
	case err != nil && err != errTimeout:
		return reply{}, err
	case now.IsDir() != n.IsDir(): // what was asked for is gone
		return reply{}, errNotFound
	case now.Closed():
		return reply{}, errClosed
	}
	a := nodeReply(now, r.query)
	a.class = classWait
	return a, nil
}
