package cli

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gcemds/gcemds/client"
)

// TestWaitProgress: who waits at a terminal sees why, in one line; at the end
// the line is gone.
func TestWaitProgress(t *testing.T) {
	var out bytes.Buffer
	p := &progress{w: &out, began: time.Now()}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	a := &account{server: server{host: "127.0.0.1:1"}, name: "default"}
	if _, err := a.wait(ctx, p, time.Minute); !errors.Is(err, client.Transient) {
		t.Errorf("waiting where nobody listens ends with %v, want a failure that may pass", err)
	}
	p.show(strings.Repeat("much to say\n", 100))
	p.clear()
	said := out.String()
	if !strings.Contains(said, "waiting for 0s: ") || !strings.Contains(said, "refused") || strings.Contains(said, "\n") {
		t.Errorf("progress is %q, want a line that says why", said)
	}
	for line := range strings.SplitSeq(said, "\r\x1b[K") {
		if len(line) > 79 {
			t.Errorf("the line %q does not fit into a terminal", line)
		}
	}
	if !strings.HasSuffix(said, "\r\x1b[K") {
		t.Errorf("progress ends with %q, want the line cleared", said)
	}
}
