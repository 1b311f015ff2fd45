package engine

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps/in"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// Overview is the business in sums.
type Overview struct {
	OpenOut, OpenIn       int
	OpenOutSat, OpenInSat ln.Sat
	MaxOpenSat            ln.Sat
	// ExposedSat is what a reorg of fewer than six blocks could take now.
	ExposedSat, MaxExposedSat ln.Sat
	RoomOutSat, RoomInSat     ln.Sat
	// InboundSat and OutboundSat are what the gateway's channels can receive and send,
	// CoinsSat its free confirmed coins.
	InboundSat, OutboundSat, CoinsSat ln.Sat
	// RefundLeft and ClaimLeft are the fewest blocks that are left to one under way.
	RefundLeft, ClaimLeft *int64
	// Troubled swaps wait for something to become right.
	Troubled int
	// From the books, in msat: earned is positive.
	FeesMsat, NoShowMsat, RoutingMsat, LossMsat int64
	Height                                      uint32
}

// Overview sums up what is open and what was earned.
func (e *Engine) Overview(ctx context.Context) (Overview, error) {
	node, err := e.outRoom(ctx)
	if err != nil {
		return Overview{}, err
	}
	outbound, err := e.outbound(ctx)
	if err != nil {
		return Overview{}, err
	}
	var o Overview
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		o = Overview{MaxOpenSat: e.cfg.MaxOpenSat, MaxExposedSat: e.cfg.In.MaxExposedSat, Height: e.moment().Height}
		outs, err := e.allLiveTx(ctx, tx)
		if err != nil {
			return err
		}
		o.InboundSat, o.OutboundSat, o.CoinsSat = node.inbound, outbound, node.coins
		for _, inst := range outs {
			o.OpenOut++
			o.OpenOutSat += out.PlanOf(inst.State).AmountSat
			l, ok := out.LiveOf(inst.State)
			if ok && l.Trouble != "" {
				o.Troubled++
			}
			if ok && l.Due(o.Height) {
				o.RefundLeft = fewest(o.RefundLeft, l.FinalBy(), o.Height)
			}
		}
		ins, err := e.liveInsTx(ctx, tx)
		if err != nil {
			return err
		}
		for _, inst := range ins {
			o.OpenIn++
			o.OpenInSat += in.PlanOf(inst.State).AmountSat
			o.ExposedSat += in.Exposed(inst.State, o.Height)
			if in.ReasonOf(inst.State).Text != "" {
				o.Troubled++
			}
			if p, _, ok := in.Claimable(inst.State); ok {
				o.ClaimLeft = fewest(o.ClaimLeft, p.Terms.ExpiryHeight, o.Height)
			}
		}
		// Too many beginnings at once is no room for now.
		if o.RoomOutSat, _, err = e.outFree(bookOf(outs, ins), node, ""); err != nil {
			o.RoomOutSat = 0
		}
		if o.RoomInSat, _, err = e.inFree(ctx, tx, outbound, ""); err != nil {
			o.RoomInSat = 0
		}
		for account, sum := range map[ledger.Account]*int64{swapFee: &o.FeesMsat, noShow: &o.NoShowMsat, routingFee: &o.RoutingMsat, swapLoss: &o.LossMsat} {
			if *sum, err = ledger.Balance(ctx, tx, account); err != nil {
				return err
			}
		}
		return nil
	})
	// Income has negative balances.
	o.FeesMsat, o.NoShowMsat = -o.FeesMsat, -o.NoShowMsat
	return o, err
}

// fewest keeps the nearest deadline.
func fewest(sofar *int64, deadline, height uint32) *int64 {
	left := int64(deadline) - int64(height)
	if sofar != nil && *sofar <= left {
		return sofar
	}
	return &left
}

// Transaction is one that the gateway signed for a swap.
type Transaction struct {
	What   string
	TxID   ln.TxID
	FeeSat ln.Sat
	// Spends: it spent the contract's output in the best chain.
	Spends bool
}

// View is a swap of either direction as an operator sees it.
type View struct {
	Hash             ln.Hash
	In               bool
	State, Reason    string
	Terminal         bool
	AmountSat        ln.Sat
	FeeSat           ln.Sat
	PrepaySat        ln.Sat
	ExpiryHeight     uint32
	DueHeight        uint32
	Due              string
	Outpoint         ln.Outpoint
	Spent            string
	ConfirmedHeight  uint32
	Created, Updated time.Time
	Client           string
	Transactions     []Transaction
	RoutingFeeMsat   ln.Msat
}

