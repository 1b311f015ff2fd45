package app

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/store"
	swapsapi "github.com/sluice-lsp/sluice/swaps/api"
	swapsengine "github.com/sluice-lsp/sluice/swaps/engine"
)

// leaseSwaps decides which process runs swaps. It is a lease of its own, so that
// of any mix of processes on one database exactly one does.
const leaseSwaps = "swaps"

// SwapsConfig is the business of swaps.
type SwapsConfig struct {
	Enabled      bool            `toml:"enabled" help:"offer swaps to stock Loop clients; read docs/swaps.md before: it says what can be lost"`
	MinSat       config.Sat      `toml:"min_sat" help:"smallest swap out" min:"1000"`
	MaxSat       config.Sat      `toml:"max_sat" help:"largest swap out"`
	MaxOpen      config.Sat      `toml:"max_open_sat" help:"what all swaps of one direction that are not over may lock"`
	MaxUnpaid    int             `toml:"max_unpaid" help:"swaps that may wait for their payments" min:"1"`
	MaxPerClient config.Sat      `toml:"max_per_client_sat" help:"the same for one client, known by its token (L402) or its address"`
	MaxUnpaidOwn int             `toml:"max_unpaid_per_client" help:"swaps of one client that may wait for their payments" min:"1"`
	Reserve      config.Sat      `toml:"reserve_sat" help:"kept in the wallet for refunds, bumps and channels"`
	MinCltvDelta uint32          `toml:"min_cltv_delta" help:"least blocks until a swap out expires" min:"31"`
	MaxCltvDelta uint32          `toml:"max_cltv_delta" help:"most blocks until a swap out expires: so long may the money be locked" max:"1000"`
	Base         config.Sat      `toml:"base_fee_sat" help:"fee of a swap out, besides its share and what the chain asks"`
	PPM          uint64          `toml:"fee_ppm" help:"fee in parts per million of the amount" max:"500000"`
	FundingWU    uint64          `toml:"expected_funding_wu" help:"what a funding transaction is expected to weigh; the fee covers it" min:"400" max:"100000"`
	Stress       uint64          `toml:"prepay_stress_percent" help:"the prepay covers a refund at so many percent of today's fee rate" min:"100" max:"10000"`
	MinPrepay    config.Sat      `toml:"min_prepay_sat" help:"least prepay: what a client loses that does not show up" min:"1"`
	FirmFor      config.Duration `toml:"firm_for" help:"how long a quote holds" min:"1m" max:"1h"`
	StaleAfter   config.Duration `toml:"fee_stale_after" help:"no swaps are quoted while the fee estimate is older" min:"1m"`
	SoonTarget   int32           `toml:"fee_target_blocks" help:"a swap that is to be published at once aims to confirm within so many blocks" min:"1" max:"1008"`
	LaterTarget  int32           `toml:"later_fee_target_blocks" help:"the same for one that may wait: it is cheaper" min:"1" max:"1008"`
	RefundTarget int32           `toml:"refund_fee_target_blocks" help:"the same for refunds and bumps" min:"1" max:"1008"`
	Floor        uint64          `toml:"fee_floor_sat_per_kw" help:"lowest fee rate (250 sat/kw is 1 sat/vbyte)" min:"253"`
	Ceiling      uint64          `toml:"fee_ceiling_sat_per_kw" help:"highest fee rate that is quoted or bumped to" min:"253"`
	Tolerance    uint64          `toml:"fee_tolerance_percent" help:"a swap whose transaction would pay more than so many percent of what its fee covers is given up, and the payments go back" min:"100" max:"10000"`
	AcceptGrace  config.Duration `toml:"accept_grace" help:"how long after the publication deadline the payments may still arrive" min:"1m"`
	Margin       uint32          `toml:"margin_blocks" help:"blocks between a swap's expiry and the height at which lnd gives its payment back: a refund must be final in them" min:"20" max:"1000"`
	HoldDelta    uint32          `toml:"hold_expiry_delta" help:"at least what lnd's invoices.holdexpirydelta is taken for; lnd is asked as well" min:"1"`
	MinPublish   uint32          `toml:"min_publish_blocks" help:"a swap is not published with fewer blocks left: stock clients do not reveal in the last 20" min:"21"`
	BuriedConfs  uint32          `toml:"buried_confirmations" help:"confirmations after which nothing is expected to be undone" min:"1" max:"100"`
	BumpAfter    uint32          `toml:"bump_after_blocks" help:"a funding transaction is bumped after so many blocks, one that may wait after later_fee_target_blocks; 0 never"`
	InMinSat     config.Sat      `toml:"in_min_sat" help:"smallest swap in" min:"1000"`
	InMaxSat     config.Sat      `toml:"in_max_sat" help:"largest swap in"`
	InBase       config.Sat      `toml:"in_base_fee_sat" help:"fee of a swap in, besides its share, the routing and what claiming costs"`
	InPPM        uint64          `toml:"in_fee_ppm" help:"fee in parts per million of the amount" max:"500000"`
	InRouting    uint64          `toml:"in_routing_ppm" help:"the most that paying a client may cost, in parts per million of the amount; the fee covers it" max:"500000"`
	InExpiry     uint32          `toml:"in_expiry_delta" help:"blocks until a client can take back what it locked" max:"1400"`
	InPayMargin  uint32          `toml:"in_pay_margin_blocks" help:"blocks between the end of a payment to a client and that" min:"40"`
	BatchMax     int             `toml:"max_batch" help:"claims of swaps in that share a transaction; refunds of swaps out share one by up to ten" min:"1" max:"100"`
	BatchWait    uint32          `toml:"batch_wait_blocks" help:"blocks that the claim of a swap in waits for others that are on their way; 0 never" max:"144"`
	InConfs      []SwapConfs     `toml:"in_confirmations" help:"confirmations that a client's output needs before it is paid, from small amounts to large; beyond all of them six"`
	OpenChannels bool            `toml:"open_channels" help:"let wallets without a channel swap in: one is opened for them once their deposit has confirmed, at the prices and within the limits of lsp. Needs lsp in the same process"`
	OpenConfs    uint32          `toml:"open_confirmations" help:"confirmations of such a channel before the wallet is paid over it" min:"1" max:"6"`
	L402         bool            `toml:"l402" help:"sell tokens (L402) to Loop clients: those that have one hear notifications, and are limited by it. lnd's macaroon needs AddInvoice"`
	L402Required bool            `toml:"l402_required" help:"do nothing for Loop clients without a token; each pays for one once"`
	L402Price    config.Sat      `toml:"l402_price_sat" help:"what a token costs; stock clients pay up to 1,000 by themselves" min:"1"`
	L402Calls    int             `toml:"l402_calls_per_minute" help:"calls of one token" min:"1"`
	InExposed    config.Sat      `toml:"in_max_exposed_sat" help:"what may be paid for outputs with fewer than six confirmations, in all: a reorg can take so much, and no more"`
}

