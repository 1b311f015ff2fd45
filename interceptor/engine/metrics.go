package engine

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Collector shows an engine's gauges and counters to Prometheus.
type Collector struct {
	engine *Engine
	descs  []*prometheus.Desc
}

// NewCollector describes an engine's metrics; the caller registers it.
func NewCollector(e *Engine) *Collector {
	c := &Collector{engine: e}
	for _, m := range [...][2]string{
		{"active", "1 when this process owns the interceptor."},
		{"connected", "1 when lnd accepted the interceptor stream."},
		{"degraded", "1 when the database or the lease is missing, so that only ordinary forwards pass."},
		{"held_htlcs", "HTLCs held without a decision, those being paid included."},
		{"held_sat", "Satoshis in held HTLCs."},
		{"held_sat_blocks", "Satoshis in held HTLCs times the blocks since they were offered."},
		{"min_blocks_left", "Blocks before the most urgent held HTLC is failed; absent when none is held."},
		{"unrecorded_htlcs", "New HTLCs that wait for the database."},
		{"left_htlcs", "HTLCs offered again that lnd has forwarded, or may be ending: left until lnd shows what they are."},
		{"stream_ends_total", "Interceptor streams that ended since start."},
		{"resumed_total", "Ordinary forwards resumed since start."},
		{"phantoms_total", "Offers of HTLCs that lnd no longer had, failed, since start."},
		{"resume_only_total", "Offers that may have been resumed before, since start."},
		{"pruned_rows_total", "Old rows deleted since start."},
	} {
		c.descs = append(c.descs, prometheus.NewDesc("sluice_interceptor_"+m[0], m[1], nil, nil))
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	s := c.engine.Status()
	bit := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	for i, v := range []float64{
		bit(s.Active), bit(s.Connected), bit(s.Degraded), float64(s.HeldHtlcs), float64(s.HeldMsat) / 1000,
		float64(s.HeldSatBlocks), float64(s.MinBlocksLeft), float64(s.Unrecorded), float64(s.Left), float64(s.StreamEnds),
		float64(s.Resumed), float64(s.Phantoms), float64(s.ResumeOnly), float64(s.Pruned),
	} {
		kind := prometheus.GaugeValue
		switch {
		case i == 6 && s.HeldHtlcs == 0:
			continue
		case i >= 9:
			kind = prometheus.CounterValue
		}
		out <- prometheus.MustNewConstMetric(c.descs[i], kind, v)
	}
}
