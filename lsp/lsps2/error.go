package lsps2

import (
	"errors"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
)

// The codes of LSPS2.
const (
	CodeUnrecognizedToken = 200
	CodeInvalidParams     = 201
	CodeSizeTooSmall      = 202
	CodeSizeTooLarge      = 203
)

// ErrToken says that no menu goes with a token.
var ErrToken = errkind.New(errkind.Invalid, "the token is unknown or has expired: ask the LSP for another, or leave it out")

// Refusal is the spec's answer to a refusal of ours. LDK's LSP answers a size
// out of bounds with the codes of too small and too large, as the spec does not
// say; so does this. What the spec has no code for, and is for the client to
// know, is client_rejected with the sentence. Anything else stays as it is, for
// the log.
func Refusal(err error) error {
	codes := []struct {
		err     error
		code    int
		message string
	}{
		{ErrToken, CodeUnrecognizedToken, "Unrecognized or stale token"},
		{lsp.ErrOfferExpired, CodeInvalidParams, "Invalid opening fee params"},
		{lsp.ErrPromiseBad, CodeInvalidParams, "Invalid opening fee params"},
		{lsp.ErrPromiseOldKey, CodeInvalidParams, "Invalid opening fee params"},
		{lsp.ErrFeeTooLarge, CodeSizeTooSmall, "Payment size too small"},
		{lsp.ErrTooSmall, CodeSizeTooSmall, "Payment size too small"},
		{lsp.ErrTooLarge, CodeSizeTooLarge, "Payment size too large"},
		{lsp.ErrFeeOverflow, CodeSizeTooLarge, "Payment size too large"},
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return &lsps0.Error{Code: c.code, Message: c.message}
		}
	}
	if sentence := errkind.Sentence(err); sentence != "" {
		return lsps0.ClientRejected(sentence)
	}
	return err
}
