package agent

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// maxIDLen bounds what an LSP may call a payment.
const maxIDLen = 128

// Negotiated is an agreement on a payment whose payer pays, as checked.
type Negotiated struct {
	PaymentID    string
	Hint         ln.RouteHint
	FeeMsat      ln.Msat
	PayerMsat    ln.Msat
	OpensChannel bool
	CapacitySat  ln.Sat
	ExpiresAt    time.Time
	// Trusts: the channel is funded once the payment is claimed.
	Trusts bool
}

// CheckNegotiated is the wallet's check of an LSP's answer before it writes
// the hint into its invoice. The fee and the hint may promise no more than the
// offer's own terms give, and no less than the LSP will then ask for, or the
// payment would come back.
func CheckNegotiated(c Candidate, policy Policy, trust ln.Msat, r *lspv1.NegotiateResponse, now time.Time) (Negotiated, error) {
	amount := c.Quote.WalletMsat
	bad := func(format string, args ...any) (Negotiated, error) {
		return Negotiated{}, errkind.Newf(errkind.Invalid, "LSP %s answered with terms that were not offered: "+format, append([]any{c.Menu.LSP.Name}, args...)...)
	}
	scid, err := ln.ParseSCID(r.GetJitScid())
	if err != nil || scid == 0 {
		return bad("its short channel id cannot be used")
	}
	fee, ppm := ln.Msat(r.GetFeeMsat()), r.GetHintFeePpm()
	limit, limitPPM := c.Quote.FeeMsat, c.Quote.HintPPM
	if !r.GetOpensChannel() {
		limit, limitPPM = 0, 0
	}
	charged, err := lsp.HintFee(amount, ppm)
	if err != nil {
		return bad("its route hint's fee cannot be computed")
	}
	total, err := amount.Add(charged)
	if err != nil {
		return bad("the sum of amount and fee cannot be computed")
	}
	n := Negotiated{
		PaymentID: r.GetPaymentId(), FeeMsat: fee, PayerMsat: total, OpensChannel: r.GetOpensChannel(),
		CapacitySat: ln.Sat(r.GetChannelCapacitySat()), ExpiresAt: time.UnixMilli(r.GetExpiresMs()).UTC(),
		Trusts: r.GetClientTrustsLsp(),
	}
	switch delta := r.GetHintCltvDeltaBlocks(); {
	case n.PaymentID == "" || len(n.PaymentID) > maxIDLen:
		return bad("it names no payment")
	case n.Trusts && trust < amount:
		return bad("it would fund the channel only after it was claimed, which was not agreed")
	case fee > limit:
		return bad("a fee of %s instead of %s", fee, limit)
	case r.GetHintBaseFeeMsat() != 0:
		// A payer adds a base fee once per part.
		return bad("a base fee in the route hint, which payers pay once for each part")
	case ppm > limitPPM:
		return bad("%d ppm in the route hint instead of %d", ppm, limitPPM)
	case charged < fee:
		return bad("its route hint does not cover its own fee, so the payment would come back")
	case delta == 0 || delta > maxHintCltv:
		return bad("a CLTV delta of %d blocks in the route hint", delta)
	case !n.ExpiresAt.After(now):
		return bad("the agreement is over already: check the clocks")
	case n.OpensChannel && n.CapacitySat > policy.MaxChannelSat:
		return bad("a channel of %s, above your limit of %s (channels.max_channel_sat)", n.CapacitySat, policy.MaxChannelSat)
	default:
		n.Hint = ln.RouteHint{Node: c.Menu.LSP.NodeKey, SCID: scid, FeePPM: ppm, CltvDelta: uint16(delta)} //nolint:gosec // at most maxHintCltv
		return n, nil
	}
}

// CheckWrapped is the wallet's check of a wrapped invoice before anyone sees
// it: the LSP's answer against its offer, and the invoice itself by
// wrap.CheckWrap. own is the wallet's invoice, confirmations what the payment
// will wait for, holdFor how long for the wallet.
func CheckWrapped(c Candidate, policy Policy, trust ln.Msat, own, wrapped ln.Bolt11, r *lspv1.WrapResponse, confirmations uint32, holdFor time.Duration, now time.Time) error {
	bad := func(format string, args ...any) error {
		return errkind.Newf(errkind.Invalid, "LSP %s answered with terms that were not offered: "+format, append([]any{c.Menu.LSP.Name}, args...)...)
	}
	switch fee, capacity := ln.Msat(r.GetFeeMsat()), ln.Sat(r.GetChannelCapacitySat()); {
	case r.GetClientTrustsLsp() && trust < own.AmountMsat:
		return bad("it would fund the channel only after it was claimed, which was not agreed")
	case r.GetPaymentId() == "" || len(r.GetPaymentId()) > maxIDLen:
		return bad("it names no payment")
	case fee > c.Quote.FeeMsat:
		return bad("a fee of %s instead of %s", fee, c.Quote.FeeMsat)
	case !r.GetOpensChannel() && wrapped.AmountMsat > own.AmountMsat:
		return bad("a fee of %s for a channel that it does not open", wrapped.AmountMsat-own.AmountMsat)
	case r.GetOpensChannel() && r.GetMaxWaitBlocks() < confirmations:
		return bad("it waits %d blocks for %d confirmations", r.GetMaxWaitBlocks(), confirmations)
	case r.GetMaxWaitBlocks() > wrapped.FinalCltvDelta:
		return bad("it waits %d blocks for the channel, more than the %d that its invoice leaves", r.GetMaxWaitBlocks(), wrapped.FinalCltvDelta)
	case r.GetOpensChannel() && capacity > policy.MaxChannelSat:
		return bad("a channel of %s, above your limit of %s (channels.max_channel_sat)", capacity, policy.MaxChannelSat)
	}
	return wrap.CheckWrap(own, wrapped, wrap.Promised{
		LSP: c.Menu.LSP.NodeKey, Network: c.Menu.Network,
		PayerMsat: c.Quote.PayerMsat, MaxFeeMsat: c.Quote.FeeMsat,
		MinCltvOver: wrap.DefaultHoldExpiryDelta + confirmations + uint32(holdFor/(10*time.Minute)), //nolint:gosec // at most maxHoldFor
		HoldFor:     holdFor + time.Duration(confirmations)*10*time.Minute,
	}, now)
}

// Receivable is about what one payment can bring over a channel now: what the
// peer may spend, computed as lsp.Spendable does on the peer's side. The
// commitment's fee rate is read off its present fee.
func Receivable(ch ln.Channel) ln.Msat {
	if !ch.Active {
		return 0
	}
	mirrored := ch
	mirrored.LocalSat, mirrored.LocalReserveSat, mirrored.Initiator = ch.RemoteSat, ch.RemoteReserveSat, !ch.Initiator
	return spendable(mirrored)
}

// Sendable is about what can be sent over a channel now.
func Sendable(ch ln.Channel) ln.Msat {
	if !ch.Active {
		return 0
	}
	return spendable(ch)
}

func spendable(ch ln.Channel) ln.Msat {
	weightless, err := lsp.CommitFee(ln.CommitmentType(ch.CommitmentType), 1_000, len(ch.Htlcs))
	if err != nil || weightless == 0 {
		return 0
	}
	// CommitFee at 1000 sat/kw is the weight in units.
	rate := ln.FeeRateSatPerKW(uint64(ch.CommitFeeSat) * 1_000 / uint64(weightless))
	amount, err := lsp.Spendable(ch, rate, 1)
	if err != nil {
		return 0
	}
	return amount
}
