package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/btcsuite/btcd/wire"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/refund"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// recentBlocks is how far back the payments of orders are looked for with every
// block; at every start it is as far as the oldest order goes.
const recentBlocks = 1_008

// ordersOnChain wakes on every transaction of the wallet and looks what it pays.
func (e *Engine) ordersOnChain(ctx context.Context) {
	pace.Keep(ctx, pace.Backoff{First: 50 * time.Millisecond, Most: 2 * time.Second, Healthy: time.Minute}, func(ctx context.Context) error {
		return e.node.Orders.SubscribeTransactions(ctx, func() {
			e.coins.changed()
			e.lookAtOrders(ctx, false)
		})
	}, func(err error) {
		e.log.Warn("lnd ended the subscription to transactions; subscribing again", zap.Error(err))
		// What came meanwhile.
		e.lookAtOrders(ctx, false)
	})
}

// lookAtOrders tells every order what pays its address, and every refund what
// became of its transactions. all looks as far back as there are orders.
func (e *Engine) lookAtOrders(ctx context.Context, all bool) {
	// Looks that overlap could tell an order older news after newer ones.
	e.lookMu.Lock()
	defer e.lookMu.Unlock()
	e.mu.Lock()
	orders, refunds := make(map[string]watchedOrder, len(e.payable)), keysOf(e.liveRefunds)
	tip := e.world.tip()
	from := tip - min(tip, recentBlocks)
	if len(refunds) == 0 {
		from = tip
	}
	for id, w := range e.payable {
		orders[id] = w
		low := w.since - min(w.since, reorgBlocks)
		if !all {
			low = max(low, tip-min(tip, recentBlocks))
		}
		from = min(from, low)
	}
	e.mu.Unlock()
	if len(orders)+len(refunds) == 0 {
		return
	}
	txs, err := e.node.Chain.Transactions(ctx, int32(from)) //nolint:gosec // a height
	if err != nil {
		if ctx.Err() == nil {
			e.log.Warn("payments of orders could not be looked at; the next block tries again", zap.Error(err))
		}
		return
	}
	paid := paidTo(txs, orders)
	for id := range orders {
		e.tellCoins(id, paid[id], from)
	}
	for _, id := range refunds {
		e.tellRefund(ctx, id, txs)
	}
}

// watchedOrder is an order that may be paid on chain.
type watchedOrder struct {
	script []byte
	since  uint32
	// own are payments that have become the gateway's.
	own map[ln.Outpoint]bool
}

// paidTo finds the outputs that pay orders.
func paidTo(txs []ln.WalletTx, orders map[string]watchedOrder) map[string][]order.SeenCoin {
	byScript := make(map[string]string, len(orders))
	for id, w := range orders {
		byScript[string(w.script)] = id
	}
	spent := make(map[ln.Outpoint]bool)
	for _, t := range txs {
		for _, op := range t.Spends {
			spent[op] = true
		}
	}
	out := make(map[string][]order.SeenCoin)
	for _, t := range txs {
		var tx wire.MsgTx
		if tx.Deserialize(bytes.NewReader(t.RawTx)) != nil {
			continue
		}
		replaceable := false
		for _, in := range tx.TxIn {
			replaceable = replaceable || in.Sequence < wire.MaxTxInSequenceNum-1
		}
		for i, o := range tx.TxOut {
			id, ours := byScript[string(o.PkScript)]
			if !ours || o.Value <= 0 {
				continue
			}
			op := ln.Outpoint{TxID: t.TxID, Index: uint32(i)} //nolint:gosec // an index
			c := order.SeenCoin{Outpoint: op, AmountSat: ln.Sat(o.Value), Replaceable: replaceable, At: t.At.UTC(), Spent: spent[op]}
			if t.Confirmations > 0 {
				c.Height = uint32(t.Height) //nolint:gosec // a height
			}
			out[id] = append(out[id], c)
		}
	}
	return out
}

