package lookout

import (
	"context"
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/watchtower/blob"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/watchtower"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
)

// step searches the block after the tip, or goes back to where the chain forked.
// It says whether there may be more to do at once.
func (l *Lookout) step(ctx context.Context) (progress bool, err error) {
	if l.unsure {
		if err := l.load(ctx); err != nil {
			return false, err
		}
		l.unsure, l.pending = false, l.due()
	}
	best, err := l.cfg.Chain.Best(ctx)
	if err != nil {
		return false, err
	}
	stays, err := l.stands(ctx, best)
	if err != nil {
		return false, err
	}
	if !stays {
		return true, l.rewind(ctx, best)
	}
	if best <= l.tip.Height {
		l.look(func(v *View) { v.Best, v.At, v.Problem = best, l.cfg.Now(), "" })
		return false, nil
	}
	hash, err := l.cfg.Chain.BlockHash(ctx, l.tip.Height+1)
	if err != nil {
		return false, err
	}
	block, err := l.cfg.Chain.Block(ctx, hash)
	if err != nil {
		return false, err
	}
	if got := block.BlockHash(); got != hash {
		return false, fmt.Errorf("lnd gave block %s for %s", got, hash)
	}
	if block.Header.PrevBlock != l.tip.Hash {
		// The chain changed between two questions: the next step sees how.
		return true, nil
	}
	at := watchtower.Point{Height: l.tip.Height + 1, Hash: hash}
	if err := l.search(ctx, at, block); err != nil {
		return false, err
	}
	l.look(func(v *View) {
		v.Best, v.Problem = best, ""
		if best <= l.tip.Height {
			v.At = l.cfg.Now()
		}
	})
	return true, nil
}

// stands says whether the tip is in the best chain.
func (l *Lookout) stands(ctx context.Context, best int32) (bool, error) {
	if best < l.tip.Height {
		return false, nil
	}
	hash, err := l.cfg.Chain.BlockHash(ctx, l.tip.Height)
	return hash == l.tip.Hash, err
}

// rewind goes back to the highest block that was searched and is in the best
// chain. What blocks above it said is taken back; they are searched as they are
// now.
func (l *Lookout) rewind(ctx context.Context, best int32) error {
	lowest, ok, err := l.cfg.Store.Lowest(ctx)
	if err != nil {
		return err
	}
	if !ok {
		return errors.New("the tower has forgotten its blocks")
	}
	height := min(best, l.tip.Height)
	for ; height >= lowest.Height; height-- {
		hash, err := l.cfg.Chain.BlockHash(ctx, height)
		if err != nil {
			return err
		}
		known, ok, err := l.cfg.Store.BlockAt(ctx, height)
		if err != nil {
			return err
		}
		if ok && known.Hash == hash {
			return l.rewindTo(ctx, known)
		}
	}
	// Deeper than what is remembered, or lnd's backend is still far behind: the
	// latter must not move the tip.
	if best < lowest.Height {
		return fmt.Errorf("the chain's height is %d, below every block that the tower remembers: is lnd's backend in sync?", best)
	}
	hash, err := l.cfg.Chain.BlockHash(ctx, lowest.Height-1)
	if err != nil {
		return err
	}
	l.cfg.Log.Error("the chain differs from all blocks that the tower remembers: it searches from below them", zap.Int32("height", lowest.Height))
	return l.rewindTo(ctx, watchtower.Point{Height: lowest.Height - 1, Hash: hash})
}

