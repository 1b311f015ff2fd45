package engine

import (
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/liquidity"
)

// Config is how the gateway does business. The zero value of a cap means that
// there is none.
type Config struct {
	// Network is "mainnet", "testnet", "signet" or "regtest".
	Network string
	// Self is the gateway's node key.
	Self ln.PubKey
	URIs []string
	// CltvDelta is the gateway's time-lock delta for the route hint: lnd's
	// bitcoin.timelockdelta, which lnd enforces on every forward.
	CltvDelta uint32
	// Menu is what channels on demand cost while the chain is cheap, without
	// promise and validity; Prices raise it to what the chain asks.
	Menu []lsp.OpeningFeeParams
	// Tokens have menus of their own.
	Tokens []TokenMenu
	Prices lsp.ChainPrices
	// OfferFor is how long a menu item can be used (bLIP-52: at least 10 min).
	OfferFor time.Duration
	// PromiseKeyFor is how long offers are promised under one key.
	PromiseKeyFor time.Duration

	Type ln.CommitmentType
	// Capacity sizes channels; its CommitFeeRate is filled in from the fee
	// source.
	Capacity       lsp.CapacityPolicy
	ReservePerChan ln.Sat
	MinReserveSat  ln.Sat
	MaxReserveSat  ln.Sat
	// KeepSat stays in the wallet besides, whatever is asked for.
	KeepSat        ln.Sat
	MaxUnconfirmed int
	// Pool is how the wallet's coins shall be cut; the zero value leaves them alone.
	Pool liquidity.Policy
	// Unused is when channels on demand that nobody uses are closed.
	Unused          liquidity.UnusedPolicy
	FundingTarget   int32
	BumpAfterBlocks uint32
	BuriedConfs     uint32

	CollectFor time.Duration
	// HoldFor is the longest that a wallet may ask to have a complete payment wait for
	// it; 0 is CollectFor for all.
	HoldFor          time.Duration
	OpenFor          time.Duration
	MapFor           time.Duration
	HoldMarginBlocks uint32
	// PayMarginBlocks is law 4's: a payment of ours must be resolved so many
	// blocks before the held one can be taken back.
	PayMarginBlocks uint32
	PadBlocks       uint32
	// HoldExpiryDelta is the least that lnd's invoices.holdexpirydelta is taken
	// for, whatever lnd says.
	HoldExpiryDelta uint32
	// BlocksPerConf is how many blocks of CLTV one confirmation that a wallet
	// waits for may take.
	BlocksPerConf  uint32
	MaxConfs       uint32
	MaxParts       int
	MaxOpens       uint32
	MaxPayments    uint32
	MaxInvoiceLife time.Duration

	// OpenForLostRoom opens a channel without a fee for a payment whose promised
	// room is gone; otherwise it goes back. A wallet can make room go.
	OpenForLostRoom bool

	// KeepHistory is how long the stories of finished payments are kept, and
	// PruneEvery how often older ones are looked for.
	KeepHistory time.Duration
	PruneEvery  time.Duration

	Orders OrderConfig

	Fees FeeConfig
	Caps lsp.Caps
	// Trust is when fundings are withheld until their payment is claimed.
	Trust lsp.TrustPolicy
	// ForgetUnpaidAfter is how old a channel that nobody paid for is when it no
	// longer counts as unpaid; 0: never.
	ForgetUnpaidAfter time.Duration
}

// FeeConfig bounds what funding transactions pay.
type FeeConfig struct {
	TargetBlocks int32
	Floor        ln.FeeRateSatPerKW
	Ceiling      ln.FeeRateSatPerKW
	// StaleAfter is how old an estimate may be before business stops.
	StaleAfter time.Duration
	RefreshFor time.Duration
}

