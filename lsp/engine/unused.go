package engine

import (
	"context"
	"strings"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/liquidity"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// closesAtOnce bounds the closes of one block: each is a transaction.
const closesAtOnce = 3

// tendUnused notes which channels on demand are used, and closes those that nobody
// has used for as long as the operator says: their coins are of more use elsewhere.
func (e *Engine) tendUnused(ctx context.Context) {
	if e.cfg.Unused.AfterBlocks == 0 || !e.unusedMu.TryLock() {
		return
	}
	defer e.unusedMu.Unlock()
	if err := e.lookForUnused(ctx); err != nil && ctx.Err() == nil {
		e.log.Warn("channels that nobody uses could not be looked for; the next block tries again", zap.Error(err))
	}
}

func (e *Engine) lookForUnused(ctx context.Context) error {
	tip := e.world.tip()
	channels, err := e.node.Channels.ListChannels(ctx)
	if err != nil {
		return err
	}
	known := make(map[string]liquidity.Use)
	err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		rows, err := lspdb.New(tx).ChannelUses(ctx)
		for _, r := range rows {
			known[r.Outpoint] = liquidity.Use{RemoteSat: ln.Sat(r.RemoteSat), SinceHeight: uint32(r.SinceHeight), MinLifetime: uint32(r.MinLifetime)} //nolint:gosec // written below
		}
		return err
	})
	if err != nil {
		return err
	}
	var idle []ln.Channel
	changed := make(map[string]liquidity.Use)
	for _, c := range channels {
		if !isOnDemand(c) {
			continue
		}
		name := c.Outpoint.String()
		use, ok := known[name]
		delete(known, name)
		if !ok {
			use.MinLifetime = e.promisedLifetime(ctx, c.Outpoint)
		}
		next, moved := use.Seen(c, tip)
		if moved {
			changed[name] = next
		}
		if e.cfg.Unused.Closes(c, next, tip) && e.isFunded(c.Outpoint) && !e.isPromised(c) {
			idle = append(idle, c)
		}
	}
	if len(changed)+len(known) > 0 {
		err := e.db.WriteFenced(ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) error {
			q := lspdb.New(tx)
			for name, use := range changed {
				if err := q.PutChannelUse(ctx, lspdb.PutChannelUseParams{
					Outpoint: name, RemoteSat: int64(use.RemoteSat), SinceHeight: int64(use.SinceHeight), MinLifetime: int64(use.MinLifetime), //nolint:gosec // an amount of lnd's
				}); err != nil {
					return err
				}
			}
			// What lnd lists no more is closed.
			for name := range known {
				if err := q.DeleteChannelUse(ctx, name); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, c := range idle[:min(len(idle), closesAtOnce)] {
		rate := e.fees.target()
		if rate == 0 {
			rate = e.cfg.Fees.Floor
		}
		if err := e.node.Orders.Close(ctx, c.Outpoint, rate); err != nil {
			e.log.Warn("a channel that nobody uses could not be closed; the next block tries again", zap.Stringer("outpoint", c.Outpoint), zap.Error(err))
			continue
		}
		e.log.Info("a channel that nobody uses is closed", zap.Stringer("outpoint", c.Outpoint), zap.Stringer("client", c.Peer),
			zap.Stringer("freed", c.LocalSat), zap.Stringer("to_client", c.RemoteSat))
	}
	return nil
}

// isOnDemand tells a channel that was opened for a payment by its memo: orders have
// leases, and ids of another form; joint fundings say so.
func isOnDemand(c ln.Channel) bool {
	id, ok := strings.CutPrefix(c.Memo, openMemo(""))
	if !ok || !c.Initiator {
		return false
	}
	_, err := ulid.ParseStrict(id)
	return err == nil
}

// promisedLifetime is for how many blocks a channel was promised to stay. Of one whose
// open is not on record any more, the longest that is promised now counts.
func (e *Engine) promisedLifetime(ctx context.Context, op ln.Outpoint) uint32 {
	var id string
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		row, err := lspdb.New(tx).OpeningByOutpoint(ctx, op.String())
		id = row.ID
		return err
	})
	if err == nil {
		if inst, err := e.openings.Get(ctx, id); err == nil {
			if n := opening.PlanOf(inst.State).MinLifetimeBlocks; n > 0 {
				return n
			}
		}
	}
	return e.menus.longestLifetime()
}

// isPromised says that an agreement counts on the channel's room.
func (e *Engine) isPromised(c ln.Channel) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, all := range []map[string]spot{e.promises, e.spots} {
		for _, sp := range all {
			if sp.via == c.ChanID {
				return true
			}
		}
	}
	return false
}
