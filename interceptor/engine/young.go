package engine

import (
	"time"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// young is a joint channel that is not buried: its peer's own coins are in its funding,
// and it could still spend them otherwise. What it had sent would then be the gateway's
// loss. That a channel is one, and what its peer may spend over it all the same, stands
// in its memo at lnd, so that nobody has to be asked, and a restart changes nothing.
//
// Every new HTLC of such a channel is judged by a listing that was requested after its
// offer, which therefore counts it, and every other that was let through: so no more
// than the limit is, whatever comes at once. What is let through has a row before it
// is resumed. So whoever comes after a crash knows that an HTLC without one was not;
// after a restore, or another client of lnd's, it may have been, and is only resumed.
type young struct {
	// over: nothing that is new is let through.
	over bool
	// always: lnd has not seen the channel confirmed, so that it was young from its
	// first day. Of another that may not be so: a reorg makes it young again.
	always bool
	// limit says that something may be let through, since when.
	limit bool
	since time.Time
}

// youngOf lists them under each of their names.
func youngOf(channels []ln.Channel, tip uint32) map[ln.SCID]young {
	var out map[ln.SCID]young
	for _, c := range channels {
		if !c.IsJoint() || !c.IsYoung(tip) {
			continue
		}
		if out == nil {
			out = make(map[ln.SCID]young)
		}
		terms := c.Joint()
		y := young{over: !c.WithinLimit(), always: c.ConfirmedSCID == 0, limit: terms.SpendSat > 0, since: terms.Since}
		for _, name := range c.Names() {
			out[name] = y
		}
	}
	return out
}

// clockSkew is how far the clocks of two machines may be apart.
const clockSkew = 5 * time.Minute

// guards says that an HTLC of the channel that has no row was not resumed. That holds
// where nothing is ever let through, and else if the channel is younger than the last
// moment at which somebody may have resumed HTLCs without rows (under mu).
func (y young) guards(t *tenure) bool {
	return y.always && (!y.limit || y.since.After(t.doubt.Add(clockSkew)))
}

// bar fails a new HTLC that came in over such a channel, by way of the refusal that
// asks lnd for a payment of ours first (under mu).
func (e *Engine) bar(t *tenure, o interceptor.Offer, y young) {
	e.unask(t, o.Key)
	row := e.newRow(o, "", e.cfg.Now())
	row.Reason = "the channel that it came in on is not buried, and its peer could still take back the coins in it: sending works once it is"
	if y.limit {
		row.Reason = "the channel that it came in on is not buried, and with it its peer would spend more over it than it may until then"
	}
	t.recording[o.Key] = pendingRow{row: row, offer: o, gen: t.gen, since: t.class.Begin()}
	t.held.add(row)
	wake(t.hear)
	t.refusals = append(t.refusals, o.Key)
	wake(t.refuse)
}

// pass forwards a new HTLC that is nobody's: at once, or, over a young channel, once
// its row is stored (under mu).
func (e *Engine) pass(t *tenure, o interceptor.Offer) {
	if _, is := t.young[o.Key.ChanID]; !is {
		e.resume(t, o)
		return
	}
	now := e.cfg.Now()
	row := e.newRow(o, "", now)
	row.State, row.Reason, row.DecidedAt = interceptor.StateResumed, "within what its peer may spend over a channel that is not buried", now
	t.recording[o.Key] = pendingRow{row: row, offer: o, gen: t.gen, since: t.class.Begin()}
	wake(t.hear)
	e.record(t, o.Key)
}
