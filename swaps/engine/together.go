package engine

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/batch"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/in"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// errMoved: a swap went on while its transaction was being signed. What was signed
// is dropped, and the effect runs again.
var errMoved = errors.New("a swap went on while a transaction for it was signed")

// joint is a transaction that several swaps share, signed and not stored.
type joint struct {
	tx      htlc.Claimed
	cost    batch.Cost
	members []batch.Member
}

// takeTogether decides who shares a transaction with first, prices it, and has it
// signed; nil when there is none that nodes would take.
func (e *Engine) takeTogether(
	ctx context.Context, first batch.Member, others []batch.Member, p batch.Policy, tip uint32, taking func(id string) (htlc.Taking, error),
) (*joint, error) {
	group := batch.Join(first, others, tip, p)
	cost, ok, err := batch.CostOf(group)
	if err != nil || !ok {
		return nil, err
	}
	all := make([]htlc.Taking, 0, len(group))
	for _, m := range group {
		t, err := taking(m.ID)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	script, err := e.ownScript(ctx)
	if err != nil {
		return nil, err
	}
	tx, err := htlc.Take(all, script, cost.FeeSat, e.opt.Random)
	return &joint{tx: tx, cost: cost, members: group}, err
}

// storeTogether tells every member of what was signed for it, in one transaction,
// unless one of them went on meanwhile: then nobody hears of it, and nothing that
// was signed can leak.
func storeTogether[S fsm.State, V fsm.Event, F fsm.Effect](
	ctx context.Context, e *Engine, m *fsm.Engine[S, V, F], live map[string]fsm.Instance[S], j *joint, event func(share ln.Sat) V,
) error {
	return e.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		for i, member := range j.members {
			now, err := m.GetTx(ctx, tx, member.ID)
			if err != nil {
				return err
			}
			if now.Version != live[member.ID].Version {
				return fmt.Errorf("swap %s: %w", member.ID, errMoved)
			}
			if _, err := m.SendTx(ctx, tx, member.ID, event(j.cost.Shares[i])); err != nil {
				return err
			}
		}
		return nil
	})
}

// byID indexes swaps.
func byID[S fsm.State](list []fsm.Instance[S]) map[string]fsm.Instance[S] {
	out := make(map[string]fsm.Instance[S], len(list))
	for _, inst := range list {
		out[inst.ID] = inst
	}
	return out
}

// signClaim signs a claim of this swap and of whoever can share it. It stores what it
// signed by itself; the events go to all.
func (e *Engine) signClaim(ctx context.Context, id string, f in.SignClaim) ([]in.Event, error) {
	list, err := e.liveIns(ctx)
	if err != nil {
		return nil, err
	}
	live, tip := byID(list), e.moment().Height
	paid, claim, wanted := in.Claimable(live[id].State)
	if !wanted || len(claim.Raw) > 0 && f.Rate <= claim.Rate {
		return nil, nil // it has one by now, of others perhaps
	}
	today := e.cfg.Floor
	if rates, err := e.window().Latest(e.opt.Now(), e.forgetAfter()); err == nil {
		today = rates.Of(false)
	}
	first := e.claimMember(paid, claim, today, tip)
	first.Rate = max(first.Rate, f.Rate)
	var others []batch.Member
	for _, inst := range list {
		if p, c, ok := in.Claimable(inst.State); ok && inst.ID != id {
			others = append(others, e.claimMember(p, c, today, tip))
		}
	}
	j, err := e.takeTogether(ctx, first, others, e.cfg.In.Batch, tip, func(id string) (htlc.Taking, error) {
		p, _, _ := in.Claimable(live[id].State)
		return e.claimTaking(ctx, p)
	})
	switch {
	case errors.Is(err, htlc.ErrNotWorthIt):
		return []in.Event{in.ClaimRefused{Moment: e.moment(), Text: err.Error()}}, nil
	case err != nil:
		e.log.Error("a swap's claim could not be signed", zap.String("swap", id), zap.Error(err))
		return nil, err
	case j == nil:
		return []in.Event{in.ClaimRefused{Moment: e.moment(), Text: "a replacement would cost more than half of what it brings"}}, nil
	}
	err = storeTogether(ctx, e, e.ins, live, j, func(share ln.Sat) in.Event {
		return in.ClaimSigned{Moment: e.moment(), Claim: in.Claim{
			Raw: j.tx.Raw, TxID: j.tx.TxID, ClaimFeeSat: share, TxFeeSat: j.cost.FeeSat, Shared: len(j.members), Rate: j.cost.Rate,
		}}
	})
	return nil, err
}

