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

// openUsage is what was opened: what another open adds to. It is summed in the
// transaction that begins one, so that none can overtake another. What is agreed
// and held changes far more often: see loads.go.
func (e *Engine) openUsage(ctx context.Context, tx *store.Tx, client ln.PubKey) (u lsp.Usage, err error) {
	q, now := lspdb.New(tx), e.opt.Now()
	unpaid, err := q.UnpaidLoads(ctx, lspdb.UnpaidLoadsParams{Client: client[:], SinceMs: e.unpaidSince(now).UnixMilli()})
	if err != nil {
		return u, fmt.Errorf("sum what is not paid for: %w", err)
	}
	if err := e.unconfirmed(ctx, tx, client, &u); err != nil {
		return u, err
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

// unconfirmed is what was opened and is in no block yet.
func (e *Engine) unconfirmed(ctx context.Context, tx *store.Tx, client ln.PubKey, u *lsp.Usage) error {
	row, err := lspdb.New(tx).UnconfirmedLoads(ctx, client[:])
	if err != nil {
		return fmt.Errorf("sum what is not confirmed: %w", err)
	}
	u.Client.UnconfirmedSat, u.Newcomers.UnconfirmedSat, u.All.UnconfirmedSat = ln.Sat(row.ClientUnconfirmedSat), ln.Sat(row.NewcomerUnconfirmedSat), ln.Sat(row.UnconfirmedSat) //nolint:gosec // sums of non-negative columns
	return nil
}

// usage is both, for people: what it says may be over when it is read. For the
// zero client its own part is empty.
func (e *Engine) usage(ctx context.Context, client ln.PubKey) (u lsp.Usage, err error) {
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		opened, err := e.openUsage(ctx, tx, client)
		if err != nil {
			return err
		}
		e.loads.mu.Lock()
		u = e.loads.sum.Usage(client)
		e.loads.mu.Unlock()
		u.Newcomer, u.Draining = opened.Newcomer, !e.accepting()
		for _, l := range []struct{ to, from *lsp.Load }{
			{&u.Client, &opened.Client}, {&u.Newcomers, &opened.Newcomers}, {&u.All, &opened.All},
		} {
			l.to.UnpaidSat, l.to.UnconfirmedSat, l.to.OpensLastHour = l.from.UnpaidSat, l.from.UnconfirmedSat, l.from.OpensLastHour
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

// anchorReserve is what is kept to bump commitments with: lnd's own reserve
// ignores private channels, and all of ours are private. What the operator keeps
// for itself comes on top.
func (e *Engine) anchorReserve(channels int) ln.Sat {
	l := e.limits()
	reserve := max(e.cfg.MinReserveSat, ln.Sat(channels)*l.reservePerChan) //nolint:gosec // a count
	return min(reserve, l.maxReserve) + l.keep
}

// Kept is what of the wallet's coins is not for channels, as it stands now.
type Kept struct {
	// So much per channel, within bounds, to bump commitments with.
	PerChannelSat, LeastSat, MostSat ln.Sat
	// BesideSat the operator keeps for itself.
	BesideSat ln.Sat
}

// Kept are the settings behind ReserveSat.
func (e *Engine) Kept() Kept {
	l := e.limits()
	return Kept{PerChannelSat: l.reservePerChan, LeastSat: min(e.cfg.MinReserveSat, l.maxReserve), MostSat: l.maxReserve, BesideSat: l.keep}
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
		reason = overLimit(lsp.Admit(lsp.Request{NewOpen: true, CapacitySat: capacity, UnconfirmedSat: capacity}, usage, e.limits().caps))
		return err
	})
	return reason, err
}

// overLimit says which limit a request would break, zero if none.
func overLimit(err error) lsp.Reason {
	if err == nil {
		return lsp.Reason{}
	}
	return lsp.Because(lsp.ReasonLimit, "%s", errkind.Sentence(err))
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
