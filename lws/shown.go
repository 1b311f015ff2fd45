package lws

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Kind says by what a payment waits for its wallet.
type Kind string

// The kinds.
const (
	// KindRegistered: the wallet registered to have its channels' payments held.
	KindRegistered Kind = "registered"
	// KindWrapped: lnd holds it by the invoice that the gateway wrapped.
	KindWrapped Kind = "wrapped"
	// KindOnDemand: it is for a short channel id that opens a channel.
	KindOnDemand Kind = "on_demand"
)

// Shown is a payment that waits for its wallet, for people.
type Shown struct {
	Kind       Kind
	ID         string
	Client     ln.PubKey
	Hash       ln.Hash
	AmountMsat ln.Msat
	Htlcs      int
	SatBlocks  uint64
	State      string
	// Since is when it began to wait, Until when it goes back at the latest by the clock,
	// FailHeight when by the chain; BlocksLeft is 0 while no tip is known.
	Since, Until time.Time
	FailHeight   uint32
	BlocksLeft   int32
	// Wakes counts attempts to wake the wallet; WokeHow is what the last one came to.
	Wakes              uint32
	NextWake, LastWake time.Time
	WokeHow            string
	// Webhooks say what became of the calls of the wallet's webhooks since then.
	Webhooks []string
}
