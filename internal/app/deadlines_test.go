package app

import (
	"time"

	lspengine "github.com/sluice-lsp/sluice/lsp/engine"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// By when a payer must have its result, in the bubble's time: of what sluiced itself
// keeps to, and of what the day takes away.

const (
	// afterCrash is what a death of sluiced may cost a payment: its start, lnd's stream,
	// and what it looks at again before it goes on. No deadline of a payment is as short
	// (open_for is a minute, collect_for longer), so none of them may be what ends it.
	afterCrash = 20 * time.Second
	// afterNode is the same for lnd, whose peers come back later than itself, and which
	// may be looked at for some seconds more before money goes out again.
	afterNode = 30 * time.Second
	// walletMPP is how long a wallet's lnd waits for a payment's other parts.
	walletMPP = 2 * time.Minute
)

// blockEvery is how often outcome finds a block.
func (r *rig) blockEvery() time.Duration {
	if r.job.confs > 0 {
		return 20 * r.step
	}
	return 40 * r.step
}

// confirming is how long the confirmations take that the job waits for, the block
// included that is being waited for when it begins.
func (r *rig) confirming() time.Duration {
	if r.job.confs == 0 {
		return 0
	}
	return time.Duration(r.job.confs+1) * r.blockEvery()
}

// attempt is how long a payment may hold what one attempt of its payer brought: its
// parts and its wallet are awaited, channels are opened, as many as one payment may
// begin, and the last one is mapped.
func (r *rig) attempt() time.Duration {
	l := DefaultConfig().LSP
	d := lspengine.Defaults()
	return l.CollectFor.Std() + time.Duration(d.MaxOpens)*l.OpenFor.Std() + d.MapFor + r.confirming()
}

// lost is how long a payer waits whose payment to the wallet lnd lost in a restart: until
// its HTLC would have expired and a little more (wrap.PaymentMissing).
func (r *rig) lost() time.Duration {
	d := lspengine.Defaults()
	const walletFinalCltv = 80 // ask's
	blocks := walletFinalCltv + d.PadBlocks + wrap.MissingAfterBlocks + 1
	return time.Duration(blocks)*r.blockEvery() + r.confirming() + afterNode
}
