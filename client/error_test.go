package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestError(t *testing.T) {
	cause := errors.New("503 Service Unavailable: booting")
	err := fmt.Errorf("start: %w", &Error{Kind: Transient, URL: "http://mds/x", Status: 503, Attempts: 30, Elapsed: 290 * time.Second, Hint: "Wait.", Err: cause})
	if got, want := err.Error(), "start: transient failure: http://mds/x: 503 Service Unavailable: booting (30 attempts in 4m50s). Wait."; got != want {
		t.Errorf("the error reads\n%s, want\n%s", got, want)
	}
	if !errors.Is(err, Transient) || errors.Is(err, NotFound) || !errors.Is(err, cause) || errors.Is(err, context.Canceled) {
		t.Error("errors.Is does not see kind and cause, and nothing else")
	}
	if got := new(Error).Error(); got != "transient failure" {
		t.Errorf("the zero error reads %q", got)
	}
	if got := Kind(99).Error(); got != "unknown kind 99" {
		t.Errorf("a kind that does not exist reads %q", got)
	}
}

func TestReason(t *testing.T) {
	for body, want := range map[string]string{
		"": "",
		"non-empty audience parameter required\n":                                                        "non-empty audience parameter required",
		`{"error":"invalid_request","error_description":"Service account not enabled on this instance"}`: "invalid_request: Service account not enabled on this instance",
		`{"error":"x"}`: "x",
		`{"error":7}`:   `{"error":7}`,
		"<!DOCTYPE html>\n<title>Error 403</title><p><b>403.</b>\n<p>No permission to get <code>/x?a&amp;b</code>.  <ins>That’s all.</ins>\n": "No permission to get /x?a&b. That’s all.",
		" \n<html>":                         "",
		"a\x1b[31m\r\n  b\x00":              "a [31m b",
		"a\xffb":                            "ab",
		strings.Repeat("é", maxReason):      strings.Repeat("é", maxReason/2) + "…",
		strings.Repeat("x ", 100*maxReason): strings.Repeat("x ", maxReason/2) + "…",
	} {
		if got := reason(body); got != want {
			t.Errorf("the reason in %.40q is %q, want %q", body, got, want)
		}
	}
}

func FuzzReason(f *testing.F) {
	f.Add(`{"error":"invalid_request","error_description":"x"}`)
	f.Add("plain\ntext")
	f.Add("<html>")
	f.Add(strings.Repeat("é", 400))
	f.Fuzz(func(t *testing.T, body string) {
		got := reason(body)
		if len(got) > maxReason+len("…") || !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("the reason in %q is %q", body, got)
		}
	})
}
