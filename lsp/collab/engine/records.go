package engine

import (
	"context"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/books"
	"github.com/sluice-lsp/sluice/lsp/collab"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// record keeps the index row in step with the machine and posts its money, in the
// transaction of each transition.
func (e *Engine) record(ctx context.Context, tx *store.Tx, t fsm.Transition[collab.State, collab.Event]) error {
	q := lspdb.New(tx)
	p := collab.PlanOf(t.To)
	ours, _ := collab.OursOf(t.To)
	channel := ""
	if op := collab.ChannelOf(t.To); !op.IsZero() {
		channel = op.String()
	}
	at := t.At.UnixMilli()
	if t.Seq == 1 {
		err := q.InsertCollab(ctx, lspdb.InsertCollabParams{
			ID: t.ID, Client: p.Client[:], State: t.To.StateName(), Reason: "", Terminal: false, ZeroConf: p.ZeroConf,
			CapacitySat: int64(p.CapacitySat), WalletSat: int64(p.WalletSat), ServiceSat: int64(p.ServiceFeeSat), SpendSat: int64(p.SpendSat), CreatedMs: at, //nolint:gosec // bounded by the largest channel
		})
		if err != nil {
			return fmt.Errorf("index the joint funding: %w", err)
		}
		return nil
	}
	_, err := q.UpdateCollab(ctx, lspdb.UpdateCollabParams{
		ID: t.ID, State: t.To.StateName(), Reason: collab.ReasonOf(t.To).String(), Terminal: collab.Final(t.To),
		Funded: collab.Funded(t.To), Confirmed: collab.ConfirmedHeight(t.To) > 0, Channel: channel, FeeSat: int64(ours.Joint.Gateway.FeeSat), UpdatedMs: at, //nolint:gosec // bounded by our coins
	})
	if err != nil {
		return fmt.Errorf("index the joint funding: %w", err)
	}
	return post(ctx, tx, t)
}

// post books the funding transaction when its complete bytes are stored: from
// then on it is only a matter of time. Until lnd's wallet lists it, what it takes
// from the wallet stands in a clearing account of its own. The wallet's coins are
// none of our books; what it pays us for our part is income.
func post(ctx context.Context, tx *store.Tx, t fsm.Transition[collab.State, collab.Event]) error {
	p, op := collab.PlanOf(t.To), collab.ChannelOf(t.To)
	ours, _ := collab.OursOf(t.To)
	var lines []ledger.Line
	for _, l := range books.Tidy([]books.Line{
		{Account: books.FundingAccount(op), Msat: -msat(p.GatewayOutlaySat() + ours.Joint.Gateway.FeeSat)},
		{Account: books.ChanAccount(op), Msat: msat(p.CapacitySat - p.WalletSat)},
		{Account: books.ChainFee, Msat: msat(ours.Joint.Gateway.FeeSat)},
		{Account: books.OpeningFee, Msat: -msat(p.ServiceFeeSat)},
	}) {
		lines = append(lines, ledger.Line{Account: ledger.Account(l.Account), AmountMsat: l.Msat})
	}
	if _, signed := t.Event.(collab.FundingSigned); signed {
		return ledger.Post(ctx, tx, ledger.Entry{
			Key: books.JointKey(t.ID), At: t.At, Reference: t.ID, Reason: "joint funding transaction of channel " + op.String(), Lines: lines,
		})
	}
	if _, gone := t.To.(collab.Conflicted); gone {
		for i := range lines {
			lines[i].AmountMsat = -lines[i].AmountMsat
		}
		return ledger.Post(ctx, tx, ledger.Entry{
			Key: "collab/" + t.ID + "/conflicted", At: t.At, Reference: t.ID,
			Reason: "the joint funding transaction was double-spent and never happened", Lines: lines,
		})
	}
	return nil
}

// msat of an amount that is bounded by the largest channel and our own coins.
func msat(s ln.Sat) int64 { return int64(s) * 1000 } //nolint:gosec // bounded