func (l *Lookout) rewindTo(ctx context.Context, to watchtower.Point) error {
	now := l.cfg.Now()
	var changed []tower.Told
	takeBack := func(b watchtower.Breach) {
		if b.Rewound(to.Height, now) {
			changed = append(changed, tower.Told{Breach: b, Text: fmt.Sprintf("The chain was reorganised at block %d: what blocks above it showed is taken back.", to.Height)})
		}
	}
	for _, b := range l.open {
		takeBack(*b)
	}
	buried, err := l.cfg.Store.BuriedAbove(ctx, to.Height)
	if err != nil {
		return err
	}
	for _, b := range buried {
		if _, err := decode(&b); err != nil {
			l.cfg.Log.Error("a breach that was buried is not taken up again", zap.Error(err))
			continue
		}
		takeBack(b)
	}
	if err := l.cfg.Store.Rewind(ctx, to, changed); err != nil {
		l.unsure = true
		return err
	}
	for i := range changed {
		if b := &changed[i].Breach; l.open[b.ID] == nil {
			if err := l.add(b); err != nil {
				return err
			}
		}
	}
	l.cfg.Log.Warn("the chain was reorganised", zap.Int32("from", l.tip.Height), zap.Int32("to", to.Height))
	l.metrics.reorgs.Inc()
	l.tip = to
	l.take(changed)
	l.pending = l.due()
	return nil
}

// search looks for breaches and for spends of their outputs in a block, stores
// both with the block, and only then hands out.
func (l *Lookout) search(ctx context.Context, at watchtower.Point, block *wire.MsgBlock) error {
	began := l.cfg.Now()
	byHint := make(map[blob.BreachHint]*wire.MsgTx, len(block.Transactions))
	hints := make([]blob.BreachHint, 0, len(block.Transactions))
	for _, tx := range block.Transactions {
		txid := tx.TxHash()
		hint := blob.NewBreachHintFromHash(&txid)
		byHint[hint] = tx
		hints = append(hints, hint)
	}
	matches, err := l.cfg.Store.Matches(ctx, hints)
	if err != nil {
		return err
	}
	c := l.newChanges()
	for _, m := range matches {
		if err := c.found(ctx, m, byHint[m.Hint], at); err != nil {
			return err
		}
	}
	for _, tx := range block.Transactions {
		if err := c.spends(tx, at); err != nil {
			return err
		}
	}
	c.settle(at.Height, l.cfg.Depths)
	told := c.told()
	told.At, told.Keep = at, at.Height-window
	if err := l.cfg.Store.Commit(ctx, told); err != nil {
		l.unsure = true
		return err
	}
	l.tip = at
	for _, id := range c.opened {
		if b := &c.byID[id].Breach; !b.Final {
			if err := l.add(b); err != nil {
				return err
			}
			l.pending = append([]watchtower.BreachID{b.ID}, l.pending...)
		}
	}
	for _, t := range told.New {
		l.cfg.Log.Warn("breach found", zap.Int64("tenant", t.Tenant), zap.Stringer("commitment", t.CommitTx), zap.String("state", string(t.State)), zap.String("text", t.Text))
	}
	l.take(told.Changed)
	l.handOut()
	l.metrics.searched(len(matches), l.cfg.Now().Sub(began))
	return nil
}

// changes are what a block does to breaches, before it is durable.
type changes struct {
	l     *Lookout
	byID  map[watchtower.BreachID]*tower.Told
	order []watchtower.BreachID
	isNew map[watchtower.BreachID]bool
	// opened are new, or were over and are not any more.
	opened  []watchtower.BreachID
	watched map[wire.OutPoint][]watchtower.BreachID
}

func (l *Lookout) newChanges() *changes {
	return &changes{
		l: l, byID: map[watchtower.BreachID]*tower.Told{}, isNew: map[watchtower.BreachID]bool{}, watched: map[wire.OutPoint][]watchtower.BreachID{},
	}
}

// of gives the copy of a breach that the block changes; nil for one that is not
// open.
func (c *changes) of(id watchtower.BreachID) *tower.Told {
	if t := c.byID[id]; t != nil {
		return t
	}
	b := c.l.open[id]
	if b == nil {
		return nil
	}
	return &tower.Told{Breach: *b}
}

func (c *changes) put(t *tower.Told, text string) {
	if c.byID[t.ID] == nil {
		c.byID[t.ID], c.order = t, append(c.order, t.ID)
	}
	if t.Text != "" && text != "" {
		text = t.Text + " " + text
	}
	t.Text = text
}

