package lsp

import (
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// OpeningFeeParams is one item of the menu (bLIP-52, opening_fee_params):
// what a channel opened on demand costs and what it promises. Sizes are
// inclusive bounds of the payment.
type OpeningFeeParams struct {
	MinFeeMsat           ln.Msat   `json:"min_fee_msat"`
	ProportionalPPM      uint32    `json:"proportional"`
	ValidUntil           time.Time `json:"valid_until"`
	MinLifetimeBlocks    uint32    `json:"min_lifetime"`
	MaxClientToSelfDelay uint32    `json:"max_client_to_self_delay"`
	MinPaymentSizeMsat   ln.Msat   `json:"min_payment_size_msat"`
	MaxPaymentSizeMsat   ln.Msat   `json:"max_payment_size_msat"`
	Promise              string    `json:"promise"`
}

// The refusals of an offer, for errors.Is; kind and sentence are for the
// person. LSPS2 answers 201 for ErrOfferExpired and ErrPromise*, 202 for
// ErrFeeTooLarge and ErrTooSmall, 203 for ErrTooLarge and ErrFeeOverflow.
var (
	ErrOfferExpired  = errkind.New(errkind.Invalid, "these opening fee parameters have expired: ask for the menu again and choose from it")
	ErrPromiseBad    = errkind.New(errkind.Invalid, "these opening fee parameters were altered, or given to another client: ask for the menu again and send an item back unchanged")
	ErrPromiseOldKey = errkind.New(errkind.Invalid, "this offer has expired or is unknown: ask for the menu again and choose from it")
	ErrFeeTooLarge   = errkind.New(errkind.Invalid, "the opening fee would be as large as the payment: ask to receive more")
	ErrTooSmall      = errkind.New(errkind.Invalid, "the payment is smaller than this offer opens a channel for: ask to receive more")
	ErrTooLarge      = errkind.New(errkind.Invalid, "the payment is larger than this offer opens a channel for: ask to receive less, or in several payments")
	ErrFeeOverflow   = errkind.New(errkind.Invalid, "the opening fee of this amount cannot be computed: ask to receive less")
	ErrNoAmount      = errkind.New(errkind.Invalid, "an invoice without an amount cannot be used when the payer pays the opening fee: name the amount, or choose that the receiver pays")
)

// Fee is the opening fee of a payment of this size (bLIP-52, "Computing the
// opening_fee"): max(min_fee, ceil(size·ppm/1,000,000)), ErrFeeOverflow where
// any step leaves its range.
func (p OpeningFeeParams) Fee(size ln.Msat) (ln.Msat, error) {
	fee, err := ln.PPMCeil(size, uint64(p.ProportionalPPM))
	if err != nil {
		return 0, fmt.Errorf("%w (%s)", ErrFeeOverflow, size)
	}
	return max(fee, p.MinFeeMsat), nil
}

// CheckSize refuses a payment outside the item's bounds.
func (p OpeningFeeParams) CheckSize(size ln.Msat) error {
	switch {
	case size < p.MinPaymentSizeMsat:
		return fmt.Errorf("%w (%s asked, at least %s)", ErrTooSmall, size, p.MinPaymentSizeMsat)
	case size > p.MaxPaymentSizeMsat:
		return fmt.Errorf("%w (%s asked, at most %s)", ErrTooLarge, size, p.MaxPaymentSizeMsat)
	}
	return nil
}

// Valid refuses an item whose time is over; valid_until itself is too late.
func (p OpeningFeeParams) Valid(now time.Time) error {
	if !now.Before(p.ValidUntil) {
		return fmt.Errorf("%w (since %s)", ErrOfferExpired, p.ValidUntil.UTC().Format(time.RFC3339))
	}
	return nil
}

// Quote is what one payment costs under one item.
type Quote struct {
	// PayerMsat is what the payer sends, before the fees of the route to us;
	// WalletMsat what the wallet gets; FeeMsat the opening fee agreed.
	PayerMsat  ln.Msat `json:"payer_msat"`
	WalletMsat ln.Msat `json:"wallet_msat"`
	FeeMsat    ln.Msat `json:"fee_msat"`
	// HintPPM is the rate for the route hint; 0 when the receiver pays.
	HintPPM uint32 `json:"hint_ppm,omitempty"`
}

// QuotePayerPays quotes a payment of which the wallet gets amount in full; the
// payer pays the fee on top through the route hint. The size that the item's
// bounds and proportion apply to is the wallet's amount.
func (p OpeningFeeParams) QuotePayerPays(amount ln.Msat) (Quote, error) {
	if amount == 0 {
		return Quote{}, ErrNoAmount
	}
	fee, err := p.quote(amount)
	if err != nil {
		return Quote{}, err
	}
	ppm, err := HintPPM(amount, fee)
	if err != nil {
		return Quote{}, err
	}
	charged, err := HintFee(amount, ppm)
	if err != nil {
		return Quote{}, err
	}
	total, err := amount.Add(charged)
	if err != nil {
		return Quote{}, fmt.Errorf("%w (%s)", ErrFeeOverflow, amount)
	}
	return Quote{PayerMsat: total, WalletMsat: amount, FeeMsat: fee, HintPPM: ppm}, nil
}

// QuoteReceiverPays quotes a payment of size, of which the wallet gets what
// the fee leaves (bLIP-52's own way of counting).
func (p OpeningFeeParams) QuoteReceiverPays(size ln.Msat) (Quote, error) {
	if size == 0 {
		return Quote{}, errkind.New(errkind.Invalid, "name the amount that the payer shall pay")
	}
	fee, err := p.quote(size)
	if err != nil {
		return Quote{}, err
	}
	return Quote{PayerMsat: size, WalletMsat: size - fee, FeeMsat: fee}, nil
}

func (p OpeningFeeParams) quote(size ln.Msat) (ln.Msat, error) {
	if err := p.CheckSize(size); err != nil {
		return 0, err
	}
	fee, err := p.Fee(size)
	if err != nil {
		return 0, err
	}
	if fee >= size {
		return 0, fmt.Errorf("%w (a fee of %s for %s)", ErrFeeTooLarge, fee, size)
	}
	return fee, nil
}

// CheckMenu refuses a menu that bLIP-52 forbids: each later item must raise
// min_fee_msat, proportional or both, and lower neither; bounds must be in
// order. The operator reads the error.
func CheckMenu(menu []OpeningFeeParams) error {
	var errs []error
	for i, item := range menu {
		bad := func(format string, args ...any) {
			errs = append(errs, errkind.Newf(errkind.Invalid, "menu item %d: "+format, append([]any{i + 1}, args...)...))
		}
		if item.MinPaymentSizeMsat == 0 || item.MinPaymentSizeMsat > item.MaxPaymentSizeMsat {
			bad("the payment size must be at least 1 msat and its minimum (%d msat) at most its maximum (%d msat)", item.MinPaymentSizeMsat, item.MaxPaymentSizeMsat)
		}
		if item.MaxPaymentSizeMsat > ln.MaxMsat || item.MinFeeMsat > ln.MaxMsat {
			bad("an amount is larger than can exist")
		}
		if item.ProportionalPPM >= 1_000_000 {
			bad("a proportional fee of %d ppm takes the whole payment", item.ProportionalPPM)
		}
		if i == 0 {
			continue
		}
		before := menu[i-1]
		switch {
		case item.MinFeeMsat < before.MinFeeMsat || item.ProportionalPPM < before.ProportionalPPM:
			bad("it lowers the minimum fee or the proportional fee of the item before it: sort the menu from cheap to dear")
		case item.MinFeeMsat == before.MinFeeMsat && item.ProportionalPPM == before.ProportionalPPM:
			bad("it costs the same as the item before it: raise the minimum fee or the proportional fee")
		}
	}
	return errors.Join(errs...)
}
