package cli

import (
	"testing"

	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/intercept"
)

// TestInterceptModes: the configuration knows every mode there is.
func TestInterceptModes(t *testing.T) {
	for _, m := range intercept.Modes {
		c, _, err := config.Resolve(nil, map[string][]string{"intercept": {string(m)}})
		if err != nil || c.Intercept != string(m) {
			t.Errorf("--intercept=%s is refused: %v", m, err)
		}
	}
}

// TestListening: the server listens where connections are led, once, and the
// configuration that it was given stays as it is.
func TestListening(t *testing.T) {
	c, _, err := config.Resolve(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := intercept.Status{Mode: intercept.Loopback, To: intercept.Loopback.Listener()}
	more := listening(c, s)
	if len(c.Listen) != 1 || len(more.Listen) != 2 || more.Listen[1].TCP != "169.254.169.254:80" {
		t.Errorf("of the listeners %+v there come %+v", c.Listen, more.Listen)
	}
	if again := listening(more, s); len(again.Listen) != 2 {
		t.Errorf("the same address is listened on twice: %+v", again.Listen)
	}
	if same := listening(c, intercept.Status{Mode: intercept.Environment, To: s.To}); len(same.Listen) != 1 {
		t.Errorf("with variables there is a listener more: %+v", same.Listen)
	}
}
