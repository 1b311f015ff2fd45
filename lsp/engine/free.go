package engine

import "github.com/sluice-lsp/sluice/internal/ln"

// free leaves out coins that are in lnd's list and not to be chosen: one that pays
// an order and is not the gateway's yet may be in it before it is leased.
func (e *Engine) free(coins []ln.Coin) []ln.Coin {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.payable) == 0 {
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
		out = append(out, c)
	}
	return out
}