// SwapConfs is one step of the confirmation policy.
type SwapConfs struct {
	UpTo  config.Sat `toml:"up_to_sat" help:"amounts up to this"`
	Confs uint32     `toml:"confirmations" help:"need so many" min:"1" max:"6"`
}

func defaultSwaps() SwapsConfig {
	b := swapsengine.Defaults()
	confs := make([]SwapConfs, 0, len(b.In.Confs))
	for _, c := range b.In.Confs {
		confs = append(confs, SwapConfs{UpTo: config.Sat(c.UpToSat), Confs: c.Confs})
	}
	return SwapsConfig{
		MinSat: config.Sat(b.MinSat), MaxSat: config.Sat(b.MaxSat), MaxOpen: config.Sat(b.MaxOpenSat), MaxUnpaid: b.MaxUnpaid,
		MaxPerClient: config.Sat(b.MaxPerClientSat), MaxUnpaidOwn: b.MaxUnpaidPerClient, BatchMax: b.In.Batch.MaxMembers, BatchWait: b.In.WaitBlocks,
		Reserve: config.Sat(b.ReserveSat), MinCltvDelta: b.MinCltvDelta, MaxCltvDelta: b.MaxCltvDelta,
		Base: config.Sat(b.Price.BaseSat), PPM: b.Price.PPM, FundingWU: b.Price.FundingWU, Stress: b.Price.StressPercent,
		MinPrepay: config.Sat(b.Price.MinPrepaySat), FirmFor: config.Duration(b.FirmFor), StaleAfter: config.Duration(b.StaleAfter),
		SoonTarget: b.SoonTarget, LaterTarget: b.LaterTarget, RefundTarget: b.RefundTarget,
		Floor: uint64(b.Floor), Ceiling: uint64(b.Ceiling), Tolerance: b.TolerancePercent, AcceptGrace: config.Duration(b.AcceptGrace),
		Margin: b.MarginBlocks, HoldDelta: b.HoldExpiryDelta, MinPublish: b.MinPublishBlocks, BuriedConfs: b.BuriedConfs, BumpAfter: b.BumpAfterBlocks,
		InMinSat: config.Sat(b.In.MinSat), InMaxSat: config.Sat(b.In.MaxSat), InBase: config.Sat(b.In.Price.BaseSat), InPPM: b.In.Price.PPM,
		InRouting: b.In.Price.RoutingPPM, InExpiry: b.In.ExpiryDelta, InPayMargin: b.In.PayMarginBlocks, InConfs: confs, L402Price: config.Sat(b.Tokens.PriceSat), L402Calls: b.Tokens.PerMinute, OpenChannels: true, OpenConfs: b.In.Open.Confs, InExposed: config.Sat(b.In.MaxExposedSat),
	}
}