// Defaults are safe for a small gateway on mainnet.
func Defaults() Config {
	return Config{
		CltvDelta: 80,
		Menu: []lsp.OpeningFeeParams{{
			MinFeeMsat: 2_000_000, ProportionalPPM: 10_000, MinLifetimeBlocks: 4_320,
			MaxClientToSelfDelay: 2_016, MinPaymentSizeMsat: 10_000_000, MaxPaymentSizeMsat: 10_000_000_000,
		}},
		Prices:   lsp.ChainPrices{OpeningWU: funding.OpeningWU(1), MarginPercent: 150, TolerancePercent: 200},
		OfferFor: 30 * time.Minute, PromiseKeyFor: 30 * 24 * time.Hour,
		Type: ln.CommitmentAnchors,
		Capacity: lsp.CapacityPolicy{
			StressPercent: 200, HeadroomSat: 20_000, HeadroomPPM: 50_000, DustLimitSat: 573, MinSat: 100_000, MaxSat: 16_000_000,
		},
		ReservePerChan: 10_000, MinReserveSat: 10_000, MaxReserveSat: 100_000,
		MaxUnconfirmed: 4, FundingTarget: 6, BumpAfterBlocks: 6, BuriedConfs: 6,
		CollectFor: 90 * time.Second, HoldFor: 24 * time.Hour, OpenFor: 60 * time.Second, MapFor: 20 * time.Second,
		HoldMarginBlocks: 12, PayMarginBlocks: 60, PadBlocks: 3, HoldExpiryDelta: 18, BlocksPerConf: 6, MaxConfs: 6,
		MaxParts: 30, MaxOpens: 3, MaxPayments: 3, MaxInvoiceLife: 24 * time.Hour,
		KeepHistory: 180 * 24 * time.Hour, PruneEvery: time.Hour, Orders: defaultOrders(),
		Fees: FeeConfig{TargetBlocks: 6, Floor: ln.MinFeeRate, Ceiling: 50_000, StaleAfter: time.Hour, RefreshFor: time.Minute},
		Caps: lsp.Caps{
			Client: lsp.Load{
				OpenRequests: 20, QuotedSat: 50_000_000, UnpaidSat: 20_000_000, HeldSat: 20_000_000,
				HeldSatBlocks: 4_000_000_000, HeldHtlcs: 90, OpensLastHour: 10,
			},
			All: lsp.Load{
				OpenRequests: 2_000, UnpaidSat: 100_000_000, UnconfirmedSat: 100_000_000, HeldSat: 100_000_000, HeldSatBlocks: 20_000_000_000,
				HeldHtlcs: 2_000, OpensLastHour: 200,
			},
			IncomingHtlcs: 150, NewcomersPercent: 50,
		},
		Trust:             lsp.TrustPolicy{Mode: lsp.TrustAuto, UnclaimedEach: 5, Unclaimed: 20, Window: time.Hour},
		ForgetUnpaidAfter: 90 * 24 * time.Hour,
	}
}

// Validate names the first setting that cannot be.
func (c Config) Validate() error {
	positive := []struct {
		name string
		ok   bool
	}{
		{"network", c.Network != ""},
		{"the gateway's node key", !c.Self.IsZero()},
		{"cltv_delta", c.CltvDelta > 0},
		{"offer_for (10 minutes, bLIP-52, to 2 hours: fees move by a multiple in more)", c.OfferFor >= 10*time.Minute && c.OfferFor <= lsp.MaxOfferFor},
		{"promise_key_for (at least a day)", c.PromiseKeyFor >= 24*time.Hour},
		{"the expected weight of an opening", c.Prices.OpeningWU > 0},
		{"min_channel_sat (at least 20,000 sat, lnd's minimum)", c.Capacity.MinSat >= 20_000},
		{"max_channel_sat (at least min_channel_sat)", c.Capacity.MaxSat >= c.Capacity.MinSat},
		{"stress_percent (at least 100)", c.Capacity.StressPercent >= 100},
		{"collect_for", c.CollectFor > 0},
		{"open_for", c.OpenFor > 0},
		{"map_for", c.MapFor > 0},
		{"max_parts", c.MaxParts > 0},
		{"max_opens", c.MaxOpens > 0},
		{"max_payments", c.MaxPayments > 0},
		{"keep_history", c.KeepHistory > 0},
		{"prune_every", c.PruneEvery > 0},
		{"fees.floor (at least 253 sat/kw)", c.Fees.Floor >= ln.MinFeeRate},
		{"fees.ceiling (at least the floor)", c.Fees.Ceiling >= c.Fees.Floor},
		{"fees.stale_after", c.Fees.StaleAfter > 0},
		{"fees.refresh", c.Fees.RefreshFor > 0},
		{"buried_confs", c.BuriedConfs > 0},
		{fmt.Sprintf("held_htlcs_per_channel (below %d, a channel's slots)", lsp.ChannelSlots), c.Caps.IncomingHtlcs >= 0 && c.Caps.IncomingHtlcs < lsp.ChannelSlots},
		{"close_unused_after_blocks (0, or at least 1008: a week)", c.Unused.AfterBlocks == 0 || c.Unused.AfterBlocks >= 1008},
		{"trust (never, under_attack or always)", c.Trust.Mode.Known()},
		{"trust_window (at least 10 minutes)", c.Trust.Window >= 10*time.Minute},
		{"newcomers_percent (1 to 100)", c.Caps.NewcomersPercent >= 1 && c.Caps.NewcomersPercent <= 100},
	}
	for _, p := range positive {
		if !p.ok {
			return fmt.Errorf("lsp configuration: %s is missing or out of range", p.name)
		}
	}
	if len(c.Menu) == 0 {
		return errors.New("lsp configuration: the menu of opening fees is empty")
	}
	if err := lsp.CheckMenu(c.Menu); err != nil {
		return fmt.Errorf("lsp configuration: %w", err)
	}
	if err := checkTokens(c.Tokens); err != nil {
		return fmt.Errorf("lsp configuration: %w", err)
	}
	return c.validateOrders()
}
