package engine

import (
	"context"
	"slices"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// watchChain remembers a transaction to watch and looks once, so that one that
// is in a block already is not missed until the next.
func (e *Engine) watchChain(ctx context.Context, f opening.WatchChain) error {
	e.watch(f)
	// No block has what was signed at this tip, unless it was signed before an older copy
	// of the database was put back; the next one looks. Now, lnd has a channel to open.
	if e.world.tip() != f.SinceHeight || e.opt.RestoredWhy != "" {
		e.spawn(func() { e.lookAtChain(e.ctx) })
	}
	return nil
}

func (e *Engine) watch(f opening.WatchChain) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watched[f.OpeningID] = f
}

// onBlock tells everything that waits for blocks of a new tip.
func (e *Engine) onBlock(height uint32) {
	e.coins.changed()
	e.mu.Lock()
	clear(e.signatures)
	jits, wraps, opens := keysOf(e.waitingJit), keysOf(e.waitingWrap), keysOf(e.liveOpenings)
	e.mu.Unlock()
	e.spawn(func() {
		// Confirmations first: a block that confirms a channel must not be seen
		// by its payment as just another block of waiting.
		e.lookAtChain(e.ctx)
		rate := e.fees.target()
		for _, id := range opens {
			tell(e, e.openings, id, opening.Event(opening.NewBlock{Moment: e.moment(), TargetRate: rate}))
			e.renewLeases(e.ctx, id)
		}
		if err := e.sweepLeases(e.ctx); err != nil && e.ctx.Err() == nil {
			e.log.Debug("leases could not be looked through; the next block tries again", zap.Error(err))
		}
		if err := e.abandonStrays(e.ctx); err != nil && e.ctx.Err() == nil {
			e.log.Warn("channels whose open was given up could not be looked for; the next block tries again", zap.Error(err))
		}
		for _, id := range jits {
			tell(e, e.jits, id, jit.Event(jit.NewBlock{Moment: e.moment()}))
		}
		for _, id := range wraps {
			tell(e, e.wraps, id, wrap.Event(wrap.NewBlock{Moment: e.moment()}))
		}
		e.ordersOnBlock(e.ctx)
		wake(e.batchDue)
		e.tendPool(e.ctx)
		e.tendUnused(e.ctx)
		e.lookForClosed(e.ctx)
		e.noteChannels(e.ctx)
	})
}

// onPeer tells payments that wait for this wallet.
func (e *Engine) onPeer(peer ln.PubKey) {
	e.mu.Lock()
	jits, wraps, orders := idsOf(e.waitingJit, peer), idsOf(e.waitingWrap, peer), idsOf(e.waitingOrder, peer)
	e.mu.Unlock()
	if len(jits)+len(wraps)+len(orders) == 0 {
		return
	}
	e.spawn(func() {
		for _, id := range jits {
			tell(e, e.jits, id, jit.Event(jit.WalletOnline{Moment: e.moment()}))
		}
		for _, id := range wraps {
			tell(e, e.wraps, id, wrap.Event(wrap.WalletOnline{Moment: e.moment()}))
		}
		for _, id := range orders {
			tell(e, e.orders, id, order.Event(order.PeerOnline{Moment: e.moment()}))
		}
	})
}

// onChannel tells the open that a channel belongs to, and the payments whose
// wallet it is: a channel that becomes active again may have room for them.
func (e *Engine) onChannel(op ln.Outpoint, l link) {
	e.coins.changed()
	if l.active {
		e.payersBack()
	}
	e.mu.Lock()
	id, ours := e.byOutpoint[op]
	e.mu.Unlock()
	if !ours {
		if l.active {
			e.spawn(func() { e.abandonLate(e.ctx, op) })
		}
		return
	}
	if l.active && l.chanID == 0 {
		e.spawn(func() { e.findChanID(op, id) })
		return
	}
	// Each is told by a goroutine of its own and may wait for the database: what was
	// first may be told last. So it tells how the channel is by then.
	e.spawn(func() {
		_ = tellJudged(e, e.openings, id, func(context.Context, *store.Tx) (opening.Event, func(), error) {
			if now, known := e.world.link(op); known && now.active && now.chanID != 0 {
				return opening.ChannelActive{Moment: e.moment(), ChanID: now.chanID}, nil, nil
			}
			return opening.ChannelInactive{Moment: e.moment()}, nil, nil
		})
	})
	if l.active && (l.rebuilt || !e.policies.knows(op)) {
		e.spawn(func() { e.tendPolicy(op, l, id) })
	}
}

