package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/token"
)

// TestLogLevels: at info there is what a person should know, above all why
// there is no token.
func TestLogLevels(t *testing.T) {
	cause := errors.New("the cause")
	for name, c := range map[string]struct {
		entry journal.Entry
		want  string // the level; "": nothing
	}{
		"a value is read":             {journal.Entry{Kind: journal.Request, Class: "leaf", Status: 200}, ""},
		"a key is not there":          {journal.Entry{Kind: journal.Request, Class: "error", Status: 404, Err: cause}, ""},
		"a guest writes":              {journal.Entry{Kind: journal.Write}, ""},
		"upstream is away":            {journal.Entry{Kind: journal.Request, Class: "token", Status: 503, Err: &token.Error{Err: cause}}, "WARN"},
		"upstream refuses":            {journal.Entry{Kind: journal.Request, Class: "token", Status: 403, Err: &token.Error{Kind: token.Denied, Err: cause}}, "WARN"},
		"a source has no ID tokens":   {journal.Entry{Kind: journal.Request, Class: "token", Status: 404, Err: &token.Error{Kind: token.Unsupported, Err: cause}}, "WARN"},
		"a workload asks nonsense":    {journal.Entry{Kind: journal.Request, Class: "token", Status: 400, Err: &token.Error{Kind: token.InvalidRequest, Err: cause}}, ""},
		"a wait ends with the server": {journal.Entry{Kind: journal.Request, Class: "wait", Status: 503, Err: cause}, ""},
		"somebody edits":              {journal.Entry{Kind: journal.Edit}, "INFO"},
		"a configuration is wrong":    {journal.Entry{Kind: journal.Reload, Err: cause}, "ERROR"},
	} {
		var out bytes.Buffer
		logTo(slog.New(slog.NewTextHandler(&out, nil)))(c.entry)
		got := out.String()
		switch {
		case c.want == "" && got != "":
			t.Errorf("%s: the log says %q, want nothing", name, got)
		case !strings.Contains(got, c.want) || c.entry.Err != nil && c.want != "" && !strings.Contains(got, "the cause"):
			t.Errorf("%s: the log says %q, want a line at %s with the cause", name, got, c.want)
		}
	}
}

// TestRepeated: what fails in a loop has a line a minute, with how often that
// was; something else has its own.
func TestRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		sink := logTo(slog.New(slog.NewTextHandler(&out, nil)))
		fail := func(path, why string) {
			sink(journal.Entry{Kind: journal.Request, Class: "token", Path: path, Status: 403, Err: &token.Error{Kind: token.Denied, Err: errors.New(why)}})
		}
		for range 1000 {
			fail("/a", "no")
		}
		fail("/a", "clock")
		fail("/b", "no") // another path is nothing new
		if n := strings.Count(out.String(), "WARN"); n != 2 {
			t.Errorf("1000 equal failures and another have %d lines, want 2:\n%s", n, out.String())
		}
		out.Reset()
		time.Sleep(time.Minute)
		fail("/a", "no")
		if !strings.Contains(out.String(), "before=1000") {
			t.Errorf("a minute later the line is %q, want how often it was not told", out.String())
		}
		out.Reset()
		for i := range 2 * maxRepeats {
			fail("/a", fmt.Sprint("no ", i))
		}
		if n := strings.Count(out.String(), "WARN"); n > burst {
			t.Errorf("thousands of different failures at once have %d lines, want %d at most", n, burst)
		}
	})
}
