package engine

import (
	"bytes"
	"context"
	"errors"

	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// signature is what the wallet makes of a funding transaction while the peer signs
// its commitment. It is good until the next block, which may spend one of the coins: a
// wallet that is asked then refuses, and the open ends instead of being signed in vain.
type signature struct {
	done chan struct{}
	raw  []byte
	err  error
}

// signAhead asks for a signature before Sign does. lnd keeps nothing of it, and here it
// stays in memory: a transaction is stored and published only by Sign, when lnd holds
// the peer's signature.
func (e *Engine) signAhead(psbt []byte, op ln.Outpoint) {
	s := &signature{done: make(chan struct{})}
	e.mu.Lock()
	e.signatures[op] = s
	e.mu.Unlock()
	e.spawn(func() {
		defer close(s.done)
		s.raw, s.err = e.node.Chain.FinalizePsbt(e.ctx, psbt)
	})
}

func (e *Engine) takeSignature(op ln.Outpoint) *signature {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.signatures[op]
	delete(e.signatures, op)
	return s
}

// finalize gives what was signed ahead. A failure then says nothing of now: it asks
// again.
func (e *Engine) finalize(ctx context.Context, psbt []byte, op ln.Outpoint) ([]byte, error) {
	if s := e.takeSignature(op); s != nil {
		select {
		case <-s.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if s.err == nil {
			return s.raw, nil
		}
	}
	return e.node.Chain.FinalizePsbt(ctx, psbt)
}

func (e *Engine) sign(ctx context.Context, f opening.Sign) ([]opening.Event, error) {
	switch why, err := e.signedInVain(ctx, f.OpeningID); {
	case err != nil:
		return nil, err
	case why != "" && e.published(ctx, f.Outpoint) == nil:
		return []opening.Event{opening.SigningFailed{Moment: e.moment(), Text: why}}, nil
	}
	ev, err := e.signFunding(ctx, f.Psbt, f.Outpoint)
	if err != nil {
		return nil, err
	}
	return []opening.Event{ev}, nil
}

// signFunding has the wallet sign: FundingSigned or SigningFailed.
func (e *Engine) signFunding(ctx context.Context, psbt []byte, op ln.Outpoint) (opening.Event, error) {
	raw, err := e.finalize(ctx, psbt, op)
	if errors.Is(err, ln.ErrUnavailable) {
		return nil, err
	}
	if err != nil {
		if known := e.published(ctx, op); known != nil {
			return opening.FundingSigned{Moment: e.moment(), TxID: op.TxID, Raw: known}, nil
		}
		return opening.SigningFailed{Moment: e.moment(), Text: err.Error()}, nil //nolint:nilerr // the refusal is the event
	}
	var tx wire.MsgTx
	if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
		return opening.SigningFailed{Moment: e.moment(), Text: "the wallet's transaction cannot be read: " + err.Error()}, nil //nolint:nilerr // the refusal is the event
	}
	return opening.FundingSigned{Moment: e.moment(), TxID: ln.TxID(tx.TxHash()), Raw: raw}, nil
}