func viewOut(inst fsm.Instance[out.State]) View {
	p := out.PlanOf(inst.State)
	v := View{
		Hash: p.Terms.Hash, State: inst.State.StateName(), Reason: out.ReasonOf(inst.State).Text, Terminal: inst.Terminal,
		AmountSat: p.AmountSat, FeeSat: p.FeeSat, PrepaySat: p.PrepaySat, ExpiryHeight: p.Terms.ExpiryHeight,
		Created: inst.Created, Updated: inst.Updated, Client: p.Client,
	}
	if tx, ok := out.TxOf(inst.State); ok {
		v.Outpoint = tx.Outpoint
		v.Transactions = append(v.Transactions, Transaction{What: "funding", TxID: tx.Outpoint.TxID, FeeSat: tx.MinerSat})
	}
	l, ok := out.LiveOf(inst.State)
	for _, r := range l.Refunds {
		v.Transactions = append(v.Transactions, Transaction{What: "refund", TxID: r.TxID, FeeSat: r.FeeSat, Spends: r.TxID == l.SpentBy})
	}
	if !ok || inst.Terminal {
		return v
	}
	v.Spent, v.ConfirmedHeight = string(l.Spent), l.ConfirmedHeight
	switch {
	case l.Settled && l.ConfirmedHeight > 0:
		v.DueHeight, v.Due = l.ConfirmedHeight+max(l.BuriedConfs, 1)-1, "it is over"
	case l.Settled:
		v.Due = "its transaction must confirm"
	case l.Preimage != nil:
		v.DueHeight, v.Due = l.FinalBy(), "lnd gives the payment back: it must be settled"
	case l.Refund != nil:
		v.DueHeight, v.Due = l.FinalBy(), "lnd gives the payment back: the refund must be final"
	default:
		v.DueHeight, v.Due = p.Terms.ExpiryHeight, "the output is taken back"
	}
	return v
}

func viewIn(inst fsm.Instance[in.State]) View {
	p := in.PlanOf(inst.State)
	o := in.OutputOf(inst.State)
	fee := p.AmountSat - min(p.AmountSat, p.InvoiceMsat.ToSatFloor())
	v := View{
		Hash: p.Terms.Hash, In: true, State: inst.State.StateName(), Reason: in.ReasonOf(inst.State).Text, Terminal: inst.Terminal,
		AmountSat: p.AmountSat, FeeSat: fee, ExpiryHeight: p.Terms.ExpiryHeight, Outpoint: o.Outpoint, ConfirmedHeight: o.ConfirmedHeight,
		Created: inst.Created, Updated: inst.Updated, Client: p.Client,
	}
	if !o.Outpoint.IsZero() {
		v.Transactions = append(v.Transactions, Transaction{What: "deposit", TxID: o.Outpoint.TxID})
	}
	switch s := inst.State.(type) {
	case in.ProbeHeld:
		v.DueHeight, v.Due = p.BeginHeight+p.MinCltvBlocks+probeRouteBlocks, "the client's wallet must have given the probe back"
	case in.Paying:
		v.DueHeight, v.Due = p.Terms.ExpiryHeight-min(p.Terms.ExpiryHeight, p.PayMarginBlocks), "the payment must be resolved"
	case in.Waiting:
		v.DueHeight, v.Due = p.LastPayHeight(), "it is given up if it is not paid"
		if s.ConfirmedHeight > 0 {
			v.DueHeight, v.Due = s.ConfirmedHeight+p.Confs-1, "it is paid"
		}
	case in.Opening:
		v.DueHeight, v.Due = p.LastPayHeight(), "it is given up if its channel is not usable"
	case in.Paid, in.Claiming:
		v.DueHeight, v.Due = p.Terms.ExpiryHeight, "the client could take the output back: the claim must be final"
	}
	if paid, claim, ok := in.PaidOf(inst.State); ok {
		v.Spent, v.RoutingFeeMsat = string(claim.Spent), paid.FeeMsat
		for _, c := range claim.Claims {
			v.Transactions = append(v.Transactions, Transaction{What: "claim", TxID: c.TxID, FeeSat: c.FeeSat, Spends: c.TxID == claim.SpentBy})
		}
	}
	return v
}

// List reads a page of swaps of one direction, by hash.
func (e *Engine) List(ctx context.Context, inward, live bool, after string) ([]View, error) {
	filter := fsm.Filter{Live: live, After: after}
	var views []View
	if inward {
		list, err := e.ins.List(ctx, filter)
		if err != nil {
			return nil, err
		}
		for _, inst := range list {
			views = append(views, viewIn(inst))
		}
		return views, nil
	}
	list, err := e.outs.List(ctx, filter)
	if err != nil {
		return nil, err
	}
	for _, inst := range list {
		views = append(views, viewOut(inst))
	}
	return views, nil
}

// Show reads a swap of either direction with its whole story.
func (e *Engine) Show(ctx context.Context, hash ln.Hash) (View, []fsm.Record, error) {
	id := hash.String()
	if inst, err := e.outs.Get(ctx, id); err == nil {
		story, err := e.outs.History(ctx, id)
		return viewOut(inst), story, err
	} else if !errors.Is(err, store.ErrNotFound) {
		return View{}, nil, err
	}
	inst, err := e.ins.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return View{}, nil, errNoSwap
	}
	if err != nil {
		return View{}, nil, err
	}
	story, err := e.ins.History(ctx, id)
	return viewIn(inst), story, err
}