// tellCoins tells one order, unless it knows. Coins that confirmed before the
// list begins are taken to be where they were.
func (e *Engine) tellCoins(id string, coins []order.SeenCoin, from uint32) {
	inst, err := e.orders.Get(e.ctx, id)
	if err != nil || order.Final(inst.State) {
		return
	}
	for _, c := range order.Of(inst.State).Coins {
		if c.Height > 0 && c.Height < from && !c.Gone {
			coins = append(coins, order.SeenCoin{Outpoint: c.Outpoint, AmountSat: c.AmountSat, Height: c.Height, Replaceable: c.Replaceable, At: c.SeenAt})
		}
	}
	seen := order.CoinsSeen{Moment: e.moment(), Coins: coins}
	for i := range seen.Coins {
		// A block's time may be ahead of ours.
		if seen.Coins[i].At.After(seen.At) {
			seen.Coins[i].At = seen.At
		}
	}
	_, zero := order.WantsZeroConf(inst.State, seen)
	if !zero && !e.changes(inst.State, seen) {
		return
	}
	_ = tellJudged(e, e.orders, id, func(ctx context.Context, tx *store.Tx) (order.Event, func(), error) {
		inst, err := e.orders.GetTx(ctx, tx, id)
		if err != nil {
			return nil, nil, err
		}
		seen.ZeroConf = false
		if risk, wants := order.WantsZeroConf(inst.State, seen); wants {
			have, err := lspdb.New(tx).OrderRisk(ctx)
			if err != nil {
				return nil, nil, fmt.Errorf("sum what is unconfirmed: %w", err)
			}
			cfg := e.cfg.Orders
			seen.ZeroConf = risk <= cfg.ZeroConfSat && have >= 0 && uint64(have)+uint64(risk) <= uint64(cfg.ZeroConfAllSat)
		}
		return seen, nil, nil
	})
}

// changes says that an event would change an order or ask for something: what
// does neither is not stored.
func (e *Engine) changes(s order.State, v order.Event) bool {
	next, effects, err := order.Step(s, v)
	return err == nil && (len(effects) > 0 || !reflect.DeepEqual(next, s))
}

// changing is those of the events that lead on from a state, one after the other.
func (e *Engine) changing(s order.State, events []order.Event) (out []order.Event) {
	for _, v := range events {
		if e.changes(s, v) {
			out = append(out, v)
			s, _, _ = order.Step(s, v)
		}
	}
	return out
}

// walletBehind says that lnd has told of blocks that its wallet has not taken in yet: the
// two follow the chain each by itself. What the wallet lists meanwhile is the older chain's.
func (e *Engine) walletBehind(ctx context.Context) bool {
	e.mu.Lock()
	watched := len(e.payable)+len(e.liveRefunds) > 0
	e.mu.Unlock()
	if !watched {
		return false
	}
	info, err := e.node.Events.Info(ctx)
	return err != nil || !info.SyncedToChain || info.BlockHeight < e.world.tip()
}

// lookOnceThere looks at payments again when lnd's wallet is where lnd is: a reorg that
// took one away would else be seen with the next block, and a channel opened for nothing
// before it. Nothing tells that a wallet has gone back: it is asked.
func (e *Engine) lookOnceThere(ctx context.Context) {
	turn := e.looks.Add(1)
	e.spawn(func() {
		for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
			if pace.Pause(ctx, wait) != nil {
				return
			}
			// The block after this one has somebody wait as well.
			if e.looks.Load() != turn {
				return
			}
			if !e.walletBehind(ctx) {
				e.lookAtOrders(ctx, false)
				return
			}
		}
	})
}

// ordersOnBlock tells orders and refunds of a new tip.
func (e *Engine) ordersOnBlock(ctx context.Context) {
	// Asked first: what is listed then is no older.
	behind := e.walletBehind(ctx)
	e.lookAtOrders(ctx, false)
	if behind {
		e.lookOnceThere(ctx)
	}
	// What one block changed the next must see.
	e.blockMu.Lock()
	defer e.blockMu.Unlock()
	e.mu.Lock()
	orders, refunds := keysOf(e.liveOrders), keysOf(e.liveRefunds)
	e.mu.Unlock()
	rate := e.fees.target()
	for _, id := range refunds {
		tell(e, e.refunds, id, refund.Event(refund.NewBlock{Moment: e.moment(), TargetRate: rate}))
	}
	closed := e.closedOf(ctx, orders)
	for _, id := range orders {
		inst, err := e.orders.Get(ctx, id)
		if err != nil {
			continue
		}
		e.renewOrderLeases(ctx, order.Of(inst.State))
		events := e.confirmedOf(ctx, id, inst.State)
		if closed[id] {
			events = append(events, order.ChannelClosed{Moment: e.moment()})
		}
		events = append(events, order.NewBlock{Moment: e.moment(), CloseAtEnd: e.cfg.Orders.CloseAtEnd, WarnBlocks: e.cfg.Orders.WarnBlocks})
		for _, v := range e.changing(inst.State, events) {
			tell(e, e.orders, id, v)
		}
	}
}

