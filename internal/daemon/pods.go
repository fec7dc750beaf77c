package daemon

import (
	"cmp"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/credential"
	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/gke"
)

// resolver returns who says which instance a caller is: the routes of the
// configuration, or the cluster where callers are Pods.
func (d *Daemon) resolver(c *config.Config) (fleet.Resolver, error) {
	if c.GKE == nil {
		return &d.router, nil
	}
	api, err := gke.OpenKubernetes(c.GKE.Kubeconfig, "gcemds/"+cmp.Or(d.options.Version, "devel"))
	if err != nil {
		return nil, err
	}
	google := gke.Google{Client: d.env.Client, STS: c.Endpoints.STS, IAM: c.Endpoints.IAMCredentials}
	d.cluster, err = gke.New(gke.Options{Config: *c.GKE, API: api, Tokens: d.cache, Google: google, Journal: d.journal, Log: d.log})
	if err != nil {
		return nil, err
	}
	return d.cluster, d.options.Metrics.Register(podMetrics{d.cluster})
}

// endpoints are those that cannot change while Pods are served: their sources
// are opened as Pods come.
func endpoints(c *config.Config) credential.Endpoints {
	if c.GKE == nil {
		return credential.Endpoints{}
	}
	return c.Endpoints
}

// podMetrics are those of a cluster.
type podMetrics struct{ *gke.Cluster }

// Describe implements prometheus.Collector.
func (m podMetrics) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, out) }

// Collect implements prometheus.Collector.
func (m podMetrics) Collect(out chan<- prometheus.Metric) {
	for metric, value := range m.Counts {
		kind := prometheus.GaugeValue
		if metric.Counter {
			kind = prometheus.CounterValue
		}
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(metric.Name, metric.Help, metric.Label, nil), kind, float64(value.N), value.Label...)
	}
}
