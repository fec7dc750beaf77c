package daemon

import (
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gcemds/gcemds/internal/gke"
	"github.com/gcemds/gcemds/internal/journal"
)

// TestReference: the page about metrics has every one of ours.
func TestReference(t *testing.T) {
	const name = "../../docs/reference/metrics.md"
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	m, err := newMetrics(reg, func() int { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	m.add(journal.Entry{Kind: journal.Request, Class: "token"}) // a metric with labels shows once it has a value
	m.add(journal.Entry{Kind: journal.Reload})
	pods, err := gke.New(gke.Options{Config: gke.Config{Node: "node-1"}})
	if err != nil {
		t.Fatal(err)
	}
	reg.MustRegister(podMetrics{pods})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.Contains(string(page), "`"+f.GetName()+"`") {
			t.Errorf("%s does not mention `%s`", name, f.GetName())
		}
	}
	if len(families) < 16 {
		t.Errorf("only %d metrics were found", len(families))
	}
}
