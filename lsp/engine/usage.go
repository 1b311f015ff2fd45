package engine

import (
	"context"
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

// Loads are summed in the transaction that changes them: who is admitted there
// cannot be overtaken by others who are. Each sum reads only what its kind of
// request adds to, so that unlike requests do not conflict.

// agreedUsage is what is agreed and held: what new offers and HTLCs add to.
func (e *Engine) agreedUsage(ctx context.Context, tx *store.Tx, client ln.PubKey) (u lsp.Usage, err error) {
	p, err := lspdb.New(tx).PaymentLoads(ctx, client[:])
	if err != nil {
		return u, fmt.Errorf("sum what is agreed and held: %w", err)
	}
	o, err := lspdb.New(tx).OrderLoads(ctx, client[:])
	if err != nil {
		return u, fmt.Errorf("sum what is ordered: %w", err)
	}
	u.Client = agreedLoad(p.ClientRequests+o.ClientRequests, p.ClientQuotedSat+o.ClientQuotedSat, p.ClientHeldMsat+o.ClientHeldMsat, p.ClientHeldSatBlocks+o.ClientHeldSatBlocks)
	u.Newcomers = agreedLoad(p.NewcomerRequests+o.NewcomerRequests, p.NewcomerQuotedSat+o.NewcomerQuotedSat, p.NewcomerHeldMsat+o.NewcomerHeldMsat, p.NewcomerHeldSatBlocks+o.NewcomerHeldSatBlocks)
	u.All = agreedLoad(p.Requests+o.Requests, p.QuotedSat+o.QuotedSat, p.HeldMsat+o.HeldMsat, p.HeldSatBlocks+o.HeldSatBlocks)
	u.UnfundedSat = ln.Sat(p.UnfundedSat + o.UnfundedSat)                          //nolint:gosec // sums of non-negative columns
	u.NewcomersUnfundedSat = ln.Sat(p.NewcomerUnfundedSat + o.NewcomerUnfundedSat) //nolint:gosec // as above
	u.Draining = !e.accepting()
	u.Newcomer, err = newcomer(ctx, tx, client)
	return u, err
}

// openUsage is what was opened: what another open adds to.
func (e *Engine) openUsage(ctx context.Context, tx *store.Tx, client ln.PubKey) (u lsp.Usage, err error) {
	q, now := lspdb.New(tx), e.opt.Now()
	unpaid, err := q.UnpaidLoads(ctx, lspdb.UnpaidLoadsParams{Client: client[:], SinceMs: e.unpaidSince(now).UnixMilli()})
	if err != nil {
		return u, fmt.Errorf("sum what is not paid for: %w", err)
	}
	opens, err := q.OpensSince(ctx, lspdb.OpensSinceParams{Client: client[:], SinceMs: now.Add(-time.Hour).UnixMilli()})
	if err != nil {
		return u, fmt.Errorf("count opens: %w", err)
	}
	u.Client.UnpaidSat, u.Client.OpensLastHour = ln.Sat(unpaid.ClientUnpaidSat), int(opens.ClientOpens)           //nolint:gosec // sums of non-negative columns
	u.Newcomers.UnpaidSat, u.Newcomers.OpensLastHour = ln.Sat(unpaid.NewcomerUnpaidSat), int(opens.NewcomerOpens) //nolint:gosec // as above
	u.All.UnpaidSat, u.All.OpensLastHour = ln.Sat(unpaid.UnpaidSat), int(opens.Opens)                             //nolint:gosec // as above
	u.Newcomer, err = newcomer(ctx, tx, client)
	return u, err
}

// usage is both, for people: what it says may be over when it is read. For the
// zero client its own part is empty.
func (e *Engine) usage(ctx context.Context, client ln.PubKey) (u lsp.Usage, err error) {
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		opened, err := e.openUsage(ctx, tx, client)
		if err != nil {
			return err
		}
		if u, err = e.agreedUsage(ctx, tx, client); err != nil {
			return err
		}
		for _, l := range []struct{ to, from *lsp.Load }{
			{&u.Client, &opened.Client}, {&u.Newcomers, &opened.Newcomers}, {&u.All, &opened.All},
		} {
			l.to.UnpaidSat, l.to.OpensLastHour = l.from.UnpaidSat, l.from.OpensLastHour
		}
		return nil
	})
	return u, err
}

// newcomer says that the client has not paid for a channel yet.
func newcomer(ctx context.Context, tx *store.Tx, client ln.PubKey) (bool, error) {
	known, err := lspdb.New(tx).ClientIsKnown(ctx, client[:])
	if err != nil {
		return false, fmt.Errorf("look up the client: %w", err)
	}
	return known == 0, nil
}

// unpaidSince is when a channel must have been opened to count as unpaid.
func (e *Engine) unpaidSince(now time.Time) time.Time {
	if e.cfg.ForgetUnpaidAfter == 0 {
		return time.UnixMilli(0)
	}
	return now.Add(-e.cfg.ForgetUnpaidAfter)
}

func agreedLoad(requests, quotedSat, heldMsat, satBlocks int64) lsp.Load {
	return lsp.Load{
		OpenRequests: int(requests), QuotedSat: ln.Sat(quotedSat), HeldSat: ln.Msat(heldMsat).ToSatCeil(), //nolint:gosec // sums of non-negative columns
		HeldSatBlocks: uint64(satBlocks), //nolint:gosec // as above
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
// It spares payments an open that would be refused; what binds is asked again
// in the transaction that begins one.
func (e *Engine) refusal(ctx context.Context, client ln.PubKey, amount, fee ln.Msat, zeroConf bool) (lsp.Reason, error) {
	rate, reason := e.openingRate(fee, zeroConf)
	if !reason.IsZero() {
		return reason, nil
	}
	capacity, err := e.capacityAt(amount, rate)
	if err != nil {
		return lsp.Because(lsp.ReasonLimit, "%s", err.Error()), nil
	}
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		usage, err := e.openUsage(ctx, tx, client)
		reason = e.overLimit(lsp.Request{NewOpen: true, CapacitySat: capacity}, usage)
		return err
	})
	return reason, err
}

// overLimit says which limit a request would break, zero if none.
func (e *Engine) overLimit(r lsp.Request, u lsp.Usage) lsp.Reason {
	if err := lsp.Admit(r, u, e.cfg.Caps); err != nil {
		return lsp.Because(lsp.ReasonLimit, "%s", errkind.Sentence(err))
	}
	return lsp.Reason{}
}

// capacityFor sizes a channel for a payment at today's fee rate, in as many
// parts as are let in: a payer may split it that far, also after some came back.
func (e *Engine) capacityFor(amount ln.Msat) (ln.Sat, error) {
	return e.capacityAt(amount, e.fees.current().Rate)
}

func (e *Engine) capacityAt(amount ln.Msat, rate ln.FeeRateSatPerKW) (ln.Sat, error) {
	policy := e.cfg.Capacity
	policy.CommitFeeRate = min(rate, maxCommitRate)
	return policy.Capacity(amount, e.cfg.MaxParts, e.cfg.Type)
}
