package proxy

import (
	"fmt"

	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/ballot"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// serveHtlcs is lnd's HtlcInterceptor for one program.
func (s *Server) serveHtlcs(name string, stream grpc.ServerStream) error {
	c := s.hub.attach(name)
	defer s.hub.detach(c)
	over := make(chan error, 2)
	go func() { over <- s.sendHtlcs(c, stream) }()
	go func() { over <- s.readHtlcs(c, stream) }()
	// Returning ends the stream, and with it whatever waits for a program that does
	// not read.
	select {
	case err := <-over:
		return ended(err)
	case <-c.ended:
		return ended(s.hub.why(c))
	}
}

func (h *Hub) why(c *conn) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return c.err
}

func (s *Server) sendHtlcs(c *conn, stream grpc.ServerStream) error {
	for {
		questions, err := s.hub.next(stream.Context(), c)
		if err != nil {
			return err
		}
		for _, q := range questions {
			f, err := encode(q)
			if err == nil {
				err = stream.SendMsg(f)
			}
			if err != nil {
				return err
			}
		}
	}
}

func (s *Server) readHtlcs(c *conn, stream grpc.ServerStream) error {
	for {
		var msg routerrpc.ForwardHtlcInterceptResponse
		if err := receive(stream, &msg); err != nil {
			return err
		}
		key, vote, err := decodeVote(&msg)
		if err == nil {
			err = s.hub.answer(c, key, vote)
		} else {
			s.hub.count(c, err)
		}
		if err != nil {
			return err
		}
	}
}

// decodeVote reads an answer as lnd would. A failure's code or message is not
// carried: payers get TEMPORARY_CHANNEL_FAILURE.
func decodeVote(m *routerrpc.ForwardHtlcInterceptResponse) (ln.CircuitKey, ballot.Vote, error) {
	k := m.GetIncomingCircuitKey()
	if k == nil {
		return ln.CircuitKey{}, ballot.Vote{}, fmt.Errorf("%w: CircuitKey missing from ForwardHtlcInterceptResponse", ballot.ErrInvalid)
	}
	key := ln.CircuitKey{ChanID: ln.SCID(k.GetChanId()), HtlcID: k.GetHtlcId()}
	switch m.GetAction() {
	case routerrpc.ResolveHoldForwardAction_RESUME:
		return key, ballot.Vote{Action: interceptor.ActionResume}, nil
	case routerrpc.ResolveHoldForwardAction_FAIL:
		return key, ballot.Vote{Action: interceptor.ActionFail}, nil
	case routerrpc.ResolveHoldForwardAction_SETTLE:
		preimage, err := ln.PreimageFromBytes(m.GetPreimage())
		if err != nil {
			return key, ballot.Vote{}, fmt.Errorf("%s: %w", key, err)
		}
		return key, ballot.Vote{Action: interceptor.ActionSettle, Preimage: preimage}, nil
	case routerrpc.ResolveHoldForwardAction_RESUME_MODIFIED:
		if m.GetInAmountMsat() != 0 {
			// lnd would check the fee against it instead of what came in.
			return key, ballot.Vote{}, fmt.Errorf("%s: %w: in_amount_msat overrides the check of the fee", key, ballot.ErrRaises)
		}
		return key, ballot.Vote{Action: interceptor.ActionResume, Send: interceptor.Sending{
			Msat: ln.Msat(m.GetOutAmountMsat()), Records: interceptor.NewWireRecords(m.GetOutWireCustomRecords()),
		}}, nil
	}
	return key, ballot.Vote{}, fmt.Errorf("%s: %w: action %d", key, ballot.ErrInvalid, m.GetAction())
}

// encode makes a frame of one of lnd's messages.
func encode(v any) (*frame, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message of lnd's", v)
	}
	raw, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return &frame{data: mem.BufferSlice{mem.SliceBuffer(raw)}}, nil
}

// receive reads one message from a program.
func receive(stream grpc.ServerStream, m proto.Message) error {
	f := &frame{}
	if err := stream.RecvMsg(f); err != nil {
		return err
	}
	defer f.data.Free()
	if err := proto.Unmarshal(f.data.Materialize(), m); err != nil {
		return fmt.Errorf("%w: %w", ballot.ErrInvalid, err)
	}
	return nil
}
