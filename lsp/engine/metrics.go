package engine

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// scrapeFor bounds what one scrape may cost.
const scrapeFor = 5 * time.Second

// Collector shows an engine's Status as Prometheus metrics. Each scrape asks
// the database once and lnd twice; a scrape that fails shows up=0 and no other
// figure, rather than old ones.
type Collector struct {
	status func(context.Context) (Status, error)
	log    *zap.Logger

	up, accepting, drained, exposure, limit, payments, openings, fees, chainFees, coins, reserve, pruned, leasesEnding, queued, batches, batched *prometheus.Desc
	// What the chain asks, and what is asked of wallets for it.
	rate, asked, ceiling, age, stale, high, cover, leastFee, offered, keyAge, keys *prometheus.Desc
}

// NewCollector describes the metrics; the caller registers it. status is asked
// at each scrape and may fail while the service is on standby.
func NewCollector(status func(context.Context) (Status, error), log *zap.Logger) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_lsp_"+name, help, labels, nil)
	}
	return &Collector{
		status: status, log: log,
		up:           desc("up", "1 when channels on demand are served by this process."),
		accepting:    desc("accepting", "1 while new business is accepted."),
		drained:      desc("drained", "1 when business is stopped and nothing of it is under way; swaps, joint fundings and payments for offline wallets are not counted."),
		exposure:     desc("exposure", "What is at risk or in use now, by kind; the unit is in the label.", "kind", "unit"),
		limit:        desc("exposure_limit", "The cap of each kind of exposure; absent where there is none.", "kind", "unit"),
		payments:     desc("payments", "Payments by machine and state.", "state"),
		openings:     desc("openings", "Channel opens by state.", "state"),
		fees:         desc("fees_earned_msat", "Opening fees earned in all."),
		chainFees:    desc("chain_fees_msat", "Chain fees paid for channels in all."),
		coins:        desc("usable_coins_sat", "Coins that channels can be funded with now."),
		reserve:      desc("anchor_reserve_sat", "Kept on chain to bump commitments."),
		leasesEnding: desc("leases_ending", "Ordered channels whose lease is nearly over, or over while they are being closed."),
		queued:       desc("queued_orders", "Paid orders that wait for others to share their funding transaction."),
		batches:      desc("batches", "Funding transactions of several orders, by state.", "state"),
		batched:      desc("batched_channels", "Channels that such transactions funded in all."),
		pruned:       desc("pruned_payments_total", "Stories of old payments deleted since start."),
		rate:         desc("fee_rate_sat_per_kw", "The fee rate in use for funding transactions."),
		asked:        desc("fee_rate_estimate_sat_per_kw", "lnd's last estimate itself, before floor and ceiling; absent without any."),
		ceiling:      desc("fee_rate_ceiling_sat_per_kw", "The fee rate above which no channels are offered."),
		age:          desc("fee_rate_age_seconds", "How old the last estimate is; absent without any."),
		stale:        desc("fee_rate_stale", "1 while the estimate is too old to offer channels."),
		high:         desc("fee_rate_above_ceiling", "1 while the network asks more than the ceiling, so that no channels are offered."),
		cover:        desc("opening_cost_covered_sat", "What the least opening fee must cover at this fee rate."),
		leastFee:     desc("menu_min_fee_msat", "The least opening fee of the cheapest item offered; absent while nothing is."),
		offered:      desc("menu_items", "How many items the menu has; 0 while no channels are offered."),
		keyAge:       desc("promise_key_age_seconds", "How old the key is under which offers are promised."),
		keys:         desc("promise_keys", "How many keys for promises are accepted."),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.up, c.accepting, c.drained, c.exposure, c.limit, c.payments, c.openings, c.fees, c.chainFees, c.coins, c.reserve, c.pruned, c.leasesEnding, c.queued, c.batches, c.batched,
		c.rate, c.asked, c.ceiling, c.age, c.stale, c.high, c.cover, c.leastFee, c.offered, c.keyAge, c.keys,
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
	gauge(c.coins, float64(s.Usage.Fundable.Sat))
	gauge(c.reserve, float64(s.ReserveSat))
	gauge(c.leasesEnding, float64(s.LeasesEnding))
	gauge(c.queued, float64(s.Queued))
	gauge(c.batched, float64(s.BatchedChannels))
	for state, n := range s.Batches {
		gauge(c.batches, float64(n), state)
	}
	ch <- prometheus.MustNewConstMetric(c.pruned, prometheus.CounterValue, float64(s.Pruned))
	c.collectFees(s.Fees, gauge)
}

