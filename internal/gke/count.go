package gke

import (
	"sync/atomic"

	"github.com/gcemds/gcemds/internal/token"
)

// Ways to find out who a caller is.
const (
	byAddress = iota
	byKernel
	ways
)

// Calls upstream.
const (
	callAPI = iota // TokenRequest, or a token of the kubelet's
	callSTS
	callIAM
	callKinds
)

// kinds of outcome: none wrong, and the kinds of token.Error.
const outcomes = int(token.InvalidRequest) + 2

type calls [outcomes]atomic.Int64

func (c *calls) count(e *token.Error) {
	i := 0
	if e != nil {
		i = min(int(e.Kind)+1, outcomes-1)
	}
	c[i].Add(1)
}

// counts are what has happened.
type counts struct {
	identified  [ways]atomic.Int64
	refused     [reasons]atomic.Int64
	calls       [callKinds]calls
	events      atomic.Int64
	watchErrors atomic.Int64
}

// A Metric is one of those that Counts has.
type Metric struct {
	Name, Help string
	Label      []string // names of its labels
	Counter    bool     // it only grows
}

// A Count is a value of a metric, and those of its labels.
type Count struct {
	N     int64
	Label []string
}

// metrics are all there are.
var metrics = []Metric{
	{"gcemds_gke_pods", "Pods of this node that can have an identity.", nil, false},
	{"gcemds_gke_service_accounts", "Service accounts that these use.", nil, false},
	{"gcemds_gke_ambiguous_addresses", "Addresses that several Pods of this node claim, and that nobody is served at.", nil, false},
	{"gcemds_gke_synced", "1 once the Pods of this node are known.", nil, false},
	{"gcemds_gke_connections_identified_total", "Connections whose Pod was found out, by way (address, kernel).", []string{"by"}, true},
	{"gcemds_gke_refused_total", "Requests that got no identity, by reason.", []string{"reason"}, true},
	{"gcemds_gke_upstream_calls_total", "Calls for tokens, by what was called (kubernetes, sts, iam) and outcome.", []string{"to", "outcome"}, true},
	{"gcemds_gke_events_total", "Events put on Pods.", nil, true},
	{"gcemds_gke_watch_errors_total", "Interruptions of watches.", nil, true},
}

// Counts yields the value of each metric. Labels come from small fixed sets.
func (c *Cluster) Counts(yield func(Metric, Count) bool) {
	count := func(metric int, n int64, label ...string) bool { return yield(metrics[metric], Count{n, label}) }
	x := c.pods.Load()
	synced := int64(0)
	if x.synced {
		synced = 1
	}
	c.mu.Lock()
	accounts := int64(len(c.accounts))
	c.mu.Unlock()
	for i, value := range []int64{int64(len(x.tenants)), accounts, int64(x.ambiguous()), synced} {
		if !count(i, value) {
			return
		}
	}
	for i, by := range []string{"address", "kernel"} {
		if !count(4, c.counts.identified[i].Load(), by) {
			return
		}
	}
	for r := reasonNone + 1; r < reasons; r++ {
		if !count(5, c.counts.refused[r].Load(), refusals[r].name) {
			return
		}
	}
	for i, to := range []string{"kubernetes", "sts", "iam"} {
		for k := range outcomes {
			outcome := "ok"
			if k > 0 {
				outcome = token.Kind(k - 1).String()
			}
			if !count(6, c.counts.calls[i][k].Load(), to, outcome) {
				return
			}
		}
	}
	_ = count(7, c.counts.events.Load()) && count(8, c.counts.watchErrors.Load())
}
