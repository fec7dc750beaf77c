package daemon

import (
	"cmp"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gcemds/gcemds/internal/attest"
	"github.com/gcemds/gcemds/internal/config"
	"github.com/gcemds/gcemds/internal/credential"
	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/gke"
	"github.com/gcemds/gcemds/internal/intercept"
	"github.com/gcemds/gcemds/internal/passthrough"
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

// googles are the addresses that a caller may have dialled to get here, where
// another has been put in their place.
var googles = []netip.AddrPort{netip.MustParseAddrPort("169.254.169.254:80"), netip.MustParseAddrPort("[fd20:ce::254]:80")}

// peers has the kernel asked who callers are that share the address of the
// host.
func (d *Daemon) peers(c *config.Config) {
	switch {
	case d.options.Peer != nil:
		d.server.Peer = d.options.Peer
		return
	case c.GKE == nil || c.GKE.Attest == gke.AttestNone:
		return
	}
	a := &attest.Attestor{Dialled: googles}
	if callers, err := intercept.OpenCallers(); err == nil {
		a.Callers = callers // it lasts as long as the process
	} else if c.GKE.Attest == gke.AttestAll {
		d.log.Warn("the kernel cannot say which Pods callers are that have a network of their own: they will get 403", "error", err)
	} else {
		d.log.Debug("callers are not noted when they connect", "reason", err)
	}
	if err := a.Probe(); err != nil {
		d.log.Warn("the kernel cannot say who callers in the network of the node are: they will get 403", "error", err)
	}
	d.server.Peer = a.Peer
}

// passes puts what leads to the metadata service of another cloud in front of
// a handler, if that is configured. Pods may go there only if it says so: they
// would get what the node gets. A request in a name that is not ours may not:
// a page in a browser of the node could send it.
func (d *Daemon) passes(next http.Handler) (http.Handler, error) {
	c := d.config
	if c.Passthrough == nil {
		return next, nil
	}
	p, err := passthrough.New(*c.Passthrough, d.log)
	if err != nil {
		return nil, fmt.Errorf("passthrough: %w", err)
	}
	may := func(r *http.Request) bool {
		if !d.server.AllowsHost(r.Host) {
			return false
		}
		if d.cluster == nil || c.Passthrough.Pods {
			return true
		}
		remote, err := netip.ParseAddrPort(r.RemoteAddr)
		return err == nil && d.cluster.OfHost(remote.Addr())
	}
	return p.Handler(next, may), nil
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