// confirmedOf makes up for the news of a confirmation that came before its order
// could take it, and for those of a confirmation and of a reorg that came in the
// wrong order: each is an effect of its own.
func (e *Engine) confirmedOf(ctx context.Context, id string, s order.State) []order.Event {
	o := order.Of(s)
	if o.Channel == nil || order.Final(s) {
		return nil
	}
	confirmed := o.Channel.ConfirmedHeight > 0
	inst, err := e.openings.Get(ctx, order.OpeningID(id, o.Opens))
	if errors.Is(err, store.ErrNotFound) && !confirmed && e.listsConfirmed(ctx, o.Channel.Outpoint) {
		// The database is an older copy and does not know the open.
		return []order.Event{order.OpeningConfirmed{Moment: e.moment(), OpeningID: order.OpeningID(id, o.Opens)}}
	}
	if err != nil {
		return nil
	}
	tx, ok := opening.TxOf(inst.State)
	switch {
	case ok && tx.ConfirmedHeight > 0 && !confirmed:
		return []order.Event{order.OpeningConfirmed{Moment: e.moment(), OpeningID: order.OpeningID(id, o.Opens)}}
	case ok && tx.ConfirmedHeight == 0 && confirmed:
		return []order.Event{order.OpeningReorged{Moment: e.moment(), OpeningID: order.OpeningID(id, o.Opens)}}
	}
	return nil
}

// listsConfirmed says that lnd lists a channel whose funding is in a block.
func (e *Engine) listsConfirmed(ctx context.Context, op ln.Outpoint) bool {
	channels, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return false
	}
	for _, c := range channels {
		if c.Outpoint == op {
			return !c.ZeroConf || c.ConfirmedSCID != 0
		}
	}
	return false
}

// closedOf finds orders whose channel lnd lists no more: this process may have
// been away when it was closed.
func (e *Engine) closedOf(ctx context.Context, orders []string) map[string]bool {
	wanted := make(map[ln.Outpoint]string)
	for _, id := range orders {
		inst, err := e.orders.Get(ctx, id)
		if err != nil {
			continue
		}
		if op, listed := order.ChannelOf(inst.State); listed {
			wanted[op] = id
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	pending, err := e.node.Channels.PendingChannels(ctx)
	if err != nil {
		return nil
	}
	open, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return nil
	}
	closed := make(map[string]bool, len(wanted))
	for _, id := range wanted {
		closed[id] = true
	}
	for _, p := range pending {
		if p.Kind == ln.PendingOpen {
			delete(closed, wanted[p.Outpoint])
		}
	}
	for _, c := range open {
		delete(closed, wanted[c.Outpoint])
	}
	return closed
}

// keepCoins leases coins for as long as a lease lasts; blocks renew it. A coin
// that is not in the wallet any more is passed over: what is spent needs no
// lease.
func (e *Engine) keepCoins(ctx context.Context, lease [32]byte, coins []ln.Outpoint, level zapcore.Level) error {
	for _, op := range coins {
		err := e.node.Coins.LeaseCoin(ctx, lease, op, leaseFor)
		if errors.Is(err, ln.ErrUnavailable) {
			return err
		}
		if err != nil {
			e.log.Log(level, "a payment of an order could not be leased", zap.Stringer("outpoint", op), zap.Error(err))
		}
	}
	return nil
}

func (e *Engine) freeCoins(ctx context.Context, f order.FreeCoins) error {
	if len(f.Coins) == 0 {
		_, err := leases.Release(ctx, e.node.Coins, f.LeaseID)
		return err
	}
	for _, op := range f.Coins {
		if err := e.node.Coins.ReleaseCoin(ctx, f.LeaseID, op); err != nil {
			return err
		}
	}
	return nil
}

// renewOrderLeases keeps what pays an order until it is the gateway's or is on
// its way back. One that came back is leased again here.
func (e *Engine) renewOrderLeases(ctx context.Context, o order.Order) {
	for _, op := range order.Missing(o) {
		if err := e.node.Coins.ReleaseCoin(ctx, order.LeaseID(o.ID), op); err != nil && ctx.Err() == nil {
			e.log.Debug("the lease of a payment that left the chain could not be given back", zap.String("order", o.ID), zap.Error(err))
		}
	}
	kept := order.Kept(o)
	if len(kept) == 0 {
		return
	}
	// What is on its way back is spent, as a rule.
	if err := e.keepCoins(ctx, order.LeaseID(o.ID), kept, zapcore.DebugLevel); err != nil && ctx.Err() == nil {
		e.log.Warn("a lease could not be renewed", zap.String("order", o.ID), zap.Error(err))
	}
	// What the order has let go of meanwhile, nobody would free before the lease ends.
	var still []ln.Outpoint
	switch inst, err := e.orders.Get(ctx, o.ID); {
	case err == nil && !order.Final(inst.State):
		still = order.Kept(order.Of(inst.State))
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return // the next block renews, or finds it over
	}
	for _, op := range kept {
		if slices.Contains(still, op) {
			continue
		}
		if err := e.node.Coins.ReleaseCoin(ctx, order.LeaseID(o.ID), op); err != nil && ctx.Err() == nil {
			e.log.Warn("the lease of a coin that an order has let go of could not be given back; it ends by itself", zap.String("order", o.ID), zap.Error(err))
		}
	}
}
