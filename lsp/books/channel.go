package books

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Phase is where a channel is in its life, as lnd lists it.
type Phase string

// The phases. Missing: lnd lists it nowhere, which it should not.
const (
	Pending Phase = "pending"
	Open    Phase = "open"
	Closing Phase = "closing"
	Closed  Phase = "closed"
	Missing Phase = "missing"
)

// Channel is what the books remember of one channel.
type Channel struct {
	Outpoint    ln.Outpoint `json:"outpoint"`
	Peer        ln.PubKey   `json:"peer"`
	Initiator   bool        `json:"initiator"`
	CapacitySat ln.Sat      `json:"capacity_sat"`
	// PushSat is what the opener gave the other side at the start.
	PushSat ln.Sat `json:"push_sat,omitempty"`
	// Names are all ids under which lnd reports it.
	Names []ln.SCID `json:"names,omitempty"`
	Phase Phase     `json:"phase"`
	// Confirmed: its funding is in the chain, or lnd has waited for that.
	Confirmed bool `json:"confirmed,omitempty"`
	// ClosingAtStart says that it was closing when the books were opened. Then
	// only lnd's limbo balance is known of it.
	ClosingAtStart bool `json:"closing_at_start,omitempty"`
	// Funded says that its money is in the books. Before that, what lnd lists of
	// it is a promise: a zero-conf channel is active before anything funds it.
	Funded bool `json:"funded,omitempty"`

	Commitment  bool          `json:"commitment,omitempty"`
	CloseTx     ln.TxID       `json:"close_tx,omitzero"`
	CloseRaw    []byte        `json:"close_raw,omitempty"`
	CloseHeight uint32        `json:"close_height,omitempty"`
	Kind        string        `json:"kind,omitempty"`
	SettledSat  ln.Sat        `json:"settled_sat,omitempty"`
	Resolutions []ln.Resolved `json:"resolutions,omitempty"`
	// Stages are second-stage outputs that lnd has named.
	Stages []ln.StageOutput `json:"stages,omitempty"`

	// Moves and Rests number the entries about its close; RestMsat is what the
	// latter have booked as cost so far.
	Moves    int   `json:"moves,omitempty"`
	Rests    int   `json:"rests,omitempty"`
	RestMsat int64 `json:"rest_msat,omitempty"`
	// Done: closed, and nothing is left of it. An entry that comes later finds
	// it again by its accounts.
	Done bool `json:"done,omitempty"`
}

func (c *Channel) named(ids ...ln.SCID) {
	for _, id := range ids {
		if id != 0 && !slices.Contains(c.Names, id) {
			c.Names = append(c.Names, id)
		}
	}
}

// SeeOpen takes in what ListChannels says of it.
func (c *Channel) SeeOpen(l ln.Channel) {
	if c.Phase == "" {
		c.Outpoint, c.Peer, c.Initiator, c.CapacitySat = l.Outpoint, l.Peer, l.Initiator, l.CapacitySat
		c.PushSat = l.PushSat
	}
	c.Phase = Open
	c.Confirmed = !l.ZeroConf || l.ConfirmedSCID != 0
	c.named(l.ChanID, l.ConfirmedSCID)
	c.named(l.Aliases...)
}

// SeePending takes in what PendingChannels says of it.
func (c *Channel) SeePending(p ln.PendingChannel) {
	if c.Phase == "" {
		c.Outpoint, c.Peer, c.Initiator, c.CapacitySat = p.Outpoint, p.Peer, p.Initiator, p.CapacitySat
		// Before it is open nothing has moved: the balances are the beginning.
		if p.Kind == ln.PendingOpen && p.Initiator {
			c.PushSat = p.RemoteSat
		} else if p.Kind == ln.PendingOpen {
			c.PushSat = p.LocalSat
		}
	}
	if p.Kind == ln.PendingOpen {
		c.Phase = Pending
		return
	}
	c.Phase = Closing
	c.Commitment = p.Commitment
	if p.CloseTx != c.CloseTx {
		c.CloseTx, c.CloseRaw = p.CloseTx, nil
	}
	if len(p.CloseRaw) > 0 {
		c.CloseRaw = p.CloseRaw
	}
	for _, s := range p.Stages {
		c.stage(s)
	}
}

// stage remembers an output that is not the closing transaction's own.
func (c *Channel) stage(s ln.StageOutput) {
	if s.Outpoint.TxID != c.CloseTx && !slices.Contains(c.Stages, s) {
		c.Stages = append(c.Stages, s)
	}
}

