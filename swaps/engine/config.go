package engine

import (
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/batch"
	"github.com/sluice-lsp/sluice/swaps/out"
	"github.com/sluice-lsp/sluice/swaps/quote"
)

// Config is how the gateway swaps.
type Config struct {
	// Network is "mainnet", "testnet", "signet" or "regtest".
	Network string
	Self    ln.PubKey

	MinSat, MaxSat             ln.Sat
	MinCltvDelta, MaxCltvDelta uint32
	Price                      quote.Policy
	// FirmFor is how long a quote holds; StaleAfter how old an estimate may be
	// that a quote is made from.
	FirmFor, StaleAfter time.Duration
	// SoonTarget, LaterTarget and RefundTarget are confirmation targets in blocks.
	SoonTarget, LaterTarget, RefundTarget int32
	Floor, Ceiling                        ln.FeeRateSatPerKW
	// TolerancePercent of the miner share in the fee is the most that a funding
	// transaction may pay.
	TolerancePercent uint64
	// SoonWithin: a publication deadline that is nearer asks for a soon one.
	SoonWithin time.Duration
	// AcceptGrace is how long after the publication deadline the payments may
	// still arrive.
	AcceptGrace   time.Duration
	InvoiceExpiry time.Duration

	ReserveSat ln.Sat
	// MaxOpenSat caps what all swaps that are not over may lock; MaxUnpaid how
	// many may wait for their payments.
	MaxOpenSat ln.Sat
	MaxUnpaid  int
	// MaxPerClientSat and MaxUnpaidPerClient are the same for one client: a token, or
	// an address.
	MaxPerClientSat    ln.Sat
	MaxUnpaidPerClient int

	// RefundBatch says who shares a refund.
	RefundBatch batch.Policy

	In InConfig

	Tokens TokenConfig

	MarginBlocks     uint32
	HoldExpiryDelta  uint32
	MinPublishBlocks uint32
	BuriedConfs      uint32
	BumpAfterBlocks  uint32
}

// InConfig is how the gateway swaps in.
type InConfig struct {
	MinSat, MaxSat ln.Sat
	Price          quote.InPolicy
	// ExpiryDelta is how long the client's output is ours alone, in blocks.
	ExpiryDelta uint32
	// PayMarginBlocks lie between the end of our payment and the expiry.
	PayMarginBlocks uint32
	// Confs are those that an output needs, by its amount: the first whose UpToSat
	// is not exceeded, and DeepConfs beyond all.
	Confs []ConfsUpTo
	// MaxExposedSat caps what is paid for outputs with fewer than DeepConfs.
	MaxExposedSat ln.Sat
	DeepConfs     uint32
	// MaxProbes may be under way or held by clients, MaxProbesPerClient of one client.
	MaxProbes, MaxProbesPerClient int
	// ReserveBlocks is how long a swap without a deposit keeps room from others.
	ReserveBlocks uint32
	ProbeFor      time.Duration
	KeyFor        time.Duration
	MaxAttempts   int
	MaxParts      uint32
	// Batch says who shares a claim, WaitBlocks how long one waits for company.
	Batch      batch.Policy
	WaitBlocks uint32
	Open       OpenConfig
}

// OpenConfig is how the gateway opens channels for clients that have none.
type OpenConfig struct {
	// Confs are those of the channel before it is paid over.
	Confs    uint32
	MaxOpens uint32
	// DepositBlocks is how long a client has to deposit, in blocks.
	DepositBlocks uint32
	// MaxWaiting swaps may wait for their deposit, MaxPerClient of one client.
	MaxWaiting, MaxPerClient int
}

// ConfsUpTo is one step of the confirmation policy.
type ConfsUpTo struct {
	UpToSat ln.Sat
	Confs   uint32
}

// dustSat is below what nodes relay as an output of the wallet's.
const dustSat ln.Sat = 330

// leastChange is what a funding transaction leaves to the wallet: it pays for a child that
// lifts both to the ceiling, and so for no more than hurrying an output may cost.
func (c Config) leastChange(amount ln.Sat) (ln.Sat, error) {
	both, err := c.Ceiling.Fee(c.Price.FundingWU + out.ChildWU)
	if err != nil {
		return 0, err
	}
	return min(both, amount/2) + dustSat, nil
}

// waitsLonger: a larger amount never needs fewer confirmations than a smaller one.
func (c InConfig) waitsLonger() bool {
	var last ConfsUpTo
	for _, step := range c.Confs {
		if step.UpToSat <= last.UpToSat || step.Confs < max(last.Confs, 1) || step.Confs > c.DeepConfs {
			return false
		}
		last = step
	}
	return true
}

// confs is what an amount needs; never less than one.
func (c InConfig) confs(amount ln.Sat) uint32 {
	for _, step := range c.Confs {
		if amount <= step.UpToSat {
			return max(step.Confs, 1)
		}
	}
	return c.DeepConfs
}

// keyFamily and keyIndex locate the private key in lnd's seed that all swaps'
// keys are made from. They never change: a seed and a hash recover a key.
const (
	keyFamily = 21_325
	keyIndex  = 0
)

