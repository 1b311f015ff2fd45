package engine

import (
	"errors"

	"github.com/lightningnetwork/lnd/watchtower/wtdb"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/watchtower"
)

// Metrics count what clients ask for.
type Metrics struct {
	requests *prometheus.CounterVec
	batch    prometheus.Histogram
}

func newMetrics() *Metrics {
	return &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "sluice", Subsystem: "tower", Name: "requests_total",
			Help: "Clients' requests by what (session, update, delete) and result: durable, refused (by the protocol or the terms), quota or failed.",
		}, []string{"what", "result"}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "sluice", Subsystem: "tower", Name: "batch_requests", Help: "Requests that shared a commit.", Buckets: []float64{1, 2, 4, 8, 16, 32, 64},
		}),
	}
}

func (m *Metrics) count(what string, err error) {
	result := "failed"
	switch kind := errkind.Of(err); {
	case err == nil:
		result = "durable"
	case kind == errkind.Exhausted || kind == errkind.Denied:
		result = "quota"
	case errors.Is(err, errRefused), isProtocol(err):
		result = "refused"
	}
	m.requests.WithLabelValues(what, result).Inc()
}

// isProtocol says that an error is the protocol's answer and no failure.
func isProtocol(err error) bool {
	for _, known := range []error{
		wtdb.ErrSessionNotFound, wtdb.ErrSessionAlreadyExists, wtdb.ErrUpdateOutOfOrder, wtdb.ErrLastAppliedReversion,
		wtdb.ErrSeqNumAlreadyApplied, wtdb.ErrSessionConsumed, wtdb.ErrInvalidBlobSize,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// Collector gives the service's metrics; what is stored in all is a few seconds
// old.
func (e *Engine) Collector() prometheus.Collector { return collector{e} }

type collector struct{ e *Engine }

func (c collector) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, out) }

func (c collector) Collect(out chan<- prometheus.Metric) {
	c.e.metrics.requests.Collect(out)
	c.e.metrics.batch.Collect(out)
	for _, m := range c.e.searched.Collectors() {
		m.Collect(out)
	}
	t := c.e.Totals()
	gauge := func(name, help string, value float64) {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(prometheus.BuildFQName("sluice", "tower", name), help, nil, nil), prometheus.GaugeValue, value)
	}
	gauge("tenants", "Registrations.", float64(t.Tenants))
	gauge("sessions", "Sessions held.", float64(t.Sessions))
	gauge("updates", "Updates held.", float64(t.Updates))
	gauge("stored_bytes", "Bytes of updates held.", float64(t.Bytes))
	gauge("credit_msat", "What registrations paid for updates and have not used.", float64(t.CreditMsat))
	gauge("drawn_msat", "What updates have cost so far.", float64(t.DrawnMsat))
	view, searching := c.e.View()
	gauge("searching", "1 while this process searches the chain.", flag(searching))
	if searching {
		gauge("tip_height", "The last block that was searched.", float64(view.Tip.Height))
		gauge("blocks_behind", "Blocks that are not searched yet.", float64(max(0, view.Best-view.Tip.Height)))
		gauge("stuck", "1 while the next block cannot be searched.", flag(view.Problem != ""))
		gauge("open_breaches", "Breaches that are not buried.", float64(view.Open))
		gauge("due_breaches", "Breaches whose justice transaction is not in a block.", float64(view.Due))
	}
	breaches := map[watchtower.BreachState]int64{}
	for _, tally := range c.e.Tally() {
		breaches[tally.State] = tally.Breaches
	}
	desc := prometheus.NewDesc(prometheus.BuildFQName("sluice", "tower", "breaches"), "Breaches ever found, by state.", []string{"state"}, nil)
	for _, s := range watchtower.BreachStates() {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(breaches[s]), string(s))
	}
	if c.e.listener == nil {
		return
	}
	gauge("connections", "Clients' connections that are open.", float64(c.e.listener.Connections()))
	counts := c.e.listener.Counts()
	shakes := prometheus.NewDesc(prometheus.BuildFQName("sluice", "tower", "handshakes_total"), "Handshakes by result: succeeded, unknown (no tower key), failed or refused (too many).", []string{"result"}, nil)
	for result, n := range map[string]int64{"succeeded": counts.Succeeded, "unknown": counts.Unknown, "failed": counts.Failed, "refused": counts.Refused} {
		out <- prometheus.MustNewConstMetric(shakes, prometheus.CounterValue, float64(n), result)
	}
}

func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}
