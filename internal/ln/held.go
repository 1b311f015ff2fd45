package ln

import (
	"fmt"
	"slices"
)

// Names are the short channel ids by which HTLCs and onions may call the channel: each
// once, in order.
func (c Channel) Names() []SCID {
	names := append([]SCID{c.ChanID, c.ConfirmedSCID}, c.Aliases...)
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(s SCID) bool { return s == 0 })
}

// Doubt is why HTLCs that a hold invoice has accepted are not to be relied on; empty is
// none.
type Doubt string

// Doubts. Whoever reads them is not told over which channel the money came.
const (
	DoubtClosed  Doubt = "the channel that brought the money is no longer open"
	DoubtFunding Doubt = "the channel that brought the money is not confirmed yet"
	DoubtGone    Doubt = "the gateway's node does not hold the money any more"
	// DoubtUnproven passes by itself, or becomes another.
	DoubtUnproven Doubt = "the gateway's node has started since, and the peer that brought the money has not been back for long enough"
)

// TooEarly is an error while it cannot be told yet: whoever meets it does nothing that
// cannot be undone, gives nothing back either, and asks again.
func (d Doubt) TooEarly() error {
	if d == DoubtUnproven {
		return fmt.Errorf("%s: waiting", string(d))
	}
	return nil
}

// DoubtOf is law 12: what came in over a channel whose funding may yet be taken away is
// not accepted. Nor is what the channels do not hold any more: an lnd that was killed
// while it took an HTLC in calls it replayed afterwards, and fails it, but goes on calling
// the invoice accepted (seen in lnd 0.21.2). It does so when the peer is back, and lists
// the HTLC until then: such an HTLC is DoubtUnproven, which counts only where nothing else
// is in doubt. The channels are as lnd lists them once the invoice is accepted; over is
// the channel of the HTLC that is in doubt.
func DoubtOf(htlcs []InvoiceHtlc, channels []Channel, tip uint32) (why Doubt, over SCID) {
	takes, holds := make(map[SCID]bool), make(map[CircuitKey]ChannelHtlc)
	for _, c := range channels {
		ok := c.TakesMoney(tip)
		for _, name := range c.Names() {
			takes[name] = ok
			for _, h := range c.Htlcs {
				if h.Incoming {
					holds[h.IncomingKey(name)] = h
				}
			}
		}
	}
	for _, h := range htlcs {
		ok, open := takes[h.Key.ChanID]
		held, there := holds[h.Key]
		switch {
		case !open:
			return DoubtClosed, h.Key.ChanID
		case !ok:
			return DoubtFunding, h.Key.ChanID
		case !there:
			return DoubtGone, h.Key.ChanID
		case held.Unproven:
			why, over = DoubtUnproven, h.Key.ChanID
		}
	}
	return why, over
}
