package daemon_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestPassthrough: with the section passthrough, requests for the service of
// another cloud reach it, if they come in a name of this server; all others
// stay here.
func TestPassthrough(t *testing.T) {
	var asked atomic.Int64
	cloud := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		io.WriteString(w, "i-0123")
	}))
	t.Cleanup(cloud.Close)
	w := start(t, "passthrough: {cloud: aws, to: '"+cloud.URL+"'}\n")
	for _, c := range []struct {
		name, host, path, flavor string
		status                   int
		asked                    int64
	}{
		{"the address", "169.254.169.254", "/latest/meta-data/instance-id", "", 200, 1},
		{"another's name", "rebound.example.com", "/latest/meta-data/instance-id", "", 403, 0},
		{"a request for Google's server", "169.254.169.254", "/latest/meta-data/instance-id", "Google", 404, 0},
		{"ours", "metadata.google.internal", "/computeMetadata/v1/instance/id", "Google", 200, 0},
		{"the root", "169.254.169.254", "/", "", 200, 0},
	} {
		asked.Store(0)
		r, err := http.NewRequestWithContext(t.Context(), "GET", w.base("main")+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.Host = c.host; c.flavor != "" {
			r.Header.Set("Metadata-Flavor", c.flavor)
		}
		a, err := w.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(a.Body)
		a.Body.Close()
		if a.StatusCode != c.status || asked.Load() != c.asked || (c.asked > 0) != strings.Contains(string(body), "i-0123") {
			t.Errorf("%s: GET %s at %s = %d %.40q, and the cloud was asked %d times; want %d, %d times", c.name, c.path, c.host, a.StatusCode, body, asked.Load(), c.status, c.asked)
		}
	}
}
