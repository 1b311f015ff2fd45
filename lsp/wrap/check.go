package wrap

import (
	"bytes"
	"errors"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Promised is what the wallet agreed to before it sent its own invoice.
type Promised struct {
	// LSP is whose invoice the wrapped one must be.
	LSP     ln.PubKey
	Network string
	// PayerMsat is the amount that the payer shall see, MaxFeeMsat the most
	// that may be kept of it.
	PayerMsat  ln.Msat
	MaxFeeMsat ln.Msat
	// MinCltvOver is by how much the wrapped final CLTV must exceed our own
	// (less would make the LSP refuse at payment time); MaxFinalCltv is the
	// most that we let payers lock up (0: 2016, lnd's payers' own limit).
	MinCltvOver  uint32
	MaxFinalCltv uint32
	// HoldFor is how long the payment will be held for confirmations at least:
	// our own invoice must be good for so much longer.
	HoldFor time.Duration
}

// maxFinalCltv: lnd's payers refuse routes of more than 2016 blocks.
const maxFinalCltv = 2016

// CheckWrap is the wallet's check of a wrapped invoice against its own, made
// before anyone is shown it. Every deviation is reported, in one error of
// kind errkind.Invalid each: the wrapped invoice must have the same hash, be
// the LSP's on the same network, ask exactly the promised amount and leave the
// wallet all but the promised fee, say the same description, be payable now
// and no longer than the wallet's own, and lock funds for a sane time.
func CheckWrap(own, wrapped ln.Bolt11, p Promised, now time.Time) error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, errkind.Newf(errkind.Invalid, "do not show this invoice: "+format, args...))
	}
	if wrapped.Hash != own.Hash {
		bad("its payment hash is not that of the wallet's own invoice, so the LSP could keep the money")
	}
	if wrapped.Payee != p.LSP {
		bad("it pays %s, not the LSP %s", wrapped.Payee.Short(), p.LSP.Short())
	}
	if wrapped.Network != p.Network || own.Network != p.Network {
		bad("it is for network %q, the wallet is on %q", wrapped.Network, p.Network)
	}
	switch {
	case own.AmountMsat == 0 || wrapped.AmountMsat == 0:
		bad("an invoice without an amount cannot be wrapped")
	case wrapped.AmountMsat != p.PayerMsat:
		bad("it asks the payer for %s, %s was agreed", wrapped.AmountMsat, p.PayerMsat)
	case own.AmountMsat > wrapped.AmountMsat:
		bad("it asks the payer for less than the wallet shall receive")
	case wrapped.AmountMsat-own.AmountMsat > p.MaxFeeMsat:
		bad("the LSP would keep %s, at most %s was promised", wrapped.AmountMsat-own.AmountMsat, p.MaxFeeMsat)
	}
	if wrapped.Description != own.Description || !bytes.Equal(wrapped.DescriptionHash, own.DescriptionHash) {
		bad("its description is not the wallet's own")
	}
	if !now.Before(wrapped.ExpiresAt()) {
		bad("it has expired")
	}
	if wrapped.CreatedAt.After(now.Add(maxClockSkew)) {
		bad("it is dated in the future: check the clocks")
	}
	if wrapped.ExpiresAt().Add(p.HoldFor).After(own.ExpiresAt()) {
		bad("payers could still pay it when the wallet's own invoice has expired")
	}
	if !wrapped.HasPaymentAddr {
		bad("it has no payment secret, so others on the route could take the payment")
	}
	most := p.MaxFinalCltv
	if most == 0 {
		most = maxFinalCltv
	}
	if wrapped.FinalCltvDelta > most {
		bad("it locks payers' money for %d blocks, at most %d are sane", wrapped.FinalCltvDelta, most)
	}
	if uint64(wrapped.FinalCltvDelta) < uint64(own.FinalCltvDelta)+uint64(p.MinCltvOver) {
		bad("its final CLTV delta of %d blocks leaves the LSP no time to pay the wallet's %d", wrapped.FinalCltvDelta, own.FinalCltvDelta)
	}
	return errors.Join(errs...)
}

// maxClockSkew is how far an LSP's clock may be ahead.
const maxClockSkew = 10 * time.Minute