// SeeClosed takes in what ClosedChannels says of it.
func (c *Channel) SeeClosed(l ln.ClosedChannel) {
	if c.Phase == "" {
		c.Outpoint, c.Peer, c.Initiator, c.CapacitySat = l.Outpoint, l.Peer, l.Initiator, l.CapacitySat
	}
	c.Phase, c.Kind, c.SettledSat, c.CloseHeight = Closed, l.Kind, l.SettledSat, l.CloseHeight
	c.Resolutions = l.Resolutions
	c.Commitment = l.Kind == ln.CloseLocalForce || l.Kind == ln.CloseRemoteForce || l.Kind == ln.CloseBreach
	if l.CloseTx != c.CloseTx {
		c.CloseTx, c.CloseRaw = l.CloseTx, nil
	}
	for _, r := range l.Resolutions {
		if r.Ours {
			c.stage(ln.StageOutput{Outpoint: r.Outpoint, AmountSat: r.AmountSat})
		}
	}
	c.named(l.ChanID, l.ConfirmedSCID)
	c.named(l.Aliases...)
}

// NeedsCloseTx says that the closing transaction must still be read to tell
// what the close cost.
func (c *Channel) NeedsCloseTx() bool {
	onChain := c.Commitment || c.Kind == ln.CloseCooperative
	return c.Phase == Closed && !c.Done && onChain && len(c.CloseRaw) == 0 && c.CloseTx != (ln.TxID{}) && c.CloseHeight > 0
}

// closeTx is the closing transaction, if its bytes are known.
func (c *Channel) closeTx() (*wire.MsgTx, bool) {
	if len(c.CloseRaw) == 0 {
		return nil, false
	}
	tx := wire.NewMsgTx(2)
	if err := tx.Deserialize(bytes.NewReader(c.CloseRaw)); err != nil || ln.TxID(tx.TxHash()) != c.CloseTx {
		return nil, false
	}
	return tx, true
}

// outputOf is the value of an output of the closing transaction.
func (c *Channel) outputOf(index uint32) (sat int64, ok bool) {
	tx, ok := c.closeTx()
	if !ok || int(index) >= len(tx.TxOut) {
		return 0, false
	}
	return tx.TxOut[index].Value, true
}

// closeFeeSat is what the closing transaction pays to miners: the commitment
// fee, outputs too small to exist, and what rounding to whole satoshis leaves.
func (c *Channel) closeFeeSat() (sat int64, ok bool) {
	tx, ok := c.closeTx()
	if !ok {
		return 0, false
	}
	sat = int64(c.CapacitySat) //nolint:gosec // a channel's capacity
	for _, out := range tx.TxOut {
		sat -= out.Value
	}
	return sat, sat >= 0
}

// InitialMsat is what the channel began with for us.
func (c *Channel) InitialMsat() int64 {
	if c.Initiator {
		return int64(c.CapacitySat-c.PushSat) * 1000 //nolint:gosec // bounded by all bitcoin
	}
	return int64(c.PushSat) * 1000 //nolint:gosec // bounded by all bitcoin
}

// ValueMsat is what an open channel is worth to us by lnd's list. lnd lists
// whole satoshis, so it may be off by less than one for the balance and for
// each HTLC counted; slackMsat is that bound.
func ValueMsat(l ln.Channel) (value, slackMsat int64) {
	ours, theirs := int64(l.LocalSat)*1000, int64(l.RemoteSat)*1000 //nolint:gosec // bounded by the capacity
	slackMsat = 1000
	for _, h := range l.Htlcs {
		if h.Incoming {
			theirs += int64(h.AmtMsat) //nolint:gosec // bounded by the capacity
		} else {
			ours += int64(h.AmtMsat) //nolint:gosec // bounded by the capacity
		}
		slackMsat += 1000
	}
	if l.Initiator {
		return int64(l.CapacitySat)*1000 - theirs, slackMsat //nolint:gosec // bounded by all bitcoin
	}
	return ours, slackMsat
}

// PendingValueMsat is ValueMsat for a channel that is opening.
func PendingValueMsat(p ln.PendingChannel) int64 {
	if p.Initiator {
		return int64(p.CapacitySat)*1000 - int64(p.RemoteSat)*1000 //nolint:gosec // bounded by all bitcoin
	}
	return int64(p.LocalSat) * 1000 //nolint:gosec // bounded by the capacity
}

