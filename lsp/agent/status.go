package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
)

// LSPStatus is how one LSP stands.
type LSPStatus struct {
	LSP
	Connected bool
	LoggedIn  bool
	Accepting bool
	// Serves are the LSPS that it serves, where it has no service of ours.
	Serves []int
	// Problem says what is wrong; nil when nothing is.
	Problem error
}

// ChannelStatus is one channel with what it can carry.
type ChannelStatus struct {
	Outpoint    ln.Outpoint
	Peer        ln.PubKey
	LSP         string
	CapacitySat ln.Sat
	InboundSat  ln.Sat
	OutboundSat ln.Sat
	Active      bool
	Unconfirmed bool
	Htlcs       int
	// State is "open" or lnd's word for what is pending.
	State string
}

// Blocker kinds.
const (
	// BlockHTLC: money is in flight on a channel. Offline, the other side would
	// have to close the channel by force when it expires.
	BlockHTLC = "htlc"
	// BlockClosing: a channel went on chain with money in flight, or may have.
	BlockClosing = "closing"
	// BlockArriving: an LSP holds a payment, which would go back to its payer.
	BlockArriving = "arriving"
	// BlockUnknown: lnd or an LSP did not say.
	BlockUnknown = "unknown"
)

// Blocker is one reason not to go offline.
type Blocker struct {
	Kind   string
	Reason string
}

// Status is the overview.
type Status struct {
	Node     ln.NodeInfo
	Acceptor bool
	LSPs     []LSPStatus
	Channels []ChannelStatus
	Payments []Payment
	Blockers []Blocker
	// Alarms are promises of LSPs that should have been kept by now.
	Alarms      []string
	InboundSat  ln.Sat
	OutboundSat ln.Sat
}

// statusTimeout bounds what an overview waits for an LSP that is away.
const statusTimeout = 5 * time.Second

// each runs f for all LSPs at once and waits.
func each(lsps []LSP, f func(i int, l LSP)) {
	var wg sync.WaitGroup
	for i, l := range lsps {
		wg.Go(func() { f(i, l) })
	}
	wg.Wait()
}

// Status asks lnd and every LSP. What an LSP does not answer is its problem in
// the overview, not an error.
func (a *Agent) Status(ctx context.Context) (Status, error) {
	info, err := a.ports.Node.Info(ctx)
	if err != nil {
		return Status{}, nodeError(err)
	}
	s := Status{Node: info, Acceptor: a.accepting.Load(), Alarms: a.alarms(info.BlockHeight)}
	open, err := a.ports.Channels.ListChannels(ctx)
	if err != nil {
		return Status{}, nodeError(err)
	}
	pending, err := a.ports.Channels.PendingChannels(ctx)
	if err != nil {
		return Status{}, nodeError(err)
	}
	s.Channels = a.channels(open, pending)
	for _, ch := range s.Channels {
		s.InboundSat = max(s.InboundSat, ch.InboundSat)
		s.OutboundSat += ch.OutboundSat
	}
	if s.LSPs, err = a.LSPStatus(ctx); err != nil {
		return Status{}, err
	}
	s.LSPs = withoutLink(s.LSPs, open)
	quick, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	payments, away := a.underWay(quick)
	s.Payments = payments
	s.Blockers = blockers(open, pending, payments, away)
	return s, nil
}

// underWay lists payments that are not over. An LSP may be a moment behind the
// wallet's own node, whose word decides whether the money is here.
func (a *Agent) underWay(ctx context.Context) ([]Payment, []error) {
	payments, away := a.Payments(ctx, 0, true)
	for i, p := range payments {
		if p.ReceivedMsat == 0 {
			continue
		}
		if inv, err := a.ports.Invoices.LookupInvoice(ctx, p.Hash); err == nil {
			payments[i].Paid = inv.State == ln.InvoiceSettled
		}
	}
	return payments, away
}

// LSPStatus asks every LSP.
func (a *Agent) LSPStatus(ctx context.Context) ([]LSPStatus, error) {
	online, err := a.ports.Peers.ConnectedPeers(ctx)
	if err != nil {
		return nil, nodeError(err)
	}
	lsps := a.book.List()
	out := make([]LSPStatus, len(lsps))
	quick, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	each(lsps, func(i int, l LSP) {
		out[i] = LSPStatus{LSP: l, Connected: slices.Contains(online, l.NodeKey)}
		m, err := a.menu(quick, l)
		out[i].LoggedIn, out[i].Accepting, out[i].Problem = err == nil && l.GRPC != "", m.Accepting && m.Refused == nil, err
		out[i].Serves = m.Serves
		if err == nil {
			out[i].Problem = m.Refused
		}
		if l.GRPC == "" && err == nil && slices.Contains(m.Serves, lsps1.Number) {
			// It sells channels by order, whatever it offers on demand.
			out[i].Accepting, out[i].Problem = true, nil
		}
		if err == nil && !out[i].Connected {
			out[i].Problem = fmt.Errorf("its node at %s is not connected; trying again every %s", l.Address, a.cfg.KeepEvery)
		}
	})
	return out, nil
}

