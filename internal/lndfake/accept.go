package lndfake

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
)

const acceptorTimeout = 15 * time.Second

// acceptor is one attached ChannelAcceptor stream.
type acceptor struct {
	ask     *feed[*lnrpc.ChannelAcceptRequest]
	waiting map[[32]byte]func(*lnrpc.ChannelAcceptResponse)
}

// askAcceptors asks every acceptor; all must accept, and zero-conf is granted by any.
func (n *Node) askAcceptors(from *Node, p openParams, answer func(*lnrpc.ChannelAcceptResponse, error)) {
	node, err := hex.DecodeString(from.pub)
	if err != nil {
		answer(nil, err)
		return
	}
	flags := uint32(1)
	if p.private {
		flags = 0
	}
	req := &lnrpc.ChannelAcceptRequest{
		NodePubkey: node, ChainHash: n.w.chain.params.GenesisHash[:], PendingChanId: append([]byte(nil), p.pendID[:]...),
		FundingAmt: uint64(p.capacity), PushAmt: uint64(p.pushSat * 1000), DustLimit: dustSat,
		MaxValueInFlight: uint64(p.capacity * 990), ChannelReserve: uint64(max(p.capacity/100, dustSat)), MinHtlc: 1,
		FeePerKw: uint64(n.w.chain.feeRatePerKW), CsvDelay: 144, MaxAcceptedHtlcs: 483, ChannelFlags: flags,
		CommitmentType: p.kind, WantsZeroConf: p.zeroConf, WantsScidAlias: p.scidType,
	}
	left := len(n.mem.acceptors)
	done := false
	merged := &lnrpc.ChannelAcceptResponse{Accept: true}
	decide := func(err error) {
		if done {
			return
		}
		done = true
		switch {
		case err != nil:
			answer(nil, err)
		case p.zeroConf && !merged.ZeroConf:
			answer(nil, errors.New("funding failed due to internal error"))
		case merged.ZeroConf && merged.MinAcceptDepth != 0:
			answer(nil, errors.New("funding failed due to internal error"))
		default:
			answer(merged, nil)
		}
	}
	for _, a := range slices.Clone(n.mem.acceptors) {
		a.waiting[p.pendID] = func(r *lnrpc.ChannelAcceptResponse) {
			delete(a.waiting, p.pendID)
			left--
			if !r.Accept {
				msg := r.Error
				if msg == "" {
					msg = "channel rejected"
				}
				if len(msg) > 500 {
					msg = msg[:500]
				}
				decide(errors.New(msg))
				return
			}
			merged.ZeroConf = merged.ZeroConf || r.ZeroConf
			merged.MinAcceptDepth = max(merged.MinAcceptDepth, r.MinAcceptDepth)
			if left == 0 {
				decide(nil)
			}
		}
		a.ask.push(req)
	}
	n.w.after(acceptorTimeout, func() { decide(errors.New("channel rejected")) })
}

// ChannelAcceptor implements lnrpc.LightningServer.
func (s *lightningServer) ChannelAcceptor(stream lnrpc.Lightning_ChannelAcceptorServer) error {
	n := s.node
	a := &acceptor{
		ask: newFeed[*lnrpc.ChannelAcceptRequest](), waiting: map[[32]byte]func(*lnrpc.ChannelAcceptResponse){},
	}
	if err := s.do(func() error {
		n.mem.acceptors = append(n.mem.acceptors, a)
		return nil
	}); err != nil {
		return err
	}
	defer func() {
		_ = s.do(func() error {
			n.mem.acceptors = slices.DeleteFunc(n.mem.acceptors, func(x *acceptor) bool { return x == a })
			return nil
		})
	}()
	ctx := stream.Context()
	go func() {
		for {
			r, err := a.ask.next(ctx)
			if err != nil || stream.Send(r) != nil {
				return
			}
		}
	}()
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := s.do(func() error {
			if len(r.PendingChanId) != 32 {
				return fmt.Errorf("invalid pending channel id of %d bytes", len(r.PendingChanId))
			}
			if r.Accept && r.Error != "" {
				return errors.New("accept and error are mutually exclusive")
			}
			if f := a.waiting[[32]byte(r.PendingChanId)]; f != nil {
				f(r)
			}
			return nil
		}); err != nil {
			return err
		}
	}
}
