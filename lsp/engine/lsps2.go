package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// LSPS2 is the engine as bLIP-52 speaks to it.
type LSPS2 struct{ *Engine }

// htlcMinimum is lnd's least HTLC, of which every part that is forwarded must
// leave as much.
const htlcMinimum ln.Msat = 1_000

// Menu implements lsps2.Service. While no channels are offered the menu is
// empty, as bLIP-52 has it.
func (l LSPS2) Menu(ctx context.Context, client ln.PubKey, token string) ([]lsp.OpeningFeeParams, error) {
	menu, err := l.MenuFor(ctx, client, token)
	return menu.Items, err
}

// Buy implements lsps2.Service: it agrees on a channel for one payment, whose
// fee is withheld from what is forwarded. To buy is to agree to another channel;
// all the same none is opened, and nothing withheld, where those that the client
// has can take the payment when it comes.
func (l LSPS2) Buy(ctx context.Context, client ln.PubKey, r lsps2.BuyRequest) (lsps2.BuyResult, error) {
	e, now := l.Engine, l.opt.Now()
	if err := e.checkParams(ctx, client, r.Params, now); err != nil {
		return lsps2.BuyResult{}, err
	}
	terms := jit.Withhold{SizeMsat: r.SizeMsat}
	// Of a payment that may have any size the least is reckoned with; each limit
	// is asked again when it has come.
	least := r.Params.MinPaymentSizeMsat
	if r.HasSize {
		var err error
		if terms.FeeMsat, err = lsps2.CheckSize(r.Params, r.SizeMsat, htlcMinimum); err != nil {
			return lsps2.BuyResult{}, err
		}
		least = r.SizeMsat - terms.FeeMsat
	}
	if err := e.checkInbound(ctx, max(r.SizeMsat, least)); err != nil {
		return lsps2.BuyResult{}, err
	}
	fee := max(terms.FeeMsat, r.Params.MinFeeMsat)
	wish := Wish{ZeroConf: true, AllowAnother: true}
	asked, err := e.sizeOffer(ctx, least, fee, wish, 0)
	if err != nil {
		return lsps2.BuyResult{}, err
	}
	trusts, err := e.WantsTrust(ctx, client)
	if err != nil {
		return lsps2.BuyResult{}, err
	}
	// Whoever is refused shall cost no claim.
	if err := e.admitsNow(ctx, client, asked); err != nil {
		return lsps2.BuyResult{}, err
	}
	id, err := e.newID()
	if err != nil {
		return lsps2.BuyResult{}, err
	}
	scid, err := e.newSCID()
	if err != nil {
		return lsps2.BuyResult{}, err
	}
	// The hash is the payer's and the client's; until it is known the index has
	// one in its place that no payment has.
	var placeholder ln.Hash
	if _, err := io.ReadFull(e.opt.Random, placeholder[:]); err != nil {
		return lsps2.BuyResult{}, fmt.Errorf("draw a placeholder: %w", err)
	}
	offer := jit.Offer{Terms: jit.Terms{
		ID: id, Client: client, SCID: scid,
		Part: lsp.PartTerms{
			AmountMsat: r.SizeMsat, CltvDelta: e.cfg.CltvDelta, FinalCltvDelta: minFinalCltv,
			HtlcMinimumMsat: htlcMinimum, MaxParts: e.cfg.MaxParts,
		},
		Withhold: &terms, Params: r.Params, ZeroConf: true, ClientTrusts: trusts, MayOpenMore: true,
		ExpiresAt: r.Params.ValidUntil, CollectFor: max(e.cfg.CollectFor, collectAtLeast), OpenFor: e.cfg.OpenFor, MapFor: e.cfg.MapFor,
		HoldMarginBlocks: e.cfg.HoldMarginBlocks, MaxOpens: e.cfg.MaxOpens,
	}}
	if err := e.claim(ctx, scid, offer.ExpiresAt.Add(time.Hour)); err != nil {
		return lsps2.BuyResult{}, errkind.Wrap(errkind.Unavailable, err, "the gateway cannot hold payments at the moment: try again shortly")
	}
	err = e.db.WriteTogether(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := e.indexAgreement(ctx, tx, client, asked, lspdb.InsertPaymentParams{
			ID: id, Machine: machineJit, PaymentHash: placeholder[:], JitScid: scid.Bytes(),
			AmountMsat: int64(r.SizeMsat), FeeMsat: int64(terms.FeeMsat), //nolint:gosec // bounded by MaxMsat
			ExpiresMs: offer.ExpiresAt.UnixMilli(),
		}); err != nil {
			return err
		}
		_, err := e.jits.CreateTx(ctx, tx, id, jit.Offered{Offer: offer}, jit.Start{Moment: e.moment()})
		return err
	})
	if err != nil {
		// After a commit whose outcome is unknown it may exist all the same.
		if _, lookErr := e.jits.Get(e.ctx, id); errors.Is(lookErr, store.ErrNotFound) {
			e.releaseClaim(scid)
		}
		return lsps2.BuyResult{}, err
	}
	return lsps2.BuyResult{SCID: scid, CltvExpiryDelta: e.cfg.CltvDelta, ClientTrustsLSP: trusts}, nil
}

const (
	// minFinalCltv is the least that any node asks for as its final delta (BOLT
	// 11); what the client's invoice asks for is not told.
	minFinalCltv = 18
	// collectAtLeast is how long bLIP-52 has parts wait for their siblings.
	collectAtLeast = 90 * time.Second
)
