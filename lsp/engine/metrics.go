package engine

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// scrapeFor bounds what one scrape may cost.
const scrapeFor = 5 * time.Second

// Collector shows an engine's Status as Prometheus metrics. Each scrape asks
// the database once and lnd twice; a scrape that fails shows up=0 and no other
// figure, rather than old ones.
type Collector struct {
	status func(context.Context) (Status, error)
	log    *zap.Logger

	up, accepting, drained, exposure, limit, payments, openings, fees, chainFees, coins, reserve, rate, stale *prometheus.Desc
}

// NewCollector describes the metrics; the caller registers it. status is asked
// at each scrape and may fail while the service is on standby.
func NewCollector(status func(context.Context) (Status, error), log *zap.Logger) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_lsp_"+name, help, labels, nil)
	}
	return &Collector{
		status: status, log: log,
		up:        desc("up", "1 when channels on demand are served by this process."),
		accepting: desc("accepting", "1 while new business is accepted."),
		drained:   desc("drained", "1 when business is stopped and nothing is under way."),
		exposure:  desc("exposure", "What is at risk or in use now, by kind; the unit is in the label.", "kind", "unit"),
		limit:     desc("exposure_limit", "The cap of each kind of exposure; absent where there is none.", "kind", "unit"),
		payments:  desc("payments", "Payments by machine and state.", "state"),
		openings:  desc("openings", "Channel opens by state.", "state"),
		fees:      desc("fees_earned_msat", "Opening fees earned in all."),
		chainFees: desc("chain_fees_msat", "Chain fees paid for channels in all."),
		coins:     desc("usable_coins_sat", "Coins that channels can be funded with now."),
		reserve:   desc("anchor_reserve_sat", "Kept on chain to bump commitments."),
		rate:      desc("fee_rate_sat_per_kw", "The fee rate in use for funding transactions."),
		stale:     desc("fee_rate_stale", "1 while the fee rate is too old to open channels."),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.up, c.accepting, c.drained, c.exposure, c.limit, c.payments, c.openings, c.fees, c.chainFees, c.coins, c.reserve, c.rate, c.stale,
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
	s, err := c.status(ctx)
	if err != nil {
		c.log.Debug("metrics of channels on demand are not to be had", zap.Error(err))
		gauge(c.up, 0)
		return
	}
	gauge(c.up, 1)
	gauge(c.accepting, truth(s.Accepting))
	gauge(c.drained, truth(s.Drained))
	gauge(c.stale, truth(s.FeeRateStale))
	for _, x := range s.Exposures() {
		gauge(c.exposure, float64(x.Used), x.Kind, x.Unit)
		if x.Cap > 0 {
			gauge(c.limit, float64(x.Cap), x.Kind, x.Unit)
		}
	}
	for state, n := range s.Payments {
		gauge(c.payments, float64(n), state)
	}
	for state, n := range s.Openings {
		gauge(c.openings, float64(n), state)
	}
	gauge(c.fees, float64(s.FeesEarned))
	gauge(c.chainFees, float64(s.ChainFees))
	gauge(c.coins, float64(s.Usage.FundableSat))
	gauge(c.reserve, float64(s.ReserveSat))
	gauge(c.rate, float64(s.FeeRate))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Exposure is one kind of risk with its cap (0: none).
type Exposure struct {
	Kind, Unit string
	Used, Cap  uint64
}

// Exposures lists what is at risk or in use, kind by kind.
func (s Status) Exposures() []Exposure {
	all, most := s.Usage.All, s.Caps.All
	count := func(n int) uint64 { return uint64(max(0, n)) }
	return []Exposure{
		{Kind: "unconfirmed", Unit: "sat", Used: uint64(s.UnconfirmedSat)},
		{Kind: "held", Unit: "sat", Used: uint64(all.HeldSat), Cap: uint64(most.HeldSat)},
		{Kind: "unpaid", Unit: "sat", Used: uint64(all.UnpaidSat), Cap: uint64(most.UnpaidSat)},
		{Kind: "quoted", Unit: "sat", Used: uint64(all.QuotedSat), Cap: uint64(s.Usage.FundableSat)},
		{Kind: "open_requests", Unit: "count", Used: count(all.OpenRequests), Cap: count(most.OpenRequests)},
		{Kind: "opens_this_hour", Unit: "count", Used: count(all.OpensLastHour), Cap: count(most.OpensLastHour)},
	}
}