// Defaults are for a small gateway on mainnet.
func Defaults() Config {
	return Config{
		MinSat: 250_000, MaxSat: 10_000_000, MinCltvDelta: 100, MaxCltvDelta: 400,
		Price:   quote.Policy{BaseSat: 500, PPM: 2_000, FundingWU: 900, StressPercent: 400, MinPrepaySat: 1_000},
		FirmFor: 10 * time.Minute, StaleAfter: 10 * time.Minute,
		SoonTarget: 6, LaterTarget: 36, RefundTarget: 3, Floor: ln.MinFeeRate, Ceiling: 50_000, TolerancePercent: 300,
		SoonWithin: 5 * time.Minute, AcceptGrace: 10 * time.Minute, InvoiceExpiry: 2 * time.Hour,
		ReserveSat: 100_000, MaxOpenSat: 50_000_000, MaxUnpaid: 50, MaxPerClientSat: 20_000_000, MaxUnpaidPerClient: 10,
		RefundBatch: batch.Policy{MaxMembers: 10, JoinBlocks: 40},
		In: InConfig{
			MinSat: 250_000, MaxSat: 10_000_000,
			Price:       quote.InPolicy{BaseSat: 300, PPM: 1_000, RoutingBaseSat: 10, RoutingPPM: 2_000},
			ExpiryDelta: 1_000, PayMarginBlocks: 100,
			Confs:         []ConfsUpTo{{500_000, 2}, {2_000_000, 3}},
			MaxExposedSat: 5_000_000, DeepConfs: 6, MaxProbes: 8, MaxProbesPerClient: 3, ReserveBlocks: 36, ProbeFor: 20 * time.Second, KeyFor: 30 * time.Second, MaxAttempts: 5, MaxParts: 16,
			Batch: batch.Policy{MaxMembers: 50, JoinBlocks: 200}, WaitBlocks: 6,
			Open: OpenConfig{Confs: 3, MaxOpens: 5, DepositBlocks: 144, MaxWaiting: 200, MaxPerClient: 3},
		},
		Tokens:       TokenConfig{PriceSat: 100, PerMinute: 60, Burst: 60},
		MarginBlocks: 60, HoldExpiryDelta: 18, MinPublishBlocks: 30, BuriedConfs: 6, BumpAfterBlocks: 3,
	}
}

// stockNoReveal is how many blocks before the expiry a stock client no longer
// reveals its preimage (loop v0.34).
const stockNoReveal = 20

// Validate names the first setting that cannot be.
func (c Config) Validate() error {
	for _, p := range []struct {
		name string
		ok   bool
	}{
		{"network", c.Network != ""},
		{"min_sat (at least 1,000 sat: less than its refund costs is no swap)", c.MinSat >= 1_000},
		{"max_sat (at least min_sat)", c.MaxSat >= c.MinSat},
		{"min_cltv_delta (more than min_publish_blocks)", c.MinCltvDelta > c.MinPublishBlocks},
		{"max_cltv_delta (min_cltv_delta to 1,000: payers' nodes lock for at most 2,016 blocks)", c.MaxCltvDelta >= c.MinCltvDelta && c.MaxCltvDelta <= 1_000},
		{"min_publish_blocks (more than the 20 blocks in which a stock client no longer reveals)", c.MinPublishBlocks > stockNoReveal},
		{"margin_blocks (at least 20: a refund must be final in them)", c.MarginBlocks >= 20},
		{"firm_for", c.FirmFor > 0},
		{"fee_stale_after", c.StaleAfter > 0},
		{"fee_floor_sat_per_kw (at least 253)", c.Floor >= ln.MinFeeRate},
		{"fee_ceiling_sat_per_kw (at least the floor)", c.Ceiling >= c.Floor},
		{"fee_tolerance_percent (at least 100)", c.TolerancePercent >= 100},
		{"accept_grace", c.AcceptGrace > 0},
		{"invoice_expiry (at least an hour: as long as a stock client may try to pay)", c.InvoiceExpiry >= time.Hour},
		{"max_open_sat (at least max_sat)", c.MaxOpenSat >= c.MaxSat},
		{"max_unpaid", c.MaxUnpaid > 0},
		{"max_per_client_sat (at least max_sat and in_max_sat)", c.MaxPerClientSat >= max(c.MaxSat, c.In.MaxSat)},
		{"max_unpaid_per_client", c.MaxUnpaidPerClient > 0},
		{"batches (1 to 100 members; JoinBlocks that outlast all of them)", c.RefundBatch.Sound() && c.In.Batch.Sound()},
		{"batch_wait_blocks (up to 144)", c.In.WaitBlocks <= 144},
		{"in_min_sat (at least 1,000 sat)", c.In.MinSat >= 1_000},
		{"in_max_sat (at least in_min_sat)", c.In.MaxSat >= c.In.MinSat},
		{"in_confirmations (from small amounts to large, and never fewer for a larger one; six beyond all)", c.In.waitsLonger()},
		{"in_expiry_delta (in_pay_margin_blocks and 150 more, up to 1,400: stock clients take 100 to 1,500)", c.In.ExpiryDelta >= c.In.PayMarginBlocks+150 && c.In.ExpiryDelta <= 1_400},
		{"in_pay_margin_blocks (at least 40: a payment of ours must be resolved in them)", c.In.PayMarginBlocks >= 40},
		{"deep confirmations (at least 6)", c.In.DeepConfs >= 6},
		{"open_confirmations (1 to 6)", c.In.Open.Confs >= 1 && c.In.Open.Confs <= 6},
		{"buried_confs", c.BuriedConfs > 0},
		{"l402_price_sat (1 to 1,000: stock clients pay no more by themselves)", !c.Tokens.Enabled || c.Tokens.PriceSat >= 1 && c.Tokens.PriceSat <= 1_000},
		{"l402_calls_per_minute", !c.Tokens.Enabled || c.Tokens.PerMinute >= 1},
		{"l402_required (needs l402)", c.Tokens.Enabled || !c.Tokens.Required},
	} {
		if !p.ok {
			return fmt.Errorf("swaps configuration: %s is missing or out of range", p.name)
		}
	}
	if _, err := c.Price.Out(c.MaxSat, c.Ceiling); err != nil {
		return fmt.Errorf("swaps configuration: prices: %w", err)
	}
	return nil
}