// withoutLink tells of LSPs that are connected while a channel with them is not
// active: lnd may have given its link up, some of them for good.
func withoutLink(lsps []LSPStatus, open []ln.Channel) []LSPStatus {
	for i, l := range lsps {
		if !l.Connected || l.Problem != nil {
			continue
		}
		for _, ch := range open {
			if ch.Peer == l.NodeKey && !ch.Active {
				lsps[i].Problem = fmt.Errorf("channel %s is not active although %s is connected: wait some minutes, then restart lnd; if that does not help, your node or theirs has lost it, and it can only be closed (lncli closechannel --force): its money is safe", ch.Outpoint, l.Name)
				break
			}
		}
	}
	return lsps
}

func unconfirmed(ch ln.Channel) bool { return ch.ZeroConf && ch.ConfirmedSCID == 0 }

func (a *Agent) channels(open []ln.Channel, pending []ln.PendingChannel) []ChannelStatus {
	names := map[ln.PubKey]string{}
	for _, l := range a.book.List() {
		names[l.NodeKey] = l.Name
	}
	var out []ChannelStatus
	for _, ch := range open {
		out = append(out, ChannelStatus{
			Outpoint: ch.Outpoint, Peer: ch.Peer, LSP: names[ch.Peer], CapacitySat: ch.CapacitySat,
			InboundSat: Receivable(ch).ToSatFloor(), OutboundSat: Sendable(ch).ToSatFloor(),
			Active: ch.Active, Unconfirmed: unconfirmed(ch), Htlcs: len(ch.Htlcs), State: "open",
		})
	}
	for _, p := range pending {
		out = append(out, ChannelStatus{
			Outpoint: p.Outpoint, Peer: p.Peer, LSP: names[p.Peer], CapacitySat: p.CapacitySat, State: string(p.Kind),
		})
	}
	return out
}

// blockers are the reasons not to go offline: HTLCs first.
func blockers(open []ln.Channel, pending []ln.PendingChannel, payments []Payment, away []error) []Blocker {
	var out []Blocker
	for _, ch := range open {
		if n := len(ch.Htlcs); n > 0 {
			out = append(out, Blocker{BlockHTLC, fmt.Sprintf("%d payment part(s) in flight on channel %s: offline, the channel would be closed by force when they expire", n, ch.Outpoint)})
		}
	}
	for _, p := range pending {
		switch {
		case p.OpenHtlcSat > 0:
			out = append(out, Blocker{BlockClosing, fmt.Sprintf("channel %s was closed with payments of %s in flight: offline, your node cannot take on chain what is yours, and the other side may", p.Outpoint, p.OpenHtlcSat)})
		case p.Kind == ln.PendingWaitingClose && p.Commitment:
			out = append(out, Blocker{BlockClosing, fmt.Sprintf("channel %s is being closed by force: until that has confirmed it is not known whether payments to you are in flight on it", p.Outpoint)})
		}
	}
	for _, p := range payments {
		if p.ReceivedMsat > 0 && !p.Terminal && !p.Paid {
			out = append(out, Blocker{BlockArriving, fmt.Sprintf("%s holds a payment of %s for you (%s): offline, it would go back to its payer", p.LSP, p.AmountMsat, p.State)})
		}
	}
	for _, err := range away {
		out = append(out, Blocker{BlockUnknown, "not known whether a payment is on its way: " + errkind.Told(err)})
	}
	return out
}

// risky says whether a blocker stands against going offline. An LSP that does
// not answer can deliver nothing either.
func risky(b Blocker) bool { return b.Kind != BlockUnknown }

// Offline's rhythm: lnd has no event for an HTLC that left a commitment. It
// lists an HTLC only while it is on both commitments, so that one quiet look
// can fall into the moment between: calm of them in a row are asked for.
const (
	offlineEvery = 500 * time.Millisecond
	calm         = 3
)

// WatchOffline reports what stands against going offline, now and at every
// change, and returns nil once nothing did several times in a row.
func (a *Agent) WatchOffline(ctx context.Context, report func([]Blocker)) error {
	var last []Blocker
	quiet, first := 0, true
	for {
		open, err := a.ports.Channels.ListChannels(ctx)
		if err != nil {
			return nodeError(err)
		}
		pending, err := a.ports.Channels.PendingChannels(ctx)
		if err != nil {
			return nodeError(err)
		}
		quick, cancel := context.WithTimeout(ctx, statusTimeout)
		payments, away := a.underWay(quick)
		cancel()
		now := blockers(open, pending, payments, away)
		if slices.ContainsFunc(now, risky) {
			quiet = 0
		} else {
			quiet++
		}
		if first || !slices.Equal(now, last) {
			report(now)
		}
		if quiet >= calm {
			return nil
		}
		first, last = false, now
		if err := pace.Pause(ctx, offlineEvery); err != nil {
			return err
		}
	}
}
