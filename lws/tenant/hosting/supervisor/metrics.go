package supervisor

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-lsp/sluice/lws/tenant/hosting"
)

// Metrics are those of all watches, as they are when they are asked for.
type Metrics struct {
	watches                                                 func() []*Watch
	state, restarts, signer, available, latency, cert, htlc *prometheus.Desc
}

// NewMetrics makes a collector.
func NewMetrics(watches func() []*Watch) *Metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_hosting_"+name, help, append([]string{"tenant"}, labels...), nil)
	}
	return &Metrics{
		watches:   watches,
		state:     desc("node_state", "1 for the state in which a hosted node is.", "state"),
		restarts:  desc("node_restarts_day", "How often a hosted node was started in the last 24 hours."),
		htlc:      desc("node_htlcs", "HTLCs that a draining node still has; -1 is not known."),
		signer:    desc("signer_up", "Whether the signer answered last."),
		available: desc("signer_availability", "The share of looks at the signer that it answered, of 24 hours."),
		latency:   desc("signer_latency_share", "What a call to the signer took, as a share of the node's timeout for it.", "call", "quantile"),
		cert:      desc("signer_certificate_end_seconds", "When the signer's certificate ends, unix time."),
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.state, m.restarts, m.htlc, m.signer, m.available, m.latency, m.cert} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, w := range m.watches() {
		r := w.Last()
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{r.Tenant}, labels...)...)
		}
		for _, s := range []hosting.State{hosting.Running, hosting.Starting, hosting.Waiting, hosting.Draining, hosting.Drained} {
			gauge(m.state, is(s == r.State), string(s))
		}
		gauge(m.restarts, float64(r.Restarts))
		gauge(m.htlc, float64(r.HTLCs))
		gauge(m.signer, is(r.Signer.Up))
		gauge(m.available, float64(r.Signer.Permille)/1000)
		for _, l := range r.Signer.Latencies {
			gauge(m.latency, l.P50.Seconds()/r.Timeout.Seconds(), l.Call, "0.5")
			gauge(m.latency, l.P99.Seconds()/r.Timeout.Seconds(), l.Call, "0.99")
		}
		if !r.CertificateEnds.IsZero() {
			gauge(m.cert, float64(r.CertificateEnds.Unix()))
		}
	}
}

func is(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
