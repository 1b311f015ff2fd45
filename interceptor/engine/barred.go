package engine

import (
	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// barredOf names the channels over which nothing is forwarded for their peer: its
// own coins are in their funding, and it could still spend them otherwise. What it
// had sent would then be the gateway's loss. That a channel is one stands in its
// memo at lnd, so that nobody has to be asked, and a restart changes nothing. True
// is one that lnd has not seen confirmed: that one was barred from its first day.
// Of another that may not be so: a reorg bars it again.
func barredOf(channels []ln.Channel, tip uint32) map[ln.SCID]bool {
	var out map[ln.SCID]bool
	for _, c := range channels {
		if !c.IsJoint() || !c.IsYoung(tip) {
			continue
		}
		if out == nil {
			out = make(map[ln.SCID]bool)
		}
		for _, id := range append([]ln.SCID{c.ChanID, c.ConfirmedSCID}, c.Aliases...) {
			if id != 0 {
				out[id] = c.ConfirmedSCID == 0
			}
		}
	}
	return out
}

// bar fails a new HTLC that came in over such a channel, by way of the refusal that
// asks lnd for a payment of ours first (under mu).
func (e *Engine) bar(t *tenure, o interceptor.Offer) {
	now := e.cfg.Now()
	e.unask(t, o.Key)
	row := interceptor.NewRow(o.InterceptedHtlc, "", e.cfg.FailSafetyBlocks, e.height, now)
	row.ID = max(e.lastID+1, now.UnixMicro())
	e.lastID = row.ID
	row.Reason = "the channel that it came in on is not buried, and its peer could still take back the coins in it: sending works once it is"
	t.recording[o.Key] = pendingRow{row: row, offer: o, gen: t.gen, since: t.class.Begin()}
	t.held.add(row)
	wake(t.hear)
	t.refusals = append(t.refusals, o.Key)
	wake(t.refuse)
}
