package agent

import (
	"context"
	"fmt"
	"slices"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// ChannelStep is how far a restored channel is on its way back.
type ChannelStep string

// The steps.
const (
	// StepUnknown: lnd does not know it; it is restored anew.
	StepUnknown ChannelStep = "not_in_lnd"
	// StepOpen: the channel works. It was never lost.
	StepOpen ChannelStep = "open"
	// StepWaitsForPeer: nothing can be done without the peer. It must come online
	// and publish its commitment, which is the only one that still counts.
	StepWaitsForPeer ChannelStep = "waits_for_peer"
	// StepClosing: the closing transaction is seen, and waits for a block.
	StepClosing ChannelStep = "closing"
	// StepMaturing: it is confirmed, and what it pays waits for its delay.
	StepMaturing ChannelStep = "maturing"
	// StepDone: all that it paid is back in the wallet.
	StepDone ChannelStep = "done"
)

// Returning is one restored channel.
type Returning struct {
	Channel string
	Peer    string
	// Connected says that the peer is online.
	Connected bool
	Step      ChannelStep
	// Capacity is the whole channel's; how much of it is ours is known once the
	// peer has closed.
	CapacitySat ln.Sat
	// LimboSat is on its way, BackSat is in the wallet.
	LimboSat, BackSat ln.Sat
	CloseTx           string
	// Then says what happens next, and what it depends on.
	Then string
}

// Progress tells how far restored channels are.
func (a *Agent) Progress(ctx context.Context, channels []string) ([]Returning, error) {
	open, err := a.p.Channels.ListChannels(ctx)
	if err != nil {
		return nil, err
	}
	pending, err := a.p.Channels.PendingChannels(ctx)
	if err != nil {
		return nil, err
	}
	closed, err := a.p.Channels.ClosedChannels(ctx)
	if err != nil {
		return nil, err
	}
	peers, err := a.p.Channels.ConnectedPeers(ctx)
	if err != nil {
		return nil, err
	}
	by := map[string]Returning{}
	for _, c := range open {
		by[c.Outpoint.String()] = Returning{Peer: c.Peer.String(), Step: StepOpen, CapacitySat: c.CapacitySat, Then: "it works: it was never lost"}
	}
	for _, c := range pending {
		r := returning(c)
		r.Connected = slices.Contains(peers, c.Peer)
		if r.Step == StepWaitsForPeer && r.Connected {
			r.Then = "the peer is online and was asked to close: its commitment comes next"
		}
		by[c.Outpoint.String()] = r
	}
	for _, c := range closed {
		by[c.Outpoint.String()] = Returning{
			Peer: c.Peer.String(), Step: StepDone, CapacitySat: c.CapacitySat, BackSat: c.SettledSat, CloseTx: c.CloseTx.String(), Then: "it is in the wallet",
		}
	}
	out := make([]Returning, 0, len(channels))
	for _, op := range channels {
		r, ok := by[op]
		if !ok {
			r = Returning{Step: StepUnknown, Then: "lnd does not know it: restore again"}
		}
		r.Channel = op
		out = append(out, r)
	}
	return out, nil
}

func returning(c ln.PendingChannel) Returning {
	r := Returning{Peer: c.Peer.String(), CapacitySat: c.CapacitySat, LimboSat: c.LimboSat, BackSat: c.RecoveredSat}
	if c.CloseTx != (ln.TxID{}) {
		r.CloseTx = c.CloseTx.String()
	}
	switch {
	case c.Kind == ln.PendingOpen:
		r.Step, r.Then = StepOpen, "it is being opened"
	case c.Kind == ln.PendingForceClose:
		r.Step = StepMaturing
		r.Then = fmt.Sprintf("%d sat come back when their delay is over, without the peer", c.LimboSat)
	case r.CloseTx != "":
		r.Step, r.Then = StepClosing, "the closing transaction waits for a block; nothing depends on the peer any more"
	default:
		r.Step = StepWaitsForPeer
		r.Then = "the peer must come online: only it can close. If it never does, ask it by other means"
	}
	return r
}
