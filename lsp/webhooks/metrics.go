package webhooks

import "github.com/prometheus/client_golang/prometheus"

// Collector shows a service's Stats as Prometheus metrics.
type Collector struct {
	stats                              func() (Stats, bool)
	attempts, ended, clients, underway *prometheus.Desc
}

// NewCollector describes the metrics; the caller registers it. stats is asked at
// each scrape; false is a service that does not run in this process now.
func NewCollector(stats func() (Stats, bool)) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_webhooks_"+name, help, labels, nil)
	}
	return &Collector{
		stats:    stats,
		attempts: desc("attempts_total", "Calls of webhooks."),
		ended:    desc("notifications_total", "How notifications ended: delivered, failed, needless (the client came first) or dropped (the webhook was changed).", "state"),
		clients:  desc("clients", "Clients that have webhooks."),
		underway: desc("calls", "Webhooks that are being called."),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.attempts, c.ended, c.clients, c.underway} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	s, ok := c.stats()
	if !ok {
		return
	}
	ch <- prometheus.MustNewConstMetric(c.attempts, prometheus.CounterValue, float64(s.Attempts))
	for state, n := range map[string]uint64{StateDelivered: s.Delivered, StateFailed: s.Failed, StateNeedless: s.Needless, StateDropped: s.Dropped} {
		ch <- prometheus.MustNewConstMetric(c.ended, prometheus.CounterValue, float64(n), state)
	}
	ch <- prometheus.MustNewConstMetric(c.clients, prometheus.GaugeValue, float64(s.Clients))
	ch <- prometheus.MustNewConstMetric(c.underway, prometheus.GaugeValue, float64(s.Calling))
}