func (e *Engine) claimMember(p in.Paid, c in.Claim, today ln.FeeRateSatPerKW, tip uint32) batch.Member {
	m := batch.Member{
		ID: p.ID(), AmountSat: p.AmountSat, Way: p.Way(), MostSat: p.MostClaimSat(), Deadline: p.Terms.ExpiryHeight, In: c.TxID, InFeeSat: c.TxFeeSat,
		Present: p.ConfirmedHeight > 0, Buried: ln.Confirmations(p.ConfirmedHeight, tip) >= p.DeepConfs,
	}
	m.Rate = max(c.Rate, swaps.First(today, htlc.TogetherWU(m.Way), m.MostSat))
	return m
}

// claimTaking has the keys of one claim.
func (e *Engine) claimTaking(ctx context.Context, p in.Paid) (htlc.Taking, error) {
	contract, err := htlc.New(p.Terms)
	if err != nil {
		return htlc.Taking{}, err
	}
	t := htlc.Taking{Contract: contract, Outpoint: p.Outpoint, AmountSat: p.AmountSat, Way: p.Way(), Preimage: p.Preimage.Preimage()}
	if t.Way == htlc.SpendSuccess {
		t.Ours, err = e.key(ctx, "in", p.Terms.Hash)
		return t, err
	}
	if t.Theirs, err = htlc.ParseKey([32]byte(p.ClientKey.Preimage()), p.Terms.SenderInternal); err != nil {
		return t, err
	}
	t.Ours, err = e.key(ctx, "in/internal", p.Terms.Hash)
	return t, err
}

// signRefund signs a refund of this swap and of whoever can share it, unless a
// client came first meanwhile.
func (e *Engine) signRefund(ctx context.Context, id string, f out.SignRefund) ([]out.Event, error) {
	list, err := e.allLive(ctx)
	if err != nil {
		return nil, err
	}
	live, tip := byID(list), e.moment().Height
	mine, ok := out.LiveOf(live[id].State)
	if !ok || !mine.Due(tip) || mine.Refund != nil && f.Rate <= mine.Refund.Rate {
		return nil, nil
	}
	e.mu.Lock()
	urgent := e.urgent
	e.mu.Unlock()
	first := refundMember(mine, f.Rate, tip)
	first.Rate = f.Rate
	var others []batch.Member
	for _, inst := range list {
		if l, ok := out.LiveOf(inst.State); ok && inst.ID != id && l.Due(tip) && l.Seen == nil {
			others = append(others, refundMember(l, urgent, tip))
		}
	}
	j, err := e.takeTogether(ctx, first, others, e.cfg.RefundBatch, tip, func(id string) (htlc.Taking, error) {
		l, _ := out.LiveOf(live[id].State)
		return e.refundTaking(ctx, l)
	})
	switch {
	case errors.Is(err, htlc.ErrNotWorthIt):
		return []out.Event{out.RefundRefused{Moment: e.moment(), Text: err.Error()}}, nil
	case err != nil:
		return nil, err
	case j == nil:
		return []out.Event{out.RefundRefused{Moment: e.moment(), Text: "a replacement would cost more than half of what it brings back"}}, nil
	}
	err = storeTogether(ctx, e, e.outs, live, j, func(share ln.Sat) out.Event {
		return out.RefundSigned{Moment: e.moment(), Refund: out.Refund{
			Raw: j.tx.Raw, TxID: j.tx.TxID, Rate: j.cost.Rate, FeeSat: share, TxFeeSat: j.cost.FeeSat, Shared: len(j.members),
		}}
	})
	return nil, err
}

func refundMember(l out.Live, urgent ln.FeeRateSatPerKW, tip uint32) batch.Member {
	m := batch.Member{
		ID: l.ID(), AmountSat: l.AmountSat, Way: htlc.SpendTimeout, MostSat: l.MostRefundSat(), Deadline: l.FinalBy(),
		Present: l.ConfirmedHeight > 0, Buried: ln.Confirmations(l.ConfirmedHeight, tip) >= max(l.BuriedConfs, 1),
		Rate: swaps.First(urgent, htlc.RefundWU, l.MostRefundSat()),
	}
	if l.Refund != nil {
		m.In, m.InFeeSat, m.Rate = l.Refund.TxID, l.Refund.TxFeeSat, max(m.Rate, l.Refund.Rate)
	}
	return m
}

func (e *Engine) refundTaking(ctx context.Context, l out.Live) (htlc.Taking, error) {
	contract, err := htlc.New(l.Terms)
	if err != nil {
		return htlc.Taking{}, err
	}
	key, err := e.outKey(ctx, l.Terms.Hash)
	return htlc.Taking{Contract: contract, Outpoint: l.Outpoint, AmountSat: l.AmountSat, Way: htlc.SpendTimeout, Ours: key}, err
}
