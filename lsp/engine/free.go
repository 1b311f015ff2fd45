package engine

import (
	"maps"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// bumpKeeps is for how many blocks a change stays out of what opens may choose once
// lnd was asked for a child of it; by then it was asked again, or the child is
// in a block.
const bumpKeeps = 144

func (e *Engine) keepForBump(change ln.Outpoint) {
	tip := e.world.tip()
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.DeleteFunc(e.bumping, func(_ ln.Outpoint, at uint32) bool { return tip > at+bumpKeeps })
	e.bumping[change] = tip
}

// free leaves out coins that are in lnd's list and not to be chosen: one that pays
// an order and is not the gateway's yet may be in it before it is leased, and a
// change of which lnd makes a child until that is published.
func (e *Engine) free(coins []ln.Coin) []ln.Coin {
	tip := e.world.tip()
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.payable)+len(e.bumping) == 0 {
		return coins
	}
	held := make(map[string]watchedOrder, len(e.payable))
	for _, w := range e.payable {
		held[string(w.script)] = w
	}
	out := make([]ln.Coin, 0, len(coins))
	for _, c := range coins {
		if w, ordered := held[string(c.PkScript)]; ordered && !w.own[c.Outpoint] {
			continue
		}
		if at, bumped := e.bumping[c.Outpoint]; bumped && c.Confirmations <= 0 && tip <= at+bumpKeeps {
			continue
		}
		out = append(out, c)
	}
	return out
}
