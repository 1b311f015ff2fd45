package peerrpc

import "github.com/prometheus/client_golang/prometheus"

// Collector shows a server's Stats as Prometheus metrics.
type Collector struct {
	stats                   func() (Stats, bool)
	messages, pending, peer *prometheus.Desc
	serving                 *prometheus.Desc
}

// NewCollector describes the metrics; the caller registers it. stats is asked at
// each scrape; false is a server that does not run in this process now.
func NewCollector(stats func() (Stats, bool)) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_lsps_"+name, help, labels, nil)
	}
	return &Collector{
		stats: stats,
		messages: desc("messages_total", "LSPS messages of peers: served, rejected for want of room, dropped without an answer, unreadable (bad_format), "+
			"complaints about ours, and answers that found their peer gone (lost).", "outcome"),
		serving: desc("serving_seconds", "From a request's arrival until its answer was handed to lnd."),
		pending: desc("pending_requests", "LSPS requests in flight."),
		peer:    desc("peers", "Peers remembered by the LSPS server."),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.messages
	ch <- c.serving
	ch <- c.pending
	ch <- c.peer
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	s, ok := c.stats()
	if !ok {
		return
	}
	for outcome, n := range map[string]uint64{
		"served": s.Requests, "rejected": s.Rejected, "dropped": s.Dropped, "bad_format": s.BadFormat, "complaint": s.Complaints, "lost": s.Lost,
	} {
		ch <- prometheus.MustNewConstMetric(c.messages, prometheus.CounterValue, float64(n), outcome)
	}
	ch <- prometheus.MustNewConstSummary(c.serving, s.Answered, s.Serving.Seconds(), nil)
	ch <- prometheus.MustNewConstMetric(c.pending, prometheus.GaugeValue, float64(s.Pending))
	ch <- prometheus.MustNewConstMetric(c.peer, prometheus.GaugeValue, float64(s.Peers))
}
