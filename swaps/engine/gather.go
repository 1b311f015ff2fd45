package engine

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/groupcommit"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps/in"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// book are the swaps that are not over.
type book struct {
	outs []out.State
	ins  []in.State
}

func bookOf(outs []fsm.Instance[out.State], ins []fsm.Instance[in.State]) *book {
	b := &book{outs: make([]out.State, 0, len(outs)), ins: make([]in.State, 0, len(ins))}
	for _, inst := range outs {
		b.outs = append(b.outs, inst.State)
	}
	for _, inst := range ins {
		b.ins = append(b.ins, inst.State)
	}
	return b
}

func (e *Engine) bookTx(ctx context.Context, tx *store.Tx) (*book, error) {
	outs, err := e.allLiveTx(ctx, tx)
	if err != nil {
		return nil, err
	}
	ins, err := e.liveInsTx(ctx, tx)
	if err != nil {
		return nil, err
	}
	return bookOf(outs, ins), nil
}

// outMost is the largest swap out that there is room for. Questions that come while
// one is being answered share the next answer: it is asked for after they came.
func (e *Engine) outMost(ctx context.Context) (ln.Sat, error) {
	return e.rooms.Ask(ctx, e.spawnForCall, func() (most ln.Sat, err error) {
		ctx, cancel := context.WithTimeout(e.ctx, roomFor)
		defer cancel()
		room, err := e.outRoom(ctx)
		if err != nil {
			return 0, err
		}
		err = e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
			b, err := e.bookTx(ctx, tx)
			if err != nil {
				return err
			}
			most, _, err = e.outFree(b, room, "")
			return err
		})
		return most, err
	})
}

// roomFor bounds one such answer.
const roomFor = 20 * time.Second

// offering is a swap out that waits to be stored.
type offering struct {
	plan out.Plan
	node room
	// refused is why it is not offered, set in the transaction that stores the others.
	refused error
}

// offers says how swaps out that are begun at the same time share a commit, and one
// look at what is promised to others.
func (e *Engine) offers() groupcommit.Config[*offering] {
	return groupcommit.Config[*offering]{
		Jobs: 100, Queued: 1_000, Timeout: 20 * time.Second, Apply: e.storeOffers, Log: e.log,
		OneAtFault: func(err error) bool { return errors.Is(err, store.ErrUnique) },
	}
}

func (e *Engine) storeOffers(ctx context.Context, jobs ...*offering) error {
	return e.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		b, err := e.bookTx(ctx, tx)
		if err != nil {
			return err
		}
		taken := map[string]bool{}
		for _, o := range jobs {
			id := o.plan.ID()
			o.refused = nil
			for _, err := range []error{unused(e.ins.GetTx(ctx, tx, id)), unused(e.outs.GetTx(ctx, tx, id))} {
				if err != nil && !errors.Is(err, store.ErrUnique) {
					return err
				}
				if err != nil || taken[id] {
					o.refused = errUsedHash
				}
			}
			if o.refused == nil {
				o.refused = e.admitOut(b, o)
			}
			if o.refused != nil {
				continue
			}
			switch err := payhash.Claim(ctx, tx, o.plan.Terms.Hash, "swap_out/"+id); {
			case errors.Is(err, payhash.ErrTaken):
				o.refused = err
				continue
			case err != nil:
				return err
			}
			s, err := e.outs.CreateTx(ctx, tx, id, out.Offered{Plan: o.plan}, out.Start{Moment: e.moment()})
			if err != nil {
				return err
			}
			b.outs, taken[id] = append(b.outs, s), true
		}
		return nil
	})
}

// admitOut holds the limits against everything that is promised, the others of the
// same commit included.
func (e *Engine) admitOut(b *book, o *offering) error {
	free, own, err := e.outFree(b, o.node, o.plan.Caller)
	if err != nil {
		return err
	}
	if err := own.check(o.plan.AmountSat, e.cfg); err != nil {
		return err
	}
	if o.plan.AmountSat > free {
		return noRoom()
	}
	return nil
}
