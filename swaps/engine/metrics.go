package engine

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// scrapeFor bounds what one scrape may cost.
const scrapeFor = 5 * time.Second

// Collector shows the business as Prometheus metrics. Each scrape asks the database
// once and lnd twice; one that fails shows up=0 and no other figure, rather than old
// ones.
type Collector struct {
	running func() (*Engine, error)
	log     *zap.Logger

	up, states, open, limit, exposed, exposedLimit, room, liquidity, fees, noShow, routing, loss, left, troubled *prometheus.Desc
}

// NewCollector describes the metrics; the caller registers it. running is asked at each
// scrape and fails while swaps run elsewhere.
func NewCollector(running func() (*Engine, error), log *zap.Logger) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_swaps_"+name, help, labels, nil)
	}
	return &Collector{
		running: running, log: log,
		up:           desc("up", "1 when swaps are served by this process."),
		states:       desc("swaps", "Swaps by direction and state.", "direction", "state"),
		open:         desc("open_sat", "What swaps lock that are not over.", "direction"),
		limit:        desc("open_limit_sat", "The cap of that, in each direction."),
		exposed:      desc("exposed_sat", "What was paid for outputs with fewer than six confirmations: a reorg could take so much."),
		exposedLimit: desc("exposed_limit_sat", "The cap of that."),
		room:         desc("room_sat", "The largest swap that there is room for now; 0 while none is begun.", "direction"),
		liquidity:    desc("liquidity_sat", "What the gateway's channels can receive and send, and its free coins.", "kind"),
		fees:         desc("fees_earned_msat", "Fees of swaps in all."),
		noShow:       desc("no_show_msat", "Prepays of clients that did not take their output, in all."),
		routing:      desc("routing_msat", "What paying swaps in cost in all."),
		loss:         desc("loss_msat", "What was lost in swaps, in all."),
		left:         desc("deadline_blocks_left", "The fewest blocks left to a refund or claim under way; absent without any.", "kind"),
		troubled:     desc("troubled", "Swaps that wait for something to become right."),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.up, c.states, c.open, c.limit, c.exposed, c.exposedLimit, c.room, c.liquidity, c.fees, c.noShow, c.routing, c.loss, c.left, c.troubled,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeFor)
	defer cancel()
	o, outs, ins, err := c.ask(ctx)
	if err != nil {
		c.log.Debug("metrics of swaps are not to be had", zap.Error(err))
		gauge(c.up, 0)
		return
	}
	gauge(c.up, 1)
	for state, n := range outs {
		gauge(c.states, float64(n), "out", state)
	}
	for state, n := range ins {
		gauge(c.states, float64(n), "in", state)
	}
	gauge(c.open, float64(o.OpenOutSat), "out")
	gauge(c.open, float64(o.OpenInSat), "in")
	gauge(c.limit, float64(o.MaxOpenSat))
	gauge(c.exposed, float64(o.ExposedSat))
	gauge(c.exposedLimit, float64(o.MaxExposedSat))
	gauge(c.room, float64(o.RoomOutSat), "out")
	gauge(c.room, float64(o.RoomInSat), "in")
	gauge(c.liquidity, float64(o.InboundSat), "inbound")
	gauge(c.liquidity, float64(o.OutboundSat), "outbound")
	gauge(c.liquidity, float64(o.CoinsSat), "coins")
	gauge(c.fees, float64(o.FeesMsat))
	gauge(c.noShow, float64(o.NoShowMsat))
	gauge(c.routing, float64(o.RoutingMsat))
	gauge(c.loss, float64(o.LossMsat))
	for kind, left := range map[string]*int64{"refund": o.RefundLeft, "claim": o.ClaimLeft} {
		if left != nil {
			gauge(c.left, float64(*left), kind)
		}
	}
	gauge(c.troubled, float64(o.Troubled))
}

func (c *Collector) ask(ctx context.Context) (o Overview, outs, ins map[string]int64, err error) {
	e, err := c.running()
	if err != nil {
		return o, nil, nil, err
	}
	if outs, err = e.outs.Counts(ctx); err != nil {
		return o, nil, nil, err
	}
	if ins, err = e.ins.Counts(ctx); err != nil {
		return o, nil, nil, err
	}
	o, err = e.Overview(ctx)
	return o, outs, ins, err
}
