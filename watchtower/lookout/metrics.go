package lookout

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics count what the lookout does.
type Metrics struct {
	blocks  prometheus.Counter
	matches prometheus.Counter
	reorgs  prometheus.Counter
	search  prometheus.Histogram
	publish *prometheus.CounterVec
}

// NewMetrics makes them.
func NewMetrics() *Metrics {
	name := func(n string) string { return prometheus.BuildFQName("sluice", "tower", n) }
	return &Metrics{
		blocks:  prometheus.NewCounter(prometheus.CounterOpts{Name: name("blocks_searched_total"), Help: "Blocks that were searched."}),
		matches: prometheus.NewCounter(prometheus.CounterOpts{Name: name("matches_total"), Help: "Updates whose hint was in a block."}),
		reorgs:  prometheus.NewCounter(prometheus.CounterOpts{Name: name("reorganisations_total"), Help: "Times that the tip left the best chain."}),
		search: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name("search_seconds"), Help: "From a block to what was found in it being durable.", Buckets: []float64{.005, .02, .1, .5, 2, 10},
		}),
		publish: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name("publications_total"), Help: "Justice transactions handed to lnd, by result: taken or refused."}, []string{"result"}),
	}
}

// Collectors are all of them.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.blocks, m.matches, m.reorgs, m.search, m.publish}
}

func (m *Metrics) published(err error) {
	if err != nil {
		m.publish.WithLabelValues("refused").Inc()
		return
	}
	m.publish.WithLabelValues("taken").Inc()
}

func (m *Metrics) searched(matches int, took time.Duration) {
	m.blocks.Inc()
	m.matches.Add(float64(matches))
	m.search.Observe(took.Seconds())
}
