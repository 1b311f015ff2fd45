package engine

import (
	"context"
	"slices"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws"
	"github.com/sluice-lsp/sluice/lws/hold"
)

// judge makes the event of an HTLC that came: until when it may wait, and whether it may;
// evict are payments that have to make room for it.
func (e *Engine) judge(client ln.PubKey, w lws.Wish, registered bool, id string, h ln.InterceptedHtlc, again bool) (v hold.Offered, evict []string, err error) {
	final := w.FinalCltvDelta
	if !registered {
		final = e.opt.Limits.MaxFinal
	}
	if e.opt.Expected != nil {
		announced, err := e.opt.Expected.Expected(e.ctx, client, h.Hash)
		if err != nil {
			return v, nil, err
		}
		if announced != 0 {
			final = announced
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	v = hold.Offered{
		Moment: hold.Moment{At: e.opt.Now().UTC(), Height: e.height},
		Part:   hold.Part{Key: h.Key, AmountMsat: h.IncomingMsat, Over: h.OutgoingSCID, FailHeight: lws.FailHeight(h, e.height, final, e.opt.MarginBlocks)},
	}
	v.Part.SatBlocks = lws.SatBlocks(h.IncomingMsat, e.height, v.Part.FailHeight)
	if again || !registered {
		// It counts already, or it is a part of what does.
		return v, nil, nil
	}
	n := lws.Htlc{Payment: id, Client: client, Incoming: h.Key.ChanID, Msat: h.IncomingMsat, SatBlocks: v.Part.SatBlocks, Since: v.At}
	delete(e.admitted, h.Key) // of an earlier try
	fee := h.IncomingMsat - min(h.IncomingMsat, h.OutgoingMsat)
	a := e.opt.Limits.Admit(w, e.waiting(), n, fee, v.At)
	if v.Refusal = a.Refusal; a.Refusal == "" {
		e.admitted[h.Key] = n
	}
	return v, a.Evict, nil
}

// waiting is what counts for limits (under mu).
func (e *Engine) waiting() []lws.Htlc {
	out := make([]lws.Htlc, 0, len(e.byKey)+len(e.admitted))
	for key, h := range e.admitted {
		if _, stored := e.byKey[key]; !stored {
			out = append(out, h)
		}
	}
	for id, p := range e.live {
		for _, part := range p.Parts {
			stays := e.paying[part.Key]
			if e.decided[id] && !stays {
				continue
			}
			out = append(out, lws.Htlc{
				Payment: id, Client: p.Client, Incoming: part.Key.ChanID, Msat: part.AmountMsat, SatBlocks: part.SatBlocks, Since: p.Since, Stays: stays,
			})
		}
	}
	return out
}

// makeRoom sends payments back. It says whether to judge again: one of them may have gone
// another way meanwhile.
func (e *Engine) makeRoom(evict []string) (again bool) {
	for _, id := range evict {
		e.log.Info("a payment that waits goes back, to make room for another", zap.String("hold", id))
		if err := e.tell(id, hold.SentBack{Moment: e.moment(), Reason: "a limit was near, and it was the oldest of those that take most"}); err != nil {
			again = true
		}
	}
	return again
}

// Expect takes a wallet's word about one of its invoices.
func (e *Engine) Expect(ctx context.Context, client ln.PubKey, x lws.Expected) error {
	now := e.opt.Now()
	if _, registered := e.Wish(client); !registered || e.opt.Expected == nil {
		return errkind.New(errkind.Conflict, "your node is not registered for holds: register first")
	}
	if err := e.opt.Limits.CheckExpected(x, now); err != nil {
		return err
	}
	taken, err := e.opt.Expected.PutExpected(ctx, client, x, e.opt.Limits.Expected, now)
	if err == nil && !taken {
		err = errkind.Newf(errkind.Exhausted, "%d invoices of yours are announced already: wait until some expire", e.opt.Limits.Expected)
	}
	return err
}

// Return sends a payment that waits for this wallet back to its payer.
func (e *Engine) Return(ctx context.Context, client ln.PubKey, id string) error {
	p, known := e.payment(id)
	if !known && e.opt.Others != nil {
		return e.opt.Others.Return(ctx, client, id)
	}
	if !known || p.Client != client {
		return errkind.New(errkind.NotFound, "no such payment waits for your node")
	}
	_, err := e.holds.Send(ctx, id, hold.SentBack{Moment: e.moment(), Reason: "the wallet sent it back"})
	if err != nil {
		return errkind.Wrap(errkind.Conflict, err, "the payment does not wait any more: it is being handed on, or goes back already")
	}
	return nil
}

// Terms are what the gateway offers wallets.
func (e *Engine) Terms() lws.Limits { return e.opt.Limits }

// Waiting is what waits for a wallet that is offline, oldest first: what it was told
// while it did not listen.
func (e *Engine) Waiting(client ln.PubKey) []Waiting {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []hold.Payment
	for id, p := range e.live {
		if p.Client == client && !e.decided[id] {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b hold.Payment) int { return a.Since.Compare(b.Since) })
	words := make([]Waiting, 0, len(out))
	for _, p := range out {
		words = append(words, Waiting{PaymentID: p.ID, Client: p.Client, Hash: p.Hash, AmountMsat: p.AmountMsat(), Until: p.Until})
	}
	return words
}
