package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// Quote is what a gateway asks.
type Quote struct {
	Gateway                    string
	AmountSat, InvoiceSat      ln.Sat
	SwapFeeSat                 ln.Sat
	OpeningFeeMsat             ln.Msat
	CapacitySat                ln.Sat
	Confs, ChannelConfs        uint32
	ExpiryDelta, DepositBlocks uint32
}

// FeeSat is both fees: what is deposited and does not arrive.
func (q Quote) FeeSat() ln.Sat { return q.AmountSat - min(q.AmountSat, q.InvoiceSat) }

// bounds of what a wallet takes from a gateway.
const (
	minExpiryDelta = 100
	maxExpiryDelta = 2_016
	maxConfs       = 100
)

func readQuote(g Gateway, amount ln.Sat, q *swapsv1.ChannelSwapQuote) (Quote, error) {
	out := Quote{
		Gateway: g.Name, AmountSat: ln.Sat(q.GetAmountSat()), InvoiceSat: ln.Sat(q.GetInvoiceSat()), SwapFeeSat: ln.Sat(q.GetSwapFeeSat()),
		OpeningFeeMsat: ln.Msat(q.GetOpeningFeeMsat()), CapacitySat: ln.Sat(q.GetChannelCapacitySat()),
		Confs: q.GetConfirmations(), ChannelConfs: q.GetChannelConfirmations(), ExpiryDelta: q.GetExpiryDeltaBlocks(), DepositBlocks: q.GetDepositWithinBlocks(),
	}
	switch {
	case out.AmountSat != amount:
		return out, errkind.Newf(errkind.Invalid, "%s: it quoted another amount than was asked for", g.Name)
	case out.InvoiceSat == 0 || out.InvoiceSat > amount:
		return out, errkind.Newf(errkind.Invalid, "%s: it quoted fees that make no sense", g.Name)
	case out.ExpiryDelta < minExpiryDelta || out.ExpiryDelta > maxExpiryDelta:
		return out, errkind.Newf(errkind.Invalid, "%s: it would lock the deposit for %d blocks; this wallet takes %d to %d", g.Name, out.ExpiryDelta, minExpiryDelta, maxExpiryDelta)
	case out.Confs > maxConfs || out.ChannelConfs > maxConfs:
		return out, errkind.Newf(errkind.Invalid, "%s: it wants to wait for more confirmations than there are blocks", g.Name)
	}
	return out, nil
}

// Quote asks a gateway what a swap costs.
func (a *Agent) Quote(ctx context.Context, gateway string, amount ln.Sat) (Quote, error) {
	g, err := a.gateway(gateway)
	if err != nil {
		return Quote{}, err
	}
	self, err := a.ports.Node.Info(ctx)
	if err != nil {
		return Quote{}, err
	}
	return a.quote(ctx, g, self.PubKey, amount)
}