// findChanID serves an ACTIVE event that came before lnd named the channel.
func (e *Engine) findChanID(op ln.Outpoint, id string) {
	channels, err := e.node.Channels.ListChannels(e.ctx)
	if err != nil {
		e.log.Warn("a channel became active but could not be looked up", zap.Stringer("outpoint", op), zap.Error(err))
		return
	}
	for _, c := range channels {
		if c.Outpoint == op && c.Active {
			e.world.name(op, c.ChanID)
			tell(e, e.openings, id, opening.Event(opening.ChannelActive{Moment: e.moment(), ChanID: c.ChanID}))
			if l, known := e.world.link(op); known && l.active {
				e.spawn(func() { e.tendPolicy(op, l, id) })
			}
			return
		}
	}
}

// reorgBlocks is how much lower than the tip of its day a transaction may confirm:
// in a block that took the place of an older one.
const reorgBlocks = 100

// lookAtChain reads the wallet's transactions once and tells each watched open
// what became of its own: every coin we fund with is the wallet's, so that a
// transaction that spends one is always among them.
func (e *Engine) lookAtChain(ctx context.Context) {
	e.mu.Lock()
	watched := make([]opening.WatchChain, 0, len(e.watched))
	since := uint32(0)
	for _, f := range e.watched {
		watched = append(watched, f)
		if low := f.SinceHeight - min(f.SinceHeight, reorgBlocks); since == 0 || low < since {
			since = low
		}
	}
	e.mu.Unlock()
	if len(watched) == 0 {
		return
	}
	txs, err := e.node.Chain.Transactions(ctx, int32(since)) //nolint:gosec // heights stay below 2^31
	if err != nil {
		if ctx.Err() == nil {
			e.log.Warn("the chain could not be looked at; the next block tries again", zap.Error(err))
		}
		return
	}
	for _, f := range watched {
		if ev, ok := chainEvent(e, f, txs); ok {
			tell(e, e.openings, f.OpeningID, ev)
		}
	}
}

func chainEvent(e *Engine, f opening.WatchChain, txs []ln.WalletTx) (opening.Event, bool) {
	found := false
	for _, tx := range txs {
		if tx.TxID == f.Outpoint.TxID {
			found = true
			if tx.Confirmations > 0 {
				return opening.FundingConfirmed{Moment: e.moment(), ConfirmedHeight: uint32(tx.Height)}, true //nolint:gosec // a height
			}
			continue
		}
		if tx.Confirmations > 0 && slices.ContainsFunc(tx.Spends, func(o ln.Outpoint) bool { return slices.Contains(f.Inputs, o) }) {
			return opening.FundingConflicted{Moment: e.moment(), Spender: tx.TxID, SpenderHeight: uint32(tx.Height)}, true //nolint:gosec // a height
		}
	}
	tx, known := e.fundingOf(f.OpeningID)
	// lnd's wallet forgets a transaction whose coin another one in a block spends, so
	// that it need not be there when that block is gone.
	if known && (tx.SpenderHeight > 0 || found && tx.ConfirmedHeight > 0) {
		return opening.FundingReorged{Moment: e.moment()}, true
	}
	return nil, false
}

// fundingOf is what the open's machine believes of its transaction.
func (e *Engine) fundingOf(id string) (opening.Tx, bool) {
	inst, err := e.openings.Get(e.ctx, id)
	if err != nil {
		return opening.Tx{}, false
	}
	return opening.TxOf(inst.State)
}

func keysOf[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