// found takes in a match: a new breach, or one that is known from a block that
// left the chain.
func (c *changes) found(ctx context.Context, m tower.Match, commit *wire.MsgTx, at watchtower.Point) error {
	now := c.l.cfg.Now()
	b, text := judge(m, commit, at, now)
	if t := c.of(b.ID); t != nil {
		if t.SeenAgain(at, now) {
			c.put(t, fmt.Sprintf("The commitment is in block %d again.", at.Height))
		}
		return nil
	}
	known, ok, err := c.l.cfg.Store.Known(ctx, b.ID)
	if err != nil {
		return err
	}
	if ok {
		if !known.SeenAgain(at, now) {
			return nil // it is over
		}
		b, text = known, fmt.Sprintf("The commitment, which was not waited for any longer, is in block %d: the case is open again.", at.Height)
	} else {
		c.isNew[b.ID] = true
	}
	justice, err := decode(&b)
	if !b.Final && err != nil {
		told := c.l.unreadable(b, err)
		b, text = told.Breach, told.Text
	}
	c.put(&tower.Told{Breach: b}, text)
	if b.Final {
		return nil
	}
	c.opened = append(c.opened, b.ID)
	for _, in := range justice.TxIn {
		c.watched[in.PreviousOutPoint] = append(c.watched[in.PreviousOutPoint], b.ID)
	}
	return nil
}

// spends takes in a transaction that takes outputs of breaches.
func (c *changes) spends(tx *wire.MsgTx, at watchtower.Point) error {
	seen := map[watchtower.BreachID]bool{}
	for _, in := range tx.TxIn {
		for _, ids := range [][]watchtower.BreachID{c.l.watched[in.PreviousOutPoint], c.watched[in.PreviousOutPoint]} {
			for _, id := range ids {
				t := c.of(id)
				if seen[id] || t == nil || t.Final {
					continue
				}
				seen[id] = true
				if err := c.spent(t, tx, at); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (c *changes) spent(t *tower.Told, tx *wire.MsgTx, at watchtower.Point) error {
	justice, err := decode(&t.Breach)
	if err != nil {
		return err
	}
	s := watchtower.Spend{At: at, TxID: tx.TxHash(), Path: pathOf(&t.Breach, justice, tx)}
	if t.Spend.At.Height > 0 && t.Spend.Path == watchtower.ByCheater {
		return nil // what happened to the other output does not undo the loss
	}
	if err := t.Breach.Spent(s, c.l.cfg.Now()); err != nil {
		return err
	}
	switch s.Path {
	case watchtower.ByJustice:
		c.put(t, fmt.Sprintf("The justice transaction is in block %d.", at.Height))
	case watchtower.ByVictim:
		c.put(t, fmt.Sprintf("The victim's own transaction %s took the outputs in block %d; ours is pointless.", s.TxID, at.Height))
	default:
		c.put(t, fmt.Sprintf("The cheater took its output with %s in block %d, before the justice transaction was in a block.", s.TxID, at.Height))
	}
	return nil
}

// settle ends what is over.
func (c *changes) settle(tip int32, depths watchtower.Depths) {
	now := c.l.cfg.Now()
	ids := append([]watchtower.BreachID{}, c.order...)
	for id := range c.l.open {
		if c.byID[id] == nil {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		if t := c.of(id); t.Settle(tip, depths, now) {
			c.put(t, settledText(t.Breach))
		}
	}
}

func settledText(b watchtower.Breach) string {
	if b.State == watchtower.Vanished {
		return "The commitment left the chain and did not come back: it is not waited for any longer."
	}
	return "That is buried: the case is closed."
}

func (c *changes) told() tower.Searched {
	var out tower.Searched
	for _, id := range c.order {
		if c.isNew[id] {
			out.New = append(out.New, *c.byID[id])
		} else {
			out.Changed = append(out.Changed, *c.byID[id])
		}
	}
	return out
}
