package engine

import (
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// Spendable leaves out coins that belong to clients of orders, for whoever else
// spends from the wallet.
func (e *Engine) Spendable(coins []ln.Coin) []ln.Coin { return e.free(coins) }

// ReserveSat is what must be left in the wallet once there is one more channel.
func (e *Engine) ReserveSat() ln.Sat { return e.anchorReserve(e.world.channelCount() + 1) }

// Rate is the fee rate of the moment.
func (e *Engine) Rate() funding.Rate { return e.fees.current() }