func (c SwapsConfig) engine(network string, self ln.PubKey) swapsengine.Config {
	out := swapsengine.Defaults()
	out.Network, out.Self = network, self
	out.MinSat, out.MaxSat, out.MaxOpenSat, out.MaxUnpaid = c.MinSat.Amount(), c.MaxSat.Amount(), c.MaxOpen.Amount(), c.MaxUnpaid
	out.MaxPerClientSat, out.MaxUnpaidPerClient, out.In.Batch.MaxMembers, out.In.WaitBlocks = c.MaxPerClient.Amount(), c.MaxUnpaidOwn, c.BatchMax, c.BatchWait
	out.RefundBatch.MaxMembers = min(out.RefundBatch.MaxMembers, c.BatchMax)
	out.ReserveSat, out.MinCltvDelta, out.MaxCltvDelta = c.Reserve.Amount(), c.MinCltvDelta, c.MaxCltvDelta
	out.Price.BaseSat, out.Price.PPM, out.Price.FundingWU = c.Base.Amount(), c.PPM, c.FundingWU
	out.Price.StressPercent, out.Price.MinPrepaySat = c.Stress, c.MinPrepay.Amount()
	out.FirmFor, out.StaleAfter, out.AcceptGrace = c.FirmFor.Std(), c.StaleAfter.Std(), c.AcceptGrace.Std()
	out.SoonTarget, out.LaterTarget, out.RefundTarget = c.SoonTarget, c.LaterTarget, c.RefundTarget
	out.Floor, out.Ceiling, out.TolerancePercent = ln.FeeRateSatPerKW(c.Floor), ln.FeeRateSatPerKW(c.Ceiling), c.Tolerance
	out.MarginBlocks, out.HoldExpiryDelta, out.MinPublishBlocks = c.Margin, c.HoldDelta, c.MinPublish
	out.BuriedConfs, out.BumpAfterBlocks = c.BuriedConfs, c.BumpAfter
	out.In.MinSat, out.In.MaxSat, out.In.Price.BaseSat, out.In.Price.PPM = c.InMinSat.Amount(), c.InMaxSat.Amount(), c.InBase.Amount(), c.InPPM
	out.In.Price.RoutingPPM, out.In.ExpiryDelta, out.In.PayMarginBlocks = c.InRouting, c.InExpiry, c.InPayMargin
	out.In.MaxExposedSat, out.In.Confs, out.In.Open.Confs = c.InExposed.Amount(), nil, c.OpenConfs
	out.Tokens.Enabled, out.Tokens.Required, out.Tokens.PriceSat, out.Tokens.PerMinute = c.L402, c.L402Required, c.L402Price.Amount(), c.L402Calls
	for _, step := range c.InConfs {
		out.In.Confs = append(out.In.Confs, swapsengine.ConfsUpTo{UpToSat: step.UpTo.Amount(), Confs: step.Confs})
	}
	return out
}

// Validate implements config.Validator.
func (c SwapsConfig) Validate() error {
	return c.engine("regtest", ln.PubKey{2}).Validate()
}

// serveSwaps runs swaps whenever this process has their lease.
func (d *Daemon) serveSwaps(ctx context.Context) error {
	owner, err := d.owner()
	if err != nil {
		return err
	}
	alone := !d.roles.Interceptor && !d.roles.LSP
	for ctx.Err() == nil {
		if alone {
			d.state("on standby: another sluiced runs swaps")
		}
		lease, err := d.acquire(ctx, d.db.AcquireLease, store.LeaseConfig{Name: leaseSwaps, Owner: owner, TTL: d.cfg.Interceptor.LeaseFor.Std()})
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // told to stop while waiting
		case errors.Is(err, store.ErrUnavailable):
			pause(ctx)
			continue
		case err != nil:
			return err
		}
		err = d.runSwaps(ctx, lease, alone)
		d.swaps.Ready(nil)
		fatal := d.fatal(ctx, lease, err)
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		if releaseErr := lease.Release(release); releaseErr != nil {
			d.log.Warn("the lease of swaps could not be given back; it will run out", zap.Error(releaseErr))
		}
		cancel()
		if fatal {
			return err
		}
	}
	return nil
}

// runSwaps runs them until the lease is lost or ctx ends.
func (d *Daemon) runSwaps(ctx context.Context, lease *store.Lease, alone bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-lease.Lost():
			d.log.Warn("the lease of swaps is lost: they stop until it is back")
			cancel()
		case <-stop:
		}
	}()
	params, err := lnd.ChainParams(d.cfg.Lnd.Network)
	if err != nil {
		return err
	}
	business, err := swapsengine.New(swapsengine.Options{
		Node:     swapsengine.Node{Invoices: d.lnd, Sales: d.lnd, Wallet: d.lnd, Coins: d.lnd, Chain: d.lnd, Records: d.lnd, Keys: d.lnd, Events: d.lnd, Payments: fencedPayments{d.lnd, lease}},
		Channels: d.swapChannels(), DB: d.db, Fence: lease.Check, Params: params, Config: d.cfg.Swaps.engine(d.cfg.Lnd.Network, d.info.PubKey),
		DecodeBolt11: func(text string) (ln.Bolt11, error) { return lnd.DecodeBolt11(d.cfg.Lnd.Network, text) },
		Now:          d.now, Random: rand.Reader, Log: d.log.Named(swapsapi.Name),
	})
	if err != nil {
		return err
	}
	return business.Run(ctx, func() {
		d.swaps.Ready(business)
		d.log.Info("swaps are offered")
		if alone {
			d.nowReady()
		}
	})
}
