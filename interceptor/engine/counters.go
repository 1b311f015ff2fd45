package engine

import (
	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// counters sum what is held, for limits and gauges.
type counters struct {
	htlcs      int
	msat       ln.Msat
	perChannel map[ln.SCID]int
}

func newCounters() counters { return counters{perChannel: make(map[ln.SCID]int)} }

func (c *counters) add(r interceptor.Row) {
	if !r.Undecided() {
		return
	}
	c.htlcs++
	c.msat += r.IncomingMsat
	c.perChannel[r.Key.ChanID]++
}

// remove takes out a row that was added undecided.
func (c *counters) remove(r interceptor.Row) {
	if !r.Undecided() {
		return
	}
	c.htlcs--
	c.msat -= min(r.IncomingMsat, c.msat)
	if c.perChannel[r.Key.ChanID]--; c.perChannel[r.Key.ChanID] <= 0 {
		delete(c.perChannel, r.Key.ChanID)
	}
}
