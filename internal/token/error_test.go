package token

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

func TestErrorByKind(t *testing.T) {
	for kind, want := range map[Kind]struct {
		status int
		code   string
	}{
		Unavailable:    {503, "temporarily_unavailable"},
		Throttled:      {429, "temporarily_unavailable"},
		Denied:         {403, "access_denied"},
		Misconfigured:  {500, "server_error"},
		Clock:          {500, "server_error"},
		Unsupported:    {404, "unsupported_token_type"},
		InvalidRequest: {400, "invalid_request"},
		200:            {503, "temporarily_unavailable"}, // no such kind
	} {
		e := &Error{Kind: kind, Err: errors.New("secret cause")}
		if e.Status() != want.status || e.Code() != want.code {
			t.Errorf("%s: status %d, code %s, want %d, %s", kind, e.Status(), e.Code(), want.status, want.code)
		}
		if !strings.HasSuffix(e.Public(), ".") || strings.ContainsAny(e.Public(), `"\`) || strings.Contains(e.Public(), "secret") {
			t.Errorf("%s: %q is not a plain sentence without the cause", kind, e.Public())
		}
		if got, want := e.Error(), kind.String()+": secret cause"; got != want {
			t.Errorf("Error() = %q, want %q", got, want)
		}
	}
	if got, want := new(Error).Error(), "unavailable"; got != want {
		t.Errorf("an Error without a cause reads %q, want %q", got, want)
	}
}

func TestClassify(t *testing.T) {
	own := &Error{Kind: Denied, Err: io.EOF}
	if got := classify(own); got != own {
		t.Errorf("an Error is classified as another one, %v", got)
	}
	got := classify(fmt.Errorf("impersonate robot: %w", &Error{Kind: Throttled, RetryAfter: time.Minute, Err: io.EOF}))
	if got.Kind != Throttled || got.RetryAfter != time.Minute || !errors.Is(got, io.EOF) || !strings.Contains(got.Error(), "impersonate robot") {
		t.Errorf("a wrapped Error became %#v; kind, pause, cause and context should stay", got)
	}
	if got := classify(io.EOF); got.Kind != Unavailable || !errors.Is(got, io.EOF) {
		t.Errorf("any other error became %v, want unavailable", got)
	}
}
