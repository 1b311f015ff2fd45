package lsp

import "github.com/sluice-lsp/sluice/internal/ln"

// PartTerms are what the HTLCs of one payment must bring, whoever wrote the
// route hint.
type PartTerms struct {
	// AmountMsat is what the wallet must get in all; FeeMsat the opening fee
	// that the parts together leave at the gateway.
	AmountMsat ln.Msat `json:"amount_msat"`
	FeeMsat    ln.Msat `json:"fee_msat"`
	// CltvDelta is ours: incoming minus outgoing expiry, at least.
	CltvDelta uint32 `json:"cltv_delta"`
	// FinalCltvDelta is what the wallet's node demands when the HTLC reaches
	// it; MarginBlocks is what it may be ahead of us.
	FinalCltvDelta  uint32  `json:"final_cltv_delta"`
	MarginBlocks    uint32  `json:"margin_blocks"`
	HtlcMinimumMsat ln.Msat `json:"htlc_minimum_msat"`
	MaxParts        int     `json:"max_parts"`
	// MaxAmountMsat bounds what a generous payer may send (0: twice the
	// amount, BOLT 4's bound).
	MaxAmountMsat ln.Msat `json:"max_amount_msat,omitempty"`
}