const (
	anchorSat = 330
	// trimmedSat is more than any output that a closing transaction leaves out
	// for being dust.
	trimmedSat = 1000
)

// Owed judges what the books still expect of a closing channel (leftMsat)
// against what lnd has in limbo. claimedMsat is what transactions that are in
// the books have taken of it. They need not be equal, because lnd's limbo
// leaves out fees, anchors and HTLCs that may end either way; ok says that the
// difference is no more than those. arrived says that the closing transaction
// is in the wallet.
func (c *Channel) Owed(p ln.PendingChannel, leftMsat, claimedMsat int64, arrived bool) (limboMsat int64, ok bool) {
	if !p.Commitment && arrived {
		return 0, c.cooperative(leftMsat, true)
	}
	sat := int64(p.LimboSat) //nolint:gosec // bounded by the capacity
	low := int64(anchorSat + 1)
	if p.Kind == ln.PendingForceClose {
		sat += int64(p.RecoveredSat)     //nolint:gosec // bounded by the capacity
		low += int64(p.LimboHtlcSat) + 1 //nolint:gosec // bounded by the capacity
	}
	limboMsat = max(0, sat*1000-claimedMsat)
	// All of the capacity that was nobody's balance: fees, anchors, HTLCs.
	between := int64(p.CapacitySat) - int64(p.RemoteSat) - int64(p.LocalSat) //nolint:gosec // bounded by the capacity
	diff := leftMsat - limboMsat
	return limboMsat, diff > -low*1000 && diff < (between+1)*1000
}

// cooperative says that a cooperative close explains what is left. One side has
// paid the whole fee: the opener, or, where both sides make a closing
// transaction each, the one whose transaction was taken. Without an output of
// ours all that we had was too small for one.
func (c *Channel) cooperative(leftMsat int64, output bool) bool {
	near := func(msat int64) bool { return leftMsat > msat-2000 && leftMsat < msat+2000 }
	fee, known := c.closeFeeSat()
	trimmed := !output && leftMsat >= 0 && leftMsat < trimmedSat*1000
	return near(0) || trimmed || known && (near(fee*1000) || !output && leftMsat >= 0 && leftMsat < (fee+1)*1000)
}

// Rest says where what is left of a closed channel belongs, and whether lnd's
// records explain it. What they do not explain must stay visible.
func (c *Channel) Rest(leftMsat int64) (account string, why error) {
	total := c.RestMsat + leftMsat
	within := func(low, high int64) error {
		if total > low && total < high {
			return nil
		}
		return fmt.Errorf("%d msat are left of the channel, where lnd's records explain between %d and %d", total, low, high)
	}
	capacity := int64(c.CapacitySat) * 1000 //nolint:gosec // bounded by all bitcoin
	// What a second stage paid by itself is the difference of its two outputs.
	var lost, staged int64
	for _, r := range c.Resolutions {
		amount := int64(r.AmountSat) * 1000 //nolint:gosec // bounded by the capacity
		switch {
		case r.Lost:
			lost += amount
		case r.FirstStage:
			staged += amount
		case r.Ours && r.Outpoint.TxID != c.CloseTx:
			staged -= amount
		}
	}
	lost += max(0, staged)
	fee, known := c.closeFeeSat()
	fee *= 1000
	switch {
	case c.Kind == ln.CloseAbandoned || c.Kind == ln.CloseFundingCanceled:
		return Abandoned, nil
	case c.ClosingAtStart:
		return CloseFee, within(-capacity-1, capacity+1)
	case c.Kind == ln.CloseBreach && total < 0:
		return Justice, within(-capacity-1, 1)
	case c.Kind == ln.CloseCooperative:
		if c.cooperative(total, c.SettledSat > 0) {
			return CloseFee, nil
		}
		return CloseFee, fmt.Errorf("%d msat are left of the channel, which is neither nothing nor the fee of its closing transaction", total)
	case !known:
		return CloseFee, fmt.Errorf("the closing transaction %s is not known, so that its cost cannot be told", c.CloseTx)
	default:
		return CloseFee, within(-(anchorSat+1)*1000, fee+lost+(2*anchorSat+1)*1000)
	}
}

// Forget drops what is not needed any more of a channel that is done.
func (c *Channel) Forget() {
	c.Done, c.CloseRaw, c.Resolutions, c.Stages = true, nil, nil, nil
}