func (a *Agent) quote(ctx context.Context, g Gateway, self ln.PubKey, amount ln.Sat) (Quote, error) {
	client, err := a.client(g, self)
	if err != nil {
		return Quote{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	got, err := client.QuoteChannelSwap(ctx, &swapsv1.QuoteChannelSwapRequest{AmountSat: uint64(amount)})
	if err != nil {
		return Quote{}, said(g, err)
	}
	return readQuote(g, amount, got.GetQuote())
}

// Begin agrees on a swap with a gateway. The address that it returns is the first
// that anybody hears of it, and the record is on disk.
func (a *Agent) Begin(ctx context.Context, gateway string, amount, maxFee ln.Sat) (Record, error) {
	g, err := a.gateway(gateway)
	if err != nil {
		return Record{}, err
	}
	self, err := a.ports.Node.Info(ctx)
	if err != nil {
		return Record{}, err
	}
	q, err := a.quote(ctx, g, self.PubKey, amount)
	if err != nil {
		return Record{}, err
	}
	if maxFee > 0 && q.FeeSat() > maxFee {
		return Record{}, errkind.Newf(errkind.Conflict, "%s asks for %s, more than the %s that you allow", g.Name, q.FeeSat(), maxFee)
	}
	r, err := a.draw(g, self, q)
	if err != nil {
		return Record{}, err
	}
	msat, err := q.InvoiceSat.Msat()
	if err != nil {
		return Record{}, err
	}
	// It must live for as long as the deposit may be locked, and blocks may be slow.
	lives := 2 * time.Duration(q.ExpiryDelta) * 10 * time.Minute
	r.Invoice, _, err = a.ports.Node.AddInvoice(ctx, ln.InvoiceRequest{
		Preimage: ln.Preimage(r.Preimage), AmountMsat: msat, Memo: "swap that opens a channel", Expiry: lives,
	})
	if err != nil {
		return Record{}, err
	}
	if err := a.records.add(r, a.ports.Now()); err != nil {
		return Record{}, errors.Join(err, a.ports.Node.CancelInvoice(ctx, r.Hash))
	}
	agreed, err := a.agree(ctx, g, self, r)
	if err == nil {
		return agreed, nil
	}
	// Nobody was told an address, whatever the gateway has stored.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.CallTimeout)
	defer cancel()
	if cancelErr := a.ports.Node.CancelInvoice(ctx, r.Hash); cancelErr != nil {
		return Record{}, err // Run gives it up later
	}
	return Record{}, errors.Join(err, a.records.change(r.Hash, func(have *Record) bool {
		have.Phase, have.Reason = PhaseGivenUp, ln.Clip(err.Error(), 300)
		return true
	}))
}

// draw makes the wallet's part.
func (a *Agent) draw(g Gateway, self ln.NodeInfo, q Quote) (Record, error) {
	r := Record{
		Gateway: g.Name, GatewayKey: g.NodeKey, Network: self.Network, Phase: PhaseMade, AmountSat: q.AmountSat, InvoiceSat: q.InvoiceSat,
		SwapFeeSat: q.SwapFeeSat, OpeningFeeMsat: q.OpeningFeeMsat, CapacitySat: q.CapacitySat, Confs: q.Confs, ChannelConfs: q.ChannelConfs,
		BeginHeight: self.BlockHeight, CreatedAt: a.ports.Now().UTC(),
	}
	for _, s := range []*Secret{&r.Preimage, &r.RefundKey, &r.InternalKey} {
		if _, err := io.ReadFull(a.ports.Random, s[:]); err != nil {
			return Record{}, fmt.Errorf("draw the swap's keys: %w", err)
		}
	}
	r.Hash = ln.Preimage(r.Preimage).Hash()
	return r, nil
}

// agree asks the gateway for its part, checks it and stores the whole contract
// before the address is returned. What fails before that is given up: nobody was
// told an address.
func (a *Agent) agree(ctx context.Context, g Gateway, self ln.NodeInfo, r Record) (Record, error) {
	refund, err := htlc.KeyFromShared(r.RefundKey)
	if err != nil {
		return r, err
	}
	internal, err := htlc.KeyFromShared(r.InternalKey)
	if err != nil {
		return r, err
	}
	client, err := a.client(g, self.PubKey)
	if err != nil {
		return r, err
	}
	call, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	refundKey, internalKey := refund.PubKey(), internal.PubKey()
	got, err := client.CreateChannelSwap(call, &swapsv1.CreateChannelSwapRequest{
		PaymentHash: r.Hash[:], RefundKey: refundKey[:], InternalKey: internalKey[:], AmountSat: uint64(r.AmountSat), Invoice: r.Invoice, UserAgent: "sluice-wallet",
	})
	if err != nil {
		return r, said(g, err)
	}
	if r, err = r.accept(g, self, refundKey, internalKey, got); err != nil {
		return r, err
	}
	late := false
	err = a.records.change(r.Hash, func(have *Record) bool {
		if late = have.Phase != PhaseMade; late {
			return false
		}
		*have = r
		return true
	})
	if err == nil && late {
		err = errkind.New(errkind.Unavailable, "the gateway took too long to answer: nothing was agreed, try again")
	}
	return r, err
}

// accept checks the gateway's part and computes the address.
func (r Record) accept(g Gateway, self ln.NodeInfo, refund, internal ln.PubKey, got *swapsv1.CreateChannelSwapResponse) (Record, error) {
	bad := func(format string, args ...any) (Record, error) {
		return r, errkind.Newf(errkind.Invalid, g.Name+" answered with a swap that this wallet does not take: "+format, args...)
	}
	claim, err := ln.PubKeyFromBytes(got.GetClaimKey())
	if err != nil {
		return bad("its key cannot be read")
	}
	theirs, err := ln.PubKeyFromBytes(got.GetInternalKey())
	if err != nil {
		return bad("its internal key cannot be read")
	}
	expiry := got.GetExpiryHeight()
	switch {
	case claim == refund || theirs == internal || claim == internal || theirs == refund:
		return bad("it names the wallet's own key as its own")
	case expiry < self.BlockHeight+minExpiryDelta || expiry > self.BlockHeight+maxExpiryDelta:
		return bad("the deposit would be locked until height %d, and the chain is at %d", expiry, self.BlockHeight)
	case got.GetDepositByHeight() <= self.BlockHeight || got.GetDepositByHeight() >= expiry:
		return bad("the deposit must confirm until height %d, of an expiry at %d", got.GetDepositByHeight(), expiry)
	}
	r.Terms = htlc.Terms{
		Hash: r.Hash, ExpiryHeight: expiry, Sender: refund, Receiver: claim, SenderInternal: internal, ReceiverInternal: theirs,
	}
	contract, err := htlc.New(r.Terms)
	if err != nil {
		return bad("its keys make no contract")
	}
	params, err := Params(r.Network)
	if err != nil {
		return r, err
	}
	if r.Address, err = contract.Address(params); err != nil {
		return r, err
	}
	r.Phase, r.DepositByHeight = PhaseAgreed, got.GetDepositByHeight()
	return r, nil
}
