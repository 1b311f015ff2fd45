package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// Channels that another service of this gateway wants for its own clients: it
// names them, waits for them and pays over them itself. They are opened like any
// other, within the same limits, and count as unpaid until it says otherwise.

// ForeignOpen is such a channel. The names must be new, and sort by time.
type ForeignOpen struct {
	OpeningID, PaymentID string
	Client               ln.PubKey
	// AmountMsat is what is to be paid over it, FeeMsat what its client pays for it.
	AmountMsat, FeeMsat ln.Msat
	// Confs are those of the funding transaction, at least one.
	Confs uint32
}

// NotOpenedError says that there is no such channel: with Begun because its open
// failed, so that this name is spent; otherwise because none was begun.
type NotOpenedError struct {
	Reason lsp.Reason
	Begun  bool
}

func (e *NotOpenedError) Error() string { return e.Reason.Text }

// PriceForeign is what a channel would cost through which a client receives size
// less that fee, and how large it would be; refused as any offer is that cannot be
// made now. Nothing is promised by it.
func (e *Engine) PriceForeign(ctx context.Context, client ln.PubKey, size ln.Msat) (fee ln.Msat, capacity ln.Sat, err error) {
	base, err := e.menus.of("", e.opt.Now())
	if err != nil {
		return 0, 0, err
	}
	items, err := e.prices(e.fees.current(), base)
	if err != nil {
		return 0, 0, err
	}
	var quote lsp.Quote
	for _, item := range items {
		if quote, err = item.QuoteReceiverPays(size); err == nil {
			break
		}
	}
	if err != nil {
		return 0, 0, err
	}
	asked, err := e.sizeOffer(ctx, quote.WalletMsat, quote.FeeMsat, Wish{AllowAnother: true}, 0)
	if err != nil {
		return 0, 0, err
	}
	return quote.FeeMsat, asked.capacity, e.admitsNow(ctx, client, asked)
}

// OpenForeign begins the open, or finds it, and returns once payments can be
// entrusted to the channel; *NotOpenedError if that will never be.
func (e *Engine) OpenForeign(ctx context.Context, f ForeignOpen) (ln.SCID, error) {
	if e.opt.Restored {
		notice, forgotten, err := e.forgottenChannel(ctx, machineSwap, f.PaymentID, f.OpeningID)
		if err != nil || forgotten {
			return notice.ChanID, err
		}
	}
	_, err := e.openings.Get(ctx, f.OpeningID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		if !e.world.online(f.Client) {
			return 0, &NotOpenedError{Reason: lsp.Because(lsp.ReasonWalletOffline, "the wallet is not connected: the channel is opened when it is")}
		}
		refused, err := e.beginOpening(ctx, machineSwap, f.PaymentID, f.OpeningID, openingWish{
			client: f.Client, amountMsat: f.AmountMsat, feeMsat: f.FeeMsat, confs: max(f.Confs, 1), maxLocalCSV: lndMaxCSV, openFor: e.cfg.OpenFor,
		})
		if err != nil {
			return 0, err
		}
		if !refused.IsZero() {
			return 0, &NotOpenedError{Reason: refused}
		}
	case err != nil:
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	states, err := e.openings.Watch(ctx, f.OpeningID)
	if err != nil {
		return 0, err
	}
	for t := range states {
		notice, ok := opening.NoticeFor(t.To)
		switch {
		case !ok:
		case notice.Notice == opening.NoticeUsable:
			return notice.ChanID, nil
		case opening.Final(t.To):
			return 0, &NotOpenedError{Reason: opening.ReasonOf(t.To), Begun: true}
		}
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return 0, errkind.New(errkind.Unavailable, "the gateway is stopping: try again in a few seconds")
}

// AbandonForeign gives an open up that nothing was published of.
func (e *Engine) AbandonForeign(ctx context.Context, openingID, why string) error {
	return e.abandonOpening(ctx, openingID, lsp.Because(lsp.ReasonCancelled, "%s", why))
}

// ForeignPaid takes note that the client paid for what was opened for a payment.
func (e *Engine) ForeignPaid(ctx context.Context, paymentID string, client ln.PubKey) error {
	return e.db.WriteFenced(ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) error {
		// Without a fee nothing older is taken for paid, however often this runs.
		if err := e.settleDebt(ctx, tx, paymentID, client, 0); err != nil {
			return fmt.Errorf("channel of %s: %w", paymentID, err)
		}
		return nil
	})
}