func (c *Collector) collectFees(s FeeStatus, gauge func(*prometheus.Desc, float64, ...string)) {
	gauge(c.rate, float64(s.Rate.Rate))
	gauge(c.ceiling, float64(s.Ceiling))
	gauge(c.stale, truth(s.Stale))
	gauge(c.high, truth(s.High))
	gauge(c.cover, float64(s.CoverSat))
	gauge(c.offered, float64(len(s.Menu)))
	if s.Known() {
		gauge(c.asked, float64(s.Asked))
		gauge(c.age, s.Age.Seconds())
	}
	if len(s.Menu) > 0 {
		gauge(c.leastFee, float64(s.Menu[0].MinFeeMsat))
	}
	gauge(c.keys, float64(len(s.Keys)))
	for _, k := range s.Keys {
		if k.Signs {
			gauge(c.keyAge, k.Age.Seconds())
		}
	}
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

// Exposures lists what is at risk or in use, kind by kind, and how much of it
// newcomers have.
func (s Status) Exposures() []Exposure {
	u := s.Usage
	out := []Exposure{
		{Kind: "quoted", Unit: "sat", Used: uint64(u.Unfunded.Sat), Cap: uint64(u.Fundable.Sat)},
		{Kind: "held_htlcs_of_one_channel", Unit: "count", Used: uint64(s.Busiest.Htlcs), Cap: uint64(s.Caps.IncomingHtlcs)}, //nolint:gosec // counts
	}
	out = append(out, exposures("", u.All, s.Caps.All)...)
	return append(out, exposures("newcomers_", u.Newcomers, s.Caps.Newcomers())...)
}

// exposures is a load against its limits.
func exposures(prefix string, have, most lsp.Load) []Exposure {
	count := func(n int) uint64 { return uint64(max(0, n)) }
	return []Exposure{
		{Kind: prefix + "unconfirmed", Unit: "sat", Used: uint64(have.UnconfirmedSat), Cap: uint64(most.UnconfirmedSat)},
		{Kind: prefix + "held", Unit: "sat", Used: uint64(have.HeldSat), Cap: uint64(most.HeldSat)},
		{Kind: prefix + "held_sat_blocks", Unit: "sat_blocks", Used: have.HeldSatBlocks, Cap: most.HeldSatBlocks},
		{Kind: prefix + "held_htlcs", Unit: "count", Used: count(have.HeldHtlcs), Cap: count(most.HeldHtlcs)},
		{Kind: prefix + "unpaid", Unit: "sat", Used: uint64(have.UnpaidSat), Cap: uint64(most.UnpaidSat)},
		{Kind: prefix + "open_requests", Unit: "count", Used: count(have.OpenRequests), Cap: count(most.OpenRequests)},
		{Kind: prefix + "opens_this_hour", Unit: "count", Used: count(have.OpensLastHour), Cap: count(most.OpensLastHour)},
	}
}

// ClientView is one client's use of its limits.
type ClientView struct {
	Newcomer  bool
	Exposures []Exposure
}

// Client shows one client's load against the caps of one client.
func (e *Engine) Client(ctx context.Context, client ln.PubKey) (ClientView, error) {
	u, err := e.usage(ctx, client)
	if err != nil {
		return ClientView{}, err
	}
	caps := e.limits().caps.Client
	out := exposures("", u.Client, caps)
	out = append(out, Exposure{Kind: "quoted", Unit: "sat", Used: uint64(u.Client.QuotedSat), Cap: uint64(caps.QuotedSat)})
	return ClientView{Newcomer: u.Newcomer, Exposures: out}, nil
}
