package daemon

import (
	"maps"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gcemds/gcemds/internal/journal"
)

// metrics reads the journal. Labels come from small sets: what was asked for
// and the class of the status, never a path, an address or an e-mail.
type metrics struct {
	requests *prometheus.CounterVec
	counters atomic.Pointer[map[series]*counted] // of requests: found without a lock
	last     atomic.Pointer[counted]             // found without a search: most requests are like the one before
	token    prometheus.Observer                 // how long it took, of either kind
	identity prometheus.Observer
	writes   prometheus.Counter
	edits    prometheus.Counter
	reloads  *prometheus.CounterVec
	loaded   prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, waiting func() int) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gcemds_requests_total",
			Help: "Metadata requests answered, by what was asked for and status class.",
		}, []string{"class", "status"}),
		writes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gcemds_guest_writes_total", Help: "Guest attributes written or deleted by workloads.",
		}),
		edits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gcemds_edits_total", Help: "Changes made through the admin API.",
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gcemds_reloads_total", Help: "Configuration reloads, by result (ok, failed).",
		}, []string{"result"}),
		loaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "gcemds_config_ok", Help: "1 if the configuration on disk is the one in use, 0 if it was rejected.",
		}),
	}
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "gcemds_request_duration_seconds",
		Help:    "Time to answer token and identity requests.",
		Buckets: []float64{.0005, .001, .005, .01, .05, .1, .25, .5, 1, 2.5, 5, 10},
	}, []string{"class"})
	m.token, m.identity = duration.WithLabelValues("token"), duration.WithLabelValues("identity")
	hanging := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "gcemds_hanging_requests", Help: "Requests that wait for a change.",
	}, func() float64 { return float64(waiting()) })
	m.loaded.Set(1)
	for _, c := range []prometheus.Collector{m.requests, duration, m.writes, m.edits, m.reloads, m.loaded, hanging} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// A series is one combination of labels of requests.
type series struct {
	class  string
	status string
}

// A counted series is one with its counter.
type counted struct {
	series
	prometheus.Counter
}

// counter finds the counter of a series. The map is copied when a series
// comes up for the first time.
func (m *metrics) counter(s series) prometheus.Counter {
	if last := m.last.Load(); last != nil && last.series == s {
		return last.Counter
	}
	old := m.counters.Load()
	if old != nil {
		if c := (*old)[s]; c != nil {
			m.last.Store(c)
			return c.Counter
		}
	}
	c := m.requests.WithLabelValues(s.class, s.status)
	next := map[series]*counted{s: {s, c}}
	if old != nil {
		maps.Copy(next, *old)
	}
	m.counters.CompareAndSwap(old, &next) // if another came first, the next request adds this one
	return c
}

// add is a sink of the journal.
func (m *metrics) add(e journal.Entry) {
	switch e.Kind {
	case journal.Request:
		m.counter(series{e.Class, statusClass(e.Status)}).Inc()
		switch e.Class {
		case "token":
			m.token.Observe(e.Took.Seconds())
		case "identity":
			m.identity.Observe(e.Took.Seconds())
		}
	case journal.Write:
		m.writes.Inc()
	case journal.Edit:
		m.edits.Inc()
	case journal.Reload:
		if e.Err != nil {
			m.reloads.WithLabelValues("failed").Inc()
			m.loaded.Set(0)
		} else {
			m.reloads.WithLabelValues("ok").Inc()
			m.loaded.Set(1)
		}
	}
}

func statusClass(status int) string {
	switch {
	case status == 499:
		return "gone"
	case status >= 500:
		return "5xx"
	case status >= 400:
		return "4xx"
	case status >= 300:
		return "3xx"
	}
	return "2xx"
}
