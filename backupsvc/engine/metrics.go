package engine

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Metrics count what the vault does.
type Metrics struct {
	writes *prometheus.CounterVec
	batch  prometheus.Histogram
}

func newMetrics() *Metrics {
	return &Metrics{
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "sluice", Subsystem: "backups", Name: "writes_total", Help: "Writes by result: durable, conflict, quota, refused or failed.",
		}, []string{"result"}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "sluice", Subsystem: "backups", Name: "batch_writes", Help: "Writes that shared a commit.", Buckets: []float64{1, 2, 4, 8, 16, 32, 64},
		}),
	}
}

func (m *Metrics) count(err error) {
	result := "durable"
	switch {
	case err == nil:
	case errors.Is(err, vault.ErrConflict):
		result = "conflict"
	case errors.Is(err, vault.ErrQuota):
		result = "quota"
	case errkind.Of(explain(err)) == errkind.Internal, errkind.Of(explain(err)) == errkind.Unavailable:
		result = "failed"
	default:
		result = "refused"
	}
	m.writes.WithLabelValues(result).Inc()
}

// Collector gives the service's metrics; what is stored in all is a few seconds
// old.
func (e *Engine) Collector() prometheus.Collector { return collector{e} }

type collector struct{ e *Engine }

func (c collector) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, out) }

func (c collector) Collect(out chan<- prometheus.Metric) {
	c.e.metrics.writes.Collect(out)
	c.e.metrics.batch.Collect(out)
	t := c.e.Totals()
	for _, g := range []struct {
		name, help string
		value      int64
	}{
		{"identities", "Identities that have stored something.", t.Identities},
		{"objects", "Objects stored now.", t.Objects},
		{"bytes", "Bytes of values stored now, without history.", t.Bytes},
		{"history_bytes", "Bytes of past values that are kept.", t.HistoryBytes},
	} {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(prometheus.BuildFQName("sluice", "backups", g.name), g.help, nil, nil), prometheus.GaugeValue, float64(g.value))
	}
}
