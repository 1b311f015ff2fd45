package lsp

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// OpeningFeeParams is one item of the menu (bLIP-52, opening_fee_params):
// what a channel opened on demand costs and what it promises. Sizes are
// inclusive bounds of what the payer's payment may be.
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

// The refusals of an offer. errors.Is finds them; their kind and sentence are
// for the person. LSPS2 maps ErrOfferExpired and ErrPromise* to 201,
// ErrFeeTooLarge to 202 and ErrTooSmall to 202, ErrTooLarge and ErrFeeOverflow
// to 203.
var (
	ErrOfferExpired   = errkind.New(errkind.Invalid, "these opening fee parameters have expired: ask for the menu again and choose from it")
	ErrPromiseAltered = errkind.New(errkind.Invalid, "these opening fee parameters are not ones that this LSP gave to this client, or were altered: ask for the menu again and send an item back unchanged")
	ErrPromiseOldKey  = errkind.New(errkind.Invalid, "these opening fee parameters were promised under a key that is no longer in use: ask for the menu again")
	ErrFeeTooLarge    = errkind.New(errkind.Invalid, "the opening fee would be as large as the payment: ask to receive more")
	ErrTooSmall       = errkind.New(errkind.Invalid, "the payment is smaller than this LSP opens a channel for: ask to receive more")
	ErrTooLarge       = errkind.New(errkind.Invalid, "the payment is larger than this LSP opens a channel for: ask to receive less, or in several payments")
	ErrFeeOverflow    = errkind.New(errkind.Invalid, "the opening fee of this amount cannot be computed: ask to receive less")
	ErrNoAmount       = errkind.New(errkind.Invalid, "an invoice without an amount cannot be used when the payer pays the opening fee: name the amount, or choose that the receiver pays")
)
