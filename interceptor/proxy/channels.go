package proxy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/interceptor/ballot"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// openWithin is how long programs may think about a channel. lnd's funding of all
// peers waits meanwhile, and gives up after acceptortimeout (15 s).
const openWithin = 5 * time.Second

// chanConn is one ChannelAcceptor stream. Its map is guarded by Hub.mu.
type chanConn struct {
	name string
	// ask has room for what can be asked at a time: proposals come one by one.
	ask     chan *lnrpc.ChannelAcceptRequest
	waiting map[ln.PendingChanID]chan<- ballot.OpenAnswer
	done    chan struct{}
}

// Consult asks every attached program about a channel that the gateway's policy
// takes (acceptor.Config.Consult). Silence is a refusal, as with lnd.
func (h *Hub) Consult(ctx context.Context, p ln.OpenProposal, policy ln.AcceptVerdict) ln.AcceptVerdict {
	req, ok := p.Wire.(*lnrpc.ChannelAcceptRequest)
	if !ok {
		return policy
	}
	h.mu.Lock()
	list := make([]*chanConn, 0, len(h.channels))
	for c := range h.channels {
		list = append(list, c)
	}
	answers := make(chan ballot.OpenAnswer, len(list))
	for _, c := range list {
		c.waiting[p.PendingID] = answers
	}
	h.mu.Unlock()
	if len(list) == 0 {
		return policy
	}
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, c := range list {
			delete(c.waiting, p.PendingID)
		}
	}()
	slices.SortFunc(list, func(a, b *chanConn) int { return strings.Compare(a.name, b.name) })
	for _, c := range list {
		select {
		case c.ask <- req:
		default:
			return ln.AcceptVerdict{Refusal: "this node cannot decide about channels at the moment; please try again later"}
		}
	}
	return ballot.MergeOpen(policy, h.collect(ctx, list, answers))
}

// collect waits for everybody, for openWithin, or for the first refusal.
func (h *Hub) collect(ctx context.Context, list []*chanConn, answers <-chan ballot.OpenAnswer) []ballot.OpenAnswer {
	timer := time.NewTimer(openWithin)
	defer timer.Stop()
	var out []ballot.OpenAnswer
	late := ballot.OpenAnswer{Verdict: ln.AcceptVerdict{Refusal: "this node could not decide about the channel in time; please try again later"}}
	for len(out) < len(list) {
		select {
		case a := <-answers:
			out = append(out, a)
			if !a.Verdict.Accept {
				return out
			}
		case <-timer.C:
			return append(out, late)
		case <-ctx.Done():
			return append(out, late)
		}
	}
	slices.SortFunc(out, func(a, b ballot.OpenAnswer) int { return strings.Compare(a.Program, b.Program) })
	return out
}

// serveChannels is lnd's ChannelAcceptor for one program.
func (s *Server) serveChannels(name string, stream grpc.ServerStream) error {
	c := &chanConn{
		name: name, ask: make(chan *lnrpc.ChannelAcceptRequest, 16),
		waiting: make(map[ln.PendingChanID]chan<- ballot.OpenAnswer), done: make(chan struct{}),
	}
	s.hub.joinChannels(c)
	defer s.hub.leaveChannels(c)
	over := make(chan error, 2)
	go func() { over <- sendProposals(stream, c) }()
	go func() { over <- s.hub.readVerdicts(stream, c) }()
	return ended(<-over)
}

func (h *Hub) joinChannels(c *chanConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.channels[c] = struct{}{}
	h.expect(c.name).channels++
}

// leaveChannels: what the program had yet to answer is refused.
func (h *Hub) leaveChannels(c *chanConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.channels, c)
	h.expect(c.name).channels--
	for id, answers := range c.waiting {
		delete(c.waiting, id)
		answers <- ballot.OpenAnswer{Program: c.name, Verdict: ln.AcceptVerdict{
			Refusal: "this node could not decide about the channel; please try again later",
		}}
	}
	close(c.done)
}

func sendProposals(stream grpc.ServerStream, c *chanConn) error {
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-c.done:
			return nil
		case req := <-c.ask:
			f, err := encode(req)
			if err == nil {
				err = stream.SendMsg(f)
			}
			if err != nil {
				return err
			}
		}
	}
}

func (h *Hub) readVerdicts(stream grpc.ServerStream, c *chanConn) error {
	for {
		var m lnrpc.ChannelAcceptResponse
		if err := receive(stream, &m); err != nil {
			return err
		}
		var id ln.PendingChanID
		if copy(id[:], m.GetPendingChanId()) != len(id) || len(m.GetPendingChanId()) != len(id) {
			return fmt.Errorf("%w: pending_chan_id of %d bytes", ballot.ErrInvalid, len(m.GetPendingChanId()))
		}
		if m.GetAccept() && m.GetError() != "" {
			return fmt.Errorf("%w: accept and error are mutually exclusive", ballot.ErrInvalid)
		}
		h.mu.Lock()
		// One answer per question: the channel has room for it.
		if answers, ok := c.waiting[id]; ok {
			delete(c.waiting, id)
			answers <- ballot.OpenAnswer{Program: c.name, Verdict: ln.AcceptVerdict{
				Accept: m.GetAccept(), Refusal: m.GetError(), ZeroConf: m.GetZeroConf(), MinDepth: m.GetMinAcceptDepth(),
				CsvDelay: m.GetCsvDelay(), ReserveSat: ln.Sat(m.GetReserveSat()), InFlightMaxMsat: ln.Msat(m.GetInFlightMaxMsat()),
				MaxHtlcs: m.GetMaxHtlcCount(), MinHtlcInMsat: ln.Msat(m.GetMinHtlcIn()), UpfrontShutdown: m.GetUpfrontShutdown(),
			}}
		}
		h.mu.Unlock()
	}
}
