package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// maxCommitRate is lnd's max-commit-fee-rate-anchors, 10 sat/vB by default: an
// anchor commitment starts no higher and is bumped by its anchors.
const maxCommitRate ln.FeeRateSatPerKW = 2_500

// usage is the present load of one client and of all. For the zero client its
// own part is empty.
func (e *Engine) usage(ctx context.Context, client ln.PubKey) (lsp.Usage, error) {
	var u lsp.Usage
	since := e.opt.Now().Add(-time.Hour).UnixMilli()
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		q := lspdb.New(tx)
		all, err := q.OpenRequests(ctx)
		if err != nil {
			return err
		}
		opens, err := q.OpeningUsage(ctx, since)
		if err != nil {
			return err
		}
		u.All = load(all.Requests, all.QuotedSat, all.HeldMsat, opens.UnpaidSat, opens.Recent)
		if client.IsZero() {
			return nil
		}
		own, err := q.OpenRequestsOf(ctx, client[:])
		if err != nil {
			return err
		}
		ownOpens, err := q.OpeningUsageOf(ctx, lspdb.OpeningUsageOfParams{SinceMs: since, Client: client[:]})
		if err != nil {
			return err
		}
		u.Client = load(own.Requests, own.QuotedSat, own.HeldMsat, ownOpens.UnpaidSat, ownOpens.Recent)
		return nil
	})
	if err != nil {
		return u, fmt.Errorf("sum what is in use: %w", err)
	}
	u.Draining = !e.accepting()
	return u, nil
}

func load(requests, quotedSat, heldMsat, unpaidSat, recent int64) lsp.Load {
	return lsp.Load{
		OpenRequests: int(requests), QuotedSat: ln.Sat(quotedSat), HeldSat: ln.Msat(heldMsat).ToSatCeil(), //nolint:gosec // sums of non-negative columns
		UnpaidSat: ln.Sat(unpaidSat), OpensLastHour: int(recent), //nolint:gosec // as above
	}
}

// fundable is what channels can be funded with now: free coins less the
// reserve for anchors.
func (e *Engine) fundable(ctx context.Context) (ln.Sat, error) {
	coins, err := e.node.Coins.ListCoins(ctx, 0)
	if err != nil {
		return 0, err
	}
	channels, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return 0, err
	}
	var sum ln.Sat
	for _, c := range coins {
		if sum, err = sum.Add(c.AmountSat); err != nil {
			return 0, err
		}
	}
	return sum - min(sum, e.anchorReserve(len(channels))), nil
}

// anchorReserve is what is kept to bump commitments with: lnd's own reserve
// ignores private channels, and all of ours are private.
func (e *Engine) anchorReserve(channels int) ln.Sat {
	reserve := max(e.cfg.MinReserveSat, ln.Sat(channels)*e.cfg.ReservePerChan) //nolint:gosec // a count
	return min(reserve, e.cfg.MaxReserveSat)
}

// refusal says why no channel may be opened for a payment now; zero if it may.
func (e *Engine) refusal(ctx context.Context, client ln.PubKey, amount, fee ln.Msat, zeroConf bool) (lsp.Reason, error) {
	rate, reason := e.openingRate(fee, zeroConf)
	if !reason.IsZero() {
		return reason, nil
	}
	capacity, err := e.capacityAt(amount, rate)
	if err != nil {
		return lsp.Because(lsp.ReasonLimit, "%s", err.Error()), nil
	}
	usage, err := e.usage(ctx, client)
	if err != nil {
		return lsp.Reason{}, err
	}
	// What is held includes this payment already.
	held := amount.ToSatCeil()
	usage.Client.HeldSat -= min(usage.Client.HeldSat, held)
	usage.All.HeldSat -= min(usage.All.HeldSat, held)
	err = lsp.Admit(lsp.Request{NewOpen: true, CapacitySat: capacity, HoldSat: held}, usage, e.cfg.Caps)
	if err == nil {
		return lsp.Reason{}, nil
	}
	if errors.Is(err, errkind.Internal) {
		return lsp.Reason{}, err
	}
	return lsp.Because(lsp.ReasonLimit, "%s", err.Error()), nil
}

// capacityFor sizes a channel for a payment at today's fee rate.
func (e *Engine) capacityFor(amount ln.Msat) (ln.Sat, error) {
	return e.capacityAt(amount, e.fees.current().Rate)
}

func (e *Engine) capacityAt(amount ln.Msat, rate ln.FeeRateSatPerKW) (ln.Sat, error) {
	policy := e.cfg.Capacity
	policy.CommitFeeRate = min(rate, maxCommitRate)
	return policy.Capacity(amount, e.cfg.expectedParts(), e.cfg.Type)
}

func (c Config) expectedParts() int { return min(c.MaxParts, 10) }
