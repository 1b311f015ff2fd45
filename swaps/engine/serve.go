package engine

import (
	"context"
	"crypto/subtle"
	"errors"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// errNoSwap is one answer for a swap that is not there and for one that is
// somebody else's.
var errNoSwap = errkind.New(errkind.NotFound, "there is no such swap, or it is not yours")

// PushPreimage takes a client's preimage and returns once the payment is
// settled: stock clients ask for their signature a second later, once.
func (e *Engine) PushPreimage(ctx context.Context, preimage ln.Preimage) error {
	id := preimage.Hash().String()
	s, err := e.outs.Send(ctx, id, out.PreimagePushed{Moment: e.moment(), Preimage: swaps.NewSecret(preimage)})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return errNoSwap
	case errors.Is(err, fsm.ErrIllegal):
		inst, getErr := e.outs.Get(ctx, id)
		if getErr != nil {
			return getErr
		}
		if out.MayCosign(inst.State) {
			return nil
		}
		return errkind.New(errkind.Conflict, "this swap's output is not published, or the swap is over: keep the preimage to yourself")
	case err != nil:
		return err
	case out.MayCosign(s):
		return nil
	}
	s, err = e.await(ctx, id, func(s out.State) bool { return out.MayCosign(s) || out.Final(s) })
	if err != nil {
		return err
	}
	if !out.MayCosign(s) {
		return errkind.New(errkind.Conflict, "the payment of this swap was given back before the preimage came: "+out.ReasonOf(s).Text)
	}
	return nil
}

// owned finds a swap whose client proves to be its own by the payment address
// of its invoice, which only the payer learns.
func (e *Engine) owned(ctx context.Context, hash ln.Hash, paymentAddr []byte) (out.State, error) {
	inst, err := e.outs.Get(ctx, hash.String())
	if errors.Is(err, store.ErrNotFound) {
		return nil, errNoSwap
	}
	if err != nil {
		return nil, err
	}
	invoices, ok := out.InvoicesOf(inst.State)
	if !ok || subtle.ConstantTimeCompare(invoices.PaymentAddr[:], paymentAddr) != 1 {
		return nil, errNoSwap
	}
	return inst.State, nil
}

// CancelOut gives a swap up at its client's wish.
func (e *Engine) CancelOut(ctx context.Context, hash ln.Hash, paymentAddr []byte, why string) error {
	s, err := e.owned(ctx, hash, paymentAddr)
	if err != nil {
		return err
	}
	switch s.(type) {
	case out.Cancelling, out.Cancelled:
		return nil
	}
	_, err = e.outs.Send(ctx, hash.String(), out.CancelAsked{Moment: e.moment(), Text: ln.Clip(why, 100)})
	if errors.Is(err, fsm.ErrIllegal) {
		return out.ErrTooLate
	}
	return err
}

// SweepWish asks for our half of a key-path signature.
type SweepWish struct {
	Hash        ln.Hash
	PaymentAddr []byte
	Nonce       [66]byte
	Psbt        []byte
	Prevouts    []htlc.Prevout
}

// SignSweep makes our half. The output is the client's alone by then, so
// where it sends it is its own business; the same request again gets another
// nonce and is as harmless.
func (e *Engine) SignSweep(ctx context.Context, w SweepWish) (nonce [66]byte, partial [32]byte, err error) {
	s, err := e.owned(ctx, w.Hash, w.PaymentAddr)
	if err != nil {
		return nonce, partial, err
	}
	if !out.MayCosign(s) {
		return nonce, partial, errkind.New(errkind.Conflict, "the payment of this swap is not settled yet: push the preimage first")
	}
	plan := out.PlanOf(s)
	tx, _ := out.TxOf(s)
	contract, err := htlc.New(plan.Terms)
	if err != nil {
		return nonce, partial, err
	}
	hash, err := contract.SweepHash(w.Psbt, w.Prevouts, tx.Outpoint, plan.AmountSat)
	if err != nil {
		return nonce, partial, err
	}
	key, err := e.outKey(ctx, w.Hash)
	if err != nil {
		return nonce, partial, err
	}
	if key.PubKey() != plan.Terms.SenderInternal {
		return nonce, partial, errkind.New(errkind.Internal, "lnd's seed gives another key than the one of this swap")
	}
	return contract.Cosign(key, w.Nonce, hash, e.opt.Random)
}

// WatchOut tells the present state and each that follows, until the swap is
// over or ctx ends.
func (e *Engine) WatchOut(ctx context.Context, hash ln.Hash, tell func(out.State, time.Time) error) error {
	return watch(ctx, e.outs, hash, out.Final, tell)
}

func watch[S fsm.State, V fsm.Event, F fsm.Effect](
	ctx context.Context, m *fsm.Engine[S, V, F], hash ln.Hash, final func(S) bool, tell func(S, time.Time) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	states, err := m.Watch(ctx, hash.String())
	if errors.Is(err, store.ErrNotFound) {
		return errNoSwap
	}
	if err != nil {
		return err
	}
	for t := range states {
		if err := tell(t.To, t.At); err != nil {
			return err
		}
		if final(t.To) {
			return nil
		}
	}
	if ctx.Err() == nil {
		return errStopping
	}
	return nil
}
