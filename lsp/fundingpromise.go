package lsp

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// FundingPromise is what a gateway owes a wallet that trusts it with the funding
// of a channel. Signed by the gateway's node it shows anybody, with the preimage,
// that the transaction should be on the chain.
type FundingPromise struct {
	Gateway, Wallet ln.PubKey
	Hash            ln.Hash
	Outpoint        ln.Outpoint
	CapacitySat     ln.Sat
}

// Text is what is signed. Both sides write it, so that a wallet never reads what it
// is promised out of the gateway's words.
func (p FundingPromise) Text() string {
	return fmt.Sprintf("Sluice funding promise: node %s publishes transaction %s, whose output %d funds a channel of %d sat with node %s, as soon as it knows the preimage of %s.",
		p.Gateway, p.Outpoint.TxID, p.Outpoint.Index, uint64(p.CapacitySat), p.Wallet, p.Hash)
}
